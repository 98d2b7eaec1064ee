//! Parts of filters that all route kinds share.

use super::{Problems, syntax};
use crate::gateway::{
    BackendObjectRef, HeaderModifier, PathModifier, PathModifierType, RequestMirror, RequestRedirect, UrlRewrite,
};

/// A filter's fields by name, and which of them are set.
pub(crate) type Members<'a> = [(&'a str, &'a str, bool)];

/// The field that belongs to `type` must be set, and no other. Members are (type, field, whether it is set).
pub(crate) fn union(path: &str, r#type: &str, members: &Members<'_>, problems: &mut Problems) {
    for (name, field, set) in members {
        let field_path = format!("{path}.{field}");
        match (*name == r#type, set) {
            (true, false) => problems.add(&field_path, format!("type {type} needs it"), format!("add {field}")),
            (false, true) => {
                problems.add(
                    &field_path,
                    format!("it doesn't belong to type {type}"),
                    format!("remove it or set type to {name}"),
                );
            }
            (true, true) | (false, false) => {}
        }
    }
}

/// Types that may be there once only. `types` are those of the rule's filters, in order.
pub(crate) fn together(path: &str, types: &[&str], problems: &mut Problems) {
    for (index, r#type) in types.iter().enumerate() {
        let again = types[..index].contains(r#type);
        if again && !matches!(*r#type, "RequestMirror" | "ExtensionRef") {
            let problem = format!("a second filter of type {type}");
            problems.add(&format!("{path}[{index}].type"), problem, "merge it with the first");
        }
    }
    let answers = |r#type: &&&str| matches!(**r#type, "RequestRedirect" | "DirectResponse");
    if let Some(index) = types.iter().position(|r#type| *r#type == "URLRewrite")
        && let Some(answer) = types.iter().find(answers)
    {
        let problem = format!("a request that is answered by {answer} isn't sent on");
        problems.add(&format!("{path}[{index}].type"), problem, "remove one of both filters");
    }
}

pub(crate) fn headers(path: &str, modifier: Option<&HeaderModifier>, problems: &mut Problems) {
    let Some(modifier) = modifier else { return };
    for (name, headers) in [("set", &modifier.set), ("add", &modifier.add)] {
        for (index, header) in headers.iter().enumerate() {
            problems.check(&format!("{path}.{name}[{index}].name"), syntax::changeable_header(&header.name));
            problems.check(&format!("{path}.{name}[{index}].value"), syntax::header_value(&header.value));
        }
    }
    problems.check_each(&format!("{path}.remove"), &modifier.remove, syntax::changeable_header);
    if *modifier == HeaderModifier::default() {
        problems.add(path, "it changes nothing", "set, add or remove a header");
    }
}

/// `prefix_matched`: every match of the rule has a PathPrefix.
pub(crate) fn rewrite(path: &str, rewrite: Option<&UrlRewrite>, prefix_matched: bool, problems: &mut Problems) {
    let Some(rewrite) = rewrite else { return };
    if rewrite.hostname.is_none() && rewrite.path.is_none() {
        problems.add(path, "it changes nothing", "set hostname or path");
    }
    if let Some(hostname) = &rewrite.hostname {
        problems.check(&format!("{path}.hostname"), syntax::host(hostname));
    }
    path_modifier(&format!("{path}.path"), rewrite.path.as_ref(), prefix_matched, problems);
}

pub(crate) fn redirect(path: &str, redirect: Option<&RequestRedirect>, prefix_matched: bool, problems: &mut Problems) {
    let Some(redirect) = redirect else { return };
    if let Some(hostname) = &redirect.hostname {
        problems.check(&format!("{path}.hostname"), syntax::host(hostname));
    }
    path_modifier(&format!("{path}.path"), redirect.path.as_ref(), prefix_matched, problems);
}

fn path_modifier(path: &str, modifier: Option<&PathModifier>, prefix_matched: bool, problems: &mut Problems) {
    let Some(modifier) = modifier else { return };
    let r#type = match modifier.r#type {
        PathModifierType::ReplaceFullPath => "ReplaceFullPath",
        PathModifierType::ReplacePrefixMatch => "ReplacePrefixMatch",
    };
    let members = [
        ("ReplaceFullPath", "replaceFullPath", modifier.replace_full_path.is_some()),
        ("ReplacePrefixMatch", "replacePrefixMatch", modifier.replace_prefix_match.is_some()),
    ];
    union(path, r#type, &members, problems);
    if let Some(full) = &modifier.replace_full_path {
        problems.check(&format!("{path}.replaceFullPath"), syntax::path(full));
    }
    // An empty replacement is allowed: it removes the prefix.
    if let Some(prefix) = modifier.replace_prefix_match.as_ref().filter(|prefix| !prefix.is_empty()) {
        problems.check(&format!("{path}.replacePrefixMatch"), syntax::path(prefix));
    }
    if modifier.r#type == PathModifierType::ReplacePrefixMatch && !prefix_matched {
        let remedy = "give each match of the rule a path of type PathPrefix";
        problems.add(&format!("{path}.type"), "the rule matches without a path prefix", remedy);
    }
}

pub(crate) fn mirror(path: &str, mirror: Option<&RequestMirror>, problems: &mut Problems) {
    let Some(mirror) = mirror else { return };
    backend(&format!("{path}.backendRef"), &mirror.backend_ref, problems);
    let Some(fraction) = &mirror.fraction else { return };
    if mirror.percent.is_some() {
        problems.add(&format!("{path}.fraction"), "percent and fraction exclude each other", "remove one of them");
    }
    let denominator = fraction.denominator.unwrap_or(100);
    if fraction.numerator > denominator {
        let problem = format!("{}/{denominator} is more than 1", fraction.numerator);
        problems.add(&format!("{path}.fraction.numerator"), problem, "write at most the denominator");
    }
}

/// What isn't a Service may be another controller's; only our own reference has rules.
pub(crate) fn backend(path: &str, backend: &BackendObjectRef, problems: &mut Problems) {
    let service = backend.group.as_deref().unwrap_or_default().is_empty()
        && backend.kind.as_deref().is_none_or(|kind| kind == "Service");
    if let Some(namespace) = &backend.namespace {
        problems.check(&format!("{path}.namespace"), syntax::label(namespace));
    }
    if service {
        problems.check(&format!("{path}.name"), syntax::label(&backend.name));
        if backend.port.is_none() {
            problems.add(&format!("{path}.port"), "it is missing", "write the Service's port");
        }
    }
}
