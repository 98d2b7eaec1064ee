//! What is to be sent next, kept up with what changes: first what each ask leads to, then what becomes of each resource.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use outrigger_model::{Resource, TypeSet};

use super::{Answer, Subscription};
use crate::{
    changes::Change,
    scope::{globs_of, is_glob},
};

/// What is to be sent as soon as nothing is in flight.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) upserts: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Asked for and not there: breaks nothing, so it need not wait as removals do.
    pub(super) unknown: BTreeSet<Arc<str>>,
    pub(super) removed: BTreeSet<Arc<str>>,
    /// To be noted when the push is made.
    pub(super) answers: BTreeMap<Arc<str>, Answer>,
    /// What the client must hear of even if it holds it, by the ask that leads there.
    forced: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// The same by name: how many asks lead there. A client may force as much as there is, by one message.
    forcing: BTreeMap<Arc<str>, usize>,
}

// === impl Subscription ===

impl Subscription {
    /// Compares all that is asked for with all that was sent.
    pub(super) fn replan(&mut self, set: &TypeSet) {
        self.plan = Plan::default();
        let asks: BTreeSet<Arc<str>> = self.asks.keys().chain(&self.owed).cloned().collect();
        let mut names: BTreeSet<Arc<str>> = self.held.names().cloned().collect();
        let wildcard: Option<Arc<str>> = self.wildcard.then(|| "*".into());
        for ask in asks.iter().chain(&wildcard) {
            self.scope.find(set, ask, |resource| {
                names.insert(Arc::clone(&resource.name));
            });
        }
        asks.iter().for_each(|ask| self.plan_ask(set, ask));
        names.iter().for_each(|name| self.plan_resource(set, name));
    }

    /// Takes newer resources in, of which nothing else is different than `changes`. Costs as much as there are of these.
    pub(crate) fn touch(&mut self, set: &TypeSet, changes: &[Arc<Change>]) {
        if !self.started {
            return;
        }
        let mut names: BTreeSet<Arc<str>> = BTreeSet::new();
        for change in changes {
            names.insert(Arc::clone(&change.name));
            let wider = globs_of(&change.name).map(Arc::from).chain([Arc::from("*")]);
            for ask in [&change.name].into_iter().chain(&change.aliases).cloned().chain(wider) {
                if self.asks.contains_key(&ask) || self.owed.contains(&ask) {
                    names.extend(self.plan.forced.get(&ask).into_iter().flatten().cloned());
                    self.plan_ask(set, &ask);
                    // An alias may be the name of another resource.
                    names.insert(ask);
                }
            }
        }
        names.iter().for_each(|name| self.plan_resource(set, name));
    }

    /// Compares what `ask` leads to now with what it was last answered.
    fn plan_ask(&mut self, set: &TypeSet, ask: &Arc<str>) {
        let Self { plan, scope, .. } = self;
        plan.unknown.remove(ask);
        plan.removed.remove(ask);
        plan.answers.remove(ask);
        plan.release(ask);
        let found = scope.first(set, ask).cloned();
        if self.owed.contains(ask) {
            scope.find(set, ask, |resource| plan.force(ask, resource));
            if found.is_none() && &**ask != "*" {
                plan.unknown.insert(Arc::clone(ask));
            }
        }
        let Some(before) = self.asks.get(ask) else { return };
        match (found, before) {
            (Some(_), Answer::Present(_)) if is_glob(ask) => {}
            (Some(resource), Answer::Present(name)) if *name == resource.name => {}
            (Some(resource), before) => {
                if matches!(before, Answer::Present(_)) {
                    // The alias has moved: the client must hear whose it is now, even of a resource that it holds.
                    plan.force(ask, &resource);
                }
                plan.answers.insert(Arc::clone(ask), Answer::Present(Arc::clone(&resource.name)));
            }
            (None, Answer::Unanswered) => {
                plan.unknown.insert(Arc::clone(ask));
                plan.answers.insert(Arc::clone(ask), Answer::Absent);
            }
            // The removal of its last member says it all.
            (None, Answer::Present(_)) if is_glob(ask) => {}
            (None, Answer::Present(_)) => {
                plan.removed.insert(Arc::clone(ask));
            }
            (None, Answer::Absent) => {}
        }
    }

    /// Compares what there is now under a name with what was last sent.
    fn plan_resource(&mut self, set: &TypeSet, name: &Arc<str>) {
        let found = set.resources.get(name).filter(|resource| self.scope.sees(resource));
        let wanted = found.filter(|resource| self.is_asked_for(name, &resource.aliases));
        let held = self.held.get_mut(name);
        let plan = &mut self.plan;
        let Some(resource) = wanted else {
            plan.upserts.remove(name);
            if held.is_some() {
                plan.removed.insert(Arc::clone(name));
            }
            return;
        };
        plan.removed.remove(name);
        let current = held.is_some_and(|held| held.is_current(resource));
        if current && !plan.forcing.contains_key(name) {
            plan.upserts.remove(name);
        } else {
            plan.upserts.insert(Arc::clone(name), Arc::clone(resource));
        }
    }
}

// === impl Plan ===

impl Plan {
    fn force(&mut self, ask: &Arc<str>, resource: &Resource) {
        if self.forced.entry(Arc::clone(ask)).or_default().insert(Arc::clone(&resource.name)) {
            *self.forcing.entry(Arc::clone(&resource.name)).or_default() += 1;
        }
    }

    fn release(&mut self, ask: &str) {
        for name in self.forced.remove(ask).into_iter().flatten() {
            if let Entry::Occupied(mut asks) = self.forcing.entry(name) {
                *asks.get_mut() -= 1;
                if *asks.get() == 0 {
                    asks.remove();
                }
            }
        }
    }
}
