//! `status.parents` of Gateway API routes: a list that all controllers share and that is written as a whole. Owns which
//! entries are ours; never touches those of others.

use outrigger_crds::gateway::{ParentRef, RouteParentStatus};
use outrigger_wire::names::CONTROLLER_ID;

use super::conditions::{self, Facts};

/// Entries that the API allows.
const MAX: usize = 32;

/// Our entries: one for each parent that is a Service.
pub(crate) fn ours(
    parents: &[ParentRef],
    rules: usize,
    facts: Facts<'_>,
    before: &[RouteParentStatus],
) -> Vec<RouteParentStatus> {
    let services = parents.iter().enumerate().filter(|(_, parent)| is_service(parent));
    let entries = services.map(|(at, parent)| {
        let old = before.iter().find(|entry| is_ours(entry) && entry.parent_ref == *parent);
        let conditions = conditions::route(facts, at, rules, old.map_or(&[], |entry| &entry.conditions));
        RouteParentStatus { parent_ref: parent.clone(), controller_name: CONTROLLER_ID.to_owned(), conditions }
    });
    let mut kept: Vec<RouteParentStatus> = Vec::new();
    for entry in entries {
        // A list of one parent twice is the API server's to refuse; here it must only not grow the status.
        if !kept.iter().any(|other| other.parent_ref == entry.parent_ref) {
            kept.push(entry);
        }
    }
    kept
}

/// The whole list: everybody else's entries where they were, ours renewed, those of parents that are gone removed.
pub(crate) fn merge(before: &[RouteParentStatus], ours: &[RouteParentStatus]) -> Vec<RouteParentStatus> {
    let mut merged: Vec<RouteParentStatus> = Vec::with_capacity(before.len() + ours.len());
    for entry in before {
        if !is_ours(entry) {
            merged.push(entry.clone());
        } else if let Some(new) = ours.iter().find(|new| new.parent_ref == entry.parent_ref)
            && !merged.contains(new)
        {
            merged.push(new.clone());
        }
    }
    for new in ours {
        if merged.len() < MAX && !merged.contains(new) {
            merged.push(new.clone());
        }
    }
    merged
}

pub(crate) fn is_ours(entry: &RouteParentStatus) -> bool {
    entry.controller_name == CONTROLLER_ID
}

fn is_service(parent: &ParentRef) -> bool {
    parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service")
}
