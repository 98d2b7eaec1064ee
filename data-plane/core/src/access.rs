//! Who may call what: evaluates the access policies of one workload. Decides only; the proxy enforces, and decides
//! by itself about callers without identity in strict mode.

use std::{cell::OnceCell, sync::Arc};

use http::{HeaderMap, Method};
use outrigger_wire::proto::config::access_policy::Action;

use crate::{
    config::{AccessPolicy, AccessRule, Inbound, Probe},
    host::host_of,
    path::other_readings,
    route::CallerView,
};

/// What is asked of the policies.
#[derive(Debug, Clone, Copy)]
pub struct AccessRequest<'a> {
    pub caller: CallerView<'a>,
    /// Port of the workload, not of a service.
    pub port: u16,
    /// `None` on a connection whose requests can't be seen.
    pub http: Option<HttpView<'a>>,
}

/// What of a request policies look at.
#[derive(Debug, Clone, Copy)]
pub struct HttpView<'a> {
    pub method: &'a Method,
    /// Normalised, see [`path`](crate::path).
    pub path: &'a str,
    /// The authority; port, trailing dot and case don't count.
    pub host: &'a str,
    pub headers: &'a HeaderMap,
}

/// What the policies say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict<'a> {
    pub allowed: bool,
    /// Who decided. `None` if nobody did: no policy speaks of it, or none of those that allow does.
    pub policy: Option<&'a Arc<str>>,
    /// The auditing policies that match; empty, and then without allocation, for most requests.
    pub audits: Vec<&'a Arc<str>>,
}

// === impl Inbound ===

impl Inbound {
    /// A policy that denies wins; then, if there is any that allows, one of them must match.
    pub fn authorise(&self, request: &AccessRequest<'_>) -> Verdict<'_> {
        let readings = Readings::of(request.http.as_ref().map_or("", |http| http.path));
        let matching = |action| {
            let readings = &readings;
            self.policies.iter().filter(move |policy| policy.action == action && policy.matches(request, readings))
        };
        let audits = matching(Action::Audit).map(|policy| &policy.name).collect();
        if let Some(denied) = matching(Action::Deny).next() {
            return Verdict { allowed: false, policy: Some(&denied.name), audits };
        }
        let allowed = matching(Action::Allow).next();
        let closed = allowed.is_none() && self.policies.iter().any(|policy| policy.action == Action::Allow);
        Verdict { allowed: !closed, policy: allowed.map(|policy| &policy.name), audits }
    }

    /// Whether this is what the platform asks about health: let in without an identity, and whatever policies say.
    /// `path` is normalised.
    pub fn is_probe(&self, port: u16, method: &Method, path: &str) -> bool {
        self.probes.iter().any(|probe| probe.port == port && *probe.path == *path && probe.asks_by(method))
    }

    /// Whether the platform asks about health on this port.
    pub fn is_probed(&self, port: u16) -> bool {
        self.probes.iter().any(|probe| probe.port == port)
    }

    /// Whether some policy wants to see the requests on this port.
    pub fn needs_http(&self, port: u16) -> bool {
        self.policies
            .iter()
            .flat_map(|policy| &policy.rules)
            .any(|rule| rule.covers(port) && rule.has_http_conditions())
    }
}

// === impl Probe ===

impl Probe {
    /// Of gRPC's health checking protocol.
    pub const GRPC_PATH: &str = "/grpc.health.v1.Health/Check";

    fn asks_by(&self, method: &Method) -> bool {
        match *method {
            Method::POST => self.grpc,
            Method::GET | Method::HEAD => !self.grpc,
            _ => false,
        }
    }
}

// === impl AccessPolicy ===

impl AccessPolicy {
    fn matches(&self, request: &AccessRequest<'_>, readings: &Readings<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(request, readings, self.action))
    }
}

// === impl AccessRule ===

impl AccessRule {
    fn matches(&self, request: &AccessRequest<'_>, readings: &Readings<'_>, action: Action) -> bool {
        self.covers(request.port)
            && (self.from.is_empty() || self.from.iter().any(|from| from.matches(request.caller)))
            && !self.not_from.iter().any(|from| from.matches(request.caller))
            && match &request.http {
                Some(http) => self.matches_http(http, readings, action),
                // Unseen, it may be what a rule denies, and may not be what a rule allows.
                None => !self.has_http_conditions() || action == Action::Deny,
            }
    }

    fn covers(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    fn has_http_conditions(&self) -> bool {
        !(self.methods.is_empty()
            && self.paths.is_empty()
            && self.not_paths.is_empty()
            && self.hosts.is_empty()
            && self.headers.is_empty())
    }

    fn matches_http(&self, http: &HttpView<'_>, readings: &Readings<'_>, action: Action) -> bool {
        let host = host_of(http.host);
        (self.methods.is_empty() || self.methods.contains(http.method))
            && self.matches_path(readings, action)
            && (self.hosts.is_empty() || self.hosts.iter().any(|expected| expected.eq_ignore_ascii_case(host)))
            && self.headers.iter().all(|header| match action {
                Action::Allow => header.matches_all(http.headers),
                Action::Deny | Action::Audit => header.matches_any(http.headers),
            })
    }

    /// What denies looks for any reading, what allows wants all.
    fn matches_path(&self, readings: &Readings<'_>, action: Action) -> bool {
        if self.paths.is_empty() && self.not_paths.is_empty() {
            return true;
        }
        let matches = |path: &str| {
            (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches(path)))
                && !self.not_paths.iter().any(|pattern| pattern.matches(path))
        };
        match action {
            Action::Allow => readings.all(matches),
            Action::Deny | Action::Audit => readings.any(matches),
        }
    }
}

// === impl Readings ===

/// A normal path and what else apps read from it: some take an encoded slash for a slash or cut path parameters off, some
/// don't. Looked for once, by the first rule that has to do with paths.
struct Readings<'a> {
    path: &'a str,
    others: OnceCell<Vec<String>>,
}

impl<'a> Readings<'a> {
    fn of(path: &'a str) -> Self {
        Self { path, others: OnceCell::new() }
    }

    fn any(&self, matches: impl Fn(&str) -> bool) -> bool {
        matches(self.path) || self.others().iter().any(|other| matches(other))
    }

    fn all(&self, matches: impl Fn(&str) -> bool) -> bool {
        matches(self.path) && self.others().iter().all(|other| matches(other))
    }

    fn others(&self) -> &[String] {
        self.others.get_or_init(|| other_readings(self.path))
    }
}

#[cfg(test)]
mod tests;
