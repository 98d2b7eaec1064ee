//! What is to be derived anew: noted with each change, from who has to do with whom before it and after it. A change that
//! may concern anything (a setting, what a policy for the whole mesh says of traffic) has everything derived anew.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use k8s_openapi::api::core::v1;
use outrigger_crds::Object;
use outrigger_model::{Part, inputs::Mode, is_shared_proxy, namespace_of};
use outrigger_wire::names::SYSTEM_NAMESPACE;

use super::{
    index::Index,
    relations::{self, Relations, Route, addresses_of},
};
use crate::{convert, pod::Pod, slice::Slice};

type Name = Arc<str>;

/// Noted since the last derivation.
#[derive(Debug, Clone)]
pub(super) struct Concern {
    pub(super) everything: bool,
    pub(super) services: BTreeSet<Name>,
    pub(super) workloads: BTreeSet<Name>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) routes: BTreeSet<Route>,
    /// Kind and `NAMESPACE/NAME`.
    pub(super) policies: BTreeSet<(&'static str, Name)>,
}

/// Relations, and what is concerned.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    pub(super) relations: Relations,
    pub(super) concern: Concern,
}

// === impl Tracker ===

impl Tracker {
    /// What has been noted; from now on all is new.
    pub(super) fn take(&mut self) -> Concern {
        std::mem::replace(&mut self.concern, Concern::nothing())
    }

    pub(super) fn everything(&mut self) {
        self.concern.everything = true;
    }

    /// The index has `after` already.
    pub(super) fn pod(&mut self, name: &Name, before: Option<&Pod>, after: Option<&Pod>, index: &Index) {
        // A Workload has no effect while there is a pod of its name.
        if self.concern.everything || index.written_as(name).is_some() {
            self.everything();
            return self.relations.pod(name, before, after);
        }
        let pods = || before.into_iter().chain(after);
        // The one before was of the same name, but perhaps had other labels and addresses.
        let services = |tracker: &Self| -> BTreeSet<Name> {
            pods().flat_map(|pod| tracker.relations.services_of(name, Some(pod), index)).collect()
        };
        let addresses: BTreeSet<IpAddr> = pods().flat_map(|pod| &pod.addresses).copied().collect();
        let mut concerned = services(self);
        self.relations.pod(name, before, after);
        concerned.extend(services(self));
        self.concern.workloads.insert(Arc::clone(name));
        self.concern.services.extend(concerned);
        addresses.into_iter().for_each(|address| self.address(address, index));
    }

    pub(super) fn slice(&mut self, name: &Name, before: Option<&Slice>, after: Option<&Slice>, index: &Index) {
        let (old, new) = (before.map_or(&[][..], |slice| &slice.endpoints), after.map_or(&[][..], |s| &s.endpoints));
        let same = before.map(|s| (&s.ports, &s.service)) == after.map(|s| (&s.ports, &s.service));
        self.relations.slice(name, before, after);
        if self.concern.everything {
            return;
        }
        for (slice, endpoints, others) in [(before, old, new), (after, new, old)] {
            let Some(slice) = slice else { continue };
            self.concern.services.extend(relations::service_of(slice));
            for endpoint in endpoints.iter().filter(|endpoint| !same || !others.contains(endpoint)) {
                self.relations.members_of(slice, endpoint).iter().for_each(|name| self.member(name, index));
            }
        }
    }

    pub(super) fn service(
        &mut self,
        name: &Name,
        before: Option<&v1::Service>,
        after: Option<&v1::Service>,
        index: &Index,
    ) {
        // Policies that name it are judged by whether it is there.
        let came_or_went = before.map(convert::carries) != after.map(convert::carries);
        if self.concern.everything || (came_or_went && index.is_target(name)) {
            self.everything();
            return self.relations.service(name, before, after, &index.pods);
        }
        let mut members = self.relations.members(name, &index.slices);
        self.relations.service(name, before, after, &index.pods);
        members.extend(self.relations.members(name, &index.slices));
        // What is known of its members by its slices, others say as well.
        members.iter().for_each(|member| self.member(member, index));
        let written = index.written().map(|(workload, _)| workload);
        let own = written.filter(|workload| namespace_of(workload) == namespace_of(name));
        self.concern.workloads.extend(own.cloned());
        self.concern.services.insert(Arc::clone(name));
        let addresses: BTreeSet<IpAddr> = addresses_of(before).into_iter().chain(addresses_of(after)).collect();
        addresses.into_iter().for_each(|address| self.address(address, index));
        let routes: Vec<Route> = self.relations.routes_naming(name).cloned().collect();
        for (kind, route) in routes {
            let object =
                index.resources.get(kind).and_then(|store| store.get(&route)).and_then(|r| r.object.as_deref());
            self.concern.services.extend(relations::named(object).parents);
            self.concern.routes.insert((kind, route));
        }
    }

