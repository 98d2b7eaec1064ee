//! All objects that what is concerned is derived from, and no others: a derivation of these comes to the same for it as one
//! of the whole cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use outrigger_crds::Workload;
use outrigger_model::{Before, Part, namespace_of};
use outrigger_wire::names::SYSTEM_NAMESPACE;

use super::{
    Derived, Namespace, Resource,
    concern::Concern,
    index::Index,
    relations::{self, Relations, Route, addresses_of},
};
use crate::{Settings, convert::Objects, derive, pod::Pod, slice::Slice};

#[cfg(test)]
mod tests;

type Names = BTreeSet<Arc<str>>;

/// Kinds whose objects are few, and concern whoever they please.
const WHOLE: [&str; 3] = ["MeshConfig", "Workload", "ReferenceGrant"];
/// Kinds whose objects concern their own namespace, or everything if they are in the mesh's.
const POLICIES: [&str; 2] = ["TrafficPolicy", "AccessPolicy"];

#[derive(Debug)]
pub(super) struct Neighbourhood {
    part: Part,
    namespaces: Vec<Arc<Namespace>>,
    pods: Vec<Arc<Pod>>,
    slices: Vec<Arc<Slice>>,
    resources: Vec<Arc<Resource>>,
    zones: BTreeMap<Arc<str>, Arc<String>>,
}

/// What belongs to it, as far as it is found.
struct Search<'a> {
    index: &'a Index,
    relations: &'a Relations,
    services: Names,
    members: Names,
    routes: BTreeSet<Route>,
}

// === impl Neighbourhood ===

impl Neighbourhood {
    pub(super) fn of(mut concern: Concern, index: &Index, relations: &Relations) -> Self {
        let services = concern.services.clone();
        let routes = concern.routes.clone();
        let mut search = Search { index, relations, services, members: concern.workloads.clone(), routes };
        search.follow(&mut concern);
        let pods: Vec<_> = search.members.iter().filter_map(|name| index.pods.get(name)).cloned().collect();
        let slices = search.services.iter().flat_map(|service| relations.slices(service)).collect::<BTreeSet<_>>();
        let slices = slices.into_iter().filter_map(|slice| index.slices.get(slice)).cloned().collect();
        let zones = pods.iter().filter_map(|pod| index.zones.get_key_value(pod.node.as_str()));
        let zones = zones.map(|(node, zone)| (Arc::clone(node), Arc::clone(zone))).collect();

        let policies = concern.policies.iter().map(|(_, name)| name);
        let concerned = concern.services.iter().chain(&search.members).chain(policies).map(|name| namespace_of(name));
        let namespaces: BTreeSet<&str> = concerned.chain([SYSTEM_NAMESPACE]).collect();
        let mut resources: Vec<Arc<Resource>> = Vec::new();
        let all = WHOLE.iter().filter_map(|kind| index.resources.get(kind)).flat_map(|store| store.values());
        resources.extend(all.cloned());
        for store in POLICIES.iter().filter_map(|kind| index.resources.get(kind)) {
            for namespace in &namespaces {
                let own = store.beginning_with(format!("{namespace}/"));
                resources.extend(own.map(|(_, policy)| Arc::clone(policy)));
            }
        }
        let of_kind = |kind: &str, name: &str| index.resources.get(kind).and_then(|store| store.get(name)).cloned();
        resources.extend(search.routes.iter().filter_map(|(kind, name)| of_kind(kind, name)));
        let considered = resources.iter().map(|resource| resource.origin()).collect();
        resources.extend(search.services.iter().filter_map(|name| of_kind("Service", name)));
        let namespaces = namespaces.iter().filter_map(|name| index.namespaces.get(*name)).cloned().collect();
        Self { part: concern.part(considered), namespaces, pods, slices, resources, zones }
    }

    /// Derives it, and puts it in the place of what was there.
    pub(super) fn derive(&self, settings: &Settings, before: &Derived) -> derive::Outcome {
        let outcome = derive::outcome(&self.objects(), settings, Some(&before.snapshot));
        let before = Before { snapshot: &before.snapshot, findings: &before.findings, affects: &before.affects };
        outcome.in_place(&self.part, before)
    }

    fn objects(&self) -> Objects<'_> {
        let mut objects = Objects {
            namespaces: self.namespaces.iter().map(|n| (n.name.as_str(), &n.labels)).collect(),
            pods: self.pods.iter().map(AsRef::as_ref).collect(),
            slices: self.slices.iter().map(AsRef::as_ref).collect(),
            zones: self.zones.iter().map(|(node, zone)| (node.as_ref(), zone.as_str())).collect(),
            ..Objects::default()
        };
        self.resources.iter().filter_map(|resource| resource.object.as_ref()).for_each(|object| objects.push(object));
        objects
    }
}

// === impl Search ===

impl Search<'_> {
    fn follow(&mut self, concern: &mut Concern) {
        // Whoever may act for others is in every workload's own configuration.
        for shared in self.index.shared_services() {
            self.members.extend(self.relations.members(&shared, &self.index.slices));
            self.services.insert(shared);
        }
        for service in &concern.services {
            self.members.extend(self.relations.members(service, &self.index.slices));
            self.routes.extend(self.relations.attached(service).cloned());
            for address in addresses_of(self.index.service(service)) {
                self.services.extend(self.relations.services_at(address).cloned());
            }
        }
        // A workload is called by its addresses as well.
        for workload in &concern.workloads {
            concern.addresses.extend(self.index.pods.get(workload).into_iter().flat_map(|pod| &pod.addresses));
        }
        let written = || self.index.written().map(|(name, workload)| (name, addresses_of_written(workload)));
        for (_, addresses) in written().filter(|(name, _)| concern.workloads.contains(*name)) {
            concern.addresses.extend(addresses);
        }
        for (name, mut addresses) in written() {
            // It has no effect while there is a pod of its name, and perhaps it is the one that is called by an address.
            if self.index.pods.contains_key(name) || addresses.any(|address| concern.addresses.contains(&address)) {
                self.members.insert(Arc::clone(name));
            }
        }
        let pods = self.members.iter().filter_map(|name| self.index.pods.get(name));
        let mut addresses = concern.addresses.clone();
        addresses.extend(pods.flat_map(|pod| &pod.addresses));
        for address in addresses {
            self.members.extend(self.relations.pods_at(address).cloned());
            self.services.extend(self.relations.services_at(address).cloned());
        }
        // Whether what a policy names is there.
        for (_, policy) in &concern.policies {
            self.services.extend(self.index.services_in(namespace_of(policy)).cloned());
        }
        for member in &self.members {
            let pod = self.index.pods.get(member).map(AsRef::as_ref);
            self.services.extend(self.relations.services_of(member, pod, self.index));
        }
        for (kind, route) in &self.routes {
            let route = self.index.resources.get(kind).and_then(|store| store.get(route));
            let named = relations::named(route.and_then(|route| route.object.as_deref()));
            self.services.extend(named.parents.into_iter().chain(named.backends));
        }
    }
}

fn addresses_of_written(workload: &Workload) -> impl Iterator<Item = IpAddr> {
    workload.spec.addresses.iter().filter_map(|address| address.parse().ok())
}
