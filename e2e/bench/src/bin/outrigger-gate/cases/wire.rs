//! Short ways to write what the control plane says.

use http::{HeaderMap, HeaderName, HeaderValue};
use outrigger_wire::{SpiffeId, proto::config as wire};
use wire::{path_match, principal, string_match};

/// The `index`th of many different ones: spread over the alphabet, so that what sorts and hashes has something to do.
pub(super) fn word(index: usize) -> String {
    const WORDS: [&str; 8] = ["orders", "cart", "stock", "users", "prices", "search", "mail", "login"];
    format!("{}-{}", WORDS[index % WORDS.len()], index / WORDS.len())
}

pub(super) fn prefix(path: &str) -> wire::PathMatch {
    wire::PathMatch { pattern: Some(path_match::Pattern::Prefix(path.to_owned())) }
}

pub(super) fn key(name: &str, value: &str) -> wire::KeyMatch {
    let pattern = Some(string_match::Pattern::Exact(value.to_owned()));
    wire::KeyMatch { name: name.to_owned(), value: Some(wire::StringMatch { pattern }) }
}

pub(super) fn identity(name: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{name}")
}

pub(super) fn spiffe(name: &str) -> anyhow::Result<SpiffeId> {
    Ok(SpiffeId::new("cluster.local", "shop", name)?)
}

pub(super) fn from(name: &str) -> wire::Principal {
    wire::Principal { kind: Some(principal::Kind::Identity(identity(name))) }
}

pub(super) fn to(service: &str, port: u32) -> wire::Backend {
    wire::Backend { service: service.to_owned(), port, weight: 1, ..wire::Backend::default() }
}

/// What a browser or client library sends beside what a case is about.
pub(super) fn headers(more: &[(&'static str, &'static str)]) -> HeaderMap {
    let usual = [
        ("user-agent", "gate/1"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("x-request-id", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"),
        ("x-tenant", "blue"),
    ];
    let pair =
        |(name, value): &(&'static str, &'static str)| (HeaderName::from_static(name), HeaderValue::from_static(value));
    usual.iter().chain(more).map(pair).collect()
}

/// A service with one table of `rules` rules, each with a path prefix of its own; every second one wants a header, too.
pub(super) fn service(name: &str, rules: usize) -> wire::Service {
    let entry = |index: usize| {
        let headers = if index.is_multiple_of(2) { vec![key("x-tenant", "blue")] } else { Vec::new() };
        let path = Some(prefix(&format!("/api/{}", word(index))));
        let r#match = wire::RouteMatch { path, headers, ..wire::RouteMatch::default() };
        wire::RouteEntry { r#match: Some(r#match), rule: u32::try_from(index).unwrap_or(u32::MAX) }
    };
    let rule = |index: usize| wire::RouteRule {
        name: format!("HTTPRoute/{name}#{index}"),
        backends: vec![to(name, 80)],
        ..wire::RouteRule::default()
    };
    let table = wire::RouteTable {
        entries: (0..rules).map(entry).collect(),
        rules: (0..rules).map(rule).collect(),
        ..wire::RouteTable::default()
    };
    wire::Service { name: name.to_owned(), route_tables: vec![table], ..wire::Service::default() }
}

/// `index` is its place among at most 60,000.
pub(super) fn endpoint(service: &str, index: usize) -> wire::Endpoint {
    let workload = word(index);
    wire::Endpoint {
        service: service.to_owned(),
        workload: format!("shop/{workload}"),
        address: format!("10.8.{}.{}", index / 250, index % 250 + 1),
        ports: vec![wire::EndpointPort { port: 80, target: 8080 }],
        identity: identity(&workload),
        meshed: true,
        ..wire::Endpoint::default()
    }
}
