//! What owners of objects are told by events: only what has changed, and only what asks for something to be done.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType};

use super::conditions::{ACCEPTED, PROGRAMMED, RESOLVED_REFS, ROUTE_PROGRAMMED};

/// Bytes of a note that the API takes.
const MAX_NOTE: usize = 1000;

/// Events on an object whose conditions were `before` and are `after`.
pub(crate) fn of(before: &[&Condition], after: &[&Condition]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for condition in after {
        let Some(reason) = trouble(condition) else { continue };
        // A count in the message of a rollout isn't news; another finding is.
        let same = |old: &&Condition| {
            old.type_ == condition.type_
                && trouble(old) == Some(reason)
                && old.reason == condition.reason
                && (reason == "Rejected" || old.message == condition.message)
        };
        // Several parents of one route say the same of it.
        let told = |event: &Event| event.reason == reason && event.note.as_deref() == Some(&condition.message);
        if !before.iter().any(same) && !events.iter().any(told) {
            events.push(warning(reason, &condition.message));
        }
    }
    events
}

pub(crate) fn warning(reason: &str, note: &str) -> Event {
    event(EventType::Warning, reason, note, "Configure")
}

pub(crate) fn event(type_: EventType, reason: &str, note: &str, action: &str) -> Event {
    let mut note = note.to_owned();
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary: None }
}

/// The event's reason, if the condition is bad news.
fn trouble(condition: &Condition) -> Option<&'static str> {
    if condition.status != "False" {
        return None;
    }
    match condition.type_.as_str() {
        ACCEPTED => Some("NotAccepted"),
        RESOLVED_REFS => Some("RefsNotResolved"),
        PROGRAMMED | ROUTE_PROGRAMMED if condition.reason == "Rejected" => Some("Rejected"),
        _ => None,
    }
}
