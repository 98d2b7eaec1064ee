//! `MeshConfig`: what holds for the whole mesh.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Duration, OnControlPlaneLoss, OnFallbackFailure, OnSidecarFailure, Status};

/// What holds for the whole mesh. There is one, named `default`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "outrigger.dev",
    version = "v1alpha1",
    kind = "MeshConfig",
    status = "Status",
    derive = "PartialEq",
    shortname = "mcfg",
    category = "mesh",
    doc = "What holds for the whole mesh: trust domain, mTLS, fallback, defaults. There is one, named `default`.",
    validation = Rule::new("self.metadata.name == 'default'").message("the only MeshConfig is named default"),
    printcolumn(name = "Trust-Domain", type_ = "string", json_path = ".spec.trustDomain"),
    printcolumn(name = "mTLS", type_ = "string", json_path = ".spec.mtls.mode"),
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
pub struct MeshConfigSpec {
    /// Trust domain of the mesh's identities: the first part of every SPIFFE ID. Default: the controller's
    /// (`cluster.local`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    pub trust_domain: Option<String>,
    /// Encryption between workloads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// What carries a workload's traffic while its sidecar can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// What a workload does with calls where no AccessPolicy with action Allow is for it. Default: Allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_default: Option<AccessDefault>,
}

/// Encryption between workloads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// What meshed workloads accept.
    #[serde(default)]
    pub mode: MtlsMode,
}

/// What meshed workloads accept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MtlsMode {
    /// Mutual TLS only; plaintext is refused.
    Strict,
    /// Mutual TLS, and plaintext from what isn't meshed.
    #[default]
    Permissive,
}

/// What carries a workload's traffic while its sidecar can't.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// The shared proxies. Default: Service `outrigger-shared` in namespace `outrigger-system`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_proxy: Option<SharedProxy>,
    /// Shared proxies of their own for some namespaces: their pods use these and no others, and no other pods use them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new(
            "self.all(pool, pool.namespaces.all(name, self.filter(other, name in other.namespaces).size() == 1))")
        .message("each namespace is in one pool only"))]
    pub pools: Vec<SharedPool>,
    /// What happens while a sidecar is down.
    #[serde(default)]
    pub on_sidecar_failure: OnSidecarFailure,
    /// What happens while no shared proxy answers either.
    #[serde(default)]
    pub on_fallback_failure: OnFallbackFailure,
    /// What becomes of calls while a proxy hears from no control plane.
    #[serde(default)]
    pub on_control_plane_loss: OnControlPlaneLoss,
    /// How long a proxy must have been without one before that. It counts anew when the proxy restarts. Default: 10m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_plane_loss_grace: Option<Duration>,
}

/// The Service of the shared proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedProxy {
    /// Namespace of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub service: String,
}

/// Shared proxies of some namespaces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedPool {
    /// Names of the namespaces; each is in one pool only.
    #[schemars(length(min = 1, max = 64), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("self.all(name, self.filter(other, other == name).size() == 1)")
        .message("each namespace is named once"))]
    pub namespaces: Vec<String>,
    /// The shared proxies of these namespaces.
    pub shared_proxy: SharedProxy,
}

/// What happens to calls that no AccessPolicy speaks of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessDefault {
    /// They are allowed.
    #[default]
    Allow,
    /// They are denied.
    Deny,
}
