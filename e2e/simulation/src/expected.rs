//! What a proxy must hold in the end: a function of what the API server has, and of nothing that was before.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use outrigger_config::Role;
use outrigger_core::{
    Lookup, Snapshot, Store,
    config::{EndpointSpec, Inbound, Service, Trust},
};
use outrigger_model::{MeshSnapshot, Resource};
use outrigger_wire::names::type_url;
use prost::Message;

/// All that traffic depends on, as text: one entry for each thing.
pub(crate) type View = BTreeMap<String, String>;

/// What a proxy has in force. `asked` is what its app calls.
pub(crate) fn held(store: &Store, asked: &[IpAddr]) -> View {
    let snapshot: &Snapshot = &store.load_full();
    let mut view = View::new();
    for (name, destination) in &snapshot.services {
        let specs = destination.endpoints.iter().map(|endpoint| &endpoint.spec);
        service(&mut view, name, &destination.service, specs);
    }
    view.extend(snapshot.inbounds.iter().map(|(name, inbound)| (format!("inbound {name}"), format!("{inbound:?}"))));
    view.insert("own".to_owned(), snapshot.own.as_ref().map_or_else(String::new, |own| own.workload.to_string()));
    view.insert("trust".to_owned(), format!("{:?}", snapshot.trust));
    for ip in asked {
        let found = match store.lookup(*ip) {
            Lookup::Known(destination) => destination.service.name.to_string(),
            Lookup::NotMeshed => "not meshed".to_owned(),
            Lookup::Unknown => "unknown".to_owned(),
        };
        view.insert(format!("address {ip}"), found);
    }
    view
}

/// What it should have in force, given all that there is.
pub(crate) fn expected(role: Role, workload: &str, asked: &[IpAddr], mesh: &MeshSnapshot) -> View {
    let services = resources(mesh, type_url::SERVICE, |body| Service::compile(decode(body)).unwrap());
    let endpoints = resources(mesh, type_url::ENDPOINT, |body| EndpointSpec::compile(decode(body)).unwrap());
    let inbounds = resources(mesh, type_url::INBOUND, |body| Inbound::compile(decode(body)).unwrap());
    let trust = resources(mesh, type_url::TRUST, |body| Trust::compile(decode(body)).unwrap());
    let at: BTreeMap<IpAddr, &str> = services
        .iter()
        .flat_map(|(name, service)| service.addresses.iter().map(move |address| (*address, *name)))
        .collect();

    let mut view = View::new();
    let shared = inbounds[workload].fallback.shared_service.clone();
    let called = asked.iter().filter_map(|ip| at.get(ip).copied()).chain(shared.as_deref());
    let wanted: BTreeSet<&str> = match role {
        Role::Shared => services.keys().copied().collect(),
        Role::Sidecar | Role::Guard => reachable(&services, called.collect()),
    };
    for name in wanted {
        let Some(found) = services.get(name) else { continue };
        let prefix = format!("{name}/");
        let specs = endpoints.iter().filter(|(endpoint, _)| endpoint.starts_with(&prefix)).map(|(_, spec)| spec);
        service(&mut view, name, found, specs.chain(&found.direct));
    }
    let inbounds = inbounds.iter().filter(|(name, _)| role == Role::Shared || **name == workload);
    view.extend(inbounds.map(|(name, inbound)| (format!("inbound {name}"), format!("{inbound:?}"))));
    view.insert("own".to_owned(), workload.to_owned());
    view.insert("trust".to_owned(), format!("{:?}", trust.values().collect::<Vec<_>>()));
    for ip in asked {
        view.insert(format!("address {ip}"), at.get(ip).map_or("not meshed", |name| name).to_owned());
    }
    view
}

/// Each thing that isn't the same.
pub(crate) fn difference(held: &View, expected: &View) -> Vec<String> {
    let names: BTreeSet<&String> = held.keys().chain(expected.keys()).collect();
    let different = names.into_iter().filter(|name| held.get(*name) != expected.get(*name));
    different.map(|name| format!("{name}:\n     has {:?}\n  should {:?}", held.get(name), expected.get(name))).collect()
}

fn service<'a>(view: &mut View, name: &str, service: &Service, specs: impl Iterator<Item = &'a EndpointSpec>) {
    let specs: BTreeSet<String> = specs.map(|spec| format!("{spec:?}")).collect();
    view.insert(format!("service {name}"), format!("{service:?}"));
    view.insert(format!("endpoints of {name}"), format!("{specs:?}"));
}

/// With what their routes lead to.
fn reachable<'a>(services: &'a BTreeMap<&str, Service>, mut stack: Vec<&'a str>) -> BTreeSet<&'a str> {
    let mut reachable = BTreeSet::new();
    while let Some(name) = stack.pop() {
        if reachable.insert(name)
            && let Some(service) = services.get(name)
        {
            let backends = service.backend_services();
            stack.extend(backends.into_iter().filter_map(|name| services.get_key_value(&*name)).map(|(name, _)| *name));
        }
    }
    reachable
}

fn resources<'m, T>(mesh: &'m MeshSnapshot, url: &str, compile: impl Fn(&Resource) -> T) -> BTreeMap<&'m str, T> {
    mesh.types[url].resources.values().map(|resource| (&*resource.name, compile(resource))).collect()
}

fn decode<M: Message + Default>(resource: &Resource) -> M {
    M::decode(resource.body.clone()).unwrap()
}
