//! `TrafficPolicy`: how calls of a service are carried.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, OnControlPlaneLoss, OnFallbackFailure, OnSidecarFailure, Retry, Status, Stickiness};

/// How calls of Services are carried. Field by field, a policy for a Service goes before one for its Namespace,
/// and that before one for the Mesh; among equals the older one goes first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "outrigger.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "trp",
    category = "mesh",
    label("gateway.networking.k8s.io/policy", "Inherited"),
    doc = "How calls of a Service, of a namespace's Services or of the whole mesh are carried: balancing, connections, ejection, retries, timeouts, behaviour on failure.",
    printcolumn(name = "Targets", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(name = "Balancer", type_ = "string", json_path = ".spec.loadBalancer.type", priority = 1),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// What the policy is for.
    #[schemars(length(min = 1, max = 16))]
    pub target_refs: Vec<TrafficTarget>,
    /// Which endpoint gets a request or connection. Default: LeastRequest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Limits of each calling proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<Connections>,
    /// When an endpoint that fails is left alone for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_ejection: Option<OutlierEjection>,
    /// Retries at most, in percent of the requests of the last ten seconds. Default: 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub retry_budget_percent: Option<i32>,
    /// Trying again, where the route doesn't say. Default: one more try where a connection broke under a request
    /// without a body and of an idempotent method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// From the first byte of a request to the last byte of its answer, all tries together, where the route doesn't say.
    /// Zero means no limit. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Duration>,
    /// What happens to the traffic of the target's workloads while their sidecar is down. Default: the MeshConfig's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_sidecar_failure: Option<OnSidecarFailure>,
    /// What happens to the traffic of the target's workloads while no shared proxy answers either.
    /// Default: the MeshConfig's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_fallback_failure: Option<OnFallbackFailure>,
    /// What becomes of calls to the target's workloads while their proxy hears from no control plane, and its policies may be
    /// out of date. Default: the MeshConfig's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_control_plane_loss: Option<OnControlPlaneLoss>,
    /// How long a proxy must have been without one before that. It counts anew when the proxy restarts.
    /// Default: the MeshConfig's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_loss_grace: Option<Duration>,
}

/// What a TrafficPolicy is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrafficTargetKind {
    /// A Service of the policy's namespace.
    #[default]
    Service,
    /// Every Service of the policy's namespace.
    Namespace,
    /// Every Service. Only in the namespace `outrigger-system`.
    Mesh,
}

/// A Service, a Namespace or the Mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTarget {
    /// Kind of the target.
    pub kind: TrafficTargetKind,
    /// Name of the Service; the policy's own namespace for kind Namespace; `default` for kind Mesh.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancerType {
    /// The better of two endpoints drawn at random, by outstanding requests and latency.
    #[default]
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// At random.
    Random,
    /// The same endpoint for the same `hashOn`, as far as endpoints come and go (Maglev). Requests without that header
    /// or cookie are spread as with LeastRequest, and so are connections where requests can't be seen, unless `hashOn`
    /// is the caller.
    ConsistentHash,
}

/// Which endpoint gets a request or connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.hashOn) == (self.type == 'ConsistentHash')")
    .message("hashOn is needed with type ConsistentHash and must be left out otherwise"))]
pub struct LoadBalancer {
    /// How an endpoint is chosen.
    pub r#type: LoadBalancerType,
    /// What is hashed, with type ConsistentHash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<Stickiness>,
}

/// Limits of each calling proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// Requests in flight from one proxy to the service at once, or connections where requests can't be seen. More are
    /// answered with 503 (gRPC: RESOURCE_EXHAUSTED) or closed; nothing waits. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max: Option<i32>,
    /// How long a connection may take to be made. Default: 2s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
}

/// When an endpoint that fails is left alone for a while.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutlierEjection {
    /// Failures in a row that eject it: answers 5xx, broken connections, timeouts. Default: 5. One that nobody answers at is
    /// left alone at once, whatever this says, until it answers a trial.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub consecutive_failures: Option<i32>,
    /// Length of the first ejection; it doubles with each in a row, up to a minute. Default: 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<Duration>,
    /// Share of the endpoints that may be ejected at a time, in percent. Default: 50.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<i32>,
    /// `true` turns ejection off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}
