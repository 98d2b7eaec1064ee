//! `ReferenceGrant`, `gateway.networking.k8s.io/v1beta1`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lets objects of other namespaces refer to objects of this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1beta1",
    kind = "ReferenceGrant",
    namespaced,
    derive = "PartialEq",
    doc = "Lets objects of other namespaces refer to objects of this one."
)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantSpec {
    /// Who may refer; any of.
    #[schemars(length(min = 1, max = 16))]
    pub from: Vec<ReferenceGrantFrom>,
    /// What may be referred to; any of.
    #[schemars(length(min = 1, max = 16))]
    pub to: Vec<ReferenceGrantTo>,
}

/// Objects that may refer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantFrom {
    /// API group of the objects; empty for the core group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind of the objects, such as HTTPRoute.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Namespace of the objects.
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
}

/// Objects that may be referred to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferenceGrantTo {
    /// API group of the objects; empty for the core group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// Kind of the objects, such as Service.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Name of the object. Default: all of the kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,
}
