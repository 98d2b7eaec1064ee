//! One resource type on one stream: requests and snapshots in, pushes out. Pure: no runtime, no clock.
//!
//! What must be sent is always the difference between what the client asked for, as the newest snapshot answers it,
//! and what was last sent. So pushes that wait for an acknowledgement coalesce by themselves: the latest wins. A snapshot is
//! only looked at, never kept: what doesn't concern a client must cost it nothing, memory included.

mod holding;
mod plan;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use outrigger_model::{Resource, TypeSet};

use crate::{
    Names, Push, Request, Scope, TooManyNames, Variant, Verdict,
    protocol::{MAX_NAME, MAX_NAMES},
    scope::globs_of,
};
use holding::{Held, Holding};
use plan::Plan;

/// Bytes kept of a client's reason for a rejection.
const MAX_REASON: usize = 1024;

/// The last rejection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Nack {
    pub(crate) names: Vec<Arc<str>>,
    pub(crate) reason: String,
}

/// The state machine.
#[derive(Debug)]
pub struct Subscription {
    type_url: &'static str,
    variant: Variant,
    scope: Scope,
    /// A request has been seen.
    started: bool,
    /// State of the world: names were given once, so an empty list no longer means "all".
    named: bool,
    wildcard: bool,
    /// Names, aliases and globs, each with what it was last answered.
    asks: BTreeMap<Arc<str>, Answer>,
    /// Asks that the next push answers even if nothing changed.
    owed: BTreeSet<Arc<str>>,
    /// The next push goes out even if it is empty.
    answer_due: bool,
    /// What the client was sent.
    held: Holding,
    in_flight: Option<InFlight>,
    plan: Plan,
    nack: Option<Nack>,
}

/// How a client stands to a resource that concerns it, from good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It has the current version in force.
    Current,
    /// It has yet to.
    Pending,
    /// It has refused it.
    Rejected,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Unanswered,
    Absent,
    /// Canonical name of the resource, for a glob any of them.
    Present(Arc<str>),
}

#[derive(Debug)]
struct InFlight {
    nonce: u64,
    names: BTreeSet<Arc<str>>,
}

// === impl Subscription ===

impl Subscription {
    pub fn new(type_url: &'static str, variant: Variant, scope: Scope) -> Self {
        Self {
            type_url,
            variant,
            scope,
            started: false,
            named: false,
            wildcard: false,
            asks: BTreeMap::new(),
            owed: BTreeSet::new(),
            answer_due: false,
            held: Holding::default(),
            in_flight: None,
            plan: Plan::default(),
            nack: None,
        }
    }

