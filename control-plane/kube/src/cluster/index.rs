//! What is known of the cluster: plain maps with one writer. Never decides what objects mean.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use outrigger_crds::Problem;

use super::{
    Namespace, RESOURCES, Resource, Store,
    kinds::{Content, Item, KINDS},
};
use crate::{convert::Objects, pod::Pod, slice::Slice};

/// What a watch tells of its kind.
#[derive(Debug)]
pub(super) enum Update {
    /// These are all; others are gone.
    Replaced(Vec<Item>),
    Applied(Item),
    Deleted(Item),
}

/// What an update amounts to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    #[default]
    Nothing,
    /// Something that no derivation looks at.
    Beside,
    Matters,
}

/// All objects. Cheap to clone: what is changed afterwards is copied first.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    pub(super) namespaces: Store<Namespace>,
    /// Of nodes.
    pub(super) zones: Store<String>,
    pub(super) pods: Store<Pod>,
    pub(super) slices: Store<Slice>,
    /// By kind.
    pub(super) resources: BTreeMap<&'static str, Store<Resource>>,
    /// What isn't like ever, by kind and key: what was last known of it stays.
    unreadable: Arc<BTreeMap<(&'static str, Arc<str>), String>>,
    synced: [bool; KINDS.len()],
}

fn put<T: PartialEq>(store: &mut Store<T>, key: Arc<str>, value: T) -> Change {
    if store.get(&key).is_some_and(|before| **before == value) {
        return Change::Nothing;
    }
    Arc::make_mut(store).insert(key, Arc::new(value));
    Change::Matters
}

fn remove<T>(store: &mut Store<T>, key: &str) -> Change {
    if !store.contains_key(key) {
        return Change::Nothing;
    }
    Arc::make_mut(store).remove(key);
    Change::Matters
}

/// A version that can't be read leaves the last good one of the same object in force.
fn put_resource(store: &mut Store<Resource>, key: Arc<str>, mut resource: Resource) -> Change {
    let Some(before) = store.get(&key) else { return put(store, key, resource) };
    let same = before.metadata.uid == resource.metadata.uid;
    if (resource.object.is_none() && same) || before.object == resource.object {
        resource.object.clone_from(&before.object);
    }
    let beside = before.object == resource.object && before.refused == resource.refused;
    match put(store, key, resource) {
        Change::Matters if beside => Change::Beside,
        change => change,
    }
}

// === impl Index ===

impl Index {
    pub(super) fn new() -> Self {
        Self { resources: RESOURCES.iter().map(|kind| (*kind, Store::default())).collect(), ..Self::default() }
    }

    /// Whether every kind has been listed.
    pub(super) fn is_complete(&self) -> bool {
        self.synced.iter().all(|synced| *synced)
    }

    /// How many objects there are of the kind at this index of [`KINDS`].
    pub(super) fn len(&self, kind: usize) -> usize {
        match KINDS[kind].name {
            "Namespace" => self.namespaces.len(),
            "Node" => self.zones.len(),
            "Pod" => self.pods.len(),
            "EndpointSlice" => self.slices.len(),
            other => self.resources.get(other).map_or(0, |store| store.len()),
        }
    }

    /// Takes an update of the kind at this index of [`KINDS`].
    pub(super) fn absorb(&mut self, kind: usize, update: Update) -> Change {
        let name = KINDS[kind].name;
        match update {
            Update::Replaced(items) => {
                let first = !std::mem::replace(&mut self.synced[kind], true);
                let mut change = if first { Change::Matters } else { Change::Nothing };
                let there: HashSet<Arc<str>> = items.iter().map(|item| item.key.clone()).collect();
                for key in self.keys(name).into_iter().filter(|key| !there.contains(key)) {
                    change = change.max(self.remove(name, &key));
                }
                for item in items {
                    change = change.max(self.apply(name, item));
                }
                change
            }
            Update::Applied(item) => self.apply(name, item),
            Update::Deleted(item) => self.remove(name, &item.key),
        }
    }

