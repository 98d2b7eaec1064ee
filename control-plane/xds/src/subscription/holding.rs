//! What a client was sent: a sorted list, since each of thousands of clients keeps some hundred resources for hours. Many that
//! come or go together are merged in one pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use outrigger_model::Resource;

/// One in so many: for fewer, room is made one by one.
const FEW: usize = 16;

#[derive(Debug)]
pub(super) struct Held {
    /// In the version that was sent last; no more than name and version of one that the client brought along, until it is
    /// found to be current.
    pub(super) sent: Arc<Resource>,
    /// In the version that is in force at the client.
    pub(super) accepted: Option<Arc<Resource>>,
}

/// By canonical name.
#[derive(Debug, Default)]
pub(super) struct Holding(Vec<Held>);

// === impl Holding ===

impl Holding {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.0.iter()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.iter().map(|held| &held.sent.name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Held> {
        self.0.get(self.find(name).ok()?)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Held> {
        let at = self.find(name).ok()?;
        self.0.get_mut(at)
    }

    /// What a client brings along; of a name that is there already, the later counts.
    pub(super) fn bring(&mut self, known: impl Iterator<Item = Held>) {
        let known = known.map(|held| (Arc::clone(&held.sent.name), held)).collect::<BTreeMap<_, _>>();
        self.merge(known.into_values());
    }

    /// These are sent; what was accepted stays so.
    pub(super) fn send(&mut self, resources: &BTreeMap<Arc<str>, Arc<Resource>>) {
        if resources.len() * FEW > self.0.len() {
            self.merge(resources.values().map(|resource| Held { sent: Arc::clone(resource), accepted: None }));
            return;
        }
        for (name, resource) in resources {
            match self.find(name) {
                Ok(at) => self.0[at].sent = Arc::clone(resource),
                Err(at) => self.0.insert(at, Held { sent: Arc::clone(resource), accepted: None }),
            }
        }
    }

    pub(super) fn remove(&mut self, names: &BTreeSet<Arc<str>>) {
        if names.len() * FEW > self.0.len() {
            self.retain(|held| !names.contains(&held.sent.name));
            return;
        }
        for name in names {
            if let Ok(at) = self.find(name) {
                self.0.remove(at);
            }
        }
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Held) -> bool) {
        self.0.retain(keep);
        self.0.shrink_to(2 * self.0.len());
    }

    /// `others` are in order. An accepted version is kept unless the other brings one.
    fn merge(&mut self, others: impl Iterator<Item = Held>) {
        let others: Vec<Held> = others.collect();
        let mut merged = Vec::with_capacity(self.0.len() + others.len());
        let mut own = std::mem::take(&mut self.0).into_iter().peekable();
        for mut other in others {
            while let Some(before) = own.next_if(|before| before.sent.name < other.sent.name) {
                merged.push(before);
            }
            if let Some(same) = own.next_if(|before| before.sent.name == other.sent.name) {
                other.accepted = other.accepted.or(same.accepted);
            }
            merged.push(other);
        }
        merged.extend(own);
        merged.shrink_to_fit();
        self.0 = merged;
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|held| (*held.sent.name).cmp(name))
    }
}

// === impl Held ===

impl Held {
    /// What a client brought along.
    pub(super) fn known(resource: Resource) -> Self {
        let resource = Arc::new(resource);
        Self { sent: Arc::clone(&resource), accepted: Some(resource) }
    }

    /// Whether it was sent last. What only has the same content is no longer kept.
    pub(super) fn is_current(&mut self, resource: &Arc<Resource>) -> bool {
        if self.sent.version != resource.version {
            return false;
        }
        if !Arc::ptr_eq(&self.sent, resource) {
            if self.accepted.as_ref().is_some_and(|accepted| accepted.version == resource.version) {
                self.accepted = Some(Arc::clone(resource));
            }
            self.sent = Arc::clone(resource);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: u32, version: u32) -> Arc<Resource> {
        let (name, version) = (format!("{name:04}").into(), version.to_string().into());
        Arc::new(Resource { name, version, ..Resource::default() })
    }

    #[test]
    fn few_and_many_come_and_go_as_in_a_map() {
        let (mut holding, mut wanted) = (Holding::default(), BTreeMap::new());
        let mut number = 1_u64;
        for round in 0..400 {
            let mut next = |end: u64| {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (number >> 33) % end
            };
            let count = if round % 5 == 0 { 300 } else { 3 };
            let changed = (0..next(count)).map(|_| resource(next(1_000) as u32, round));
            let changed: BTreeMap<_, _> = changed.map(|resource| (Arc::clone(&resource.name), resource)).collect();
            if next(3) == 0 {
                holding.remove(&changed.keys().cloned().collect());
                wanted.retain(|name, _| !changed.contains_key(name));
            } else {
                holding.send(&changed);
                wanted.extend(changed);
            }
            assert!(holding.iter().map(|held| &held.sent).eq(wanted.values()), "round {round}");
            assert_eq!(holding.get("0500").map(|held| &held.sent), wanted.get("0500"));
        }
    }

    #[test]
    fn what_was_accepted_stays_so_until_there_is_an_answer() {
        for beside in [0, 100] {
            let mut holding = Holding::default();
            let brought = Resource { name: "a".into(), version: "1".into(), ..Resource::default() };
            holding.bring((0..beside).map(|n| Held { sent: resource(n, 1), accepted: None }));
            holding.bring([Held::known(brought)].into_iter());
            let newer = Arc::new(Resource { name: "a".into(), version: "2".into(), ..Resource::default() });
            holding.send(&[("a".into(), newer)].into());
            let held = holding.get_mut("a").unwrap();
            assert_eq!((&*held.sent.version, &*held.accepted.clone().unwrap().version), ("2", "1"));
        }
    }
}
