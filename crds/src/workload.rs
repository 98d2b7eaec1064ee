//! `Workload`: an endpoint outside Kubernetes, or any endpoint in the controller's embedded mode.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Status;

/// An endpoint that isn't a pod. Services select it by its labels (`metadata.labels`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "outrigger.dev",
    version = "v1alpha1",
    kind = "Workload",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "wkl",
    category = "mesh",
    doc = "An endpoint that isn't a pod. Services of its namespace select it by its labels.",
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(name = "Service-Account", type_ = "string", json_path = ".spec.serviceAccount"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode", priority = 1),
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
pub struct WorkloadSpec {
    /// IP addresses under which it is reached, IPv4 or IPv6, without port.
    #[schemars(length(min = 1, max = 4), inner(length(min = 1, max = 45)))]
    pub addresses: Vec<String>,
    /// Service account of its namespace that it runs as: its identity is
    /// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.
    #[schemars(length(min = 1, max = 253))]
    pub service_account: String,
    /// Ports that it listens on. Needed where a Service's `targetPort` is a name, or to declare a protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub ports: Vec<WorkloadPort>,
    /// What its platform asks it about its health, in plaintext. It is let in even where mTLS is Strict, and whatever
    /// AccessPolicies say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub probes: Vec<WorkloadProbe>,
    /// Zone that it runs in; callers prefer endpoints of their own zone, if at least a third are there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// Its share of requests is its weight over the sum of all endpoints' weights. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub weight: Option<i32>,
    /// How it takes part in the mesh.
    #[serde(default)]
    pub mode: WorkloadMode,
}

/// A port of a workload.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadPort {
    /// Name that a Service's `targetPort` may refer to, unique in the workload.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// TCP port.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// What is spoken on it. Default: found out by looking at the first bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<WorkloadProtocol>,
}

/// One question about a workload's health.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadProbe {
    /// TCP port that is asked.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Path of exactly the GET and HEAD requests that ask; a query doesn't count. Without it: gRPC's
    /// `grpc.health.v1.Health/Check`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^/"))]
    pub path: Option<String>,
}

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadProtocol {
    /// HTTP/1.1, upgrades included.
    #[default]
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/2 with prior knowledge.
    #[serde(rename = "HTTP2")]
    Http2,
    /// gRPC.
    #[serde(rename = "GRPC")]
    Grpc,
    /// Opaque bytes; nothing is looked at.
    #[serde(rename = "TCP")]
    Tcp,
}

/// How a workload takes part in the mesh.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadMode {
    /// With a sidecar and a guard.
    #[default]
    Sidecar,
    /// With a guard only: a shared proxy carries its traffic.
    Shared,
    /// Not at all: it is reached in plaintext.
    None,
}
