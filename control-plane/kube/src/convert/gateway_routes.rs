//! HTTPRoute, GRPCRoute and ReferenceGrant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_crds::gateway::{
    GATEWAY_GROUP, GrpcFilterType, GrpcRoute, GrpcRouteMatch, GrpcRouteRule, HttpRetry, HttpRoute, HttpRouteMatch,
    HttpRouteRule, MatchType, ParentRef, PathMatch, ReferenceGrant,
};
use outrigger_model::{
    Finding, Reason,
    inputs::{Grant, GrantFrom, GrpcMethod, Route, RouteKind, RouteMatch, RouteParent, RouteRule, Service},
};
use outrigger_wire::proto::config as wire;

use super::{
    Report, created,
    filters::{self, Converted},
    matches, names, number, qualified,
};

/// Pause before the first retry where the route doesn't say.
pub(super) const DEFAULT_BACKOFF_MS: u64 = 25;

pub(super) fn http_route(object: &HttpRoute, services: &[Service], findings: &mut Vec<Finding>) -> Route {
    let (namespace, name) = names(&object.metadata);
    let mut report = Report { object: &format!("HTTPRoute/{namespace}/{name}"), findings };
    let parents = parents(&object.spec.parent_refs, &namespace, services, &mut report);
    hostnames(&object.spec.hostnames, &parents, &mut report);
    let rules = object.spec.rules.iter().enumerate();
    let rules = rules.map(|(index, rule)| http_rule(rule, index, &namespace, &mut report)).collect();
    Route { kind: RouteKind::HttpRoute, created: created(&object.metadata), parents, rules, namespace, name }
}

pub(super) fn grpc_route(object: &GrpcRoute, services: &[Service], findings: &mut Vec<Finding>) -> Route {
    let (namespace, name) = names(&object.metadata);
    let mut report = Report { object: &format!("GRPCRoute/{namespace}/{name}"), findings };
    let parents = parents(&object.spec.parent_refs, &namespace, services, &mut report);
    hostnames(&object.spec.hostnames, &parents, &mut report);
    let rules = object.spec.rules.iter().enumerate();
    let rules = rules.map(|(index, rule)| grpc_rule(rule, index, &namespace, &mut report)).collect();
    Route { kind: RouteKind::GrpcRoute, created: created(&object.metadata), parents, rules, namespace, name }
}

/// Only grants to Services matter here.
pub(super) fn grant(object: &ReferenceGrant) -> Grant {
    let (namespace, _) = names(&object.metadata);
    let from = object.spec.from.iter().map(|from| GrantFrom {
        group: from.group.clone(),
        kind: from.kind.clone(),
        namespace: from.namespace.clone(),
    });
    let to = object.spec.to.iter().filter(|to| to.group.is_empty() && to.kind == "Service");
    Grant { namespace, from: from.collect(), to: to.map(|to| to.name.clone()).collect() }
}

/// Parents that are Services; Gateways and others aren't the mesh's business.
fn parents(refs: &[ParentRef], own: &str, services: &[Service], report: &mut Report<'_>) -> Vec<RouteParent> {
    let mut parents = Vec::with_capacity(refs.len());
    for (index, parent) in refs.iter().enumerate() {
        let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
        if !group.is_empty() || parent.kind.as_deref() != Some("Service") {
            continue;
        }
        let service = qualified(parent.namespace.as_ref(), own, &parent.name);
        let mut port = parent.port.map(number);
        if let Some(section) = &parent.section_name {
            let found = services.iter().find(|s| format!("{}/{}", s.namespace, s.name) == service);
            let named = found.and_then(|s| s.ports.iter().find(|p| p.name == *section)).map(|p| p.port);
            let Some(named) = named.filter(|named| port.is_none_or(|port| port == *named)) else {
                let field = format!("spec.parentRefs[{index}].sectionName");
                let message =
                    format!("service {service} has no such port named {section}; the route has no effect there");
                report.add(field, Reason::NoMatchingParent, message, "name a port of the service");
                continue;
            };
            port = Some(named);
        }
        parents.push(RouteParent { index, service, port });
    }
    parents
}

