//! Compiled configuration: what the wire's messages become once they have been checked.
//! A message that doesn't compile is refused with a [`CompileError`] that names the field; the last good one stays.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrigger_wire::{SpiffeId, proto::config as wire};

pub use wire::Protocol;
pub use wire::fallback::{OnControlPlaneLoss, OnFallbackFailure, OnSidecarFailure};
pub use wire::traffic_policy::Balancer;

mod compile;
mod matchers;

pub(crate) use matchers::cookies;
pub use matchers::{BadIpBlock, IpBlock, KeyMatch, PathMatch, Principal, StringMatch};

/// Why a resource is refused.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{resource}: {field}: {problem}")]
pub struct CompileError {
    pub resource: String,
    pub field: &'static str,
    pub problem: String,
}

/// A service as apps call it.
#[derive(Debug)]
pub struct Service {
    /// `NAMESPACE/NAME`, or `@ADDRESS` for a pod called by its own address.
    pub name: Arc<str>,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    pub tables: Vec<RouteTable>,
    pub policy: TrafficPolicy,
    /// For a pod called by its own address: the only endpoint, on whichever port was called.
    pub direct: Option<EndpointSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    pub port: u16,
    pub name: Arc<str>,
    pub protocol: Protocol,
}

#[derive(Debug)]
pub struct RouteTable {
    /// Empty for producer routes.
    pub consumer_namespace: Box<str>,
    /// `None` for all ports.
    pub port: Option<u16>,
    pub entries: Vec<RouteEntry>,
    pub rules: Vec<Arc<Rule>>,
}

#[derive(Debug)]
pub struct RouteEntry {
    pub matches: RouteMatch,
    pub rule: usize,
}

#[derive(Debug, Default)]
pub struct RouteMatch {
    pub path: Option<PathMatch>,
    pub method: Option<Method>,
    pub headers: Vec<KeyMatch<HeaderName>>,
    pub query: Vec<KeyMatch<Box<str>>>,
    pub cookies: Vec<KeyMatch<Box<str>>>,
    pub callers: Vec<Principal>,
    /// Parts per million; 1,000,000 is all.
    pub share_ppm: u32,
}

#[derive(Debug)]
pub struct Rule {
    pub name: Arc<str>,
    pub filters: Filters,
    pub backends: Vec<Backend>,
    pub total_weight: u32,
    /// `None`: as the backend's policy says. Zero: no limit.
    pub request_timeout: Option<Duration>,
    pub backend_timeout: Option<Duration>,
    pub retry: Option<Retry>,
    pub grpc: bool,
    pub stickiness: Option<HashKey>,
}

#[derive(Debug)]
pub struct Backend {
    pub service: Arc<str>,
    pub port: u16,
    pub weight: u32,
    pub filters: Filters,
    /// Its share is answered with 500.
    pub invalid: bool,
}

/// Filters of one rule or backend, sorted by when they act.
#[derive(Debug, Default)]
pub struct Filters {
    pub request_headers: Vec<HeaderChange>,
    pub response_headers: Vec<HeaderChange>,
    pub rewrite_host: Option<HeaderValue>,
    pub rewrite_path: Option<PathChange>,
    pub mirrors: Vec<Mirror>,
    pub fault: Option<Fault>,
    /// Answers without a backend.
    pub answer: Option<Answer>,
}

#[derive(Debug)]
pub enum Answer {
    Redirect(Redirect),
    Direct { status: StatusCode, body: bytes::Bytes, content_type: HeaderValue },
}

#[derive(Debug, Default)]
pub struct HeaderChange {
    pub set: Vec<(HeaderName, HeaderValue)>,
    pub add: Vec<(HeaderName, HeaderValue)>,
    pub remove: Vec<HeaderName>,
}

#[derive(Debug)]
pub enum PathChange {
    Full(Box<str>),
    /// Replaces the prefix that the rule matched.
    Prefix(Box<str>),
}

#[derive(Debug)]
pub struct Redirect {
    pub scheme: Option<Box<str>>,
    pub hostname: Option<Box<str>>,
    pub path: Option<PathChange>,
    pub port: Option<u16>,
    pub status: StatusCode,
}

