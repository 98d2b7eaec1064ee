//! MeshRoute, and matches that other kinds share with it.

use super::{Fault, Problems, filters, syntax, traffic};
use crate::{
    CallerMatch, KeyMatch, KeyMatchType, MeshBackendRef, MeshRouteFilter, MeshRouteFilterType, MeshRouteMatch,
    MeshRouteRule, MeshRouteSpec,
    gateway::{PathMatch, PathMatchType},
};

pub(crate) fn mesh_route(spec: &MeshRouteSpec, problems: &mut Problems) {
    for (index, parent) in spec.parent_refs.iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        problems.check(&format!("{path}.name"), syntax::label(&parent.name));
        if let Some(namespace) = &parent.namespace {
            problems.check(&format!("{path}.namespace"), syntax::label(namespace));
        }
    }
    problems.unique("spec.parentRefs", &spec.parent_refs, "");
    rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), problems);
    for (index, rule) in spec.rules.iter().enumerate() {
        mesh_rule(&format!("spec.rules[{index}]"), rule, problems);
    }
}

/// Names are optional, and unique in their route.
pub(crate) fn rule_names<'a>(names: impl Iterator<Item = Option<&'a str>>, problems: &mut Problems) {
    let mut seen = Vec::new();
    for (index, name) in names.enumerate().filter_map(|(index, name)| Some((index, name?))) {
        let path = format!("spec.rules[{index}].name");
        problems.check(&path, syntax::subdomain(name));
        if seen.contains(&name) {
            problems.add(&path, format!("another rule is named {name:?}"), "rename one of them");
        }
        seen.push(name);
    }
}

