//! Resources of one type as they were last accepted.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use outrigger_wire::proto::discovery::Resource;
use prost_types::Any;

/// By resource name.
pub(crate) struct Table<T>(BTreeMap<String, Held<T>>);

/// A resource that was accepted.
pub(crate) struct Held<T> {
    /// As served. Empty: the control plane no longer has it, but we keep it in force.
    version: String,
    pub(crate) aliases: Vec<String>,
    /// The encoded message, for the disk.
    body: Vec<u8>,
    pub(crate) value: T,
}

// === impl Table ===

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Table<T> {
    /// Takes a resource in. Says whether there is anything new in it; if it is refused, the one that is held stays.
    pub(crate) fn take(
        &mut self,
        url: &str,
        resource: Resource,
        compile: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<bool, String> {
        let Resource { version, resource: body, name, aliases, .. } = resource;
        let held = self.0.get(&name);
        let Some(Any { type_url, value: body }) = body else {
            // A heartbeat says that what we have is current.
            return held.map(|_| false).ok_or_else(|| "has no body".into());
        };
        if type_url != url {
            return Err(format!("is a {type_url:?}"));
        }
        if held.is_some_and(|held| held.version == version && held.aliases == aliases && !version.is_empty()) {
            return Ok(false);
        }
        let value = compile(&body)?;
        self.0.insert(name, Held { version, aliases, body, value });
        Ok(true)
    }

    pub(crate) fn remove(&mut self, name: &str) -> Option<Held<T>> {
        self.0.remove(name)
    }

    /// Keeps what the control plane no longer has; it is asked for as if we didn't hold it.
    pub(crate) fn disown(&mut self, name: &str) {
        if let Some(held) = self.0.get_mut(name) {
            held.version.clear();
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Held<T>> {
        self.0.get(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Held<T>)> {
        self.0.iter()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Held<T>> {
        self.0.values_mut()
    }

    /// Those whose name begins with `prefix`.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Held<T>)> {
        self.0
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(move |(name, _)| name.starts_with(prefix))
    }

    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }

    /// For `initial_resource_versions`.
    pub(crate) fn versions(&self) -> HashMap<String, String> {
        let served = self.0.iter().filter(|(_, held)| !held.version.is_empty());
        served.map(|(name, held)| (name.clone(), held.version.clone())).collect()
    }

    /// As they were served, for the disk.
    pub(crate) fn resources(&self, url: &str) -> Vec<Resource> {
        let resource = |(name, held): (&String, &Held<T>)| Resource {
            version: held.version.clone(),
            resource: Some(Any { type_url: url.into(), value: held.body.clone() }),
            name: name.clone(),
            aliases: held.aliases.clone(),
            ttl: None,
        };
        self.0.iter().map(resource).collect()
    }
}