#[derive(Debug)]
pub struct Mirror {
    pub backend: Backend,
    pub share_ppm: u32,
}

#[derive(Debug)]
pub struct Fault {
    pub delay: Duration,
    pub delay_share_ppm: u32,
    pub abort: Option<StatusCode>,
    pub abort_share_ppm: u32,
}

#[derive(Debug, Clone)]
pub struct Retry {
    /// Tries after the first; 0 is none.
    pub attempts: u32,
    pub codes: Vec<u16>,
    pub backoff: Duration,
    /// The owner says that every method may be tried again.
    pub non_idempotent: bool,
}

#[derive(Debug)]
pub enum HashKey {
    Header(HeaderName),
    Cookie(Box<str>),
    /// Its identity, or its address where it has none.
    Caller,
}

#[derive(Debug)]
pub struct TrafficPolicy {
    pub balancer: Balancer,
    pub hash_on: Option<HashKey>,
    /// Requests or opaque connections in flight at once.
    pub max_connections: Option<u32>,
    pub connect_timeout: Duration,
    pub request_timeout: Option<Duration>,
    /// `None`: ejection is off.
    pub ejection: Option<Ejection>,
    pub retry_budget_percent: u32,
    pub retry: Option<Retry>,
    pub source: Arc<str>,
}

#[derive(Debug, Clone)]
pub struct Ejection {
    pub consecutive_failures: u32,
    pub base: Duration,
    pub max_percent: u32,
}

/// What the control plane says of one endpoint. The balancer's live state is beside it, in
/// [`Endpoint`](crate::balance::Endpoint).
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    /// Name of the service (`NAMESPACE/NAME`).
    pub service: Arc<str>,
    pub workload: Arc<str>,
    pub address: IpAddr,
    /// (service port, port on the endpoint). A port that isn't listed maps to itself.
    pub ports: Vec<(u16, u16)>,
    pub identity: Option<SpiffeId>,
    pub meshed: bool,
    pub zone: Arc<str>,
    pub weight: u32,
    pub draining: bool,
}

/// What one workload accepts.
#[derive(Debug)]
pub struct Inbound {
    pub workload: Arc<str>,
    pub identity: SpiffeId,
    pub addresses: Vec<IpAddr>,
    pub strict: bool,
    pub ports: Vec<ServicePort>,
    pub policies: Vec<AccessPolicy>,
    pub fallback: Fallback,
    pub acting_identities: Vec<SpiffeId>,
    /// Where it runs; empty if unknown.
    pub zone: Box<str>,
    /// What the platform asks about its health, without an identity.
    pub probes: Vec<Probe>,
}

/// One question about a workload's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub port: u16,
    /// Normalised, see [`path`](crate::path).
    pub path: Box<str>,
    pub grpc: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Fallback {
    pub on_sidecar_failure: OnSidecarFailure,
    pub on_fallback_failure: OnFallbackFailure,
    /// `NAMESPACE/NAME` of the shared proxies' service.
    pub shared_service: Option<Arc<str>>,
    pub on_control_plane_loss: OnControlPlaneLoss,
    /// From the loss on.
    pub control_plane_loss_grace: Duration,
}

#[derive(Debug)]
pub struct AccessPolicy {
    pub name: Arc<str>,
    pub action: wire::access_policy::Action,
    pub rules: Vec<AccessRule>,
}

#[derive(Debug, Default)]
pub struct AccessRule {
    pub from: Vec<Principal>,
    pub not_from: Vec<Principal>,
    pub ports: Vec<u16>,
    pub methods: Vec<Method>,
    pub paths: Vec<PathMatch>,
    pub not_paths: Vec<PathMatch>,
    pub hosts: Vec<Box<str>>,
    pub headers: Vec<KeyMatch<HeaderName>>,
}

/// Roots of one trust domain, DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    pub trust_domain: Box<str>,
    pub roots: Vec<bytes::Bytes>,
    /// Which of them signs now, as the authority calls it; "" if nobody says.
    pub anchor: Box<str>,
}
