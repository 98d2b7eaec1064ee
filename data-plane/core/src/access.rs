//! Who may call what: evaluates the access policies of one workload. Decides only; the proxy enforces, and decides
//! by itself about callers without identity in strict mode.

use std::sync::Arc;

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
        let matching =
            |action| self.policies.iter().filter(move |policy| policy.action == action && policy.matches(request));
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
    fn matches(&self, request: &AccessRequest<'_>) -> bool {
        self.rules.iter().any(|rule| rule.matches(request, self.action))
    }
}

// === impl AccessRule ===

impl AccessRule {
    fn matches(&self, request: &AccessRequest<'_>, action: Action) -> bool {
        self.covers(request.port)
            && (self.from.is_empty() || self.from.iter().any(|from| from.matches(request.caller)))
            && !self.not_from.iter().any(|from| from.matches(request.caller))
            && match &request.http {
                Some(http) => self.matches_http(http, action),
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

    fn matches_http(&self, http: &HttpView<'_>, action: Action) -> bool {
        let host = host_of(http.host);
        (self.methods.is_empty() || self.methods.contains(http.method))
            && self.matches_path(http.path, action)
            && (self.hosts.is_empty() || self.hosts.iter().any(|expected| expected.eq_ignore_ascii_case(host)))
            && self.headers.iter().all(|header| match action {
                Action::Allow => header.matches_all(http.headers),
                Action::Deny | Action::Audit => header.matches_any(http.headers),
            })
    }

    /// Some apps take an encoded slash for a slash or cut path parameters off, some don't. What denies looks for any
    /// reading, what allows wants all.
    fn matches_path(&self, path: &str, action: Action) -> bool {
        let matches = |path: &str| {
            (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches(path)))
                && !self.not_paths.iter().any(|pattern| pattern.matches(path))
        };
        if self.paths.is_empty() && self.not_paths.is_empty() {
            return true;
        }
        let others = other_readings(path);
        let mut others = others.iter().map(String::as_str);
        match action {
            Action::Allow => matches(path) && others.all(matches),
            Action::Deny | Action::Audit => matches(path) || others.any(matches),
        }
    }
}

#[cfg(test)]
mod tests;
