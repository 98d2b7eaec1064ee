//! Who is behind which service in a cluster: pods by selector, so that a service's policies are theirs from the start,
//! and what EndpointSlices say of who takes traffic.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use k8s_openapi::api::core::v1;
use outrigger_model::inputs::{Addressing, Endpoint, EndpointState, Mode, Workload};

use super::{members, names, number};
use crate::{
    pod::Pod,
    slice::{PodRef, Slice, SliceEndpoint},
};

/// What is looked up for every service.
struct Lookup<'a> {
    /// By `NAMESPACE/NAME`.
    pods: HashMap<String, &'a Pod>,
    /// The workloads of pods, by `NAMESPACE/NAME`.
    workloads: HashMap<String, &'a Workload>,
    by_address: HashMap<IpAddr, &'a Workload>,
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<&'a Workload>>,
    /// By `NAMESPACE/NAME` of the service.
    slices: HashMap<String, Vec<&'a Slice>>,
}

/// An endpoint as it comes together.
#[derive(Default)]
struct Gathered {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<(u16, u16)>,
    state: Option<EndpointState>,
    zone: String,
}

/// Endpoints, and workloads that aren't pods: known by an address alone.
pub(super) fn endpoints(
    services: &[&v1::Service],
    pods: &[&Pod],
    slices: &[&Slice],
    workloads: &mut Vec<Workload>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    let mut strangers = BTreeMap::new();
    let mut zones: HashMap<String, String> = HashMap::new();
    let lookup = Lookup::new(services, pods, slices, workloads);
    for service in services {
        let (namespace, name) = names(&service.metadata);
        let Some(spec) = &service.spec else { continue };
        let qualified = format!("{namespace}/{name}");
        let mut gathered = lookup.selected(&namespace, spec);
        for slice in lookup.slices.get(&qualified).into_iter().flatten() {
            lookup.gather(slice, spec, &mut gathered);
        }
        for (workload, found) in gathered {
            if !lookup.workloads.contains_key(&workload) {
                strangers.entry(workload.clone()).or_insert_with(|| stranger(&workload, &found));
            }
            if !found.zone.is_empty() {
                let zone = zones.entry(workload.clone()).or_default();
                if found.zone > *zone {
                    *zone = found.zone;
                }
            }
            endpoints.push(Endpoint {
                service: qualified.clone(),
                workload,
                address: preferred(&found.addresses, spec),
                ports: found.ports.into_iter().collect(),
                state: found.state.unwrap_or(EndpointState::Unready),
            });
        }
    }
    workloads.extend(strangers.into_values());
    // The node's own word comes first.
    for workload in workloads.iter_mut().filter(|workload| workload.zone.is_empty()) {
        if zones.is_empty() {
            break;
        }
        let zone = zones.remove(&format!("{}/{}", workload.namespace, workload.name));
        workload.zone = zone.unwrap_or_default();
    }
    endpoints
}

/// Something outside, or on a node: reached in plaintext.
fn stranger(workload: &str, found: &Gathered) -> Workload {
    let (namespace, name) = workload.split_once('/').unwrap_or(("", workload));
    Workload {
        origin: format!("EndpointSlice/{workload}"),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        addresses: found.addresses.iter().copied().collect(),
        addressing: Addressing::Shared,
        weight: 1,
        mode: Some(Mode::None),
        ..Workload::default()
    }
}

/// An address of the service's first family, if there is one.
fn preferred(addresses: &BTreeSet<IpAddr>, spec: &v1::ServiceSpec) -> Option<IpAddr> {
    let family = spec.ip_families.iter().flatten().next();
    let of_family = |address: &&IpAddr| family.is_none_or(|family| (family == "IPv6") == address.is_ipv6());
    addresses.iter().find(of_family).or_else(|| addresses.first()).copied()
}

/// What an endpoint is to take. A pod that is ready but for its sidecar takes all that a ready one takes.
fn state(endpoint: &SliceEndpoint, pod: Option<&Pod>) -> EndpointState {
    let terminating = endpoint.terminating || pod.is_some_and(|pod| pod.terminating);
    let fit = pod.is_some_and(|pod| pod.has == Mode::Sidecar && pod.fit);
    match (endpoint.ready || fit, endpoint.serving || fit, terminating) {
        (true, _, false) => EndpointState::Ready,
        (_, true, true) => EndpointState::Draining,
        (_, _, _) => EndpointState::Unready,
    }
}

/// Which of what two slices say of one endpoint counts.
fn rank(state: EndpointState) -> u8 {
    match state {
        EndpointState::Ready => 2,
        EndpointState::Draining => 1,
        EndpointState::Unready => 0,
    }
}

// === impl Lookup ===

impl<'a> Lookup<'a> {
    fn new(services: &[&v1::Service], pods: &[&'a Pod], slices: &[&'a Slice], workloads: &'a [Workload]) -> Self {
        let selectors = services.iter().filter_map(|service| service.spec.as_ref()?.selector.as_ref());
        let selected: BTreeSet<&str> = selectors.flat_map(BTreeMap::keys).map(String::as_str).collect();
        let mut lookup = Self {
            pods: pods.iter().map(|pod| (format!("{}/{}", pod.namespace, pod.name), *pod)).collect(),
            workloads: HashMap::with_capacity(workloads.len()),
            by_address: HashMap::with_capacity(workloads.len()),
            by_label: HashMap::new(),
            slices: HashMap::new(),
        };
        for workload in workloads {
            lookup.workloads.insert(format!("{}/{}", workload.namespace, workload.name), workload);
            if workload.addressing == Addressing::Assigned {
                lookup.by_address.extend(workload.addresses.iter().map(|address| (*address, workload)));
            }
            for (key, value) in workload.labels.iter().filter(|(key, _)| selected.contains(key.as_str())) {
                lookup.by_label.entry((&workload.namespace, key, value)).or_default().push(workload);
            }
        }
        for slice in slices.iter().filter(|slice| !slice.service.is_empty()) {
            lookup.slices.entry(format!("{}/{}", slice.namespace, slice.service)).or_default().push(slice);
        }
        // What several say of one endpoint mustn't depend on who is asked first.
        lookup.slices.values_mut().for_each(|slices| slices.sort_by_key(|slice| &slice.name));
        lookup
    }

