//! Parts that several of our kinds share.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// What the controller says of an object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// `Accepted`: the object is valid and in force. `ResolvedRefs`: what it refers to exists. `Programmed`: every
    /// proxy concerned has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Which leader among the controller's replicas wrote this. It only grows, so that one that has been replaced and
    /// doesn't know yet can't write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    #[x_kube(validation = Rule::new("self >= oldSelf").message("a newer leader has written this status"))]
    pub lease_transitions: Option<i64>,
}

/// How a value is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KeyMatchType {
    /// The whole value is equal, byte for byte.
    #[default]
    Exact,
    /// The value begins with it.
    Prefix,
    /// The whole value matches a regular expression in RE2 syntax.
    RegularExpression,
    /// The key is there, whatever its value. `value` must be left out.
    Present,
    /// The key isn't there. `value` must be left out.
    Absent,
}

/// Matches a header, query parameter or cookie.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.value) == !(has(self.type) && self.type in ['Present', 'Absent'])")
    .message("value is needed, except with type Present or Absent, where it must be left out"))]
pub struct KeyMatch {
    /// How `value` is compared.
    #[serde(default)]
    pub r#type: KeyMatchType,
    /// Name of the key. Headers are compared without regard to case, query parameters and cookies with it.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What the value is compared with. Needed unless `type` is `Present` or `Absent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub value: Option<String>,
}

/// What keeps requests together. Exactly one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.header), has(self.cookie), has(self.caller)].filter(x, x).size() == 1")
    .message("set exactly one of header, cookie and caller"))]
pub struct Stickiness {
    /// Requests with the same value of this header stay together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub header: Option<String>,
    /// Requests with the same value of this cookie stay together.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub cookie: Option<String>,
    /// `true`: requests of the same caller stay together; by its identity, or by its address where it has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [true]))]
    pub caller: Option<bool>,
}

/// Trying a request again. One that was never sent is tried again anyhow; one with a body isn't tried again otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// Tries after the first, of requests that may have reached an app. 0 turns them off.
    #[schemars(range(min = 0, max = 10))]
    pub attempts: i32,
    /// HTTP status codes of answers that are worth another try. Default: 502, 503 and 504.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub codes: Vec<i32>,
    /// Pause before the first retry; it doubles with each further one, up to a second, and up to half is added at random.
    /// Default: 25ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Duration>,
    /// `true`: requests of every method may be tried again, POST and PATCH included, if they have no body. The app must
    /// bear duplicates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub non_idempotent: bool,
}

/// What happens to a workload's traffic while its sidecar is down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnSidecarFailure {
    /// A shared proxy carries it, under the same policies and the workload's own identity.
    #[default]
    Fallback,
    /// Connections are closed.
    Closed,
    /// Traffic goes on without any proxy: no mTLS, no policy. What comes in by mTLS needs one: a shared proxy carries it.
    /// Plaintext that comes in is closed where the mesh is Strict.
    Direct,
}

/// What becomes of calls to a workload while its proxy hears from no control plane, and its policies may be out of date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnControlPlaneLoss {
    /// The last configuration stays in force.
    #[default]
    Continue,
    /// After the grace period calls are refused, but for the platform's health probes, until a control plane is back.
    Closed,
}

/// What happens to a workload's traffic while its sidecar is down and no shared proxy answers either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFallbackFailure {
    /// Connections are closed.
    #[default]
    Closed,
    /// Traffic goes on without any proxy: no mTLS, no policy. What comes in by mTLS needs one and is closed, and so is
    /// plaintext that comes in where the mesh is Strict.
    Direct,
}
