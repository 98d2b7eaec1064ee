//! What the mesh is built from: plain facts, gathered by a source (a cluster, a folder) and not yet joined.
//! Where what users wrote has the wire's shape already, the wire's message is used; its references (backends) are
//! what users asked for and are only resolved by [`build`](crate::build()). Names of namespaced things are
//! `NAMESPACE/NAME`, origins are `KIND/NAMESPACE/NAME`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use bytes::Bytes;
use outrigger_wire::{names, proto::config as wire};

/// Everything at one moment. The order within each list carries no meaning.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    pub mesh: MeshSettings,
    pub namespaces: Vec<Namespace>,
    pub services: Vec<Service>,
    /// Services that are names for something outside, `NAMESPACE/NAME`: the mesh doesn't carry what is sent to them.
    pub external_names: BTreeSet<String>,
    pub workloads: Vec<Workload>,
    pub endpoints: Vec<Endpoint>,
    pub routes: Vec<Route>,
    pub grants: Vec<Grant>,
    pub traffic_policies: Vec<TrafficPolicy>,
    pub access_policies: Vec<AccessPolicy>,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshSettings {
    pub origin: String,
    pub trust_domain: String,
    pub mtls: wire::inbound::Mtls,
    pub on_sidecar_failure: wire::fallback::OnSidecarFailure,
    pub on_fallback_failure: wire::fallback::OnFallbackFailure,
    pub on_control_plane_loss: wire::fallback::OnControlPlaneLoss,
    pub control_plane_loss_grace_ms: u64,
    /// `NAMESPACE/NAME` of the shared proxies' service. It needn't exist.
    pub shared_service: String,
    /// Shared proxies of some namespaces, each of which is in one pool.
    pub pools: Vec<SharedPool>,
    pub access_default: AccessDefault,
    /// Certificates that members of the trust domain are verified against, DER.
    pub roots: Vec<Bytes>,
    /// Which of them signs now; "" if nobody says.
    pub anchor: String,
}

/// Workloads of these namespaces use these shared proxies, and no others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SharedPool {
    pub namespaces: Vec<String>,
    /// As [`MeshSettings::shared_service`].
    pub service: String,
}

/// Verdict on requests to a workload that no ALLOW policy selects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccessDefault {
    #[default]
    Allow,
    Deny,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Namespace {
    pub name: String,
    /// What its workloads are unless they say otherwise.
    pub mode: Option<Mode>,
}

/// Enrolment of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Own proxy and guard.
    Sidecar,
    /// Guard only; the shared proxies act for it.
    Shared,
    /// Not in the mesh.
    None,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Service {
    pub origin: String,
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<Port>,
}

/// A port of a service or of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Port {
    pub port: u16,
    pub name: String,
    pub protocol: wire::Protocol,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Workload {
    pub origin: String,
    pub namespace: String,
    pub name: String,
    pub service_account: String,
    pub addresses: Vec<IpAddr>,
    pub addressing: Addressing,
    /// Kept once for those of one template.
    pub labels: Arc<BTreeMap<String, String>>,
    pub ports: Vec<Port>,
    pub zone: String,
    /// Share of its services' traffic relative to other endpoints; 0 is 1.
    pub weight: u32,
    /// `None`: as its namespace.
    pub mode: Option<Mode>,
    /// Finishes what it has and gets nothing new.
    pub draining: bool,
    /// What the platform asks it about its health; let in without mTLS and whatever the policies say.
    pub probes: Vec<wire::Probe>,
}

/// Whose a workload's addresses are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Somebody wrote that they are its own.
    #[default]
    Claimed,
    /// The platform gave them to it and to nobody else: that counts before what somebody wrote.
    Assigned,
    /// They are a node's, or of something outside: several may have the same. Calls of such an address aren't calls of the
    /// workload, and it is never enrolled.
    Shared,
}

/// One workload behind one service; selectors and named ports are resolved already.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Endpoint {
    pub service: String,
    pub workload: String,
    /// Which of the workload's addresses; `None`: the first.
    pub address: Option<IpAddr>,
    /// (port of the service, port of the workload).
    pub ports: Vec<(u16, u16)>,
    pub state: EndpointState,
}

/// What an endpoint takes. Whatever it is, policies of the service are in force at the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EndpointState {
    #[default]
    Ready,
    /// Finishes what it has and gets nothing new.
    Draining,
    /// Gets nothing; callers don't know of it.
    Unready,
}

/// A route of either family.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub kind: RouteKind,
    pub namespace: String,
    pub name: String,
    /// Unix time in seconds; older routes win. `None` is the youngest.
    pub created: Option<i64>,
    pub parents: Vec<RouteParent>,
    pub rules: Vec<RouteRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    HttpRoute,
    GrpcRoute,
    MeshRoute,
}

