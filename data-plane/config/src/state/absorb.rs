//! Takes one response's resources and removals into the tables; bad ones are refused one by one.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr, sync::Arc};

use outrigger_core::{
    Snapshot,
    config::{CompileError, EndpointSpec, Inbound, Service, Trust},
};
use outrigger_wire::{
    names::address_alias,
    proto::{
        config as wire,
        discovery::{DeltaDiscoveryResponse, Resource},
    },
};
use prost::Message;
use tokio::time::Instant;

use super::{Kind, MAX_REFUSALS, State, Versions, WARM_UP, aliased, service_of};
use crate::{Role, poison};

/// (name, reason) of a resource that isn't taken.
type Refused = (String, String);

// === impl State ===

impl State {
    /// What is visible at once is changed in `next`; services wait until [`settle`](State::settle) finds them warm.
    /// Adds to `touched` the services whose endpoints changed.
    pub(super) fn absorb(
        &mut self,
        response: DeltaDiscoveryResponse,
        next: &mut Cow<'_, Snapshot>,
        touched: &mut BTreeSet<String>,
        now: Instant,
    ) -> Vec<Refused> {
        let Some(kind) = Kind::from_url(&response.type_url) else {
            return vec![(response.type_url, "type that wasn't asked for".into())];
        };
        let mut refused = Vec::new();
        // Removals first: an address that one service leaves and another takes is in both lists.
        for name in response.removed_resources {
            self.refusals.remove(&(kind, name.clone()));
            self.trials.forget(kind, &name);
            match kind {
                Kind::Trust => self.remove_trust(&name, next),
                Kind::Inbound => self.remove_inbound(&name, next),
                Kind::Endpoint => self.remove_endpoint(&name, touched),
                Kind::Service => self.remove_service(name, next),
            }
        }
        for resource in response.resources {
            let name = resource.name.clone();
            let taken = match (self.trials.refusal(kind, &resource), kind) {
                (Some(reason), Kind::Service) => {
                    self.answered(&resource);
                    self.unusable(name.clone());
                    Err(reason)
                }
                (Some(reason), _) => Err(reason),
                (None, Kind::Trust) => self.take_trust(resource, next),
                (None, Kind::Inbound) => self.take_inbound(resource, next),
                (None, Kind::Endpoint) => self.take_endpoint(resource, touched),
                (None, Kind::Service) => self.take_service(resource, now),
            };
            match taken {
                Ok(()) => drop(self.refusals.remove(&(kind, name))),
                Err(reason) => {
                    if self.refusals.len() < MAX_REFUSALS {
                        self.refusals.insert((kind, name.clone()), reason.clone());
                    }
                    refused.push((name, reason));
                }
            }
        }
        if self.role == Role::Shared {
            self.complete.insert(kind);
        }
        refused
    }

    fn take_trust(&mut self, resource: Resource, next: &mut Cow<'_, Snapshot>) -> Result<(), String> {
        let name = resource.name.clone();
        let new = self.trust.take(Kind::Trust.url(), resource, |body| {
            let message: wire::Trust = decode(body)?;
            named(&name, &message.trust_domain)?;
            Trust::compile(message).map_err(reason)
        })?;
        if new {
            self.set_trust(next);
        }
        Ok(())
    }

    fn remove_trust(&mut self, name: &str, next: &mut Cow<'_, Snapshot>) {
        // Trusting nobody would cut every connection: no control plane in its right mind means that.
        if self.trust.len() == 1 {
            self.trust.disown(name);
        } else if self.trust.remove(name).is_some() {
            self.set_trust(next);
        }
    }

    fn set_trust(&self, next: &mut Cow<'_, Snapshot>) {
        next.to_mut().set_trust(self.trust.iter().map(|(_, held)| held.value.clone()).collect());
    }

    fn take_inbound(&mut self, resource: Resource, next: &mut Cow<'_, Snapshot>) -> Result<(), String> {
        let name = resource.name.clone();
        let own = name == self.workload;
        if !own && self.role != Role::Shared {
            return Err(format!("is not of {}", self.workload));
        }
        let new = self.inbounds.take(Kind::Inbound.url(), resource, |body| {
            let message: wire::Inbound = decode(body)?;
            named(&name, &message.workload)?;
            Inbound::compile(message).map(Arc::new).map_err(reason)
        })?;
        if new && let Some(held) = self.inbounds.get(&name) {
            next.to_mut().set_inbound(held.value.clone());
            if own {
                next.to_mut().set_own(&name);
            }
        }
        Ok(())
    }

