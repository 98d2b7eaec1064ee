//! Who has to know that a workload is about to end: whoever holds a resource that leads to it.

use std::collections::{BTreeSet, HashMap};

use outrigger_wire::{
    names::{self, type_url},
    proto::config::{Endpoint, Inbound, Service, endpoint::State},
};
use prost::Message;

use crate::{Effects, MeshSnapshot, Reach, Resource};

/// What leads to one workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Departure {
    pub effects: Effects,
    /// Some of it still says that new requests are welcome.
    pub called: bool,
}

/// What leads to each of these workloads (`NAMESPACE/NAME`), in their order, in one pass over all endpoints.
pub fn departures(snapshot: &MeshSnapshot, workloads: &[&str]) -> Vec<Departure> {
    let mut found = vec![Departure::default(); workloads.len()];
    let mut wanted: HashMap<&str, Vec<usize>> = HashMap::new();
    for (index, workload) in workloads.iter().enumerate() {
        wanted.entry(last(workload)).or_default().push(index);
    }
    for (name, resource) in resources(snapshot, type_url::ENDPOINT) {
        // The name ends like the workload's, whose namespace may be another's.
        let Some(candidates) = wanted.get(last(name)) else { continue };
        let Ok(endpoint) = Endpoint::decode(resource.body.clone()) else { continue };
        for index in candidates.iter().filter(|index| workloads[**index] == endpoint.workload) {
            found[*index].note(type_url::ENDPOINT, resource, endpoint.state());
        }
    }
    for (departure, workload) in found.iter_mut().zip(workloads) {
        for service in by_address(snapshot, workload) {
            let direct = Service::decode(service.body.clone()).ok().and_then(|service| service.direct);
            if let Some(endpoint) = direct.filter(|endpoint| endpoint.workload == *workload) {
                departure.note(type_url::SERVICE, service, endpoint.state());
            }
        }
    }
    found
}

/// The services that stand for the workload's own addresses.
fn by_address<'s>(snapshot: &'s MeshSnapshot, workload: &str) -> impl Iterator<Item = &'s Resource> {
    let of = |url: &str, name: &str| snapshot.types.get(url).and_then(|set| set.resources.get(name));
    let inbound = of(type_url::INBOUND, workload).and_then(|inbound| Inbound::decode(inbound.body.clone()).ok());
    let addresses = inbound.map(|inbound| inbound.addresses).unwrap_or_default();
    let addresses = addresses.into_iter().filter_map(|address| address.parse().ok());
    addresses.filter_map(move |address| of(type_url::SERVICE, &names::address_alias(address)).map(|it| &**it))
}

fn resources<'s>(snapshot: &'s MeshSnapshot, url: &str) -> impl Iterator<Item = (&'s str, &'s Resource)> {
    let set = snapshot.types.get(url).into_iter();
    set.flat_map(|set| set.resources.iter()).map(|(name, resource)| (&**name, &**resource))
}

fn last(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

// === impl Departure ===

impl Departure {
    fn note(&mut self, type_url: &'static str, resource: &Resource, state: State) {
        let reach = self.effects.entry(type_url).or_insert_with(|| Reach::Named(BTreeSet::new()));
        if let Reach::Named(names) = reach {
            names.insert(resource.name.clone());
        }
        self.called |= state == State::Ready;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Inputs, build, fixtures::*, inputs};

    fn names(departure: &Departure) -> Vec<&str> {
        let named = departure.effects.values().flat_map(|reach| match reach {
            Reach::Named(names) => names.iter(),
            Reach::All => panic!("all"),
        });
        named.map(AsRef::as_ref).collect()
    }

    #[test]
    fn all_that_leads_to_a_workload_is_found() {
        let mut inputs = Inputs {
            services: vec![service("a/one", "10.1.0.1", &[80]), service("a/two", "10.1.0.2", &[80])],
            workloads: vec![
                workload("a/pod", "10.2.0.1", Some(inputs::Mode::Sidecar)),
                workload("a/idle", "10.2.0.2", Some(inputs::Mode::Sidecar)),
                // Of the same name, elsewhere.
                workload("b/pod", "10.2.0.3", Some(inputs::Mode::Sidecar)),
            ],
            endpoints: vec![endpoint("a/one", "a/pod", &[(80, 8080)]), endpoint("a/two", "a/pod", &[(80, 8080)])],
            ..Inputs::default()
        };
        let look = |inputs: &Inputs| departures(&build(inputs, None).snapshot, &["a/pod", "a/idle", "b/pod", "a/gone"]);
        let found = look(&inputs);
        assert_eq!(names(&found[0]), ["a/one/pod", "a/two/pod", "@10.2.0.1"]);
        assert_eq!(names(&found[1]), ["@10.2.0.2"]);
        assert_eq!(names(&found[2]), ["@10.2.0.3"]);
        assert_eq!(found[3], Departure::default());
        assert_eq!(found.iter().map(|it| it.called).collect::<Vec<_>>(), [true, true, true, false]);

        // Draining everywhere but behind one service.
        inputs.workloads[0].draining = true;
        inputs.endpoints[0].state = inputs::EndpointState::Draining;
        assert!(look(&inputs)[0].called);
        inputs.endpoints[1].state = inputs::EndpointState::Draining;
        assert!(!look(&inputs)[0].called);
        assert_eq!(names(&look(&inputs)[0]), names(&found[0]));
        // Not behind that service any more.
        inputs.endpoints[1].state = inputs::EndpointState::Unready;
        assert_eq!(names(&look(&inputs)[0]), ["a/one/pod", "@10.2.0.1"]);
    }
}
