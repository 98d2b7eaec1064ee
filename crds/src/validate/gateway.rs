//! Gateway API kinds: the rules of its own CRDs, which files don't pass through.

use super::{Problems, filters, route, syntax, traffic};
use crate::gateway::{
    GrpcFilter, GrpcFilterType, GrpcRouteMatch, GrpcRouteRule, GrpcRouteSpec, HttpFilter, HttpFilterType,
    HttpRouteMatch, HttpRouteRule, HttpRouteSpec, MatchType, NamedMatch, ParentRef, ReferenceGrantSpec,
};

pub(crate) fn http_route(spec: &HttpRouteSpec, problems: &mut Problems) {
    parents(&spec.parent_refs, problems);
    problems.check_each("spec.hostnames", &spec.hostnames, syntax::hostname_pattern);
    route::rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), problems);
    for (index, rule) in spec.rules.iter().enumerate() {
        http_rule(&format!("spec.rules[{index}]"), rule, problems);
    }
}

pub(crate) fn grpc_route(spec: &GrpcRouteSpec, problems: &mut Problems) {
    parents(&spec.parent_refs, problems);
    problems.check_each("spec.hostnames", &spec.hostnames, syntax::hostname_pattern);
    route::rule_names(spec.rules.iter().map(|rule| rule.name.as_deref()), problems);
    for (index, rule) in spec.rules.iter().enumerate() {
        grpc_rule(&format!("spec.rules[{index}]"), rule, problems);
    }
}

pub(crate) fn reference_grant(spec: &ReferenceGrantSpec, problems: &mut Problems) {
    for (index, from) in spec.from.iter().enumerate() {
        problems.check(&format!("spec.from[{index}].namespace"), syntax::label(&from.namespace));
    }
}

fn parents(parents: &[ParentRef], problems: &mut Problems) {
    for (index, parent) in parents.iter().enumerate() {
        let path = format!("spec.parentRefs[{index}]");
        problems.check(&format!("{path}.name"), syntax::subdomain(&parent.name));
        if let Some(namespace) = &parent.namespace {
            problems.check(&format!("{path}.namespace"), syntax::label(namespace));
        }
        // The core group is written as "", so a Service without it is a common slip.
        if parent.kind.as_deref() == Some("Service") && parent.group.is_none() {
            problems.add(&format!("{path}.group"), "a Service is in the core group", "write group: \"\"");
        }
    }
    problems.unique("spec.parentRefs", parents, "");
}

fn http_rule(path: &str, rule: &HttpRouteRule, problems: &mut Problems) {
    for (index, matches) in rule.matches.iter().enumerate() {
        http_match(&format!("{path}.matches[{index}]"), matches, problems);
    }
    let prefix_matched = route::prefix_matched(rule.matches.iter().map(|matches| matches.path.as_ref()));
    http_filters(&format!("{path}.filters"), &rule.filters, prefix_matched, problems);
    if rule.filters.iter().any(|filter| filter.r#type == HttpFilterType::RequestRedirect)
        && !rule.backend_refs.is_empty()
    {
        problems.add(&format!("{path}.backendRefs"), "a filter answers already", "remove backendRefs or the filter");
    }
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        filters::backend(&path, &backend.backend, problems);
        http_filters(&format!("{path}.filters"), &backend.filters, prefix_matched, problems);
    }
    if let Some(timeouts) = &rule.timeouts {
        traffic::timeouts(&format!("{path}.timeouts"), timeouts.request, timeouts.backend_request, problems);
    }
}

fn http_match(path: &str, matches: &HttpRouteMatch, problems: &mut Problems) {
    if let Some(value) = &matches.path {
        route::path_match(&format!("{path}.path"), value, problems);
    }
    named_matches(&format!("{path}.headers"), &matches.headers, true, problems);
    named_matches(&format!("{path}.queryParams"), &matches.query_params, false, problems);
}

fn named_matches(path: &str, list: &[NamedMatch], headers: bool, problems: &mut Problems) {
    for (index, matches) in list.iter().enumerate() {
        if headers {
            problems.check(&format!("{path}[{index}].name"), syntax::header_name(&matches.name));
        }
        if matches.r#type == MatchType::RegularExpression {
            problems.regex(&format!("{path}[{index}].value"), &matches.value);
        }
    }
}

