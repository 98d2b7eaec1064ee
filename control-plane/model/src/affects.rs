//! Which resources an object has an effect on, so that it can be told how many proxies have taken it. Only of objects
//! that are told so: routes, policies, MeshConfig and Workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::Map;

/// Resources of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Every one, now and later.
    All,
    /// Those of these names.
    Named(BTreeSet<Arc<str>>),
}

/// Resources that one object has an effect on, by type URL. None: it changes nothing of what is served.
pub type Effects = BTreeMap<&'static str, Reach>;

/// Effects by origin (`KIND/NAMESPACE/NAME`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Affects {
    by_origin: Map<Arc<str>, Arc<Effects>>,
}

// === impl Affects ===

impl Affects {
    /// What an object has an effect on; empty for one that has none.
    pub fn of(&self, origin: &str) -> &Effects {
        static NONE: Effects = Effects::new();
        self.by_origin.get(origin).map_or(&NONE, |effects| effects)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Effects)> {
        self.by_origin.iter().map(|(origin, effects)| (&**origin, &**effects))
    }

    pub(crate) fn all(&mut self, origin: &str, type_url: &'static str) {
        self.change(origin, |effects| drop(effects.insert(type_url, Reach::All)));
    }

    pub(crate) fn add(&mut self, origin: &str, type_url: &'static str, name: &str) {
        if self.names(origin, type_url, name) {
            return;
        }
        self.change(origin, |effects| {
            let reach = effects.entry(type_url).or_insert_with(|| Reach::Named(BTreeSet::new()));
            if let Reach::Named(names) = reach {
                names.insert(name.into());
            }
        });
    }

    /// Whether a resource is named; not if all are meant.
    pub(crate) fn names(&self, origin: &str, type_url: &str, name: &str) -> bool {
        matches!(self.of(origin).get(type_url), Some(Reach::Named(names)) if names.contains(name))
    }

    /// Names of a type; none if all are meant.
    pub(crate) fn named(&self, origin: &str, type_url: &str) -> impl Iterator<Item = &Arc<str>> {
        let names = match self.of(origin).get(type_url) {
            Some(Reach::Named(names)) => Some(names),
            Some(Reach::All) | None => None,
        };
        names.into_iter().flatten()
    }

    pub(crate) fn forget(&mut self, origin: &str, type_url: &'static str) {
        self.change(origin, |effects| drop(effects.remove(type_url)));
    }

    pub(crate) fn remove(&mut self, origin: &str, type_url: &'static str, name: &str) {
        self.change(origin, |effects| {
            if let Some(Reach::Named(names)) = effects.get_mut(type_url) {
                names.remove(name);
                if names.is_empty() {
                    effects.remove(type_url);
                }
            }
        });
    }

    fn change(&mut self, origin: &str, change: impl FnOnce(&mut Effects)) {
        let mut effects = self.by_origin.remove(origin).unwrap_or_default();
        change(Arc::make_mut(&mut effects));
        if !effects.is_empty() {
            self.by_origin.insert(origin.into(), effects);
        }
    }
}
