//! Short ways to write inputs in tests.

use outrigger_wire::proto::config as wire;
use wire::{path_match, string_match};

use crate::inputs::*;

/// `NAMESPACE/NAME` in two.
fn split(name: &str) -> (String, String) {
    let (namespace, name) = name.split_once('/').unwrap();
    (namespace.to_owned(), name.to_owned())
}

pub(crate) fn service(qualified: &str, address: &str, ports: &[u16]) -> Service {
    let (namespace, name) = split(qualified);
    let ports = ports.iter().map(|port| Port { port: *port, ..Port::default() }).collect();
    Service {
        origin: format!("Service/{qualified}"),
        namespace,
        name,
        addresses: vec![address.parse().unwrap()],
        ports,
    }
}

pub(crate) fn workload(qualified: &str, address: &str, mode: Option<Mode>) -> Workload {
    let (namespace, name) = split(qualified);
    Workload {
        origin: format!("Workload/{qualified}"),
        namespace,
        service_account: format!("{name}-sa"),
        name,
        addresses: vec![address.parse().unwrap()],
        mode,
        ..Workload::default()
    }
}

pub(crate) fn endpoint(service: &str, workload: &str, ports: &[(u16, u16)]) -> Endpoint {
    let (service, workload) = (service.to_owned(), workload.to_owned());
    Endpoint { service, workload, ports: ports.to_vec(), ..Endpoint::default() }
}

pub(crate) fn route(kind: RouteKind, qualified: &str, parent: &str, rules: Vec<RouteRule>) -> Route {
    let (namespace, name) = split(qualified);
    let (service, port) = match parent.split_once(':') {
        Some((service, port)) => (service, Some(port.parse().unwrap())),
        None => (parent, None),
    };
    let parents = vec![RouteParent { index: 0, service: service.to_owned(), port }];
    Route { kind, namespace, name, created: None, parents, rules }
}

/// To `NAMESPACE/NAME:PORT`, with weight 1.
pub(crate) fn to(backend: &str) -> wire::Backend {
    let (service, port) = backend.split_once(':').unwrap();
    wire::Backend { service: service.to_owned(), port: port.parse().unwrap(), weight: 1, ..wire::Backend::default() }
}

pub(crate) fn rule(matches: Vec<RouteMatch>, backends: &[&str]) -> RouteRule {
    RouteRule { matches, backends: backends.iter().map(|b| to(b)).collect(), ..RouteRule::default() }
}

/// A match on `=/exact`, `/prefix` or `~regex`.
pub(crate) fn path(pattern: &str) -> RouteMatch {
    let pattern = match pattern.as_bytes()[0] {
        b'=' => path_match::Pattern::Exact(pattern[1..].to_owned()),
        b'~' => path_match::Pattern::Regex(pattern[1..].to_owned()),
        _ => path_match::Pattern::Prefix(pattern.to_owned()),
    };
    let request = wire::RouteMatch { path: Some(wire::PathMatch { pattern: Some(pattern) }), ..Default::default() };
    RouteMatch { request, grpc: None }
}

pub(crate) fn grpc(service: Option<&str>, method: Option<&str>) -> RouteMatch {
    let grpc = GrpcMethod { service: service.map(str::to_owned), method: method.map(str::to_owned), regex: false };
    RouteMatch { request: wire::RouteMatch::default(), grpc: Some(grpc) }
}

pub(crate) fn key(name: &str) -> wire::KeyMatch {
    let pattern = Some(string_match::Pattern::Exact("x".to_owned()));
    wire::KeyMatch { name: name.to_owned(), value: Some(wire::StringMatch { pattern }) }
}
