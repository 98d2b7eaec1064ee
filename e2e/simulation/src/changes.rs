//! What users and controllers of Kubernetes do: objects of a small mesh in which much meets come, change and go.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_model::{Inputs, inputs::*};
use outrigger_wire::proto::config as wire;
use rand::{Rng, rngs::SmallRng, seq::IndexedRandom};

use crate::api::{Api, Kind};

/// Service and pod that are always there, and each of whose versions has a greater number than the one before.
pub(crate) const ROCK: &str = "shop/rock";
pub(crate) const ROCK_POD: &str = "shop/rock-1";
pub(crate) const ROCK_ADDRESS: &str = "10.96.0.9";
pub(crate) const SHARED: &str = "outrigger-system/outrigger-shared";

const SERVICES: [&str; 4] = ["shop/web", "shop/db", "pay/api", "pay/rest"];
/// Several services may want one.
pub(crate) const ADDRESSES: [&str; 4] = ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.0.0.6"];
/// Those of the proxies are always there, and so are their addresses, which begin with the first of [`POD_ADDRESSES`].
const PROXIES: [&str; 3] = ["shop/front", "shop/back", "outrigger-system/shared-1"];
const PODS: [&str; 5] = ["shop/a-1", "shop/a-2", "pay/b-1", "pay/b-2", "outrigger-system/shared-2"];
const POD_ADDRESSES: [&str; 6] = ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "10.0.0.9"];
const ROUTES: [&str; 3] = ["shop/r", "shop/s", "pay/r"];

/// What there is at the beginning.
pub(crate) fn begin(random: &mut SmallRng) -> Api {
    let mut inputs = Inputs::default();
    inputs.mesh.roots = vec!["root".into()];
    inputs.services = vec![service(ROCK, ROCK_ADDRESS, 1), service(SHARED, "10.96.0.8", 81)];
    inputs.workloads = vec![pod(ROCK_POD, "10.0.0.10")];
    inputs.workloads.extend(PROXIES.iter().zip(1..).map(|(name, last)| pod(name, &format!("10.0.0.{last}"))));
    inputs.endpoints = vec![endpoint(ROCK, ROCK_POD), endpoint(SHARED, PROXIES[2])];
    let mut api = Api::new(&inputs);
    for _ in 0..20 {
        something(&mut api, random);
    }
    api
}

/// One write.
pub(crate) fn something(api: &mut Api, random: &mut SmallRng) {
    match random.random_range(0..16) {
        0..2 => api.write(Kind::Service, grow_service),
        2..4 => api.write(Kind::Pod, grow_pod),
        4..7 => api.write(Kind::Service, |inputs| change_service(inputs, random)),
        7..9 => api.write(Kind::Pod, |inputs| change_pod(inputs, random)),
        9..12 => api.write(Kind::EndpointSlice, |inputs| change_endpoint(inputs, random)),
        12..14 => api.write(Kind::Route, |inputs| change_route(inputs, random)),
        _ => api.write(Kind::Policy, |inputs| change_policy(inputs, random)),
    }
}

fn split(name: &str) -> (String, String) {
    let (namespace, name) = name.split_once('/').unwrap();
    (namespace.to_owned(), name.to_owned())
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn one<'a>(random: &mut SmallRng, of: &[&'a str]) -> &'a str {
    of.choose(random).unwrap()
}

/// The number of a version of the rock is its second port.
fn service(name: &str, ip: &str, number: u16) -> Service {
    let origin = format!("Service/{name}");
    let ports = [80, number].map(|port| Port { port, ..Port::default() });
    let (namespace, name) = split(name);
    Service { origin, namespace, name, addresses: vec![address(ip)], ports: ports.into() }
}

fn pod(name: &str, ip: &str) -> Workload {
    let origin = format!("Pod/{name}");
    let (namespace, name) = split(name);
    Workload {
        origin,
        namespace,
        service_account: "app".to_owned(),
        name,
        addresses: vec![address(ip)],
        addressing: Addressing::Assigned,
        weight: 1,
        mode: Some(Mode::Sidecar),
        ..Workload::default()
    }
}

fn endpoint(service: &str, workload: &str) -> Endpoint {
    Endpoint {
        service: service.to_owned(),
        workload: workload.to_owned(),
        ports: vec![(80, 8080)],
        ..Endpoint::default()
    }
}

fn grow_service(inputs: &mut Inputs) {
    let rock = inputs.services.iter_mut().find(|service| service.name == "rock").unwrap();
    rock.ports[1].port += 1;
}

fn grow_pod(inputs: &mut Inputs) {
    let rock = inputs.workloads.iter_mut().find(|workload| workload.name == "rock-1").unwrap();
    rock.weight += 1;
}

fn change_service(inputs: &mut Inputs, random: &mut SmallRng) {
    let name = one(random, &SERVICES);
    let (namespace, short) = split(name);
    inputs.services.retain(|service| (&service.namespace, &service.name) != (&namespace, &short));
    if random.random_bool(0.8) {
        inputs.services.push(service(name, one(random, &ADDRESSES), random.random_range(81..84)));
    }
}

