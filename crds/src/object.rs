//! One object of any kind that the mesh reads.

use std::fmt;

use k8s_openapi::{
    api::core::v1::{Namespace, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::CustomResourceExt;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::{
    AccessPolicy, MeshConfig, MeshRoute, TrafficPolicy, Workload,
    gateway::{GrpcRoute, HttpRoute, ReferenceGrant},
};

/// What is needed to read objects of one kind.
pub(crate) struct Kind {
    pub(crate) kind: &'static str,
    /// The version that we write first, then others with the same fields.
    pub(crate) api_versions: &'static [&'static str],
    pub(crate) namespaced: bool,
    /// Its OpenAPI schema, `metadata` included.
    pub(crate) schema: fn() -> Value,
    pub(crate) read: fn(Value) -> serde_json::Result<Object>,
}

macro_rules! kinds {
    ($($variant:ident($type:ty) $kind:literal $versions:expr, $namespaced:literal, $schema:expr;)*) => {
        /// An object of any kind that the mesh reads.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Object {
            $($variant(Box<$type>),)*
        }

        /// Every kind that the mesh reads.
        pub(crate) const KINDS: &[Kind] = &[$(Kind {
            kind: $kind,
            api_versions: &$versions,
            namespaced: $namespaced,
            schema: $schema,
            read: |value| Ok(Object::$variant(serde_json::from_value(value)?)),
        },)*];

        impl Object {
            /// Its kind, as in `kind:`.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $kind,)*
                }
            }

            pub fn metadata(&self) -> &ObjectMeta {
                match self {
                    $(Self::$variant(object) => &object.metadata,)*
                }
            }
        }

        $(impl From<$type> for Object {
            fn from(object: $type) -> Self {
                Self::$variant(Box::new(object))
            }
        })*
    };
}

kinds! {
    Service(Service) "Service" ["v1"], true, core_schema::<Service>;
    Namespace(Namespace) "Namespace" ["v1"], false, core_schema::<Namespace>;
    Workload(Workload) "Workload" ["outrigger.dev/v1alpha1"], true, custom_schema::<Workload>;
    MeshConfig(MeshConfig) "MeshConfig" ["outrigger.dev/v1alpha1"], false, custom_schema::<MeshConfig>;
    MeshRoute(MeshRoute) "MeshRoute" ["outrigger.dev/v1alpha1"], true, custom_schema::<MeshRoute>;
    TrafficPolicy(TrafficPolicy) "TrafficPolicy" ["outrigger.dev/v1alpha1"], true, custom_schema::<TrafficPolicy>;
    AccessPolicy(AccessPolicy) "AccessPolicy" ["outrigger.dev/v1alpha1"], true, custom_schema::<AccessPolicy>;
    HttpRoute(HttpRoute) "HTTPRoute" ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"], true,
        custom_schema::<HttpRoute>;
    GrpcRoute(GrpcRoute) "GRPCRoute" ["gateway.networking.k8s.io/v1"], true, custom_schema::<GrpcRoute>;
    ReferenceGrant(ReferenceGrant) "ReferenceGrant"
        ["gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"], true, custom_schema::<ReferenceGrant>;
}

fn core_schema<T: JsonSchema>() -> Value {
    let generator = SchemaSettings::openapi3().with(|s| s.inline_subschemas = true).into_generator();
    generator.into_root_schema_for::<T>().into()
}

/// A custom resource's schema leaves `metadata` to the API server; files need all of it.
fn custom_schema<T: CustomResourceExt>() -> Value {
    let mut versions = T::crd().spec.versions;
    let validation = versions.swap_remove(0).schema.and_then(|schema| schema.open_api_v3_schema);
    let mut schema = serde_json::to_value(validation).expect("a schema is JSON");
    schema["properties"]["apiVersion"] = json!({ "type": "string" });
    schema["properties"]["kind"] = json!({ "type": "string" });
    schema["properties"]["metadata"] = core_schema::<ObjectMeta>();
    schema
}

// === impl Object ===

impl Object {
    /// Its name; "" if it has none, which no loaded object hasn't.
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// Its namespace; "" for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        self.metadata().namespace.as_deref().unwrap_or_default()
    }
}

/// `KIND/NAMESPACE/NAME`, or `KIND/NAME` for cluster-scoped kinds.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace() {
            "" => write!(f, "{}/{}", self.kind(), self.name()),
            namespace => write!(f, "{}/{namespace}/{}", self.kind(), self.name()),
        }
    }
}
