//! Status of routes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ParentRef;

/// What controllers say of a route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteStatus {
    /// One entry per parent and controller. The list is atomic: keep the entries of other controllers.
    #[serde(default)]
    #[schemars(length(max = 32))]
    pub parents: Vec<RouteParentStatus>,
}

/// What one controller says of a route at one parent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RouteParentStatus {
    /// The parent, as in the route's `parentRefs`.
    pub parent_ref: ParentRef,
    /// The controller, as DOMAIN/PATH.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// `Accepted`, `ResolvedRefs`, `PartiallyInvalid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
}
