//! What the source knows at one moment, and what was derived from it: for those who tell users about it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_crds::{FieldProblem, Object, Problem};
use outrigger_model::{Affects, Finding, Map, MeshSnapshot};
use serde_json::Value;

use crate::pod::Pod;

/// Objects of one kind by `NAMESPACE/NAME`, or by name if the kind is cluster-scoped. Cheap to clone.
pub type Store<T> = Map<Arc<str>, Arc<T>>;

/// A derivation, and the objects that it was made from. Objects may be newer in what a derivation doesn't look at: their
/// metadata's resourceVersion and their status.
#[derive(Debug, Clone, Default)]
pub struct Derived {
    pub snapshot: Arc<MeshSnapshot>,
    /// What conversion and build found, sorted.
    pub findings: Arc<Vec<Finding>>,
    pub affects: Arc<Affects>,
    /// All that is wrong: `findings`, and objects that can't be read.
    pub problems: Arc<Vec<Problem>>,
    /// Objects that users write, by kind (as in `kind:`); every kind of [`RESOURCES`](super::RESOURCES) is there.
    pub resources: BTreeMap<&'static str, Store<Resource>>,
    pub namespaces: Store<Namespace>,
    pub pods: Store<Pod>,
}

/// An object of a kind that users write, as the API server last told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// As in `kind:`.
    pub kind: &'static str,
    /// Of the newest version, with uid, resourceVersion and generation, without managedFields and foreign annotations.
    pub metadata: ObjectMeta,
    /// Of the newest version; null if it has none.
    pub status: Value,
    /// The newest version that could be read: it is in force.
    pub object: Option<Arc<Object>>,
    /// What is wrong with the newest version; if there is something, `object` is an older one.
    pub refused: Vec<FieldProblem>,
}

/// A namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespace {
    pub name: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    /// It is being deleted: nothing can be created in it.
    pub terminating: bool,
}

// === impl Resource ===

impl Resource {
    /// `KIND/NAMESPACE/NAME`, or `KIND/NAME` for cluster-scoped kinds.
    pub(crate) fn origin(&self) -> String {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        match &self.metadata.namespace {
            Some(namespace) => format!("{}/{namespace}/{name}", self.kind),
            None => format!("{}/{name}", self.kind),
        }
    }
}
