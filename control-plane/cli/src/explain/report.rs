//! What `outrigger explain` found out. The JSON of `--json` is made of these types: their fields stay.

use std::net::IpAddr;

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Explanation {
    /// Whether every way that the request may take ends in an app that may be called.
    pub(crate) allowed: bool,
    /// The same in a sentence.
    pub(crate) summary: String,
    pub(crate) request: Asked,
    pub(crate) caller: Caller,
    pub(crate) destination: Destination,
    /// The rule that most of such requests meet; none if the destination has no routes for this caller and port.
    pub(crate) route: Option<Route>,
    /// Rules that the other such requests meet, where a rule is for a share of them.
    pub(crate) alternatives: Vec<Alternative>,
    /// What the caller's proxy answers without asking anybody.
    pub(crate) answer: Option<Answer>,
    /// Where the request goes.
    pub(crate) backends: Vec<Backend>,
    /// What happens if a sidecar on the way isn't there.
    pub(crate) on_sidecar_failure: Vec<Failure>,
    pub(crate) notes: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asked {
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `None` for a connection whose bytes nobody looks at.
    pub(crate) method: Option<String>,
    /// As routes and policies see it.
    pub(crate) path: Option<String>,
    pub(crate) query: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Caller {
    pub(crate) workload: String,
    /// What it proves; none for one outside of the mesh.
    pub(crate) identity: Option<String>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) zone: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Destination {
    /// `NAMESPACE/NAME`, or `@ADDRESS` for a pod called by its own; none if the mesh doesn't know it.
    pub(crate) service: Option<String>,
    pub(crate) addresses: Vec<IpAddr>,
    /// As its port is declared: `auto`, `http`, `http2` or `tcp`.
    pub(crate) protocol: &'static str,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Route {
    /// `HTTPRoute/NAMESPACE/NAME#RULE`
    pub(crate) rule: String,
    /// What of the rule's matches the request met.
    pub(crate) matched: String,
    /// Of such requests.
    pub(crate) percent: f64,
    /// Namespace whose callers the table is for; none: all.
    pub(crate) consumer_namespace: Option<String>,
    /// Changes to the request before it is sent.
    pub(crate) filters: Vec<String>,
    pub(crate) backend_timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Alternative {
    /// None: no rule, so 404.
    pub(crate) rule: Option<String>,
    pub(crate) percent: f64,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) why: String,
    pub(crate) location: Option<String>,
    /// Whether it is what an owner wrote, and no failure.
    pub(crate) intended: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Backend {
    pub(crate) service: String,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    /// Of the rule's requests.
    pub(crate) percent: f64,
    /// Why its share is answered with 500, if it is.
    pub(crate) problem: Option<String>,
    pub(crate) balancer: &'static str,
    pub(crate) request_timeout_ms: Option<u64>,
    pub(crate) connect_timeout_ms: u64,
    pub(crate) retries: Retries,
    /// Object that says so; empty for defaults.
    pub(crate) traffic_policy: String,
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Retries {
    /// After the first try; of requests that may be sent twice.
    pub(crate) attempts: u32,
    pub(crate) codes: Vec<u16>,
    /// Whether this request's method may be tried again.
    pub(crate) method_allows: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Endpoint {
    pub(crate) workload: String,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) zone: String,
    /// `ready` or `draining`
    pub(crate) state: &'static str,
    pub(crate) meshed: bool,
    pub(crate) identity: Option<String>,
    /// Of the backend's requests, as the balancer picks with nothing in flight.
    pub(crate) percent: f64,
    /// `mtls` or `plaintext`
    pub(crate) transport: &'static str,
    pub(crate) verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
    /// The policy that decides.
    pub(crate) policy: Option<String>,
    /// `strict` or `permissive`; none outside of the mesh.
    pub(crate) mtls: Option<&'static str>,
    /// Every policy that is for this workload.
    pub(crate) policies: Vec<Consulted>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Consulted {
    pub(crate) name: String,
    /// `allow`, `deny` or `audit`
    pub(crate) action: &'static str,
    /// Indexes of its rules that match.
    pub(crate) matching_rules: Vec<usize>,
    pub(crate) rules: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    pub(crate) workload: String,
    /// `fallback`, `closed` or `direct`
    pub(crate) on_sidecar_failure: &'static str,
    /// `closed` or `direct`
    pub(crate) on_fallback_failure: &'static str,
    /// `continue` or `closed`
    pub(crate) on_control_plane_loss: &'static str,
    pub(crate) control_plane_loss_grace_seconds: u64,
    pub(crate) shared_service: Option<String>,
    pub(crate) effect: String,
}