/// Service that a route attaches to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteParent {
    /// Position in the object's `parentRefs`.
    pub index: usize,
    pub service: String,
    /// `None`: all ports.
    pub port: Option<u16>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteRule {
    pub name: Option<String>,
    /// Any of; empty matches every request.
    pub matches: Vec<RouteMatch>,
    pub filters: Vec<wire::Filter>,
    /// Port 0: the only port that the service has.
    pub backends: Vec<wire::Backend>,
    /// `None`: as the backend's traffic policy says. 0: no limit.
    pub request_timeout_ms: Option<u64>,
    /// 0: no limit.
    pub backend_timeout_ms: u64,
    pub retry: Option<wire::Retry>,
    pub stickiness: Option<wire::Stickiness>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteMatch {
    /// Its path is unset if `grpc` is set.
    pub request: wire::RouteMatch,
    pub grpc: Option<GrpcMethod>,
}

/// A gRPC method, or all of a service, or those of one name in every service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrpcMethod {
    pub service: Option<String>,
    pub method: Option<String>,
    /// Both are regular expressions.
    pub regex: bool,
}

/// A ReferenceGrant: its namespace's services may be named by routes of other namespaces.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grant {
    pub namespace: String,
    pub from: Vec<GrantFrom>,
    /// Names of services; `None` is all.
    pub to: Vec<Option<String>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrantFrom {
    pub group: String,
    pub kind: String,
    pub namespace: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TrafficPolicy {
    pub namespace: String,
    pub name: String,
    /// As [`Route::created`].
    pub created: Option<i64>,
    pub targets: Vec<PolicyTarget>,
    pub settings: TrafficSettings,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyTarget {
    /// `NAMESPACE/NAME`.
    Service(String),
    Namespace(String),
    Mesh,
}

/// What a traffic policy sets; each field is inherited on its own.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrafficSettings {
    pub balancer: Option<wire::traffic_policy::Balancer>,
    pub hash_on: Option<wire::Stickiness>,
    pub max_connections: Option<u32>,
    pub connect_timeout_ms: Option<u64>,
    pub request_timeout_ms: Option<u64>,
    pub ejection: Option<wire::Ejection>,
    pub retry_budget_percent: Option<u32>,
    pub retry: Option<wire::Retry>,
    pub on_sidecar_failure: Option<wire::fallback::OnSidecarFailure>,
    pub on_fallback_failure: Option<wire::fallback::OnFallbackFailure>,
    pub on_control_plane_loss: Option<wire::fallback::OnControlPlaneLoss>,
    pub control_plane_loss_grace_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AccessPolicy {
    pub namespace: String,
    pub name: String,
    pub selects: Selects,
    pub action: wire::access_policy::Action,
    pub rules: Vec<wire::AccessRule>,
}

/// Which workloads of its namespace an access policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selects {
    /// All; and those of the whole mesh if the policy is in the system namespace.
    All,
    /// Those with all of these labels.
    Labels(BTreeMap<String, String>),
    /// Those behind any of these services, `NAMESPACE/NAME`.
    Services(Vec<String>),
}

// === impl MeshSettings ===

impl MeshSettings {
    /// Of all shared proxies, whosever they are.
    pub fn shared_services(&self) -> BTreeSet<&str> {
        self.pools.iter().map(|pool| &*pool.service).chain([&*self.shared_service]).collect()
    }
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            origin: "MeshConfig/default".to_owned(),
            trust_domain: names::TRUST_DOMAIN.to_owned(),
            mtls: wire::inbound::Mtls::default(),
            on_sidecar_failure: wire::fallback::OnSidecarFailure::default(),
            on_fallback_failure: wire::fallback::OnFallbackFailure::default(),
            on_control_plane_loss: wire::fallback::OnControlPlaneLoss::default(),
            control_plane_loss_grace_ms: 10 * 60 * 1000,
            shared_service: format!("{}/{}", names::SYSTEM_NAMESPACE, names::SHARED_NAME),
            pools: Vec::new(),
            access_default: AccessDefault::default(),
            roots: Vec::new(),
            anchor: String::new(),
        }
    }
}

// === impl Route ===

impl Route {
    pub fn origin(&self) -> String {
        format!("{}/{}/{}", self.kind.name(), self.namespace, self.name)
    }
}

// === impl RouteKind ===

impl RouteKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::MeshRoute => "MeshRoute",
        }
    }

    pub fn group(self) -> &'static str {
        match self {
            Self::HttpRoute | Self::GrpcRoute => "gateway.networking.k8s.io",
            Self::MeshRoute => names::GROUP,
        }
    }
}

// === impl TrafficPolicy ===

impl TrafficPolicy {
    pub fn origin(&self) -> String {
        format!("TrafficPolicy/{}/{}", self.namespace, self.name)
    }
}

// === impl AccessPolicy ===

impl AccessPolicy {
    pub fn origin(&self) -> String {
        format!("AccessPolicy/{}/{}", self.namespace, self.name)
    }
}
