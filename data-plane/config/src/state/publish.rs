//! What is published when: decides which services are warm, and which nothing leads to any more.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc};

use outrigger_core::{Snapshot, config::EndpointSpec};
use tokio::time::Instant;

use super::{Kind, State, aliased, service_of};
use crate::Role;

// === impl State ===

impl State {
    /// Services that the app called or that a route leads to, as published or as it will be. Not all are held.
    pub(super) fn reachable(&self, published: &Snapshot) -> BTreeSet<Arc<str>> {
        let called = self.services.iter().filter(|(name, _)| self.is_asked_for(name));
        let mut stack: Vec<Arc<str>> = called.map(|(_, held)| held.value.name.clone()).collect();
        stack.extend(published.shared_services().cloned());
        let mut reachable = BTreeSet::new();
        while let Some(name) = stack.pop() {
            if reachable.contains(&name) {
                continue;
            }
            let held = self.services.get(&name).map(|held| &held.value);
            let visible = published.services.get(&name).map(|destination| &destination.service);
            for service in held.into_iter().chain(visible) {
                stack.extend(service.backend_services());
            }
            reachable.insert(name);
        }
        reachable
    }

    /// Whether a held service answers for an address that the app called.
    pub(super) fn is_asked_for(&self, name: &str) -> bool {
        let asked = |alias: &str| aliased(alias).is_some_and(|address| self.asked.contains(address));
        self.services.get(name).is_some_and(|held| asked(name) || held.aliases.iter().any(|alias| asked(alias)))
    }

    /// Publishes what has become warm or overdue, with its endpoints, then drops what nothing leads to any more.
    /// `touched`: services whose endpoints changed.
    pub(super) fn settle(&mut self, next: &mut Cow<'_, Snapshot>, touched: &BTreeSet<String>, now: Instant) {
        let ready: Vec<String> = self
            .waiting
            .iter()
            .filter(|(name, due)| **due <= now || self.is_warm(name))
            .map(|(n, _)| n.clone())
            .collect();
        for name in &ready {
            self.waiting.remove(name);
            if let Some(held) = self.services.get(name) {
                next.to_mut().set_service(held.value.clone(), self.specs(name));
            }
        }
        for name in touched.iter().filter(|name| ready.binary_search(name).is_err()) {
            if next.services.contains_key(name.as_str()) {
                next.to_mut().set_endpoints(name, self.specs(name));
            }
        }
        if self.role != Role::Shared {
            self.prune(next);
        }
    }

    fn prune(&mut self, next: &mut Cow<'_, Snapshot>) {
        let reachable = self.reachable(next);
        let keep = |name: &str| reachable.contains(name);
        self.services.retain(keep);
        self.endpoints.retain(|name| service_of(name).is_some_and(keep));
        self.absent.retain(|name| keep(name));
        self.collections.retain(|name| keep(name));
        self.waiting.retain(|name, _| keep(name));
        let gone: Vec<Arc<str>> = next.services.keys().filter(|name| !keep(name)).cloned().collect();
        for name in gone {
            next.to_mut().remove_service(&name);
        }
    }

    /// Everything that a call of this service can lead to has been answered.
    fn is_warm(&self, name: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<Arc<str>> = vec![name.into()];
        while let Some(name) = stack.pop() {
            if seen.contains(&name) {
                continue;
            }
            match self.services.get(&name).map(|held| &held.value) {
                Some(service) => {
                    let endpoints = service.direct.is_some()
                        || self.complete.contains(&Kind::Endpoint)
                        || self.collections.contains(&*name);
                    if !endpoints {
                        return false;
                    }
                    stack.extend(service.backend_services());
                }
                None if self.absent.contains(&*name) || self.complete.contains(&Kind::Service) => {}
                None => return false,
            }
            seen.insert(name);
        }
        true
    }

    pub(super) fn specs(&self, service: &str) -> Vec<EndpointSpec> {
        self.endpoints.under(&format!("{service}/")).map(|(_, held)| held.value.clone()).collect()
    }
}
