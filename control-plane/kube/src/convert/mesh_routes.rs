//! MeshRoute.

use outrigger_crds::{CallerMatch, MeshBackendRef, MeshRoute, MeshRouteFilter, MeshRouteMatch, MeshRouteRule, Retry};
use outrigger_model::inputs::{Route, RouteKind, RouteMatch, RouteParent, RouteRule};
use outrigger_wire::proto::config as wire;
use wire::principal;

use super::{created, filters, gateway_routes::DEFAULT_BACKOFF_MS, matches, names, number, ppm, qualified};

pub(super) fn mesh_route(object: &MeshRoute, trust_domain: &str) -> Route {
    let (namespace, name) = names(&object.metadata);
    let parents = object.spec.parent_refs.iter().enumerate().map(|(index, parent)| RouteParent {
        index,
        service: qualified(parent.namespace.as_ref(), &namespace, &parent.name),
        port: parent.port.map(number),
    });
    let parents = parents.collect();
    let rules = object.spec.rules.iter().map(|each| rule(each, &namespace, trust_domain)).collect();
    Route { kind: RouteKind::MeshRoute, created: created(&object.metadata), parents, rules, namespace, name }
}

fn rule(rule: &MeshRouteRule, own: &str, trust_domain: &str) -> RouteRule {
    let timeouts = rule.timeouts.clone().unwrap_or_default();
    RouteRule {
        name: rule.name.clone(),
        matches: rule.matches.iter().map(|each| route_match(each, trust_domain)).collect(),
        filters: all_filters(&rule.filters, own),
        backends: rule.backend_refs.iter().map(|to| backend(to, own)).collect(),
        request_timeout_ms: timeouts.request.map(|timeout| timeout.as_millis()),
        backend_timeout_ms: timeouts.backend_request.map_or(0, |timeout| timeout.as_millis()),
        retry: rule.retry.as_ref().map(retry),
        stickiness: rule.stickiness.as_ref().map(matches::stickiness),
    }
}

fn route_match(each: &MeshRouteMatch, trust_domain: &str) -> RouteMatch {
    let request = wire::RouteMatch {
        path: each.path.as_ref().map(matches::path),
        method: each.method.clone().unwrap_or_default(),
        headers: matches::headers(&each.headers),
        query: matches::keys(&each.query_params),
        cookies: matches::keys(&each.cookies),
        callers: each.callers.iter().map(|each| caller(each, trust_domain)).collect(),
        // All is no condition, so that it doesn't count in precedence.
        share_ppm: each.share_percent.filter(|percent| *percent < 100).map_or(0, |percent| ppm(Some(percent))),
    };
    RouteMatch { request, grpc: None }
}

fn caller(each: &CallerMatch, trust_domain: &str) -> wire::Principal {
    if let Some(identity) = &each.identity {
        return matches::principal(principal::Kind::Identity(identity.clone()));
    }
    if let Some(namespace) = &each.namespace {
        return matches::principal(principal::Kind::Namespace(namespace.clone()));
    }
    matches::service_account(trust_domain, each.service_account.as_deref().unwrap_or_default())
}

fn backend(to: &MeshBackendRef, own: &str) -> wire::Backend {
    wire::Backend {
        service: qualified(to.namespace.as_ref(), own, &to.name),
        port: number(to.port),
        weight: number(to.weight.unwrap_or(1)),
        filters: all_filters(&to.filters, own),
        invalid: false,
    }
}

/// The schema refuses incomplete filters, so that a refusal here is the last resort.
fn all_filters(all: &[MeshRouteFilter], own: &str) -> Vec<wire::Filter> {
    let converted = all.iter().map(|filter| match filters::mesh(filter, own) {
        Ok(kind) => kind.map(|kind| wire::Filter { kind: Some(kind) }),
        Err(filters::Unsupported) => Some(filters::refusal()),
    });
    converted.flatten().collect()
}

pub(super) fn retry(retry: &Retry) -> wire::Retry {
    let codes = if retry.codes.is_empty() { &[502, 503, 504][..] } else { &retry.codes };
    wire::Retry {
        attempts: number(retry.attempts),
        codes: codes.iter().map(|code| number(*code)).collect(),
        backoff_ms: retry.backoff.map_or(DEFAULT_BACKOFF_MS, |backoff| backoff.as_millis()),
        non_idempotent: retry.non_idempotent,
    }
}