/// All Services that are named as parents, whether or not they have the port.
pub(super) fn named_parents(refs: &[ParentRef], metadata: &ObjectMeta) -> Vec<String> {
    let (own, _) = names(metadata);
    let services = refs.iter().filter(|parent| {
        parent.group.as_deref().is_some_and(str::is_empty) && parent.kind.as_deref() == Some("Service")
    });
    services.map(|parent| qualified(parent.namespace.as_ref(), &own, &parent.name)).collect()
}

/// Gateway API: hostnames mean nothing to a Service, which is called by its address.
fn hostnames(hostnames: &[String], parents: &[RouteParent], report: &mut Report<'_>) {
    if !hostnames.is_empty() && !parents.is_empty() {
        let message = "hostnames have no effect on routes of Services".to_owned();
        report.add("spec.hostnames", Reason::Ignored, message, "remove them");
    }
}

fn session_persistence(wanted: bool, field: &str, report: &mut Report<'_>) {
    if wanted {
        let message = "session persistence isn't supported; it has no effect".to_owned();
        let remedy = "use a MeshRoute's stickiness, or a TrafficPolicy's loadBalancer.hashOn";
        report.add(format_args!("{field}.sessionPersistence"), Reason::Ignored, message, remedy);
    }
}

fn http_rule(rule: &HttpRouteRule, index: usize, own: &str, report: &mut Report<'_>) -> RouteRule {
    let field = format!("spec.rules[{index}]");
    session_persistence(rule.session_persistence.is_some(), &field, report);
    let backends = rule.backend_refs.iter().enumerate().map(|(at, backend)| {
        let field = format!("{field}.backendRefs[{at}]");
        let weight = number(backend.weight.unwrap_or(1));
        let to = filters::gateway_backend(&backend.backend, weight, own);
        with_filters(to, backend.filters.iter().map(|filter| filters::http(filter, own)), &field, report)
    });
    let backends = backends.collect();
    let timeouts = rule.timeouts.clone().unwrap_or_default();
    RouteRule {
        name: rule.name.clone(),
        matches: http_matches(&rule.matches),
        filters: rule_filters(rule.filters.iter().map(|filter| filters::http(filter, own)), &field, report),
        backends,
        request_timeout_ms: timeouts.request.map(|timeout| timeout.as_millis()),
        backend_timeout_ms: timeouts.backend_request.map_or(0, |timeout| timeout.as_millis()),
        retry: rule.retry.as_ref().map(retry),
        stickiness: None,
    }
}

fn grpc_rule(rule: &GrpcRouteRule, index: usize, own: &str, report: &mut Report<'_>) -> RouteRule {
    let field = format!("spec.rules[{index}]");
    session_persistence(rule.session_persistence.is_some(), &field, report);
    mirrors(rule, &field, report);
    let backends = rule.backend_refs.iter().enumerate().map(|(at, backend)| {
        let field = format!("{field}.backendRefs[{at}]");
        let weight = number(backend.weight.unwrap_or(1));
        let to = filters::gateway_backend(&backend.backend, weight, own);
        with_filters(to, backend.filters.iter().map(|filter| filters::grpc(filter, own)), &field, report)
    });
    let backends = backends.collect();
    RouteRule {
        name: rule.name.clone(),
        matches: rule.matches.iter().map(grpc_match).collect(),
        filters: rule_filters(rule.filters.iter().map(|filter| filters::grpc(filter, own)), &field, report),
        backends,
        ..RouteRule::default()
    }
}

