//! What is served: every resource of every type, encoded once, versioned by its content.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

/// One encoded resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: Arc<str>,
    /// Other names it answers to, such as `@10.0.0.1`.
    pub aliases: Vec<Arc<str>>,
    /// Hash of `body`: equal on every replica.
    pub version: Arc<str>,
    /// The encoded message (the `value` of the `Any`).
    pub body: Bytes,
}

/// All resources of one type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TypeSet {
    pub resources: BTreeMap<Arc<str>, Arc<Resource>>,
    /// Alias to name.
    pub aliases: HashMap<Arc<str>, Arc<str>>,
}

/// Everything that can be asked for, by type URL. Unchanged parts are shared with the snapshot before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshSnapshot {
    pub types: BTreeMap<&'static str, Arc<TypeSet>>,
    /// SPIFFE IDs of shared proxies: they may ask for everything.
    pub shared_identities: Vec<Arc<str>>,
    /// Workload name (`NAMESPACE/NAME`) to its SPIFFE ID.
    pub workloads: BTreeMap<Arc<str>, Arc<str>>,
    /// Grows with each snapshot of this process.
    pub generation: u64,
}