fn change_pod(inputs: &mut Inputs, random: &mut SmallRng) {
    if random.random_bool(0.3) {
        let name = one(random, &["front", "back", "shared-1"]);
        let proxy = inputs.workloads.iter_mut().find(|workload| workload.name == name).unwrap();
        proxy.labels = Arc::new(BTreeMap::from([("app".to_owned(), one(random, &["a", "b"]).to_owned())]));
        return;
    }
    let name = one(random, &PODS);
    let (namespace, short) = split(name);
    inputs.workloads.retain(|workload| (&workload.namespace, &workload.name) != (&namespace, &short));
    if random.random_bool(0.8) {
        let mut pod = pod(name, one(random, &POD_ADDRESSES));
        pod.mode = *[None, Some(Mode::Sidecar), Some(Mode::Shared), Some(Mode::None)].choose(random).unwrap();
        pod.draining = random.random_bool(0.2);
        inputs.workloads.push(pod);
    }
}

fn change_endpoint(inputs: &mut Inputs, random: &mut SmallRng) {
    let service = if random.random_bool(0.2) { SHARED } else { one(random, &SERVICES) };
    let workload = one(random, &PODS);
    inputs.endpoints.retain(|endpoint| (endpoint.service.as_str(), endpoint.workload.as_str()) != (service, workload));
    if random.random_bool(0.7) {
        let state = *[EndpointState::Ready, EndpointState::Draining, EndpointState::Unready].choose(random).unwrap();
        inputs.endpoints.push(Endpoint { state, ..endpoint(service, workload) });
    }
}

fn change_route(inputs: &mut Inputs, random: &mut SmallRng) {
    let qualified = one(random, &ROUTES);
    let (namespace, name) = split(qualified);
    inputs.routes.retain(|route| (&route.namespace, &route.name) != (&namespace, &name));
    if random.random_bool(0.3) {
        return;
    }
    let backend = |random: &mut SmallRng| {
        let service = one(random, &["shop/web", "shop/db", "pay/api", "pay/rest", "pay/missing", ROCK]).to_owned();
        wire::Backend { service, port: 80, weight: random.random_range(1..4), ..wire::Backend::default() }
    };
    let backends = (0..random.random_range(1..3)).map(|_| backend(random)).collect();
    let parent = one(random, &["shop/web", "shop/db", "pay/api", ROCK]).to_owned();
    let kind = *[RouteKind::HttpRoute, RouteKind::MeshRoute].choose(random).unwrap();
    let parents = vec![RouteParent { index: 0, service: parent, port: None }];
    let rules = vec![RouteRule { backends, matches: vec![RouteMatch::default()], ..RouteRule::default() }];
    inputs.routes.push(Route { kind, namespace, name, created: None, parents, rules });
    inputs.grants = (0..random.random_range(0..2)).map(|_| grant(random)).collect();
}

fn grant(random: &mut SmallRng) -> Grant {
    let group = "gateway.networking.k8s.io".to_owned();
    let from = GrantFrom { group, kind: "HTTPRoute".to_owned(), namespace: one(random, &["shop", "pay"]).to_owned() };
    Grant { namespace: one(random, &["shop", "pay"]).to_owned(), from: vec![from], to: vec![None] }
}

fn change_policy(inputs: &mut Inputs, random: &mut SmallRng) {
    let namespace = one(random, &["shop", "pay"]).to_owned();
    match random.random_range(0..4) {
        0 => inputs.mesh.roots = vec![one(random, &["root", "another root"]).to_owned().into()],
        1 => inputs.namespaces = vec![Namespace { name: namespace, mode: Some(Mode::Sidecar) }],
        2 => {
            let targets = vec![match random.random_range(0..3) {
                0 => PolicyTarget::Service(format!("{namespace}/{}", one(random, &["web", "api"]))),
                1 => PolicyTarget::Namespace(namespace.clone()),
                _ => PolicyTarget::Mesh,
            }];
            let settings =
                TrafficSettings { request_timeout_ms: Some(random.random_range(1..5)), ..TrafficSettings::default() };
            let policy = TrafficPolicy { namespace, name: "p".to_owned(), created: None, targets, settings };
            inputs.traffic_policies.retain(|other| other.namespace != policy.namespace);
            inputs.traffic_policies.extend(random.random_bool(0.7).then_some(policy));
        }
        _ => {
            let selects = match random.random_range(0..3) {
                0 => Selects::All,
                1 => Selects::Labels([("app".to_owned(), one(random, &["a", "b"]).to_owned())].into()),
                _ => Selects::Services(vec![format!("{namespace}/web")]),
            };
            let (name, rules) = ("p".to_owned(), vec![wire::AccessRule::default()]);
            let policy = AccessPolicy { namespace, name, selects, action: wire::access_policy::Action::Deny, rules };
            inputs.access_policies.retain(|other| other.namespace != policy.namespace);
            inputs.access_policies.extend(random.random_bool(0.7).then_some(policy));
        }
    }
}
