//! What is watched, where, and how one object of it is read. Pruned here, so that nothing is kept that nobody looks at.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use outrigger_crds::{FieldProblem, Object};
use outrigger_wire::names::ANNOTATION_PREFIX;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Namespace, Resource};
use crate::{pod::Pod, slice::Slice};

/// Label of a node that says where it is.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// One kind that is watched.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    /// `GROUP/VERSION` (or `VERSION` of the core group), the preferred one first. All have the fields that we know.
    pub(super) versions: &'static [&'static str],
    pub(super) plural: &'static str,
    /// Its API needn't be there: then there are no such objects.
    pub(super) optional: bool,
    /// Only metadata is asked for.
    pub(super) metadata_only: bool,
    read: fn(&Self, Value) -> Content,
}

/// An object as it was sent.
#[derive(Debug)]
pub(super) struct Item {
    /// `NAMESPACE/NAME`, or the name.
    pub(super) key: Arc<str>,
    pub(super) version: String,
    pub(super) content: Content,
}

/// What is kept of an object.
#[derive(Debug)]
pub(super) enum Content {
    Namespace(Namespace),
    /// Of a node.
    Zone(String),
    Pod(Box<Pod>),
    Slice(Slice),
    Resource(Box<Resource>),
    /// Something else than ever.
    Unreadable(String),
}

const GATEWAY: &[&str] = &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
const GATEWAY_BETA: &[&str] = &["gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"];
const OURS: &[&str] = &["outrigger.dev/v1alpha1"];
const CORE: &[&str] = &["v1"];

/// Every kind.
pub(super) static KINDS: [Kind; 13] = [
    Kind::new("Namespace", CORE, "namespaces", namespace).metadata_only(),
    Kind::new("Node", CORE, "nodes", zone).metadata_only(),
    Kind::new("Service", CORE, "services", service),
    Kind::new("EndpointSlice", &["discovery.k8s.io/v1"], "endpointslices", slice),
    Kind::new("Pod", CORE, "pods", pod),
    Kind::new("MeshConfig", OURS, "meshconfigs", resource),
    Kind::new("MeshRoute", OURS, "meshroutes", resource),
    Kind::new("TrafficPolicy", OURS, "trafficpolicies", resource),
    Kind::new("AccessPolicy", OURS, "accesspolicies", resource),
    Kind::new("Workload", OURS, "workloads", resource),
    Kind::new("HTTPRoute", GATEWAY, "httproutes", resource).optional(),
    Kind::new("GRPCRoute", &["gateway.networking.k8s.io/v1"], "grpcroutes", resource).optional(),
    Kind::new("ReferenceGrant", GATEWAY_BETA, "referencegrants", resource).optional(),
];

/// What every object has.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    namespace: String,
    name: String,
    resource_version: String,
}

fn namespace(_: &Kind, value: Value) -> Content {
    match metadata(value) {
        Ok(metadata) => Content::Namespace(Namespace {
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            terminating: metadata.deletion_timestamp.is_some(),
        }),
        Err(error) => Content::Unreadable(error.to_string()),
    }
}

fn zone(_: &Kind, value: Value) -> Content {
    match metadata(value) {
        Ok(metadata) => {
            Content::Zone(metadata.labels.and_then(|mut labels| labels.remove(ZONE_LABEL)).unwrap_or_default())
        }
        Err(error) => Content::Unreadable(error.to_string()),
    }
}

fn metadata(mut value: Value) -> serde_json::Result<ObjectMeta> {
    prune(&mut value);
    serde_json::from_value(value["metadata"].take())
}

fn pod(_: &Kind, value: Value) -> Content {
    Pod::read(value).map_or_else(|error| Content::Unreadable(error.to_string()), |pod| Content::Pod(Box::new(pod)))
}

fn slice(_: &Kind, value: Value) -> Content {
    Slice::read(value).map_or_else(|error| Content::Unreadable(error.to_string()), Content::Slice)
}

/// The API server has checked it by rules that are its own.
fn service(kind: &Kind, value: Value) -> Content {
    written(kind, value, |mut value| {
        value.as_object_mut().map(|fields| fields.remove("status"));
        serde_json::from_value::<Service>(value).map(Object::from).map_err(|error| vec![unreadable(&error)])
    })
}

fn resource(kind: &Kind, value: Value) -> Content {
    written(kind, value, outrigger_crds::read_value)
}

/// The versions of one object are told apart by what they say: without what an API server adds to each.
fn written(kind: &Kind, mut value: Value, read: fn(Value) -> Result<Object, Vec<FieldProblem>>) -> Content {
    prune(&mut value);
    let metadata = match serde_json::from_value::<ObjectMeta>(value["metadata"].clone()) {
        Ok(metadata) => metadata,
        Err(error) => return Content::Unreadable(error.to_string()),
    };
    let status = value.get_mut("status").map(Value::take).unwrap_or_default();
    if let Some(fields) = value["metadata"].as_object_mut() {
        fields.retain(|field, _| !matches!(field.as_str(), "resourceVersion" | "generation" | "uid"));
    }
    let status = if kind.name == "Service" { Value::Null } else { status };
    let (object, refused) = match read(value) {
        Ok(object) => (Some(Arc::new(object)), Vec::new()),
        Err(refused) => (None, refused),
    };
    Content::Resource(Box::new(Resource { kind: kind.name, metadata, status, object, refused }))
}

fn unreadable(error: &serde_json::Error) -> FieldProblem {
    FieldProblem { field: String::new(), problem: error.to_string(), remedy: "compare it with its API".to_owned() }
}

/// Leaves of the metadata what somebody looks at.
fn prune(value: &mut Value) {
    const KEPT: [&str; 9] = [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "labels",
        "annotations",
        "creationTimestamp",
        "deletionTimestamp",
    ];
    let Some(metadata) = value["metadata"].as_object_mut() else { return };
    metadata.retain(|field, value| KEPT.contains(&field.as_str()) && !value.is_null());
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.retain(|name, _| name.starts_with(ANNOTATION_PREFIX));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
}

// === impl Item ===

impl Item {
    /// Its version, to be compared with others of its kind.
    pub(super) fn number(&self) -> Option<u64> {
        self.version.parse().ok()
    }
}

// === impl Kind ===

impl Kind {
    const fn new(
        name: &'static str,
        versions: &'static [&'static str],
        plural: &'static str,
        read: fn(&Self, Value) -> Content,
    ) -> Self {
        Self { name, versions, plural, optional: false, metadata_only: false, read }
    }

    const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    const fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    /// Where all its objects are listed.
    pub(super) fn path(&self, version: &str) -> String {
        let root = if version.contains('/') { "apis" } else { "api" };
        format!("/{root}/{version}/{}", self.plural)
    }

    /// An object of this kind, with the version that it was asked for in; it is said of lists but not of their entries.
    pub(super) fn read(&self, version: &str, mut value: Value) -> Item {
        let Metadata { namespace, name, resource_version } =
            Metadata::deserialize(&value["metadata"]).unwrap_or_default();
        let key = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
        if !value.is_object() {
            value = Value::Object(Map::new());
        }
        value["kind"] = self.name.into();
        value["apiVersion"] = version.into();
        Item { key: key.into(), version: resource_version, content: (self.read)(self, value) }
    }
}
