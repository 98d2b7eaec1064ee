//! `AccessPolicy`: who may call what.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{KeyMatch, Status};

/// Who may call workloads of the policy's namespace. What a Deny policy matches is denied. If any Allow policy is for a
/// workload, what none of them matches is denied. Without one, the MeshConfig's `accessDefault` decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "outrigger.dev",
    version = "v1alpha1",
    kind = "AccessPolicy",
    plural = "accesspolicies",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "acp",
    category = "mesh",
    label("gateway.networking.k8s.io/policy", "Inherited"),
    doc = "Who may call which workloads of the policy's namespace: allow, deny or audit by identity, port, method, path and header.",
    printcolumn(name = "Action", type_ = "string", json_path = ".spec.action"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".spec.targetRefs[*].name", priority = 1),
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
#[x_kube(validation = Rule::new("!(has(self.targetRefs) && size(self.targetRefs) > 0 && has(self.selector))")
    .message("set targetRefs or selector, not both"))]
#[x_kube(validation = Rule::new("self.action == 'Allow' || (has(self.rules) && size(self.rules) > 0)")
    .message("a Deny or Audit policy without rules does nothing"))]
pub struct AccessPolicySpec {
    /// Services whose workloads the policy is for. Without `targetRefs` and `selector` it is for every workload of its
    /// namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub target_refs: Vec<AccessTarget>,
    /// Workloads (or pods) that the policy is for, by their labels. Excludes `targetRefs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<WorkloadSelector>,
    /// What happens to requests and connections that match a rule.
    pub action: AccessAction,
    /// What the policy matches; any of. An Allow policy without rules allows nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rules: Vec<AccessRule>,
}

/// What an AccessPolicy is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessTargetKind {
    /// Workloads of a Service of the policy's namespace.
    #[default]
    Service,
}

/// A Service of the policy's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessTarget {
    /// Kind of the target.
    pub kind: AccessTargetKind,
    /// Name of the target.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Workloads by their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSelector {
    /// Labels that a workload must have, with these values.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub match_labels: BTreeMap<String, String>,
}

/// What happens to what a policy matches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AccessAction {
    /// It is allowed, unless a Deny policy matches too.
    #[default]
    Allow,
    /// It is denied.
    Deny,
    /// It is recorded, whatever else is decided.
    Audit,
}

/// `from`, `notFrom` and `to` must all match. An empty rule matches everything.
///
/// Where requests can't be seen (opaque TCP), a Deny rule with conditions on requests matches and an Allow rule with
/// such conditions doesn't.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessRule {
    /// Callers; any of. Empty: everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub from: Vec<AccessSource>,
    /// Callers that don't match, even if they are in `from`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub not_from: Vec<AccessSource>,
    /// What is called; any of. Empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub to: Vec<AccessOperation>,
}

/// Callers: everyone who is any of those that are listed. At least one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessSource {
    /// Whole SPIFFE IDs, such as `spiffe://cluster.local/ns/shop/sa/front`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 2048)))]
    pub identities: Vec<String>,
    /// Namespaces: every service account in them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63)))]
    pub namespaces: Vec<String>,
    /// `NAMESPACE/NAME` of service accounts of the mesh's own trust domain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 3, max = 317)))]
    pub service_accounts: Vec<String>,
    /// Address blocks in CIDR notation (RFC 4632), IPv4 or IPv6: the caller's address lies in one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 64)))]
    pub cidrs: Vec<String>,
    /// `true`: everyone who proved an identity of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [true]))]
    pub authenticated: Option<bool>,
}

/// What is called. All that is set must match. All fields but `ports` are conditions on requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessOperation {
    /// Ports of the workload (not of the Service); any of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
    /// HTTP methods in upper case; any of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 1, max = 16)))]
    pub methods: Vec<String>,
    /// Paths; any of. `/a` is exactly that path, `/a/*` is `/a` and everything below it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub paths: Vec<String>,
    /// Paths that don't match, even if they are in `paths`. Written like `paths`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 1024)))]
    pub not_paths: Vec<String>,
    /// Hosts of the request without port, in lower case; any of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253)))]
    pub hosts: Vec<String>,
    /// Headers; all must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<KeyMatch>,
}
