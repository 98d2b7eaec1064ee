//! Gateway API v1.6 route kinds, as far as they matter to a mesh. Field names and meanings are the API's; its own
//! CRDs are installed by users, so nothing is generated from these types.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

mod filters;
mod grpc_route;
mod http_route;
mod reference_grant;
mod status;

pub use filters::{
    BackendObjectRef, ExtensionRef, Fraction, Header, HeaderModifier, PathModifier, PathModifierType, RequestMirror,
    RequestRedirect, UrlRewrite,
};
pub use grpc_route::{
    GrpcBackendRef, GrpcFilter, GrpcFilterType, GrpcMethodMatch, GrpcRoute, GrpcRouteMatch, GrpcRouteRule,
    GrpcRouteSpec,
};
pub use http_route::{
    HttpBackendRef, HttpFilter, HttpFilterType, HttpRetry, HttpRoute, HttpRouteMatch, HttpRouteRule, HttpRouteSpec,
    HttpTimeouts,
};
pub use reference_grant::{ReferenceGrant, ReferenceGrantFrom, ReferenceGrantSpec, ReferenceGrantTo};
pub use status::{RouteParentStatus, RouteStatus};

/// API group of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// What a route is attached to: for a mesh, a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group of the parent; empty for Services. Default: gateway.networking.k8s.io.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub group: Option<String>,
    /// Kind of the parent. Default: Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: Option<String>,
    /// Namespace of the parent. Default: the route's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// Name of the parent.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Name of a section of the parent: a Gateway's listener, a Service's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
    /// Port of the parent. Default: all its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
}

/// How a path is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The whole path is equal, with regard to case.
    Exact,
    /// The path begins with these segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    #[default]
    PathPrefix,
    /// The whole path matches a regular expression in RE2 syntax.
    RegularExpression,
}

/// Matches the path of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'RegularExpression' || self.value.startsWith('/')")
    .message("value must begin with /"))]
pub struct PathMatch {
    /// How `value` is compared.
    #[serde(default)]
    pub r#type: PathMatchType,
    /// What the path is compared with.
    #[serde(default = "root_path")]
    #[schemars(length(max = 1024))]
    pub value: String,
}

/// How a header or query parameter of a Gateway API route is compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MatchType {
    /// The whole value is equal, with regard to case.
    #[default]
    Exact,
    /// The whole value matches a regular expression in RE2 syntax.
    RegularExpression,
}

/// Matches a header or query parameter by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamedMatch {
    /// How `value` is compared.
    #[serde(default)]
    pub r#type: MatchType,
    /// Name of the header (compared without regard to case) or query parameter.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// What the value is compared with.
    #[schemars(length(min = 1, max = 4096))]
    pub value: String,
}

fn root_path() -> String {
    "/".into()
}

/// Schema of a field that we accept as it is and don't look into.
fn opaque(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

// === impl PathMatch ===

impl Default for PathMatch {
    fn default() -> Self {
        Self { r#type: PathMatchType::default(), value: root_path() }
    }
}