    pub(super) fn route(&mut self, route: Route, before: Option<&Object>, after: Option<&Object>) {
        let (before, after) = (relations::named(before), relations::named(after));
        self.relations.route(&route, &before, &after);
        self.concern.services.extend(before.parents.into_iter().chain(after.parents));
        self.concern.routes.insert(route);
    }

    /// Those of its namespace; of the mesh's, everybody's.
    pub(super) fn policy(&mut self, kind: &'static str, name: &Name, index: &Index) {
        let namespace = namespace_of(name);
        let of_mesh = namespace == SYSTEM_NAMESPACE;
        let of_traffic = kind == "TrafficPolicy";
        if self.concern.everything || (of_mesh && of_traffic) {
            return self.everything();
        }
        if of_mesh {
            let in_mesh = |pod: &Pod| pod.has != Mode::None || is_shared_proxy(&pod.namespace, &pod.service_account);
            let in_mesh = index.pods.iter().filter(|(_, pod)| in_mesh(pod)).map(|(name, _)| name);
            self.concern.workloads.extend(in_mesh.cloned());
            self.concern.workloads.extend(index.written().map(|(name, _)| Arc::clone(name)));
            for service in index.shared_services() {
                self.concern.workloads.extend(self.relations.members(&service, &index.slices));
            }
        } else {
            let pods = index.pods.beginning_with(format!("{namespace}/"));
            self.concern.workloads.extend(pods.map(|(name, _)| Arc::clone(name)));
            let written = index.written().map(|(name, _)| name).filter(|name| namespace_of(name) == namespace);
            self.concern.workloads.extend(written.cloned());
            if of_traffic {
                self.concern.services.extend(index.services_in(namespace).cloned());
            }
        }
        self.concern.policies.insert((kind, Arc::clone(name)));
    }

    /// A pod, or what is only known by an address, and all that it is behind.
    fn member(&mut self, name: &Name, index: &Index) {
        let pod = index.pods.get(name).map(AsRef::as_ref);
        self.concern.services.extend(self.relations.services_of(name, pod, index));
        self.concern.workloads.insert(Arc::clone(name));
    }

    /// Whoever has an address, or wants it.
    fn address(&mut self, address: IpAddr, index: &Index) {
        if !self.concern.addresses.insert(address) {
            return;
        }
        let holders: Vec<Name> = self.relations.pods_at(address).cloned().collect();
        holders.iter().for_each(|pod| self.member(pod, index));
        self.concern.services.extend(self.relations.services_at(address).cloned());
        let text = address.to_string();
        let written = index.written().filter(|(_, workload)| workload.spec.addresses.contains(&text));
        written.for_each(|(name, _)| self.member(name, index));
    }
}

// === impl Concern ===

impl Concern {
    pub(super) fn nothing() -> Self {
        Self {
            everything: false,
            services: BTreeSet::new(),
            workloads: BTreeSet::new(),
            addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            policies: BTreeSet::new(),
        }
    }

    /// Whether it is so much that to derive everything costs less, or all there is.
    pub(super) fn is_everything(&self, index: &Index) -> bool {
        let concerned = self.services.len() + self.workloads.len();
        let all = index.pods.len() + index.resources.get("Service").map_or(0, |services| services.len());
        // Shared proxies are in every workload's own configuration.
        self.everything || concerned > 100.max(all / 4) || !self.services.is_disjoint(&index.shared_services())
    }

    /// `considered`: all objects that are derived from, by origin.
    pub(super) fn part(self, considered: BTreeSet<String>) -> Part {
        let services = self.services.iter().map(|service| format!("Service/{service}"));
        let workloads = self.workloads.iter().flat_map(|name| [format!("Pod/{name}"), format!("Workload/{name}")]);
        let routes = self.routes.iter().map(|(kind, name)| format!("{kind}/{name}"));
        let mut origins: BTreeSet<String> = services.chain(workloads).chain(routes).collect();
        for (kind, name) in &self.policies {
            origins.insert(format!("{kind}/{name}"));
            // Two of a namespace may contradict each other.
            let prefix = format!("{kind}/{}/", namespace_of(name));
            origins.extend(considered.iter().filter(|origin| origin.starts_with(&prefix)).cloned());
        }
        let affecting = considered.into_iter().chain(origins.iter().cloned()).collect();
        Part { services: self.services, workloads: self.workloads, addresses: self.addresses, origins, affecting }
    }
}

/// At first, nothing has been derived yet.
impl Default for Concern {
    fn default() -> Self {
        Self { everything: true, ..Self::nothing() }
    }
}
