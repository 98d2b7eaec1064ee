//! One consistent view of the configuration. Immutable; the control thread builds the next from the last: it clones,
//! changes the clone and publishes it. Live state (balancing, retry budgets) passes from one to the next.

use std::{net::IpAddr, sync::Arc};

use crate::{
    balance::EndpointSet,
    config::{EndpointSpec, Inbound, Service, Trust},
    hash::Map,
    retry::RetryBudget,
};

/// A service joined with its endpoints and its live state.
#[derive(Debug)]
pub struct Destination {
    pub service: Arc<Service>,
    pub endpoints: Arc<EndpointSet>,
    /// Shared by every version of this destination.
    pub budget: Arc<RetryBudget>,
}

/// What a proxy knows. Cheap to clone: maps of [`Arc`].
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By name: `NAMESPACE/NAME` or `@ADDRESS`.
    pub services: Map<Arc<str>, Arc<Destination>>,
    /// By each of a service's addresses. `None`: known not to be in the mesh.
    pub addresses: Map<IpAddr, Option<Arc<Destination>>>,
    /// By workload name. A sidecar or guard holds its own alone.
    pub inbounds: Map<Arc<str>, Arc<Inbound>>,
    /// The same by address.
    pub inbound_addresses: Map<IpAddr, Arc<Inbound>>,
    /// What this proxy's own workload accepts, once it is known.
    pub own: Option<Arc<Inbound>>,
    /// Name of this proxy's own workload.
    pub own_name: Option<Arc<str>>,
    /// Service of the shared proxies that the own workload had before, until those are known that it is to have now.
    pub shared_before: Option<Arc<str>>,
    pub trust: Arc<Vec<Trust>>,
    /// Grows with each change of what workloads accept.
    pub judgement: u64,
    /// Grows with each published snapshot of this process.
    pub generation: u64,
}

impl Snapshot {
    /// Adds or replaces a service. `endpoints` don't matter to one that is called by a pod's own address.
    pub fn set_service(&mut self, service: Arc<Service>, endpoints: Vec<EndpointSpec>) {
        let before = self.services.get(&service.name).cloned();
        if let Some(before) = &before {
            for address in &before.service.addresses {
                if !service.addresses.contains(address) && self.is_at(*address, &service.name) {
                    self.addresses.remove(address);
                }
            }
        }
        let endpoints = match &service.direct {
            Some(direct) => vec![direct.clone()],
            None => endpoints,
        };
        let addresses = service.addresses.clone();
        let destination = join(service, endpoints, before.as_deref());
        for address in addresses {
            self.addresses.insert(address, Some(destination.clone()));
        }
        if self.shared_service() == Some(&destination.service.name) {
            self.shared_before = None;
        }
        self.services.insert(destination.service.name.clone(), destination);
    }

    /// Replaces the endpoints of a service; nothing happens if it isn't known.
    pub fn set_endpoints(&mut self, service: &str, endpoints: Vec<EndpointSpec>) {
        let Some(before) = self.services.get(service).cloned() else { return };
        if before.service.direct.is_some() {
            return;
        }
        let destination = join(before.service.clone(), endpoints, Some(&before));
        for address in &destination.service.addresses {
            if self.is_at(*address, service) {
                self.addresses.insert(*address, Some(destination.clone()));
            }
        }
        self.services.insert(destination.service.name.clone(), destination);
    }

    /// Forgets a service and its addresses.
    pub fn remove_service(&mut self, name: &str) {
        let Some(destination) = self.services.remove(name) else { return };
        for address in &destination.service.addresses {
            if self.is_at(*address, name) {
                self.addresses.remove(address);
            }
        }
    }

    /// Notes that nothing of the mesh has this address.
    pub fn set_absent(&mut self, address: IpAddr) {
        self.addresses.insert(address, None);
    }

    /// Forgets what is known of an address, so that the next call asks again.
    pub fn forget_address(&mut self, address: IpAddr) {
        self.addresses.remove(&address);
    }

    /// Adds or replaces what a workload accepts.
    pub fn set_inbound(&mut self, inbound: Arc<Inbound>) {
        let shared = self.shared_proxies().map(|known| known.service.name.clone());
        self.remove_inbound(&inbound.workload);
        self.judgement += 1;
        if self.own_name.as_ref() == Some(&inbound.workload) {
            self.own = Some(inbound.clone());
            let known = self.shared_service().is_none_or(|wanted| self.services.contains_key(wanted));
            self.shared_before = shared.filter(|_| !known);
        }
        for address in &inbound.addresses {
            self.inbound_addresses.insert(*address, inbound.clone());
        }
        self.inbounds.insert(inbound.workload.clone(), inbound);
    }

    /// Forgets what a workload accepts.
    pub fn remove_inbound(&mut self, workload: &str) {
        let Some(before) = self.inbounds.remove(workload) else { return };
        self.judgement += 1;
        for address in &before.addresses {
            if self.inbound_addresses.get(address).is_some_and(|at| &*at.workload == workload) {
                self.inbound_addresses.remove(address);
            }
        }
        if self.own_name.as_deref() == Some(workload) {
            self.own = None;
        }
    }

    /// Says which workload this proxy serves.
    pub fn set_own(&mut self, workload: &str) {
        self.own = self.inbounds.get(workload).cloned();
        self.judgement += 1;
        self.own_name = Some(workload.into());
    }

    /// The shared proxies that act for the own workload, made before those that did are let go.
    pub fn shared_proxies(&self) -> Option<&Arc<Destination>> {
        let wanted = self.services.get(self.shared_service()?);
        wanted.or_else(|| self.services.get(self.shared_before.as_ref()?))
    }

    /// Services that lead to them: the one that is wanted, and while that isn't known the one before.
    pub fn shared_services(&self) -> impl Iterator<Item = &Arc<str>> {
        self.shared_service().into_iter().chain(&self.shared_before)
    }

    fn shared_service(&self) -> Option<&Arc<str>> {
        self.own.as_ref()?.fallback.shared_service.as_ref()
    }

    /// Zone of this proxy's own workload; empty if unknown.
    pub fn zone(&self) -> &str {
        self.own.as_ref().map_or("", |own| &own.zone)
    }

    /// Replaces the roots of all trust domains.
    pub fn set_trust(&mut self, trust: Vec<Trust>) {
        self.trust = Arc::new(trust);
    }

    /// Whether the address leads to this service; another may have claimed it since.
    fn is_at(&self, address: IpAddr, service: &str) -> bool {
        matches!(self.addresses.get(&address), Some(Some(at)) if &*at.service.name == service)
    }
}

fn join(service: Arc<Service>, endpoints: Vec<EndpointSpec>, before: Option<&Destination>) -> Arc<Destination> {
    let endpoints = EndpointSet::build(endpoints, before.map(|before| &*before.endpoints), &service.policy);
    let budget = before.map(|before| before.budget.clone()).unwrap_or_default();
    Arc::new(Destination { service, endpoints: Arc::new(endpoints), budget })
}

#[cfg(test)]
mod tests;
