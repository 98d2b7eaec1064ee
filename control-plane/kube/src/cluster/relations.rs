//! Who has to do with whom: which pods a service selects, which slices name a pod, who has an address, which routes name a
//! service. Kept up with every object, so that what a change concerns is found without looking at the rest.
//!
//! Names are `NAMESPACE/NAME`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1;
use outrigger_crds::Object;
use outrigger_model::namespace_of;

use super::{Store, few::Few, index::Index};
use crate::{
    convert,
    pod::Pod,
    slice::{Slice, SliceEndpoint},
};

type Name = Arc<str>;
type Names = BTreeSet<Name>;

#[derive(Debug, Default)]
pub(super) struct Relations {
    /// Services by namespace and the first pair of their selectors.
    selectors: HashMap<String, Vec<Selecting>>,
    /// Pods by service.
    selected: HashMap<Name, Names>,
    /// By service.
    slices: HashMap<Name, Names>,
    /// Slices by the pods that they name.
    naming: HashMap<Name, Few>,
    /// Slices by addresses that they have without a pod.
    addressing: HashMap<IpAddr, Few>,
    pods_at: HashMap<IpAddr, Few>,
    services_at: HashMap<IpAddr, Few>,
    /// By services that they are attached to, and by those that they send to.
    attached: HashMap<Name, BTreeSet<Route>>,
    naming_backend: HashMap<Name, BTreeSet<Route>>,
}

/// Kind and name.
pub(super) type Route = (&'static str, Name);

/// Services that a route names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) parents: Names,
    pub(super) backends: Names,
}

#[derive(Debug)]
struct Selecting {
    service: Name,
    selector: BTreeMap<String, String>,
}

// === impl Relations ===

impl Relations {
    pub(super) fn pod(&mut self, name: &Name, before: Option<&Pod>, after: Option<&Pod>) {
        if before.map(|pod| &pod.labels) != after.map(|pod| &pod.labels) {
            for (pod, there) in before.map(|pod| (pod, false)).into_iter().chain(after.map(|pod| (pod, true))) {
                for service in self.selecting(&pod.namespace, &pod.labels) {
                    let pods = self.selected.entry(service).or_default();
                    if there {
                        pods.insert(Arc::clone(name))
                    } else {
                        pods.remove(name)
                    };
                }
            }
        }
        let addresses = |pod: Option<&Pod>| pod.map(|pod| pod.addresses.clone()).unwrap_or_default();
        replace(&mut self.pods_at, name, addresses(before), addresses(after));
    }

    pub(super) fn slice(&mut self, name: &Name, before: Option<&Slice>, after: Option<&Slice>) {
        for (slice, there) in before.map(|slice| (slice, false)).into_iter().chain(after.map(|slice| (slice, true))) {
            let Some(service) = service_of(slice) else { continue };
            let slices = self.slices.entry(service).or_default();
            if there {
                slices.insert(Arc::clone(name))
            } else {
                slices.remove(name)
            };
        }
        let pods = |slice: Option<&Slice>| -> Vec<Name> {
            let endpoints = slice.into_iter().flat_map(|slice| &slice.endpoints);
            endpoints.filter_map(|endpoint| Some(endpoint.pod.as_ref()?.name.as_str().into())).collect()
        };
        replace(&mut self.naming, name, pods(before), pods(after));
        let addresses = |slice: Option<&Slice>| -> Vec<IpAddr> {
            let endpoints = slice.into_iter().flat_map(|slice| &slice.endpoints);
            endpoints.filter(|endpoint| endpoint.pod.is_none()).flat_map(|e| e.addresses.iter().copied()).collect()
        };
        replace(&mut self.addressing, name, addresses(before), addresses(after));
    }

    /// `pods` are all that there are.
    pub(super) fn service(
        &mut self,
        name: &Name,
        before: Option<&v1::Service>,
        after: Option<&v1::Service>,
        pods: &Store<Pod>,
    ) {
        if selector(before) != selector(after) {
            if let Some(key) = selector(before).and_then(|selector| selector_key(name, selector))
                && let Some(services) = self.selectors.get_mut(&key)
            {
                services.retain(|selecting| selecting.service != *name);
            }
            self.selected.remove(name);
            if let Some(selector) = selector(after)
                && let Some(key) = selector_key(name, selector)
            {
                let pods = pods.beginning_with(format!("{}/", namespace_of(name)));
                let selected =
                    pods.filter(|(_, pod)| selects(selector, &pod.labels)).map(|(pod, _)| Arc::clone(pod)).collect();
                self.selected.insert(Arc::clone(name), selected);
                let selecting = Selecting { service: Arc::clone(name), selector: selector.clone() };
                self.selectors.entry(key).or_default().push(selecting);
            }
        }
        replace(&mut self.services_at, name, addresses_of(before), addresses_of(after));
    }

    pub(super) fn route(&mut self, route: &Route, before: &Named, after: &Named) {
        for (of, before, after) in [
            (&mut self.attached, &before.parents, &after.parents),
            (&mut self.naming_backend, &before.backends, &after.backends),
        ] {
            for service in before.difference(after) {
                if let Some(routes) = of.get_mut(service) {
                    routes.remove(route);
                }
            }
            for service in after.difference(before) {
                of.entry(Arc::clone(service)).or_default().insert(route.clone());
            }
        }
    }