    pub fn type_url(&self) -> &'static str {
        self.type_url
    }

    /// Takes a request in. A stale nonce acknowledges nothing, but changes of names always count. `set` is what there is now:
    /// the same that the subscription was told of last.
    ///
    /// # Errors
    /// If the client asks for too much; the stream should end.
    pub fn request(&mut self, request: Request, set: &TypeSet) -> Result<Verdict, TooManyNames> {
        let verdict = self.acknowledge(request.nonce, request.error);
        let changed = match request.names {
            Names::Change { subscribe, unsubscribe, known } => {
                let changed = !self.started || !subscribe.is_empty() || !unsubscribe.is_empty();
                self.change(subscribe, &unsubscribe, known)?;
                changed
            }
            Names::Whole(names) => self.replace(names)?,
        };
        if changed {
            self.replan(set);
        }
        Ok(verdict)
    }

    /// Takes newer resources in, whatever is different of them.
    pub fn advance(&mut self, set: &TypeSet) {
        if self.started {
            self.replan(set);
        }
    }

    /// What the client asks for: names, aliases, globs, and `*`.
    pub(crate) fn asks(&self) -> impl Iterator<Item = &str> {
        self.asks.keys().map(AsRef::as_ref).chain(self.wildcard.then_some("*"))
    }

    pub(crate) fn asks_for(&self, name: &str) -> bool {
        if name == "*" { self.wildcard } else { self.asks.contains_key(name) }
    }

    /// Something is new to the client, or it waits for an answer.
    pub fn has_additions(&self) -> bool {
        self.answer_due || !self.plan.upserts.is_empty() || !self.plan.unknown.is_empty()
    }

    /// Something that the client holds is gone.
    pub fn has_removals(&self) -> bool {
        !self.plan.removed.is_empty()
    }

    /// The next push, if one is due and none is in flight. Additions always; removals only if `with_removals`.
    pub fn poll(&mut self, nonces: &mut u64, with_removals: bool) -> Option<Push> {
        let due = self.has_additions() || (with_removals && self.has_removals());
        if self.in_flight.is_some() || !due {
            return None;
        }
        let mut plan = std::mem::take(&mut self.plan);
        if !with_removals {
            self.plan.removed = std::mem::take(&mut plan.removed);
        }
        self.answer_due = false;
        self.owed.clear();
        self.held.remove(&plan.removed);
        for name in &plan.removed {
            self.asks.entry(Arc::clone(name)).and_modify(|slot| *slot = Answer::Absent);
        }
        // What was a resource's name may be an alias by now.
        for (ask, answer) in plan.answers {
            self.asks.entry(ask).and_modify(|slot| *slot = answer);
        }
        self.held.send(&plan.upserts);
        *nonces += 1;
        self.in_flight = Some(InFlight { nonce: *nonces, names: plan.upserts.keys().cloned().collect() });
        let (resources, removed) = match self.variant {
            Variant::Delta => {
                plan.unknown.append(&mut plan.removed);
                (plan.upserts.into_values().collect(), plan.unknown.into_iter().collect())
            }
            Variant::StateOfTheWorld => (self.held.iter().map(|held| Arc::clone(&held.sent)).collect(), Vec::new()),
        };
        Some(Push { type_url: self.type_url, nonce: *nonces, resources, removed })
    }

    /// Versions in force at the client, by name.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.held.iter().filter_map(|held| Some((&held.sent.name, &held.accepted.as_ref()?.version)))
    }

    /// Names of what the client was sent or is to be sent next.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let coming = self.plan.upserts.keys().filter(|name| self.held.get(name).is_none());
        self.held.names().chain(coming)
    }

    /// At most this many [`names`](Self::names) there are.
    pub(crate) fn len(&self) -> usize {
        self.held.len() + self.plan.upserts.len()
    }

    /// How the client stands to a resource whose version is now `current` (`None`: it is gone). `None`: it has never been
    /// sent the resource and isn't about to.
    pub(crate) fn standing(&self, name: &str, current: Option<&str>) -> Option<Standing> {
        let Some(held) = self.held.get(name) else {
            return self.plan.upserts.contains_key(name).then_some(Standing::Pending);
        };
        if held.accepted.as_ref().map(|accepted| &*accepted.version) == current {
            return Some(Standing::Current);
        }
        let unanswered = self.in_flight.as_ref().is_some_and(|in_flight| in_flight.names.contains(name));
        let refused = self.nack.as_ref().is_some_and(|nack| nack.names.iter().any(|refused| **refused == *name));
        let rejected = refused && !unanswered && Some(&*held.sent.version) == current;
        Some(if rejected { Standing::Rejected } else { Standing::Pending })
    }

    pub(crate) fn nack(&self) -> Option<&Nack> {
        self.nack.as_ref()
    }

    fn acknowledge(&mut self, nonce: Option<u64>, error: Option<String>) -> Verdict {
        let Some(in_flight) = self.in_flight.take_if(|in_flight| Some(in_flight.nonce) == nonce) else {
            return Verdict::None;
        };
        let rejected = match &error {
            None => BTreeSet::new(),
            Some(reason) => rejected(&in_flight.names, reason),
        };
        for name in in_flight.names.difference(&rejected) {
            if let Some(held) = self.held.get_mut(name) {
                held.accepted = Some(Arc::clone(&held.sent));
            }
        }
        let Some(mut reason) = error else { return Verdict::Ack };
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        self.nack = Some(Nack { names: rejected.into_iter().collect(), reason });
        Verdict::Nack
    }

    /// Delta: names come and go.
    fn change(
        &mut self,
        subscribe: Vec<String>,
        unsubscribe: &[String],
        known: HashMap<String, String>,
    ) -> Result<(), TooManyNames> {
        let first = !std::mem::replace(&mut self.started, true);
        if first {
            self.answer_due = true;
            // The legacy form of `*`; it exists only as long as nothing was ever asked for by name.
            self.wildcard = subscribe.is_empty();
            for (present, name) in known.keys().enumerate() {
                admit(name, present)?;
            }
            let known = known.into_iter().map(|(name, version)| {
                Held::known(Resource { name: name.into(), version: version.into(), ..Resource::default() })
            });
            self.held.bring(known);
        }
        for name in subscribe {
            self.subscribe(name, first)?;
        }
        for name in unsubscribe {
            let asked = self.asks.remove(name.as_str()).is_some();
            self.owed.remove(name.as_str());
            if name == "*" {
                self.wildcard = false;
            } else if asked && self.is_asked_for(name, &[]) {
                // The client may have dropped it, though it still wants it: it can't tell, so it must be told.
                self.owed.insert(name.as_str().into());
                self.answer_due = true;
            }
        }
        if !unsubscribe.is_empty() {
            self.forget_unasked();
        }
        Ok(())
    }

    /// State of the world: these names and no others. Says whether that changes anything.
    fn replace(&mut self, names: Vec<String>) -> Result<bool, TooManyNames> {
        let first = !std::mem::replace(&mut self.started, true);
        self.answer_due |= first;
        self.named |= !names.is_empty();
        let before = (self.wildcard, self.asks.len());
        let names: BTreeSet<String> = names.into_iter().collect();
        self.asks.retain(|ask, _| names.contains(&**ask));
        self.owed.retain(|ask| names.contains(&**ask));
        let kept = self.asks.len();
        let wildcard = names.contains("*") || !self.named;
        for name in names {
            if name != "*" && !self.asks.contains_key(name.as_str()) {
                self.subscribe(name, first)?;
            }
        }
        self.answer_due |= wildcard && !self.wildcard;
        self.wildcard = wildcard;
        self.forget_unasked();
        Ok(first || before != (wildcard, kept) || kept != self.asks.len())
    }

    fn subscribe(&mut self, name: String, first: bool) -> Result<(), TooManyNames> {
        admit(&name, self.asks.len())?;
        let name: Arc<str> = name.into();
        if &*name == "*" {
            self.wildcard = true;
        } else {
            self.asks.entry(Arc::clone(&name)).or_insert(Answer::Unanswered);
        }
        // With the first request `known` says what need not be sent; later every name is answered, even again.
        if !first {
            self.owed.insert(name);
            self.answer_due = true;
        }
        Ok(())
    }

    /// What the client no longer asks for, it drops by itself.
    fn forget_unasked(&mut self) {
        let mut held = std::mem::take(&mut self.held);
        held.retain(|held| self.is_asked_for(&held.sent.name, &held.sent.aliases));
        self.held = held;
    }

    fn is_asked_for(&self, name: &str, aliases: &[Arc<str>]) -> bool {
        self.wildcard
            || self.asks.contains_key(name)
            || aliases.iter().any(|alias| self.asks.contains_key(alias))
            || globs_of(name).any(|glob| self.asks.contains_key(glob.as_str()))
    }
}

fn admit(name: &str, present: usize) -> Result<(), TooManyNames> {
    if name.len() > MAX_NAME || present >= MAX_NAMES { Err(TooManyNames) } else { Ok(()) }
}

/// Our proxies say `NAME: REASON` in a line of its own for each resource that they refuse, and apply the others.
/// Whoever names none has refused them all.
fn rejected(sent: &BTreeSet<Arc<str>>, reason: &str) -> BTreeSet<Arc<str>> {
    let named: BTreeSet<Arc<str>> = reason
        .lines()
        .filter_map(|line| line.split_once(": ").and_then(|(name, _)| sent.get(name.trim())).cloned())
        .collect();
    if named.is_empty() { sent.clone() } else { named }
}
