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
    /// What was in force before, while this version is on trial.
    before: Option<Box<Before>>,
    pub(crate) value: T,
}

/// As a version was served.
struct Before {
    version: String,
    aliases: Vec<String>,
    body: Vec<u8>,
}

/// What a table is asked without regard to what its resources are.
pub(crate) trait Versions {
    /// Of what is held.
    fn version(&self, name: &str) -> Option<&str>;
    fn len(&self) -> usize;
    /// For `initial_resource_versions`.
    fn versions(&self) -> HashMap<String, String>;
    /// As they were served, for the disk.
    fn resources(&self, url: &str) -> Vec<Resource>;
    /// As the versions before those on trial were served.
    fn before(&self, url: &str) -> Vec<Resource>;
    /// This is to go back to, should what is held die on trial.
    fn set_before(&mut self, before: Resource);
    /// What is held is no longer on trial.
    fn prove(&mut self, name: &str);
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
        let before = self.0.remove(&name).map(Held::into_before);
        self.0.insert(name, Held { version, aliases, body, before, value });
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
}

impl<T> Versions for Table<T> {
    fn version(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|held| held.version.as_str())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn versions(&self) -> HashMap<String, String> {
        let served = self.0.iter().filter(|(_, held)| !held.version.is_empty());
        served.map(|(name, held)| (name.clone(), held.version.clone())).collect()
    }

    fn resources(&self, url: &str) -> Vec<Resource> {
        let resource = |(name, held): (&String, &Held<T>)| served(url, name, &held.version, &held.aliases, &held.body);
        self.0.iter().map(resource).collect()
    }

    fn before(&self, url: &str) -> Vec<Resource> {
        let before = self.0.iter().filter_map(|(name, held)| Some((name, held.before.as_ref()?)));
        before.map(|(name, it)| served(url, name, &it.version, &it.aliases, &it.body)).collect()
    }

    fn set_before(&mut self, Resource { version, resource, name, aliases, .. }: Resource) {
        if let (Some(held), Some(Any { value: body, .. })) = (self.0.get_mut(&name), resource) {
            held.before = Some(Box::new(Before { version, aliases, body }));
        }
    }

    fn prove(&mut self, name: &str) {
        if let Some(held) = self.0.get_mut(name) {
            held.before = None;
        }
    }
}

// === impl Held ===

impl<T> Held<T> {
    /// As it was served.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// What to go back to from a newer version: of two on trial, neither is.
    fn into_before(self) -> Box<Before> {
        let Self { version, aliases, body, before, .. } = self;
        before.unwrap_or_else(|| Box::new(Before { version, aliases, body }))
    }
}

fn served(url: &str, name: &str, version: &str, aliases: &[String], body: &[u8]) -> Resource {
    Resource {
        version: version.into(),
        resource: Some(Any { type_url: url.into(), value: body.into() }),
        name: name.into(),
        aliases: aliases.into(),
        ttl: None,
    }
}
