//! What is said of an object: findings and counts of proxies to conditions. Pure: the time is given, and no message holds
//! one, so that equal facts give equal conditions.

use std::{collections::BTreeSet, fmt::Write};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use outrigger_model::{Concern, Finding, Reason, held::Held};

use super::serving::Serving;

/// Findings told in one message; more would bury the first.
const TOLD: usize = 3;

/// Types of conditions.
pub(crate) const ACCEPTED: &str = "Accepted";
pub(crate) const RESOLVED_REFS: &str = "ResolvedRefs";
pub(crate) const PARTIALLY_INVALID: &str = "PartiallyInvalid";
pub(crate) const PROGRAMMED: &str = "Programmed";
pub(crate) const SERVING: &str = "SidecarsServing";
/// Gateway API: types of one's own have a domain as prefix.
pub(crate) const ROUTE_PROGRAMMED: &str = "outrigger.dev/Programmed";

/// How far an object has come on its way to proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) held: Held,
    /// Replicas of the controller whose proxies couldn't be counted.
    pub(crate) unreachable: usize,
}

/// All that is known of one object.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) findings: &'a [&'a Finding],
    pub(crate) progress: &'a Progress,
    /// Whether it has an effect on anything that is served.
    pub(crate) effective: bool,
    /// What happens to pods now, of an object that says what should.
    pub(crate) serving: Option<&'a Serving>,
    pub(crate) generation: Option<i64>,
    pub(crate) now: Timestamp,
}

/// Of an object of our own kinds; `refs` if it refers to backends.
pub(crate) fn own(facts: Facts<'_>, refs: bool, before: &[Condition]) -> Vec<Condition> {
    let accepted = facts.accepted(|finding| finding.reason.concern() == Concern::Acceptance);
    let programmed = facts.programmed(PROGRAMMED, accepted.status == "True");
    let mut conditions = vec![accepted];
    if refs {
        conditions.push(facts.resolved_refs());
    }
    conditions.push(programmed);
    conditions.extend(facts.serving.map(|serving| facts.sidecars_serving(serving)));
    aged(conditions, before)
}

/// Of a Gateway API route at the parent at `parent` of its `parentRefs`; `rules` is how many it has.
pub(crate) fn route(facts: Facts<'_>, parent: usize, rules: usize, before: &[Condition]) -> Vec<Condition> {
    // A rule with something unsupported answers 500. That is no route at all only if there is no other rule.
    let broken: Vec<&Finding> = facts.of(|finding| finding.reason == Reason::UnsupportedValue);
    let at: BTreeSet<&str> = broken.iter().filter_map(|finding| rule_of(&finding.field)).collect();
    let partially = !broken.is_empty() && at.len() < rules;
    let accepted = facts.accepted(|finding| match finding.reason {
        Reason::UnsupportedValue => !partially,
        reason => reason.concern() == Concern::Acceptance && parent_of(&finding.field).is_none_or(|at| at == parent),
    });
    let programmed = facts.programmed(ROUTE_PROGRAMMED, accepted.status == "True");
    let mut conditions = vec![accepted, facts.resolved_refs()];
    if partially {
        // The prefix is the API's.
        let message = format!("Dropped Rule: {}", told(&broken));
        conditions.push(facts.condition(PARTIALLY_INVALID, true, "UnsupportedValue", message));
    }
    conditions.push(programmed);
    aged(conditions, before)
}

/// Conditions that say the same keep the time of their last change.
fn aged(mut conditions: Vec<Condition>, before: &[Condition]) -> Vec<Condition> {
    for condition in &mut conditions {
        if let Some(same) = before.iter().find(|old| old.type_ == condition.type_ && old.status == condition.status) {
            condition.last_transition_time = same.last_transition_time.clone();
        }
    }
    conditions
}

/// `N` of `spec.rules[N]…`.
fn rule_of(field: &str) -> Option<&str> {
    field.strip_prefix("spec.rules[")?.split(']').next()
}

/// `N` of `spec.parentRefs[N]…`.
fn parent_of(field: &str) -> Option<usize> {
    field.strip_prefix("spec.parentRefs[")?.split(']').next()?.parse().ok()
}

/// The first few findings in one line.
fn told(findings: &[&Finding]) -> String {
    let mut text = String::new();
    for finding in findings.iter().take(TOLD) {
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{separator}{}: {} ({})", finding.field, finding.message, finding.remedy);
    }
    if findings.len() > TOLD {
        let _ = write!(text, "; and {} more", findings.len() - TOLD);
    }
    text
}

// === impl Progress ===

impl Progress {
    /// Nothing is to be expected but that proxies come and go.
    pub(crate) fn is_complete(&self) -> bool {
        self.held.current == self.held.proxies && self.unreachable == 0
    }
}

// === impl Facts ===

impl<'a> Facts<'a> {
    fn of(&self, wanted: impl Fn(&Finding) -> bool) -> Vec<&'a Finding> {
        self.findings.iter().copied().filter(|finding| wanted(finding)).collect()
    }

    fn condition(&self, type_: &str, status: bool, reason: &str, message: String) -> Condition {
        Condition {
            type_: type_.to_owned(),
            status: if status { "True" } else { "False" }.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: self.generation,
            // Status in the API has whole seconds.
            last_transition_time: Time(Timestamp::from_second(self.now.as_second()).unwrap_or(self.now)),
        }
    }

    fn accepted(&self, against: impl Fn(&Finding) -> bool) -> Condition {
        let against = self.of(against);
        match against.first() {
            Some(first) => self.condition(ACCEPTED, false, first.reason.name(), told(&against)),
            None => {
                let notices = self.of(|finding| finding.reason.concern() == Concern::Notice);
                let message = if notices.is_empty() { "it is valid and in force".to_owned() } else { told(&notices) };
                self.condition(ACCEPTED, true, ACCEPTED, message)
            }
        }
    }

    fn resolved_refs(&self) -> Condition {
        let broken = self.of(|finding| finding.reason.concern() == Concern::References);
        match broken.first() {
            Some(first) => self.condition(RESOLVED_REFS, false, first.reason.name(), told(&broken)),
            None => self.condition(RESOLVED_REFS, true, RESOLVED_REFS, "all references resolve".to_owned()),
        }
    }

    fn sidecars_serving(&self, serving: &Serving) -> Condition {
        let worst = serving.worst();
        self.condition(SERVING, worst.is_none(), worst.unwrap_or(SERVING), serving.message())
    }

    fn programmed(&self, type_: &str, accepted: bool) -> Condition {
        if !self.effective && !accepted {
            let message = "it isn't accepted and has no effect".to_owned();
            return self.condition(type_, false, "NotAccepted", message);
        }
        let Progress { held, unreachable } = self.progress;
        let mut message = match held.proxies {
            0 => "no proxy needs it yet".to_owned(),
            all => format!("programmed on {} of {all} proxies", held.current),
        };
        if held.rejected > 0 {
            let _ = write!(message, ", rejected by {}", held.rejected);
            for rejection in &held.reasons {
                let _ = write!(message, "; {} says: {}", rejection.workload, rejection.reason);
            }
        }
        if *unreachable > 0 {
            let _ = write!(message, "; proxies of {unreachable} controller replicas that don't answer aren't counted");
        }
        let (status, reason) = match held {
            Held { rejected: 1.., .. } => (false, "Rejected"),
            Held { proxies, current, .. } if current < proxies => (false, "Pending"),
            Held { .. } => (true, "Programmed"),
        };
        self.condition(type_, status, reason, message)
    }
}
