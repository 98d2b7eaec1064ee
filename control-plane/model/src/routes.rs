//! Routes to route tables: who is attached where, and in which order they are tried. Both route families end in
//! one table per service, consumer namespace and port. Never looks at endpoints or access policies.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use outrigger_wire::{names::type_url, proto::config as wire};

use crate::{
    Affects, Finding, Reason,
    inputs::{Route, RouteKind, RouteRule},
    mesh::{Mesh, namespace_of},
};
use precedence::Specificity;
use references::Referrer;

mod precedence;
mod references;
#[cfg(test)]
mod tests;

/// A route whose references are resolved.
struct Compiled<'a> {
    route: &'a Route,
    rules: Vec<wire::RouteRule>,
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    specificity: Specificity,
    matches: wire::RouteMatch,
    /// Index into [`Compiled::rules`].
    rule: usize,
}

/// Consumer namespace to (port, route); the namespace is empty for producer routes, the port `None` for all ports.
type Attached<'r, 'a> = BTreeMap<&'a str, Vec<(Option<u16>, &'r Compiled<'a>)>>;

/// Route tables by service.
pub(crate) fn tables(
    mesh: &Mesh<'_>,
    findings: &mut Vec<Finding>,
    affects: &mut Affects,
) -> BTreeMap<String, Vec<wire::RouteTable>> {
    let mut routes: Vec<&Route> = mesh.inputs.routes.iter().collect();
    routes.sort_by_key(|r| (r.created.is_none(), r.created, &r.namespace, &r.name, r.kind));
    let compiled: Vec<Compiled<'_>> = routes.into_iter().map(|route| compile(mesh, route, findings)).collect();

    let mut services: BTreeMap<&str, Attached<'_, '_>> = BTreeMap::new();
    for compiled in &compiled {
        for parent in &compiled.route.parents {
            if let Some(problem) = unattachable(mesh, &parent.service, parent.port) {
                findings.push(Finding::new(
                    &compiled.route.origin(),
                    &format!("spec.parentRefs[{}]", parent.index),
                    Reason::NoMatchingParent,
                    problem,
                    "name a service and port that exist",
                ));
                continue;
            }
            affects.add(&compiled.route.origin(), type_url::SERVICE, &parent.service);
            // Gateway API: a route in another namespace than its service is for that namespace's callers only.
            let namespace = compiled.route.namespace.as_str();
            let consumer = if namespace == namespace_of(&parent.service) { "" } else { namespace };
            let attached = services.entry(&parent.service).or_default();
            attached.entry(consumer).or_default().push((parent.port, compiled));
        }
    }
    services.into_iter().map(|(service, attached)| (service.to_owned(), service_tables(&attached))).collect()
}

fn unattachable(mesh: &Mesh<'_>, service: &str, port: Option<u16>) -> Option<String> {
    let Some(found) = mesh.services.get(service) else {
        return Some(format!("{}; the route has no effect there", mesh.absence(service)));
    };
    let port = port.filter(|port| !found.ports.iter().any(|p| p.port == *port))?;
    Some(format!("service {service} has no port {port}; the route has no effect there"))
}

fn service_tables(attached: &Attached<'_, '_>) -> Vec<wire::RouteTable> {
    let mut tables = Vec::new();
    for (consumer, routes) in attached {
        let ports: BTreeSet<Option<u16>> = routes.iter().map(|(port, _)| *port).collect();
        for port in ports {
            // Routes without a port attach to every port, so they are part of each port's table.
            let mut here: Vec<&Compiled<'_>> = Vec::new();
            for (_, compiled) in routes.iter().filter(|(p, _)| p.is_none() || *p == port) {
                if !here.iter().any(|seen| std::ptr::eq(*seen, *compiled)) {
                    here.push(compiled);
                }
            }
            tables.push(merge(consumer, port, &here));
        }
    }
    tables
}

/// One table of routes that are in order of age and name.
fn merge(consumer: &str, port: Option<u16>, routes: &[&Compiled<'_>]) -> wire::RouteTable {
    let mut rules = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    for route in routes {
        let first = rules.len();
        entries.extend(route.entries.iter().map(|entry| Entry { rule: first + entry.rule, ..entry.clone() }));
        rules.extend(route.rules.iter().cloned());
    }
    // Stable: ties keep the order of routes, of rules within a route, and of matches within a rule.
    entries.sort_by_key(|entry| Reverse(entry.specificity));
    wire::RouteTable {
        consumer_namespace: consumer.to_owned(),
        port: port.map_or(0, u32::from),
        entries: entries
            .into_iter()
            // Object sizes are bounded far below u32.
            .map(|entry| wire::RouteEntry { r#match: Some(entry.matches), rule: entry.rule as u32 })
            .collect(),
        rules,
    }
}

fn compile<'a>(mesh: &Mesh<'_>, route: &'a Route, findings: &mut Vec<Finding>) -> Compiled<'a> {
    let mut compiled = Compiled { route, rules: Vec::new(), entries: Vec::new() };
    for (index, rule) in route.rules.iter().enumerate() {
        let referrer = Referrer { mesh, route, rule: index };
        compiled.rules.push(compile_rule(&referrer, rule, findings));
        if rule.matches.is_empty() {
            let matches = wire::RouteMatch::default();
            compiled.entries.push(Entry { specificity: Specificity::of(&matches, None), matches, rule: index });
        }
        for each in &rule.matches {
            let mut matches = each.request.clone();
            if let Some(method) = &each.grpc {
                matches.path = precedence::grpc_path(method);
            }
            let specificity = Specificity::of(&matches, each.grpc.as_ref());
            compiled.entries.push(Entry { specificity, matches, rule: index });
        }
    }
    compiled
}

fn compile_rule(referrer: &Referrer<'_>, rule: &RouteRule, findings: &mut Vec<Finding>) -> wire::RouteRule {
    let route = referrer.route;
    let label = rule.name.clone().unwrap_or_else(|| referrer.rule.to_string());
    let filters = referrer.filters("filters", &rule.filters, findings);
    let backends: Vec<_> = rule
        .backends
        .iter()
        .enumerate()
        .map(|(index, backend)| {
            let field = format!("backendRefs[{index}]");
            let filters = referrer.filters(&format!("{field}.filters"), &backend.filters, findings);
            wire::Backend { filters, ..referrer.backend(&field, backend, findings) }
        })
        .collect();
    if backends.is_empty() && !filters.iter().any(answers) {
        let field = referrer.field("backendRefs");
        findings.push(Finding::new(
            &route.origin(),
            &field,
            Reason::BackendNotFound,
            "the rule has no backends: what it matches is answered with 500".to_owned(),
            "add a backend, a redirect or a direct response",
        ));
    }
    wire::RouteRule {
        name: format!("{}#{label}", route.origin()),
        filters,
        backends,
        request_timeout_ms: rule.request_timeout_ms,
        backend_timeout_ms: rule.backend_timeout_ms,
        retry: rule.retry.clone(),
        grpc: route.kind == RouteKind::GrpcRoute
            || (!rule.matches.is_empty() && rule.matches.iter().all(|each| each.grpc.is_some())),
        stickiness: rule.stickiness.clone(),
    }
}

/// Whether it is an answer of its own, so that no backend is needed.
fn answers(filter: &wire::Filter) -> bool {
    use wire::filter::Kind;
    matches!(filter.kind, Some(Kind::Redirect(_) | Kind::DirectResponse(_)))
}