    /// Services of a workload: those that select it, and those whose slices have it. `pod` is of that name, if there is one.
    pub(super) fn services_of(&self, name: &str, pod: Option<&Pod>, index: &Index) -> Names {
        let pod_labels = pod.map(|pod| (pod.namespace.as_str(), &*pod.labels));
        let written = index.written_as(name).and_then(|workload| workload.metadata.labels.as_ref());
        let labels = pod_labels.into_iter().chain(written.map(|labels| (namespace_of(name), labels)));
        let mut services: Names = labels.flat_map(|(namespace, labels)| self.selecting(namespace, labels)).collect();
        let by_name = self.naming.get(name).into_iter().flat_map(Few::iter);
        let addresses = pod.into_iter().flat_map(|pod| &pod.addresses).copied().chain(address_of(name));
        let by_address = addresses.filter_map(|address| self.addressing.get(&address)).flat_map(Few::iter);
        let naming = by_name.chain(by_address).filter_map(|slice| index.slices.get(slice));
        services.extend(naming.filter_map(|slice| service_of(slice)));
        services
    }

    /// What may be behind a service: pods, and names of what is only known by an address.
    pub(super) fn members(&self, service: &str, slices: &Store<Slice>) -> Names {
        let mut members = self.selected.get(service).cloned().unwrap_or_default();
        for slice in self.slices(service).filter_map(|slice| slices.get(slice)) {
            slice.endpoints.iter().for_each(|endpoint| members.extend(self.members_of(slice, endpoint)));
        }
        members
    }

    /// Whom an endpoint of a slice may mean.
    pub(super) fn members_of(&self, slice: &Slice, endpoint: &SliceEndpoint) -> Names {
        let mut members: Names = endpoint.pod.iter().map(|pod| pod.name.as_str().into()).collect();
        for address in &endpoint.addresses {
            members.extend(self.pods_at(*address).cloned());
            members.insert(format!("{}/@{address}", slice.namespace).into());
        }
        members
    }

    pub(super) fn slices(&self, service: &str) -> impl Iterator<Item = &Name> {
        self.slices.get(service).into_iter().flatten()
    }

    pub(super) fn pods_at(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        self.pods_at.get(&address).into_iter().flat_map(Few::iter)
    }

    pub(super) fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &Name> {
        self.services_at.get(&address).into_iter().flat_map(Few::iter)
    }

    pub(super) fn attached(&self, service: &str) -> impl Iterator<Item = &Route> {
        self.attached.get(service).into_iter().flatten()
    }

    /// Routes that name a service in whatever way.
    pub(super) fn routes_naming(&self, service: &str) -> impl Iterator<Item = &Route> {
        self.attached(service).chain(self.naming_backend.get(service).into_iter().flatten())
    }

    fn selecting(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Vec<Name> {
        let keys = labels.iter().map(|(key, value)| pair(namespace, key, value));
        let candidates = keys.filter_map(|key| self.selectors.get(&key)).flatten();
        candidates.filter(|of| selects(&of.selector, labels)).map(|of| Arc::clone(&of.service)).collect()
    }
}

/// Who has what changes from `before` to `after`.
fn replace<K: Hash + Eq>(all: &mut HashMap<K, Few>, name: &Name, before: Vec<K>, after: Vec<K>) {
    let (before, mut after): (std::collections::HashSet<K>, std::collections::HashSet<K>) =
        (before.into_iter().collect(), after.into_iter().collect());
    for key in before {
        if !after.remove(&key)
            && let Some(few) = all.get_mut(&key)
            && few.remove(name)
        {
            all.remove(&key);
        }
    }
    for key in after {
        all.entry(key).and_modify(|few| few.add(name)).or_insert_with(|| Few::One(Arc::clone(name)));
    }
}

fn selector(service: Option<&v1::Service>) -> Option<&BTreeMap<String, String>> {
    service?.spec.as_ref()?.selector.as_ref()
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// An empty selector selects nothing.
fn selector_key(service: &str, selector: &BTreeMap<String, String>) -> Option<String> {
    selector.first_key_value().map(|(key, value)| pair(namespace_of(service), key, value))
}

fn pair(namespace: &str, key: &str, value: &str) -> String {
    [namespace, "\0", key, "\0", value].concat()
}

/// Whose slice it is.
pub(super) fn service_of(slice: &Slice) -> Option<Name> {
    (!slice.service.is_empty()).then(|| format!("{}/{}", slice.namespace, slice.service).into())
}

/// Of a service, those that can't be read aside.
pub(super) fn addresses_of(service: Option<&v1::Service>) -> Vec<IpAddr> {
    let spec = service.and_then(|service| service.spec.as_ref());
    let texts = spec.into_iter().flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Services that a route names; none for objects of other kinds.
pub(super) fn named(object: Option<&Object>) -> Named {
    let Some((parents, backends)) = object.and_then(convert::references) else { return Named::default() };
    let names = |names: Vec<String>| names.into_iter().map(Name::from).collect();
    Named { parents: names(parents), backends: names(backends) }
}

/// The address of what is only known by it.
fn address_of(name: &str) -> Option<IpAddr> {
    name.split_once("/@")?.1.parse().ok()
}