    fn remove_inbound(&mut self, name: &str, next: &mut Cow<'_, Snapshot>) {
        // The own one stays: a pod that is being deleted still drains under its policies.
        if name == self.workload {
            self.inbounds.disown(name);
        } else if self.inbounds.remove(name).is_some() {
            next.to_mut().remove_inbound(name);
        }
    }

    fn take_endpoint(&mut self, resource: Resource, touched: &mut BTreeSet<String>) -> Result<(), String> {
        let name = resource.name.clone();
        let service = service_of(&name).ok_or("name isn't NAMESPACE/SERVICE/WORKLOAD")?;
        self.collections.insert(service.into());
        let new = self.endpoints.take(Kind::Endpoint.url(), resource, |body| {
            let message: wire::Endpoint = decode(body)?;
            named(service, &message.service)?;
            EndpointSpec::compile(message).map_err(reason)
        })?;
        if new {
            // There is no trial, so nothing to go back to.
            self.endpoints.prove(&name);
            touched.insert(service.into());
        }
        Ok(())
    }

    /// `name` is an endpoint's, or the glob of a collection that is empty.
    fn remove_endpoint(&mut self, name: &str, touched: &mut BTreeSet<String>) {
        let Some(service) = service_of(name) else { return };
        self.collections.insert(service.into());
        if let Some(prefix) = name.strip_suffix('*') {
            self.endpoints.retain(|endpoint| !endpoint.starts_with(prefix));
        } else {
            self.endpoints.remove(name);
        }
        touched.insert(service.into());
    }

    fn take_service(&mut self, resource: Resource, now: Instant) -> Result<(), String> {
        let name = resource.name.clone();
        self.answered(&resource);
        let taken = self.services.take(Kind::Service.url(), resource, |body| {
            poison::taste(body);
            let message: wire::Service = decode(body)?;
            named(&name, &message.name)?;
            Service::compile(message).map(Arc::new).map_err(reason)
        });
        match taken {
            Ok(new) => {
                self.absent.remove(&name);
                if new {
                    self.waiting.entry(name).or_insert(now + WARM_UP);
                }
                Ok(())
            }
            Err(reason) => {
                self.unusable(name);
                Err(reason)
            }
        }
    }

    /// There is a service at these addresses.
    fn answered(&mut self, service: &Resource) {
        for address in service.aliases.iter().chain([&service.name]).filter_map(|alias| aliased(alias)) {
            self.asked.answer(address, false);
        }
    }

    /// Nobody should wait for a service that can't be used.
    fn unusable(&mut self, service: String) {
        if self.role != Role::Shared && self.services.get(&service).is_none() {
            self.absent.insert(service);
        }
    }

    /// `name` is a service's, or the alias of an address that no service has.
    fn remove_service(&mut self, name: String, next: &mut Cow<'_, Snapshot>) {
        let mut addresses: Vec<_> = aliased(&name).into_iter().collect();
        let held = self.services.remove(&name);
        if let Some(held) = &held {
            addresses.extend(held.aliases.iter().filter_map(|alias| aliased(alias)));
            self.waiting.remove(&name);
        }
        if next.services.contains_key(name.as_str()) {
            next.to_mut().remove_service(&name);
        }
        // A shared proxy holds all there is: what it doesn't hold is absent.
        if self.role != Role::Shared {
            if held.is_none() {
                // A service that had the address may have lost it without having been resent yet.
                self.services.values_mut().for_each(|held| held.aliases.retain(|alias| *alias != name));
            }
            self.absent.insert(name);
        }
        for address in addresses {
            // Additions come before removals: another service may have the address by now.
            if !(held.is_some() && self.is_taken(address, next)) && self.asked.answer(address, true) {
                next.to_mut().set_absent(address);
            }
        }
    }

    /// A service has this address, visible or not yet.
    fn is_taken(&self, address: IpAddr, next: &Snapshot) -> bool {
        let alias = address_alias(address);
        let waits =
            |name: &String| *name == alias || self.services.get(name).is_some_and(|it| it.aliases.contains(&alias));
        matches!(next.addresses.get(&address), Some(Some(_))) || self.waiting.keys().any(waits)
    }
}

/// A resource's name is what it is subscribed to by; one that says otherwise inside is nobody's.
fn named(name: &str, inside: &str) -> Result<(), String> {
    if name == inside { Ok(()) } else { Err(format!("says that it is {inside:?}")) }
}

fn decode<M: Message + Default>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|error| error.to_string())
}

/// The resource is named beside it.
fn reason(CompileError { field, problem, .. }: CompileError) -> String {
    format!("{field}: {problem}")
}
