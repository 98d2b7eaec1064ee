//! Conditions on requests and callers, of routes and access policies.

use outrigger_crds::{
    KeyMatch, KeyMatchType, Stickiness,
    gateway::{MatchType, NamedMatch, PathMatch, PathMatchType},
};
use outrigger_wire::proto::config as wire;
use wire::{path_match, principal, stickiness, string_match};

pub(super) fn path(path: &PathMatch) -> wire::PathMatch {
    let value = path.value.clone();
    let pattern = match path.r#type {
        PathMatchType::Exact => path_match::Pattern::Exact(value),
        PathMatchType::PathPrefix => path_match::Pattern::Prefix(value),
        PathMatchType::RegularExpression => path_match::Pattern::Regex(value),
    };
    wire::PathMatch { pattern: Some(pattern) }
}

/// Header matches, names in lower case. Gateway API: of entries with one name, only the first counts.
pub(super) fn named_headers(matches: &[NamedMatch]) -> Vec<wire::KeyMatch> {
    first_of_each(matches.iter().map(|m| named(m.name.to_ascii_lowercase(), m)))
}

/// Query parameter matches. Gateway API: of entries with one name, only the first counts.
pub(super) fn named_query(matches: &[NamedMatch]) -> Vec<wire::KeyMatch> {
    first_of_each(matches.iter().map(|m| named(m.name.clone(), m)))
}

fn named(name: String, each: &NamedMatch) -> wire::KeyMatch {
    let pattern = match each.r#type {
        MatchType::Exact => string_match::Pattern::Exact(each.value.clone()),
        MatchType::RegularExpression => string_match::Pattern::Regex(each.value.clone()),
    };
    wire::KeyMatch { name, value: Some(wire::StringMatch { pattern: Some(pattern) }) }
}

fn first_of_each(matches: impl Iterator<Item = wire::KeyMatch>) -> Vec<wire::KeyMatch> {
    let mut kept: Vec<wire::KeyMatch> = Vec::new();
    for each in matches {
        if !kept.iter().any(|k| k.name == each.name) {
            kept.push(each);
        }
    }
    kept
}

/// Header matches of our kinds, names in lower case. All of them count, also of one name.
pub(super) fn headers(matches: &[KeyMatch]) -> Vec<wire::KeyMatch> {
    matches.iter().map(|each| wire::KeyMatch { name: each.name.to_ascii_lowercase(), ..key(each) }).collect()
}

/// Matches of query parameters or cookies.
pub(super) fn keys(matches: &[KeyMatch]) -> Vec<wire::KeyMatch> {
    matches.iter().map(key).collect()
}

fn key(each: &KeyMatch) -> wire::KeyMatch {
    let value = each.value.clone().unwrap_or_default();
    let pattern = match each.r#type {
        KeyMatchType::Exact => string_match::Pattern::Exact(value),
        KeyMatchType::Prefix => string_match::Pattern::Prefix(value),
        KeyMatchType::RegularExpression => string_match::Pattern::Regex(value),
        KeyMatchType::Present => string_match::Pattern::Present(true),
        KeyMatchType::Absent => string_match::Pattern::Present(false),
    };
    wire::KeyMatch { name: each.name.clone(), value: Some(wire::StringMatch { pattern: Some(pattern) }) }
}

pub(super) fn principal(kind: principal::Kind) -> wire::Principal {
    wire::Principal { kind: Some(kind) }
}

/// The identity of a `NAMESPACE/NAME` of the mesh's own trust domain.
pub(super) fn service_account(trust_domain: &str, account: &str) -> wire::Principal {
    let (namespace, name) = account.split_once('/').unwrap_or_default();
    principal(principal::Kind::Identity(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{name}")))
}

pub(super) fn stickiness(on: &Stickiness) -> wire::Stickiness {
    let header = on.header.as_ref().map(|name| stickiness::Key::Header(name.to_ascii_lowercase()));
    let cookie = on.cookie.as_ref().map(|name| stickiness::Key::Cookie(name.clone()));
    wire::Stickiness { key: header.or(cookie).or(on.caller.map(stickiness::Key::Caller)) }
}