    /// Pods that the service selects, ready or not, in a slice or not yet.
    fn selected(&self, namespace: &str, spec: &v1::ServiceSpec) -> BTreeMap<String, Gathered> {
        let mut gathered = BTreeMap::new();
        let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { return gathered };
        let lists = selector.iter().map(|(key, value)| self.by_label.get(&(namespace, key.as_str(), value.as_str())));
        let fewest = lists.map(|list| list.map_or(&[][..], Vec::as_slice)).min_by_key(|list| list.len());
        for workload in fewest.unwrap_or_default() {
            if !selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value)) {
                continue;
            }
            let ports = spec.ports.iter().flatten().filter(|port| members::is_tcp(port));
            let ports = ports.filter_map(|port| Some((number(port.port), members::target(port, workload).ok()?)));
            let found = Gathered { ports: ports.collect(), ..Gathered::default() };
            gathered.insert(format!("{}/{}", workload.namespace, workload.name), found);
        }
        gathered
    }

    fn gather(&self, slice: &Slice, spec: &v1::ServiceSpec, gathered: &mut BTreeMap<String, Gathered>) {
        let service_ports = || spec.ports.iter().flatten().filter(|port| members::is_tcp(port));
        let ports: Vec<(u16, u16)> = service_ports()
            .filter_map(|port| {
                let named = slice.ports.iter().find(|(name, _)| *name == port.name.as_deref().unwrap_or_default());
                Some((number(port.port), named?.1))
            })
            .collect();
        for endpoint in &slice.endpoints {
            let Some(name) = self.workload(slice, endpoint) else { continue };
            let pod = self.pods.get(&name).copied();
            let found = gathered.entry(name).or_default();
            let state = state(endpoint, pod);
            if found.state.is_none_or(|before| rank(before) < rank(state)) {
                found.state = Some(state);
            }
            found.addresses.extend(&endpoint.addresses);
            // What a slice says of a port counts before what the pod's spec says.
            found.ports.retain(|(port, _)| !ports.iter().any(|(known, _)| known == port));
            found.ports.extend(&ports);
            if endpoint.zone > found.zone {
                found.zone.clone_from(&endpoint.zone);
            }
        }
    }

    /// `NAMESPACE/NAME`; `None` if it is a pod that isn't there (any more, or yet). Who may write slices in one namespace
    /// says nothing of another's pods: it couldn't be told from their owner when policies are for who is behind a service.
    fn workload(&self, slice: &Slice, endpoint: &SliceEndpoint) -> Option<String> {
        let own = |target: &&PodRef| target.name.split_once('/').is_some_and(|(name, _)| name == slice.namespace);
        if let Some(target) = endpoint.pod.as_ref().filter(own) {
            self.workloads.get(&target.name)?;
            let same = |pod: &&Pod| target.uid.is_empty() || target.uid == pod.uid;
            return self.pods.get(&target.name).copied().filter(same).map(|_| target.name.clone());
        }
        let address = endpoint.addresses.first()?;
        match self.by_address.get(address).filter(|workload| workload.namespace == slice.namespace) {
            Some(pod) => Some(format!("{}/{}", pod.namespace, pod.name)),
            // No object can have such a name.
            None => Some(format!("{}/@{address}", slice.namespace)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_endpoint_is_to_take() {
        use EndpointState::{Draining, Ready, Unready};
        let pod = |fit: bool, terminating: bool| {
            let deleted = terminating.then_some("2026-11-01T00:00:00Z");
            let pod = Pod::read(json!({ "metadata": { "deletionTimestamp": deleted } })).unwrap();
            Pod { has: Mode::Sidecar, fit, ..pod }
        };
        let (fit, unfit, leaving) = (pod(true, false), pod(false, false), pod(true, true));
        let shared = Pod { has: Mode::Shared, ..fit.clone() };
        // ready, serving, terminating; the pod; the endpoint's state.
        let table = [
            ((true, true, false), None, Ready),
            ((true, true, false), Some(&unfit), Ready),
            ((false, false, false), None, Unready),
            ((false, false, false), Some(&unfit), Unready),
            ((false, false, false), Some(&fit), Ready),
            ((false, false, false), Some(&shared), Unready),
            ((false, true, true), None, Draining),
            ((false, true, true), Some(&unfit), Draining),
            ((false, false, true), Some(&unfit), Unready),
            ((false, false, true), Some(&fit), Draining),
            // Of a service that wants unready endpoints too.
            ((true, false, false), Some(&unfit), Ready),
            ((true, true, true), Some(&unfit), Draining),
            ((true, false, true), Some(&unfit), Unready),
            // The pod's own word is the newer one.
            ((true, true, false), Some(&leaving), Draining),
        ];
        for ((ready, serving, terminating), pod, expected) in table {
            let endpoint = SliceEndpoint { ready, serving, terminating, ..SliceEndpoint::default() };
            assert_eq!(state(&endpoint, pod), expected, "{endpoint:?} {:?}", pod.map(|pod| pod.fit));
        }
    }
}