fn mesh_rule(path: &str, rule: &MeshRouteRule, problems: &mut Problems) {
    for (index, matches) in rule.matches.iter().enumerate() {
        mesh_match(&format!("{path}.matches[{index}]"), matches, problems);
    }
    let prefix_matched = prefix_matched(rule.matches.iter().map(|matches| matches.path.as_ref()));
    mesh_filters(&format!("{path}.filters"), &rule.filters, prefix_matched, problems);
    let answered = rule.filters.iter().any(|filter| answers(filter.r#type));
    if answered != rule.backend_refs.is_empty() {
        let (problem, remedy) = if answered {
            ("a filter answers already", "remove backendRefs or the filter")
        } else {
            ("it is empty", "write at least one backend, or a filter RequestRedirect or DirectResponse")
        };
        problems.add(&format!("{path}.backendRefs"), problem, remedy);
    }
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        mesh_backend(&format!("{path}.backendRefs[{index}]"), backend, prefix_matched, problems);
    }
    if let Some(timeouts) = &rule.timeouts {
        traffic::timeouts(&format!("{path}.timeouts"), timeouts.request, timeouts.backend_request, problems);
    }
    if let Some(stickiness) = &rule.stickiness {
        traffic::stickiness(&format!("{path}.stickiness"), stickiness, problems);
    }
}

/// Whether a prefix is known that ReplacePrefixMatch can replace: without any match it is `/`.
pub(crate) fn prefix_matched<'a>(mut paths: impl Iterator<Item = Option<&'a PathMatch>>) -> bool {
    paths.all(|path| path.is_none_or(|path| path.r#type == PathMatchType::PathPrefix))
}

fn mesh_match(path: &str, matches: &MeshRouteMatch, problems: &mut Problems) {
    if let Some(value) = &matches.path {
        path_match(&format!("{path}.path"), value, problems);
    }
    if let Some(method) = &matches.method {
        problems.check(&format!("{path}.method"), syntax::method(method));
    }
    key_matches(&format!("{path}.headers"), &matches.headers, syntax::header_name, problems);
    key_matches(&format!("{path}.queryParams"), &matches.query_params, |_| Ok(()), problems);
    key_matches(&format!("{path}.cookies"), &matches.cookies, syntax::header_name, problems);
    for (index, caller) in matches.callers.iter().enumerate() {
        caller_match(&format!("{path}.callers[{index}]"), caller, problems);
    }
}

pub(crate) fn path_match(path: &str, matches: &PathMatch, problems: &mut Problems) {
    let path = format!("{path}.value");
    match matches.r#type {
        PathMatchType::RegularExpression => problems.regex(&path, &matches.value),
        PathMatchType::Exact | PathMatchType::PathPrefix => problems.check(&path, syntax::path(&matches.value)),
    }
}

/// `name` checks the syntax of the keys.
pub(crate) fn key_matches(path: &str, list: &[KeyMatch], name: fn(&str) -> Result<(), Fault>, problems: &mut Problems) {
    for (index, matches) in list.iter().enumerate() {
        problems.check(&format!("{path}[{index}].name"), name(&matches.name));
        let path = format!("{path}[{index}].value");
        match (matches.r#type, &matches.value) {
            (KeyMatchType::Present | KeyMatchType::Absent, None) => {}
            (KeyMatchType::Present | KeyMatchType::Absent, Some(_)) => {
                problems.add(&path, format!("type {:?} compares no value", matches.r#type), "remove it");
            }
            (KeyMatchType::RegularExpression, Some(value)) => problems.regex(&path, value),
            (KeyMatchType::Exact | KeyMatchType::Prefix, Some(_)) => {}
            (KeyMatchType::Exact | KeyMatchType::Prefix | KeyMatchType::RegularExpression, None) => {
                problems.add(&path, "it is missing", "say what is compared, or set type to Present");
            }
        }
    }
}

fn caller_match(path: &str, caller: &CallerMatch, problems: &mut Problems) {
    let set = [caller.identity.is_some(), caller.namespace.is_some(), caller.service_account.is_some()];
    if set.iter().filter(|set| **set).count() != 1 {
        problems.add(path, "exactly one field must be set", "set one of identity, namespace and serviceAccount");
    }
    if let Some(identity) = &caller.identity {
        problems.check(&format!("{path}.identity"), syntax::identity(identity));
    }
    if let Some(namespace) = &caller.namespace {
        problems.check(&format!("{path}.namespace"), syntax::label(namespace));
    }
    if let Some(account) = &caller.service_account {
        problems.check(&format!("{path}.serviceAccount"), syntax::service_account(account));
    }
}

fn mesh_backend(path: &str, backend: &MeshBackendRef, prefix_matched: bool, problems: &mut Problems) {
    problems.check(&format!("{path}.name"), syntax::label(&backend.name));
    if let Some(namespace) = &backend.namespace {
        problems.check(&format!("{path}.namespace"), syntax::label(namespace));
    }
    mesh_filters(&format!("{path}.filters"), &backend.filters, prefix_matched, problems);
    for (index, filter) in backend.filters.iter().enumerate() {
        if answers(filter.r#type) || filter.r#type == MeshRouteFilterType::Fault {
            let problem = format!("{} acts before a backend is chosen", name(filter.r#type));
            problems.add(&format!("{path}.filters[{index}].type"), problem, "move it to the rule's filters");
        }
    }
}

fn mesh_filters(path: &str, list: &[MeshRouteFilter], prefix_matched: bool, problems: &mut Problems) {
    for (index, filter) in list.iter().enumerate() {
        mesh_filter(&format!("{path}[{index}]"), filter, prefix_matched, problems);
    }
    let types: Vec<&str> = list.iter().map(|filter| name(filter.r#type)).collect();
    filters::together(path, &types, problems);
}

fn mesh_filter(path: &str, filter: &MeshRouteFilter, prefix_matched: bool, problems: &mut Problems) {
    let members = [
        ("RequestHeaderModifier", "requestHeaderModifier", filter.request_header_modifier.is_some()),
        ("ResponseHeaderModifier", "responseHeaderModifier", filter.response_header_modifier.is_some()),
        ("URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
        ("RequestRedirect", "requestRedirect", filter.request_redirect.is_some()),
        ("RequestMirror", "requestMirror", filter.request_mirror.is_some()),
        ("Fault", "fault", filter.fault.is_some()),
        ("DirectResponse", "directResponse", filter.direct_response.is_some()),
    ];
    filters::union(path, name(filter.r#type), &members, problems);
    filters::headers(&format!("{path}.requestHeaderModifier"), filter.request_header_modifier.as_ref(), problems);
    filters::headers(&format!("{path}.responseHeaderModifier"), filter.response_header_modifier.as_ref(), problems);
    filters::rewrite(&format!("{path}.urlRewrite"), filter.url_rewrite.as_ref(), prefix_matched, problems);
    filters::redirect(&format!("{path}.requestRedirect"), filter.request_redirect.as_ref(), prefix_matched, problems);
    if let Some(mirror) = &filter.request_mirror {
        problems.check(&format!("{path}.requestMirror.backendRef.name"), syntax::label(&mirror.backend_ref.name));
        if let Some(namespace) = &mirror.backend_ref.namespace {
            problems.check(&format!("{path}.requestMirror.backendRef.namespace"), syntax::label(namespace));
        }
    }
    if let Some(fault) = &filter.fault
        && fault.delay.is_none()
        && fault.abort.is_none()
    {
        problems.add(&format!("{path}.fault"), "it does nothing", "set delay, abort or both");
    }
    if let Some(content_type) = filter.direct_response.as_ref().and_then(|answer| answer.content_type.as_ref()) {
        problems.check(&format!("{path}.directResponse.contentType"), syntax::header_value(content_type));
    }
}

fn answers(r#type: MeshRouteFilterType) -> bool {
    matches!(r#type, MeshRouteFilterType::RequestRedirect | MeshRouteFilterType::DirectResponse)
}

/// As it is written.
fn name(r#type: MeshRouteFilterType) -> &'static str {
    match r#type {
        MeshRouteFilterType::RequestHeaderModifier => "RequestHeaderModifier",
        MeshRouteFilterType::ResponseHeaderModifier => "ResponseHeaderModifier",
        MeshRouteFilterType::UrlRewrite => "URLRewrite",
        MeshRouteFilterType::RequestRedirect => "RequestRedirect",
        MeshRouteFilterType::RequestMirror => "RequestMirror",
        MeshRouteFilterType::Fault => "Fault",
        MeshRouteFilterType::DirectResponse => "DirectResponse",
    }
}