    fn apply(&mut self, kind: &'static str, item: Item) -> Change {
        let Item { key, content, .. } = item;
        if let Content::Unreadable(problem) = content {
            let before = Arc::make_mut(&mut self.unreadable).insert((kind, key), problem.clone());
            return if before == Some(problem) { Change::Nothing } else { Change::Matters };
        }
        let read = self.forget(kind, &key);
        let change = match content {
            Content::Namespace(namespace) => put(&mut self.namespaces, key, namespace),
            Content::Zone(zone) => put(&mut self.zones, key, zone),
            Content::Pod(pod) => put(&mut self.pods, key, *pod),
            Content::Slice(slice) => put(&mut self.slices, key, slice),
            Content::Resource(resource) => {
                self.resources.get_mut(kind).map_or(Change::Nothing, |store| put_resource(store, key, *resource))
            }
            Content::Unreadable(_) => Change::Nothing,
        };
        change.max(read)
    }

    fn remove(&mut self, kind: &'static str, key: &str) -> Change {
        let read = self.forget(kind, key);
        let change = match kind {
            "Namespace" => remove(&mut self.namespaces, key),
            "Node" => remove(&mut self.zones, key),
            "Pod" => remove(&mut self.pods, key),
            "EndpointSlice" => remove(&mut self.slices, key),
            other => self.resources.get_mut(other).map_or(Change::Nothing, |store| remove(store, key)),
        };
        change.max(read)
    }

    /// That it couldn't be read.
    fn forget(&mut self, kind: &'static str, key: &str) -> Change {
        let key = (kind, Arc::from(key));
        if !self.unreadable.contains_key(&key) {
            return Change::Nothing;
        }
        Arc::make_mut(&mut self.unreadable).remove(&key);
        Change::Matters
    }

    fn keys(&self, kind: &'static str) -> Vec<Arc<str>> {
        let unreadable = self.unreadable.keys().filter(|(of, _)| *of == kind).map(|(_, key)| key.clone());
        let mut keys: Vec<Arc<str>> = unreadable.collect();
        match kind {
            "Namespace" => keys.extend(self.namespaces.keys().cloned()),
            "Node" => keys.extend(self.zones.keys().cloned()),
            "Pod" => keys.extend(self.pods.keys().cloned()),
            "EndpointSlice" => keys.extend(self.slices.keys().cloned()),
            other => keys.extend(self.resources.get(other).iter().flat_map(|store| store.keys().cloned())),
        }
        keys
    }

    /// What is in force.
    pub(super) fn objects(&self) -> Objects<'_> {
        let mut objects = Objects {
            namespaces: self.namespaces.values().map(|n| (n.name.as_str(), &n.labels)).collect(),
            pods: self.pods.values().map(AsRef::as_ref).collect(),
            slices: self.slices.values().map(AsRef::as_ref).collect(),
            zones: self.zones.iter().map(|(node, zone)| (node.as_ref(), zone.as_str())).collect(),
            ..Objects::default()
        };
        for resource in self.resources.values().flat_map(|store| store.values()) {
            if let Some(object) = &resource.object {
                objects.push(object);
            }
        }
        objects
    }

    /// What can't be read.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (kind, store) in &self.resources {
            for (key, resource) in store.iter().filter(|(_, resource)| !resource.refused.is_empty()) {
                let kept = if resource.object.is_some() { "; its last good version stays in force" } else { "" };
                problems.extend(resource.refused.iter().map(|found| {
                    problem(format!("{kind}/{key}"), &found.field, format!("{}{kept}", found.problem), &found.remedy)
                }));
            }
        }
        for ((kind, key), error) in self.unreadable.iter() {
            let error = format!("it can't be read: {error}; what was last known of it stays in force");
            problems.push(problem(format!("{kind}/{key}"), "", error, "compare it with its API"));
        }
        problems
    }
}

fn problem(object: String, field: &str, problem: String, remedy: &str) -> Problem {
    Problem { file: "".into(), document: 0, object, field: field.to_owned(), problem, remedy: remedy.to_owned() }
}