fn http_filters(path: &str, list: &[HttpFilter], prefix_matched: bool, problems: &mut Problems) {
    for (index, filter) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let members = [
            ("RequestHeaderModifier", "requestHeaderModifier", filter.request_header_modifier.is_some()),
            ("ResponseHeaderModifier", "responseHeaderModifier", filter.response_header_modifier.is_some()),
            ("RequestMirror", "requestMirror", filter.request_mirror.is_some()),
            ("RequestRedirect", "requestRedirect", filter.request_redirect.is_some()),
            ("URLRewrite", "urlRewrite", filter.url_rewrite.is_some()),
            ("CORS", "cors", filter.cors.is_some()),
            ("ExtensionRef", "extensionRef", filter.extension_ref.is_some()),
        ];
        filters::union(&path, http_name(filter.r#type), &members, problems);
        filters::headers(&format!("{path}.requestHeaderModifier"), filter.request_header_modifier.as_ref(), problems);
        filters::headers(&format!("{path}.responseHeaderModifier"), filter.response_header_modifier.as_ref(), problems);
        filters::mirror(&format!("{path}.requestMirror"), filter.request_mirror.as_ref(), problems);
        filters::redirect(
            &format!("{path}.requestRedirect"),
            filter.request_redirect.as_ref(),
            prefix_matched,
            problems,
        );
        filters::rewrite(&format!("{path}.urlRewrite"), filter.url_rewrite.as_ref(), prefix_matched, problems);
    }
    let types: Vec<&str> = list.iter().map(|filter| http_name(filter.r#type)).collect();
    filters::together(path, &types, problems);
}

fn grpc_rule(path: &str, rule: &GrpcRouteRule, problems: &mut Problems) {
    for (index, matches) in rule.matches.iter().enumerate() {
        grpc_match(&format!("{path}.matches[{index}]"), matches, problems);
    }
    grpc_filters(&format!("{path}.filters"), &rule.filters, problems);
    for (index, backend) in rule.backend_refs.iter().enumerate() {
        let path = format!("{path}.backendRefs[{index}]");
        filters::backend(&path, &backend.backend, problems);
        grpc_filters(&format!("{path}.filters"), &backend.filters, problems);
    }
}

fn grpc_match(path: &str, matches: &GrpcRouteMatch, problems: &mut Problems) {
    named_matches(&format!("{path}.headers"), &matches.headers, true, problems);
    let Some(method) = &matches.method else { return };
    if method.service.is_none() && method.method.is_none() {
        problems.add(&format!("{path}.method"), "neither service nor method is set", "set one of them or remove it");
    }
    for (name, value) in [("service", &method.service), ("method", &method.method)] {
        let (Some(value), path) = (value, format!("{path}.method.{name}")) else { continue };
        match method.r#type {
            MatchType::RegularExpression => problems.regex(&path, value),
            MatchType::Exact => {
                let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (b == b'.' && name == "service");
                if value.is_empty() || !value.bytes().all(word) {
                    problems.add(&path, format!("not a gRPC {name}: {value:?}"), "write it as in the .proto file");
                }
            }
        }
    }
}

fn grpc_filters(path: &str, list: &[GrpcFilter], problems: &mut Problems) {
    for (index, filter) in list.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let members = [
            ("RequestHeaderModifier", "requestHeaderModifier", filter.request_header_modifier.is_some()),
            ("ResponseHeaderModifier", "responseHeaderModifier", filter.response_header_modifier.is_some()),
            ("RequestMirror", "requestMirror", filter.request_mirror.is_some()),
            ("ExtensionRef", "extensionRef", filter.extension_ref.is_some()),
        ];
        filters::union(&path, grpc_name(filter.r#type), &members, problems);
        filters::headers(&format!("{path}.requestHeaderModifier"), filter.request_header_modifier.as_ref(), problems);
        filters::headers(&format!("{path}.responseHeaderModifier"), filter.response_header_modifier.as_ref(), problems);
        filters::mirror(&format!("{path}.requestMirror"), filter.request_mirror.as_ref(), problems);
    }
    let types: Vec<&str> = list.iter().map(|filter| grpc_name(filter.r#type)).collect();
    filters::together(path, &types, problems);
}

/// As it is written.
fn http_name(r#type: HttpFilterType) -> &'static str {
    match r#type {
        HttpFilterType::RequestHeaderModifier => "RequestHeaderModifier",
        HttpFilterType::ResponseHeaderModifier => "ResponseHeaderModifier",
        HttpFilterType::RequestMirror => "RequestMirror",
        HttpFilterType::RequestRedirect => "RequestRedirect",
        HttpFilterType::UrlRewrite => "URLRewrite",
        HttpFilterType::Cors => "CORS",
        HttpFilterType::ExtensionRef => "ExtensionRef",
    }
}

/// As it is written.
fn grpc_name(r#type: GrpcFilterType) -> &'static str {
    match r#type {
        GrpcFilterType::RequestHeaderModifier => "RequestHeaderModifier",
        GrpcFilterType::ResponseHeaderModifier => "ResponseHeaderModifier",
        GrpcFilterType::RequestMirror => "RequestMirror",
        GrpcFilterType::ExtensionRef => "ExtensionRef",
    }
}
