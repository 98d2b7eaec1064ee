//! What is on trial, and what there is to go back to.

use std::{collections::BTreeMap, time::SystemTime};

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
        let (current, before) = (versions(&saved.responses), versions(&saved.before));
        // A sidecar asks the shared proxies about a service that it lacks; guards and they have nobody to ask.
        let shared = (self.role == Role::Sidecar).then(|| shared_service(&saved.responses, &self.workload));
        let can_go_back = |key: &Key, version: &str| {
            let replaced = key.0 == Kind::Service && shared.as_ref().is_some_and(|shared| *shared != key.1);
            replaced || before.contains_key(key) || current.get(key).is_some_and(|other| other != version)
        };
        self.trials = Trials::after(records, wall, now, can_go_back);
        self.trials.release(wall);
        let on_trial = current.into_iter().filter(|(key, version)| self.trials.knows(key, version)).collect::<Vec<_>>();
        self.trials.begin(on_trial.into_iter(), now);
        self.refuse_quarantined();
    }

    /// Shows them as refused, though the versions before are good.
    pub(super) fn refuse_quarantined(&mut self) {
        self.refusals.extend(self.trials.quarantined().map(|(key, reason)| (key.clone(), reason)));
    }

    /// Puts on trial what is new in a response. Says whether anything is.
    pub(crate) fn begin_trials(&mut self, response: &DeltaDiscoveryResponse, now: Instant) -> bool {
        let Some(kind) = Kind::from_url(&response.type_url).filter(|kind| TRIED.contains(kind)) else { return false };
        let held = |name: &str| match kind {
            Kind::Trust => self.trust.version(name),
            Kind::Inbound => self.inbounds.version(name),
            Kind::Endpoint => None,
            Kind::Service => self.services.version(name),
        };
        let is_new = |it: &&Resource| it.resource.is_some() && held(&it.name) != Some(it.version.as_str());
        let new = response.resources.iter().filter(is_new).map(|it| ((kind, it.name.clone()), it.version.clone()));
        let new: Vec<_> = new.collect();
        self.trials.begin(new.into_iter(), now)
    }

    /// Ends the trials that are over.
    pub(crate) fn prove(&mut self, now: Instant) {
        for (kind, name) in self.trials.prove(now) {
            match kind {
                Kind::Trust => self.trust.prove(&name),
                Kind::Inbound => self.inbounds.prove(&name),
                Kind::Endpoint => self.endpoints.prove(&name),
                Kind::Service => self.services.prove(&name),
            }
        }
    }

    /// The versions before those that are on trial, for the disk.
    pub(super) fn before_trials(&self) -> Vec<DeltaDiscoveryResponse> {
        let before = |kind: Kind| {
            let url = kind.url();
            let resources = match kind {
                Kind::Trust => self.trust.before(url),
                Kind::Inbound => self.inbounds.before(url),
                Kind::Endpoint => self.endpoints.before(url),
                Kind::Service => self.services.before(url),
            };
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
            match kind {
                Kind::Trust => self.trust.set_before(resource),
                Kind::Inbound => self.inbounds.set_before(resource),
                Kind::Endpoint => self.endpoints.set_before(resource),
                Kind::Service => self.services.set_before(resource),
            }
        }
    }
}

/// The service of the shared proxies, as the workload's own resource has it.
fn shared_service(responses: &[DeltaDiscoveryResponse], workload: &str) -> String {
    let mut inbounds = responses.iter().filter(|it| it.type_url == Kind::Inbound.url()).flat_map(|it| &it.resources);
    let own = inbounds.find(|inbound| inbound.name == workload).and_then(|inbound| inbound.resource.as_ref());
    let own = own.and_then(|body| wire::Inbound::decode(body.value.as_slice()).ok());
    own.and_then(|own| own.fallback).map(|fallback| fallback.shared_service).unwrap_or_default()
}

pub(super) fn by_key(responses: Vec<DeltaDiscoveryResponse>) -> BTreeMap<Key, Resource> {
    let resources = responses.into_iter().filter_map(|response| {
        let kind = Kind::from_url(&response.type_url)?;
        Some(response.resources.into_iter().map(move |resource| ((kind, resource.name.clone()), resource)))
    });
    resources.flatten().collect()
}

fn versions(responses: &[DeltaDiscoveryResponse]) -> BTreeMap<Key, String> {
    let tried = responses.iter().filter_map(|response| {
        let kind = Kind::from_url(&response.type_url).filter(|kind| TRIED.contains(kind))?;
        Some(response.resources.iter().map(move |it| ((kind, it.name.clone()), it.version.clone())))
    });
    tried.flatten().collect()
}
