//! What is on trial, and what there is to go back to.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    time::SystemTime,
};

use outrigger_wire::proto::{
    config as wire,
    discovery::{DeltaDiscoveryResponse, Resource},
};
use prost::Message;
use tokio::time::Instant;

use super::{Kind, State};
use crate::{
    Role,
    saved::SavedConfig,
    trial::{Key, Records, Trials},
};

/// What users' objects are compiled to. Endpoints are facts: they come and go all the time, and nobody wrote them.
const TRIED: [Kind; 3] = [Kind::Trust, Kind::Inbound, Kind::Service];

// === impl State ===

impl State {
    /// Takes up what a process before had on trial, before any of it is looked at again.
    pub(crate) fn resume_trials(&mut self, saved: &SavedConfig, records: Records, wall: SystemTime, now: Instant) {
        // What was saved is looked through only if something died, or was on trial.
        let current = LazyCell::new(|| tried(&saved.responses).collect::<BTreeMap<_, _>>());
        let before = LazyCell::new(|| tried(&saved.before).map(|(key, _)| key).collect::<BTreeSet<_>>());
        // A sidecar asks the shared proxies about a service that it lacks; guards and they have nobody to ask.
        let shared = LazyCell::new(|| shared_service(current.get(&(Kind::Inbound, self.workload.clone()))));
        let can_go_back = |key: &Key, version: &str| {
            let replaced = self.role == Role::Sidecar && key.0 == Kind::Service && *shared != key.1;
            replaced || before.contains(key) || current.get(key).is_some_and(|other| other.version != version)
        };
        let mut trials = Trials::after(records, wall, now, can_go_back);
        trials.release(wall);
        if !trials.is_empty() {
            let known = current.iter().filter(|(key, resource)| trials.knows(key, &resource.version));
            let on_trial: Vec<_> = known.map(|(key, resource)| (key.clone(), resource.version.clone())).collect();
            trials.begin(on_trial.into_iter(), now);
        }
        self.trials = trials;
        self.refuse_quarantined();
    }

    /// Shows them as refused, though the versions before are good.
    pub(super) fn refuse_quarantined(&mut self) {
        self.refusals.extend(self.trials.quarantined().map(|(key, reason)| (key.clone(), reason)));
    }

    /// Puts on trial what is new in a response. Says whether anything is.
    pub(crate) fn begin_trials(&mut self, response: &DeltaDiscoveryResponse, now: Instant) -> bool {
        let Some(kind) = Kind::from_url(&response.type_url).filter(|kind| TRIED.contains(kind)) else { return false };
        let new = self.news(kind, response).map(|it| ((kind, it.name.clone()), it.version.clone()));
        let new: Vec<_> = new.collect();
        self.trials.begin(new.into_iter(), now)
    }

    /// The part of a response that would be put on trial.
    pub(crate) fn untried(&self, response: &DeltaDiscoveryResponse) -> Option<DeltaDiscoveryResponse> {
        let kind = Kind::from_url(&response.type_url).filter(|kind| TRIED.contains(kind))?;
        let new = self.news(kind, response).filter(|it| self.trials.refusal(kind, it).is_none()).cloned();
        let (type_url, resources) = (response.type_url.clone(), new.collect::<Vec<_>>());
        let untried = DeltaDiscoveryResponse { type_url, resources, ..DeltaDiscoveryResponse::default() };
        (!untried.resources.is_empty()).then_some(untried)
    }

    /// Quarantines what another process has died of.
    pub(crate) fn condemn(&mut self, type_url: &str, deadly: Vec<Resource>, wall: SystemTime) {
        let Some(kind) = Kind::from_url(type_url) else { return };
        for resource in deadly {
            self.trials.condemn(&(kind, resource.name), resource.version, wall);
        }
    }

    /// What of a response isn't what is held.
    fn news<'r>(&self, kind: Kind, response: &'r DeltaDiscoveryResponse) -> impl Iterator<Item = &'r Resource> {
        let table = self.table(kind);
        let is_new =
            move |it: &&Resource| it.resource.is_some() && table.version(&it.name) != Some(it.version.as_str());
        response.resources.iter().filter(is_new)
    }

    /// Ends the trials that are over.
    pub(crate) fn prove(&mut self, now: Instant) {
        for (kind, name) in self.trials.prove(now) {
            self.table_mut(kind).prove(&name);
        }
    }

    /// The versions before those that are on trial, for the disk.
    pub(super) fn before_trials(&self) -> Vec<DeltaDiscoveryResponse> {
        let before = |kind: Kind| {
            let url = kind.url();
            let resources = self.table(kind).before(url);
            DeltaDiscoveryResponse { type_url: url.into(), resources, ..Default::default() }
        };
        TRIED.map(before).into()
    }

    /// Puts the versions before in place of those in quarantine.
    pub(super) fn go_back(&self, saved: &mut DeltaDiscoveryResponse, before: &mut BTreeMap<Key, Resource>) {
        let Some(kind) = Kind::from_url(&saved.type_url) else { return };
        for resource in &mut saved.resources {
            if self.trials.refusal(kind, resource).is_some()
                && let Some(other) = before.remove(&(kind, resource.name.clone()))
            {
                *resource = other;
            }
        }
    }

    /// These are still what there is to go back to.
    pub(super) fn keep_before(&mut self, before: BTreeMap<Key, Resource>) {
        for ((kind, _), resource) in before {
            self.table_mut(kind).set_before(resource);
        }
    }
}

/// The service of the shared proxies, as the workload's own resource has it.
fn shared_service(own: Option<&&Resource>) -> String {
    let body = own.and_then(|own| own.resource.as_ref());
    let own = body.and_then(|body| wire::Inbound::decode(body.value.as_slice()).ok());
    own.and_then(|own| own.fallback).map(|fallback| fallback.shared_service).unwrap_or_default()
}

/// What of saved responses may be on trial.
pub(super) fn tried(responses: &[DeltaDiscoveryResponse]) -> impl Iterator<Item = (Key, &Resource)> {
    let of_kind = responses.iter().filter_map(|response| {
        let kind = Kind::from_url(&response.type_url).filter(|kind| TRIED.contains(kind))?;
        Some(response.resources.iter().map(move |resource| ((kind, resource.name.clone()), resource)))
    });
    of_kind.flatten()
}
