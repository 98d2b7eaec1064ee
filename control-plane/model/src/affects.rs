//! Which resources an object has an effect on, so that it can be told how many proxies have taken it. Only of objects
//! that are told so: routes, policies, MeshConfig and Workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    by_origin: BTreeMap<String, Effects>,
}

// === impl Affects ===

impl Affects {
    /// What an object has an effect on; empty for one that has none.
    pub fn of(&self, origin: &str) -> &Effects {
        static NONE: Effects = Effects::new();
        self.by_origin.get(origin).unwrap_or(&NONE)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Effects)> {
        self.by_origin.iter().map(|(origin, effects)| (origin.as_str(), effects))
    }

    pub(crate) fn all(&mut self, origin: &str, type_url: &'static str) {
        self.effects(origin).insert(type_url, Reach::All);
    }

    pub(crate) fn add(&mut self, origin: &str, type_url: &'static str, name: &str) {
        let reach = self.effects(origin).entry(type_url).or_insert_with(|| Reach::Named(BTreeSet::new()));
        if let Reach::Named(names) = reach
            && !names.contains(name)
        {
            names.insert(name.into());
        }
    }

    fn effects(&mut self, origin: &str) -> &mut Effects {
        if !self.by_origin.contains_key(origin) {
            self.by_origin.insert(origin.to_owned(), Effects::new());
        }
        self.by_origin.entry(origin.to_owned()).or_default()
    }
}
