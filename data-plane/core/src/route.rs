//! Which rule of a table a request meets, which backend it goes to, and what a rule changes in it.
//! Decides only; sends nothing.

use std::{fmt::Write as _, net::IpAddr, sync::Arc};

use http::{HeaderMap, Method};
use outrigger_wire::SpiffeId;

use crate::{
    config::{Backend, HashKey, HeaderChange, PathChange, Redirect, RouteMatch, RouteTable, Rule, cookies},
    hash::{hash, mix, scale},
    host::host_of,
};

/// Parts per million in the whole.
pub(crate) const MILLION: u32 = 1_000_000;

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct CallerView<'a> {
    /// What the caller has proved.
    pub identity: Option<&'a SpiffeId>,
    pub address: IpAddr,
}

/// What of a request routing looks at.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    pub method: &'a Method,
    /// Normalised, see [`path`](crate::path).
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub caller: CallerView<'a>,
}

/// The rule that decides a request.
#[derive(Debug, Clone, Copy)]
pub struct Selected<'a> {
    pub rule: &'a Arc<Rule>,
    /// What of the table's entries the request met.
    pub matched: &'a RouteMatch,
    /// The path prefix that matched, which [`PathChange::Prefix`] replaces.
    pub prefix: Option<&'a str>,
}

/// The number that stands for a request's key, if it has that key.
pub fn hash_of(key: &HashKey, request: &RequestView<'_>) -> Option<u64> {
    match key {
        HashKey::Header(name) => request.headers.get(name).map(|value| hash(value.as_bytes())),
        HashKey::Cookie(name) => cookies(request.headers, name).next().map(hash),
        HashKey::Caller => Some(hash_of_caller(request.caller)),
    }
}

/// The number that stands for a caller: for its identity, or its address where it has none.
pub fn hash_of_caller(caller: CallerView<'_>) -> u64 {
    match (caller.identity, caller.address.to_canonical()) {
        (Some(identity), _) => hash(identity.as_str().as_bytes()),
        (None, IpAddr::V4(address)) => hash(&address.octets()),
        (None, IpAddr::V6(address)) => hash(&address.octets()),
    }
}

// === impl RouteTable ===

impl RouteTable {
    /// The rule of the first entry that matches. `random` is asked only by entries for a share of the requests.
    pub fn select(&self, request: &RequestView<'_>, random: &mut dyn FnMut() -> u32) -> Option<Selected<'_>> {
        let entry = self.entries.iter().find(|entry| entry.matches.matches(request, random))?;
        let prefix = match &entry.matches.path {
            Some(path) => path.prefix(),
            // No path match is the prefix "/".
            None => Some(""),
        };
        Some(Selected { rule: self.rules.get(entry.rule)?, matched: &entry.matches, prefix })
    }
}

// === impl RouteMatch ===

impl RouteMatch {
    fn matches(&self, request: &RequestView<'_>, random: &mut dyn FnMut() -> u32) -> bool {
        self.path.as_ref().is_none_or(|path| path.matches(request.path))
            && self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|header| header.matches_any(request.headers))
            && self.query.iter().all(|parameter| parameter.matches_query(request.query))
            && self.cookies.iter().all(|cookie| cookie.matches_cookie(request.headers))
            && (self.callers.is_empty() || self.callers.iter().any(|caller| caller.matches(request.caller)))
            && (self.share_ppm >= MILLION || scale(random(), MILLION) < self.share_ppm)
    }
}

// === impl Rule ===

impl Rule {
    /// One backend by weight: by `sticky` where there is one, so that equal keys stay together, else by `random`.
    /// `None` if no backend has a weight.
    pub fn backend(&self, random: u32, sticky: Option<u64>) -> Option<&Backend> {
        // Mixed once more, so that the balancer, which gets the same number, doesn't see only a part of its range.
        let random = sticky.map_or(random, |key| (mix(key) >> 32) as u32);
        let mut point = scale(random, self.total_weight);
        self.backends.iter().find(|backend| {
            let found = point < backend.weight;
            point = point.saturating_sub(backend.weight);
            found
        })
    }
}

// === impl PathChange ===

impl PathChange {
    /// The new path (Gateway API, `HTTPPathModifier`). A prefix is replaced only where a prefix matched.
    pub fn apply(&self, path: &str, matched_prefix: Option<&str>) -> String {
        match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix(replacement) => {
                let matched = matched_prefix.map(|prefix| prefix.trim_end_matches('/'));
                let Some(rest) = matched.and_then(|prefix| path.strip_prefix(prefix)) else {
                    return path.to_owned();
                };
                let new = format!("{}{rest}", replacement.trim_end_matches('/'));
                if new.is_empty() { "/".to_owned() } else { new }
            }
        }
    }
}

// === impl Redirect ===

impl Redirect {
    /// The `location` header (Gateway API, `HTTPRequestRedirectFilter`). The arguments are the request's own.
    pub fn location(
        &self,
        scheme: &str,
        host: &str,
        port: u16,
        path: &str,
        query: Option<&str>,
        matched_prefix: Option<&str>,
    ) -> String {
        let new_scheme = self.scheme.as_deref().unwrap_or(scheme);
        let default_port = match new_scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let derived_port = if self.scheme.is_some() { default_port.unwrap_or(port) } else { port };
        let new_port = self.port.unwrap_or(derived_port);
        let mut location = format!("{new_scheme}://{}", self.hostname.as_deref().unwrap_or(host_of(host)));
        // Writing to a string can't fail.
        if Some(new_port) != default_port {
            let _ = write!(location, ":{new_port}");
        }
        match &self.path {
            Some(change) => location.push_str(&change.apply(path, matched_prefix)),
            None => location.push_str(path),
        }
        if let Some(query) = query {
            let _ = write!(location, "?{query}");
        }
        location
    }
}

// === impl HeaderChange ===

impl HeaderChange {
    /// Removes, then sets, then adds.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests;
