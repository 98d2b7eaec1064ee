//! What is served: every resource of every type, encoded once, versioned by its content.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use outrigger_wire::{
    names::type_url,
    proto::config::{Fallback, Inbound},
};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::{Map, Progress};

/// One encoded resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    pub resources: Map<Arc<str>, Arc<Resource>>,
    /// Alias to name.
    pub aliases: Map<Arc<str>, Arc<str>>,
}

/// Everything that can be asked for, by type URL. Unchanged parts are shared with the snapshot before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MeshSnapshot {
    pub types: BTreeMap<&'static str, Arc<TypeSet>>,
    /// SPIFFE IDs of shared proxies: they may ask for everything.
    pub shared_identities: Vec<Arc<str>>,
    /// Workload name (`NAMESPACE/NAME`) to its SPIFFE ID.
    pub workloads: Map<Arc<str>, Arc<str>>,
    /// Grows with each snapshot of this process.
    pub generation: u64,
    /// What it was made from; of a source that has no versions, nothing. Not content: more may be read of what changes nothing.
    pub progress: Arc<Progress>,
}

/// A resource on its way into a snapshot.
pub(crate) struct Draft {
    name: String,
    aliases: Vec<String>,
    body: Vec<u8>,
}

// === impl Draft ===

impl Draft {
    pub(crate) fn new(name: String, aliases: Vec<String>, message: &impl Message) -> Self {
        Self { name, aliases, body: message.encode_to_vec() }
    }

    /// The previous resource itself, if this is the same.
    fn finish(self, previous: Option<&Arc<Resource>>) -> Arc<Resource> {
        if let Some(previous) = previous
            && previous.body == self.body
            && previous.aliases.iter().map(AsRef::as_ref).eq(self.aliases.iter().map(String::as_str))
        {
            return previous.clone();
        }
        Arc::new(Resource {
            name: self.name.into(),
            aliases: self.aliases.into_iter().map(Arc::from).collect(),
            version: version(&self.body),
            body: self.body.into(),
        })
    }
}

/// The first 8 bytes of the body's SHA-256, in hex.
fn version(body: &[u8]) -> Arc<str> {
    let digest = Sha256::digest(body);
    let number = digest.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    format!("{number:016x}").into()
}

// === impl TypeSet ===

impl TypeSet {
    fn assemble(drafts: Vec<Draft>, previous: Option<&Arc<Self>>) -> Arc<Self> {
        let mut set = Self::default();
        let mut unchanged = 0;
        // Both are in order, or nearly so.
        let mut expected = previous.into_iter().flat_map(|set| set.resources.values()).peekable();
        for draft in drafts {
            while expected.next_if(|resource| *resource.name < *draft.name).is_some() {}
            let next = expected.next_if(|resource| *resource.name == *draft.name);
            let before = next.or_else(|| previous?.resources.get(draft.name.as_str()));
            let resource = draft.finish(before);
            unchanged += usize::from(before.is_some_and(|before| Arc::ptr_eq(before, &resource)));
            set.put(&resource);
        }
        match previous {
            // Aliases are those of the resources.
            Some(previous) if previous.resources.len() == unchanged && set.resources.len() == unchanged => {
                previous.clone()
            }
            _ => Arc::new(set),
        }
    }
}

// === impl MeshSnapshot ===

impl MeshSnapshot {
    /// How the proxies of a workload (`NAMESPACE/NAME`) behave when they fail; `None` if it isn't in the mesh.
    pub fn fallback(&self, workload: &str) -> Option<Fallback> {
        let resource = self.types.get(type_url::INBOUND)?.resources.get(workload)?;
        Inbound::decode(resource.body.clone()).ok().map(|inbound| inbound.fallback.unwrap_or_default())
    }

    pub(crate) fn assemble(
        drafts: BTreeMap<&'static str, Vec<Draft>>,
        shared_identities: Vec<Arc<str>>,
        workloads: Map<Arc<str>, Arc<str>>,
        previous: Option<&Self>,
    ) -> Self {
        let types = drafts
            .into_iter()
            .map(|(type_url, drafts)| {
                let before = previous.and_then(|snapshot| snapshot.types.get(type_url));
                (type_url, TypeSet::assemble(drafts, before))
            })
            .collect();
        let mut snapshot = Self { types, shared_identities, workloads, generation: 1, progress: Arc::default() };
        if let Some(previous) = previous {
            snapshot.generation = previous.generation + u64::from(!snapshot.same_content(previous));
        }
        snapshot
    }

    /// Whether both serve the same; cheap where they share.
    pub(crate) fn same_content(&self, other: &Self) -> bool {
        let same_types = self.types.len() == other.types.len()
            && self.types.iter().all(|(url, set)| other.types.get(url).is_some_and(|o| Arc::ptr_eq(set, o)));
        same_types && self.shared_identities == other.shared_identities && self.workloads == other.workloads
    }
}
