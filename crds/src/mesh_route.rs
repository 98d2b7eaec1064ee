//! `MeshRoute`: routing of calls of a service beyond what `HTTPRoute` can say.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Duration, KeyMatch, Retry, Status, Stickiness,
    gateway::{HeaderModifier, PathMatch, RequestRedirect, UrlRewrite},
};

/// Routes calls of one or more Services.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "outrigger.dev",
    version = "v1alpha1",
    kind = "MeshRoute",
    namespaced,
    status = "Status",
    derive = "PartialEq",
    shortname = "mrt",
    category = "mesh",
    doc = "Routes calls of Services: beyond HTTPRoute it matches on cookies, caller and share of traffic, injects faults and answers directly.",
    printcolumn(name = "Parents", type_ = "string", json_path = ".spec.parentRefs[*].name"),
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
pub struct MeshRouteSpec {
    /// Services whose calls are routed. A route in a Service's own namespace (producer route) is for every caller;
    /// a route in another namespace (consumer route) is only for callers of that namespace.
    #[schemars(length(min = 1, max = 16))]
    pub parent_refs: Vec<ServiceRef>,
    /// What is done with which requests. The most specific match wins, by the precedence of HTTPRoute.
    #[schemars(length(min = 1, max = 16))]
    pub rules: Vec<MeshRouteRule>,
}

/// A Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Namespace of the Service. Default: the route's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Port of the Service. Default: all its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// Requests and what is done with them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshRouteRule {
    /// Name for logs, metrics and status, unique in the route. Default: the rule's index.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// The rule applies to requests that match any of these. Empty: to all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub matches: Vec<MeshRouteMatch>,
    /// What is changed on the way, each type at most once except RequestMirror.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<MeshRouteFilter>,
    /// Where requests go, by weight. Needed unless a filter answers (RequestRedirect or DirectResponse).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub backend_refs: Vec<MeshBackendRef>,
    /// Limits of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<MeshRouteTimeouts>,
    /// Trying again. Default: the TrafficPolicy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Which requests always get the same one of `backendRefs`. Default: each request is drawn for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stickiness: Option<Stickiness>,
}

/// All that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshRouteMatch {
    /// The request's path. Default: every path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// The request's method, in upper case. Default: every method.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub method: Option<String>,
    /// Headers; all must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub headers: Vec<KeyMatch>,
    /// Query parameters; all must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub query_params: Vec<KeyMatch>,
    /// Cookies; all must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub cookies: Vec<KeyMatch>,
    /// Who calls; any of. Empty: everyone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub callers: Vec<CallerMatch>,
    /// Share of the requests that match otherwise, in percent, drawn at random. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub share_percent: Option<i32>,
}

/// A caller, known by its certificate. Exactly one field is set.
// `namespace` is a reserved word of CEL, so rules have to escape it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
        "[has(self.identity), has(self.__namespace__), has(self.serviceAccount)].filter(x, x).size() == 1")
    .message("set exactly one of identity, namespace and serviceAccount"))]
pub struct CallerMatch {
    /// A whole SPIFFE ID, such as `spiffe://cluster.local/ns/shop/sa/front`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub identity: Option<String>,
    /// Every service account of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// `NAMESPACE/NAME` of a service account of the mesh's own trust domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 3, max = 317))]
    pub service_account: Option<String>,
}

/// What a filter does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MeshRouteFilterType {
    /// Changes request headers.
    #[default]
    RequestHeaderModifier,
    /// Changes response headers.
    ResponseHeaderModifier,
    /// Changes the request's host or path before it is sent on.
    #[serde(rename = "URLRewrite")]
    UrlRewrite,
    /// Answers with a redirect.
    RequestRedirect,
    /// Sends a copy to another backend, whose answer is dropped. Only requests without a body, or with one of a declared
    /// length up to 64 KiB, are copied.
    RequestMirror,
    /// Delays or aborts a share of requests.
    Fault,
    /// Answers without a backend.
    DirectResponse,
}

/// One filter: the field named like `type` is set, and no other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
        "has(self.requestHeaderModifier) == (self.type == 'RequestHeaderModifier') \
        && has(self.responseHeaderModifier) == (self.type == 'ResponseHeaderModifier') \
        && has(self.urlRewrite) == (self.type == 'URLRewrite') \
        && has(self.requestRedirect) == (self.type == 'RequestRedirect') \
        && has(self.requestMirror) == (self.type == 'RequestMirror') \
        && has(self.fault) == (self.type == 'Fault') \
        && has(self.directResponse) == (self.type == 'DirectResponse')")
    .message("set the field named like type, and no other"))]
pub struct MeshRouteFilter {
    /// What the filter does.
    pub r#type: MeshRouteFilterType,
    /// For type RequestHeaderModifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_header_modifier: Option<HeaderModifier>,
    /// For type ResponseHeaderModifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_header_modifier: Option<HeaderModifier>,
    /// For type URLRewrite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_rewrite: Option<UrlRewrite>,
    /// For type RequestRedirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_redirect: Option<RequestRedirect>,
    /// For type RequestMirror.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_mirror: Option<MeshRequestMirror>,
    /// For type Fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// For type DirectResponse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_response: Option<DirectResponse>,
}

/// A Service's port that a copy of the request goes to. Only requests without a body, or with one of a declared length
/// up to 64 KiB, are copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshRequestMirror {
    /// Where the copy goes.
    pub backend_ref: MeshMirrorBackend,
    /// Share of requests that are copied, in percent. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
}

/// A Service's port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshMirrorBackend {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Namespace of the Service. Default: the route's own. Another one needs a ReferenceGrant there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Port of the Service.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
}

/// Trouble made on purpose. At least one field is set.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.delay) || has(self.abort)").message("set delay, abort or both"))]
pub struct Fault {
    /// Holds requests back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Answers requests with an error, after the delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// Holds a share of requests back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// How long.
    pub duration: Duration,
    /// Share of requests, in percent. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
}

/// Answers a share of requests with an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultAbort {
    /// HTTP status code of the answer.
    #[schemars(range(min = 200, max = 599))]
    pub status: i32,
    /// Share of requests, in percent. Default: 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<i32>,
}

/// An answer without a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectResponse {
    /// HTTP status code of the answer.
    #[schemars(range(min = 200, max = 599))]
    pub status: i32,
    /// Body of the answer. Default: empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
    /// Media type of the body. Default: text/plain; charset=utf-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub content_type: Option<String>,
}

/// A Service's port that gets a share of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshBackendRef {
    /// Name of the Service.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Namespace of the Service. Default: the route's own. Another one needs a ReferenceGrant there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Port of the Service.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,
    /// Its share of requests is its weight over the sum of all weights of the rule. 0 gets none. Default: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<i32>,
    /// What is changed for this backend only: header modifiers, URLRewrite and RequestMirror.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub filters: Vec<MeshRouteFilter>,
}

/// Limits of time. A zero duration means no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MeshRouteTimeouts {
    /// From the first byte of the request to the last byte of the answer, all tries together.
    /// Default: the TrafficPolicy's `requestTimeout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// One try. At most `request`. Default: no limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}