/// A call is copied only if its length is known before it is sent on, which is rare: it could go on for ever.
fn mirrors(rule: &GrpcRouteRule, field: &str, report: &mut Report<'_>) {
    let of_backends = rule.backend_refs.iter().enumerate();
    let of_backends = of_backends.map(|(at, backend)| (format!("{field}.backendRefs[{at}].filters"), &backend.filters));
    for (field, filters) in std::iter::once((format!("{field}.filters"), &rule.filters)).chain(of_backends) {
        for at in (0..filters.len()).filter(|at| filters[*at].r#type == GrpcFilterType::RequestMirror) {
            let message = "only calls with a content-length are copied, which most gRPC clients don't send".to_owned();
            report.add(format_args!("{field}[{at}]"), Reason::Ignored, message, "remove the filter if yours don't");
        }
    }
}

/// Gateway API: without matches, and without a path, the path is PathPrefix `/`.
fn http_matches(all: &[HttpRouteMatch]) -> Vec<RouteMatch> {
    let every = [HttpRouteMatch::default()];
    let all = if all.is_empty() { &every } else { all };
    let requests = all.iter().map(|each| wire::RouteMatch {
        path: Some(matches::path(each.path.as_ref().unwrap_or(&PathMatch::default()))),
        method: each.method.clone().unwrap_or_default(),
        headers: matches::named_headers(&each.headers),
        query: matches::named_query(&each.query_params),
        ..wire::RouteMatch::default()
    });
    requests.map(|request| RouteMatch { request, grpc: None }).collect()
}

fn grpc_match(each: &GrpcRouteMatch) -> RouteMatch {
    let request = wire::RouteMatch { headers: matches::named_headers(&each.headers), ..wire::RouteMatch::default() };
    let method = each.method.clone().unwrap_or_default();
    let set = |part: Option<String>| part.filter(|part| !part.is_empty());
    let grpc = GrpcMethod {
        service: set(method.service),
        method: set(method.method),
        regex: method.r#type == MatchType::RegularExpression,
    };
    RouteMatch { request, grpc: Some(grpc) }
}

fn rule_filters(converted: impl Iterator<Item = Converted>, field: &str, report: &mut Report<'_>) -> Vec<wire::Filter> {
    let mut kept = Vec::new();
    for (index, filter) in converted.enumerate() {
        match filter {
            Ok(kind) => kept.extend(kind.map(|kind| wire::Filter { kind: Some(kind) })),
            Err(filters::Unsupported) => {
                let message = "the filter isn't supported: what the rule matches is answered with 500".to_owned();
                let field = format_args!("{field}.filters[{index}]");
                report.add(field, Reason::UnsupportedValue, message, "remove the filter");
                return vec![filters::refusal()];
            }
        }
    }
    kept
}

fn with_filters(
    mut backend: wire::Backend,
    converted: impl Iterator<Item = Converted>,
    field: &str,
    report: &mut Report<'_>,
) -> wire::Backend {
    if backend.invalid {
        let message = "the backend is no Service: its share is answered with 500".to_owned();
        report.add(field, Reason::InvalidKind, message, "name a Service of the core group");
    }
    for (index, filter) in converted.enumerate() {
        match filter {
            Ok(kind) => backend.filters.extend(kind.map(|kind| wire::Filter { kind: Some(kind) })),
            Err(filters::Unsupported) => {
                backend.invalid = true;
                let message = "the filter isn't supported: the backend's share is answered with 500".to_owned();
                let field = format_args!("{field}.filters[{index}]");
                report.add(field, Reason::UnsupportedValue, message, "remove the filter");
            }
        }
    }
    backend
}

fn retry(retry: &HttpRetry) -> wire::Retry {
    wire::Retry {
        attempts: number(retry.attempts.unwrap_or(1)),
        codes: retry.codes.iter().map(|code| number(*code)).collect(),
        backoff_ms: retry.backoff.map_or(DEFAULT_BACKOFF_MS, |backoff| backoff.as_millis()),
        non_idempotent: false,
    }
}
