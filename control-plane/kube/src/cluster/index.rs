//! What is known of the cluster: plain maps with one writer. Never decides what objects mean.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Service;
use outrigger_crds::{Object, Problem, Workload};
use outrigger_model::Progress;
use outrigger_wire::names::SYSTEM_NAMESPACE;

use super::{
    Namespace, RESOURCES, Resource, Store,
    concern::Tracker,
    kinds::{Content, Item, KINDS},
};
use crate::{
    Settings,
    convert::{self, Objects},
    pod::Pod,
    slice::Slice,
};

/// What a watch tells of its kind.
#[derive(Debug)]
pub(super) enum Update {
    /// These are all; others are gone.
    Replaced(Vec<Item>),
    /// All up to this version of the API server has been told.
    Read(u64),
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
    /// Of a pod that came lately.
    labels: Option<Arc<BTreeMap<String, String>>>,
    pub(super) slices: Store<Slice>,
    /// By kind.
    pub(super) resources: BTreeMap<&'static str, Store<Resource>>,
    /// What isn't like ever, by kind and key: what was last known of it stays.
    unreadable: Arc<BTreeMap<(&'static str, Arc<str>), String>>,
    /// Resources of which something can't be read, by kind and key.
    refused: Arc<BTreeSet<(&'static str, Arc<str>)>>,
    synced: [bool; KINDS.len()],
    pub(super) progress: Progress,
}

/// Says what was there before, too.
fn put<T: PartialEq>(store: &mut Store<T>, key: &Arc<str>, value: T) -> (Change, Option<Arc<T>>) {
    if store.get(key).is_some_and(|before| **before == value) {
        return (Change::Nothing, None);
    }
    (Change::Matters, store.insert(Arc::clone(key), Arc::new(value)))
}

fn remove<T>(store: &mut Store<T>, key: &str) -> (Change, Option<Arc<T>>) {
    let before = store.remove(key);
    (if before.is_some() { Change::Matters } else { Change::Nothing }, before)
}

/// A version that can't be read leaves the last good one of the same object in force.
fn put_resource(
    store: &mut Store<Resource>,
    key: &Arc<str>,
    mut resource: Resource,
) -> (Change, Option<Arc<Resource>>) {
    let Some(before) = store.get(key) else { return put(store, key, resource) };
    let same = before.metadata.uid == resource.metadata.uid;
    if (resource.object.is_none() && same) || before.object == resource.object {
        resource.object.clone_from(&before.object);
    }
    let beside = before.object == resource.object && before.refused == resource.refused;
    match put(store, key, resource) {
        (Change::Matters, before) if beside => (Change::Beside, before),
        changed => changed,
    }
}

// === impl Update ===

impl Update {
    /// The newest of the API server's that it tells of, if they are numbers.
    fn version(&self) -> Option<u64> {
        match self {
            Self::Replaced(items) => items.iter().filter_map(Item::number).max(),
            Self::Read(version) => Some(*version),
            Self::Applied(item) | Self::Deleted(item) => item.number(),
        }
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
    pub(super) fn absorb(&mut self, kind: usize, update: Update, tracker: &mut Tracker) -> Change {
        let name = KINDS[kind].name;
        let version = update.version();
        let change = match update {
            Update::Replaced(items) => {
                let first = !std::mem::replace(&mut self.synced[kind], true);
                let mut change = if first { Change::Matters } else { Change::Nothing };
                let there: HashSet<Arc<str>> = items.iter().map(|item| item.key.clone()).collect();
                for key in self.keys(name).into_iter().filter(|key| !there.contains(key)) {
                    change = change.max(self.remove(name, &key, tracker));
                }
                for item in items {
                    change = change.max(self.apply(name, item, tracker));
                }
                change
            }
            Update::Applied(item) => self.apply(name, item, tracker),
            Update::Deleted(item) => self.remove(name, &item.key, tracker),
            Update::Read(_) => Change::Nothing,
        };
        match version {
            Some(version) if change == Change::Matters => self.progress.changed(name, version),
            Some(version) => self.progress.read(name, version),
            None => {}
        }
        change
    }

    fn apply(&mut self, kind: &'static str, item: Item, tracker: &mut Tracker) -> Change {
        let Item { key, content, .. } = item;
        if let Content::Unreadable(problem) = content {
            let before = Arc::make_mut(&mut self.unreadable).insert((kind, key), problem.clone());
            return if before == Some(problem) { Change::Nothing } else { Change::Matters };
        }
        let read = self.forget(kind, &key);
        let change = match content {
            Content::Namespace(namespace) => settings(put(&mut self.namespaces, &key, namespace).0, tracker),
            Content::Zone(zone) => settings(put(&mut self.zones, &key, zone).0, tracker),
            Content::Pod(mut pod) => {
                self.share_labels(&key, &mut pod);
                let (change, before) = put(&mut self.pods, &key, *pod);
                self.noted_pod(&key, change, before.as_deref(), tracker)
            }
            Content::Slice(slice) => {
                let (change, before) = put(&mut self.slices, &key, slice);
                self.noted_slice(&key, change, before.as_deref(), tracker)
            }
            Content::Resource(resource) => {
                let refused = !resource.refused.is_empty();
                if refused != self.refused.contains(&(kind, Arc::clone(&key))) {
                    let all = Arc::make_mut(&mut self.refused);
                    if refused {
                        all.insert((kind, Arc::clone(&key)))
                    } else {
                        all.remove(&(kind, Arc::clone(&key)))
                    };
                }
                let Some(store) = self.resources.get_mut(kind) else { return Change::Nothing };
                let (change, before) = put_resource(store, &key, *resource);
                self.noted_resource(kind, &key, change, before.as_deref(), tracker)
            }
            Content::Unreadable(_) => Change::Nothing,
        };
        change.max(read)
    }

    fn remove(&mut self, kind: &'static str, key: &Arc<str>, tracker: &mut Tracker) -> Change {
        let read = self.forget(kind, key);
        let change = match kind {
            "Namespace" => settings(remove(&mut self.namespaces, key).0, tracker),
            "Node" => settings(remove(&mut self.zones, key).0, tracker),
            "Pod" => {
                let (change, before) = remove(&mut self.pods, key);
                self.noted_pod(key, change, before.as_deref(), tracker)
            }
            "EndpointSlice" => {
                let (change, before) = remove(&mut self.slices, key);
                self.noted_slice(key, change, before.as_deref(), tracker)
            }
            other => {
                Arc::make_mut(&mut self.refused).remove(&(kind, Arc::clone(key)));
                let Some(store) = self.resources.get_mut(other) else { return read };
                let (change, before) = remove(store, key);
                self.noted_resource(kind, key, change, before.as_deref(), tracker)
            }
        };
        change.max(read)
    }

    /// Pods of one template have the same labels, and next to each other names, in a list as well as in the index.
    fn share_labels(&mut self, key: &str, pod: &mut Pod) {
        let next = self.pods.range_from(key).next().map(|(_, pod)| &pod.labels);
        match next.into_iter().chain(&self.labels).find(|labels| **labels == pod.labels) {
            Some(same) => pod.labels = Arc::clone(same),
            None => self.labels = Some(Arc::clone(&pod.labels)),
        }
    }

    fn noted_pod(&self, key: &Arc<str>, change: Change, before: Option<&Pod>, tracker: &mut Tracker) -> Change {
        let after = self.pods.get(key).map(AsRef::as_ref);
        if before.zip(after).is_some_and(|(before, after)| before.is_served_as(after)) {
            return change.min(Change::Beside);
        }
        if change == Change::Matters {
            tracker.pod(key, before, after, self);
        }
        change
    }

    fn noted_slice(&self, key: &Arc<str>, change: Change, before: Option<&Slice>, tracker: &mut Tracker) -> Change {
        if change == Change::Matters {
            tracker.slice(key, before, self.slices.get(key).map(AsRef::as_ref), self);
        }
        change
    }

    fn noted_resource(
        &self,
        kind: &'static str,
        key: &Arc<str>,
        change: Change,
        before: Option<&Resource>,
        tracker: &mut Tracker,
    ) -> Change {
        if change != Change::Matters {
            return change;
        }
        let before = before.and_then(|resource| resource.object.as_deref());
        let after = self.resources.get(kind).and_then(|store| store.get(key)).and_then(|r| r.object.as_deref());
        match kind {
            "Service" => tracker.service(key, before.and_then(as_service), after.and_then(as_service), self),
            "HTTPRoute" | "GRPCRoute" | "MeshRoute" => tracker.route((kind, Arc::clone(key)), before, after),
            "AccessPolicy" | "TrafficPolicy" => tracker.policy(kind, key, self),
            _ => tracker.everything(),
        }
        change
    }

    pub(super) fn service(&self, name: &str) -> Option<&Service> {
        self.resources.get("Service")?.get(name)?.object.as_deref().and_then(as_service)
    }

    /// Names of a namespace's.
    pub(super) fn services_in(&self, namespace: &str) -> impl Iterator<Item = &Arc<str>> {
        let all = self.resources.get("Service").into_iter();
        all.flat_map(move |all| all.beginning_with(format!("{namespace}/"))).map(|(name, _)| name)
    }

    /// Workloads that users have written, by name.
    pub(super) fn written(&self) -> impl Iterator<Item = (&Arc<str>, &Workload)> {
        let all = self.resources.get("Workload").into_iter().flatten();
        all.filter_map(|(name, resource)| match resource.object.as_deref() {
            Some(Object::Workload(workload)) => Some((name, &**workload)),
            _ => None,
        })
    }

    /// The Workload of this name that a user has written.
    pub(super) fn written_as(&self, name: &str) -> Option<&Workload> {
        match self.resources.get("Workload")?.get(name)?.object.as_deref() {
            Some(Object::Workload(workload)) => Some(workload),
            _ => None,
        }
    }

    /// `NAMESPACE/NAME` of the services of all shared proxies.
    pub(super) fn shared_services(&self) -> BTreeSet<Arc<str>> {
        let configs = self.resources.get("MeshConfig").into_iter().flat_map(|store| store.values());
        let configs: Vec<_> = configs
            .filter_map(|config| match config.object.as_deref() {
                Some(Object::MeshConfig(config)) => Some(&**config),
                _ => None,
            })
            .collect();
        let settings = convert::mesh_settings(&configs, &Settings::default());
        settings.shared_services().into_iter().map(Arc::from).collect()
    }

    /// Whether a policy names a service.
    pub(super) fn is_target(&self, service: &str) -> bool {
        let Some((namespace, name)) = service.split_once('/') else { return false };
        let policies = ["TrafficPolicy", "AccessPolicy"].into_iter().filter_map(|kind| self.resources.get(kind));
        let mut policies = policies.flatten().filter(|(policy, _)| {
            policy.split_once('/').is_some_and(|(of, _)| of == namespace || of == SYSTEM_NAMESPACE)
        });
        policies.any(|(_, policy)| match policy.object.as_deref() {
            Some(Object::TrafficPolicy(policy)) => policy.spec.target_refs.iter().any(|target| target.name == name),
            Some(Object::AccessPolicy(policy)) => policy.spec.target_refs.iter().any(|target| target.name == name),
            _ => false,
        })
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
        for (kind, key) in self.refused.iter() {
            let Some(resource) = self.resources.get(kind).and_then(|store| store.get(key)) else { continue };
            let kept = if resource.object.is_some() { "; its last good version stays in force" } else { "" };
            problems.extend(resource.refused.iter().map(|found| {
                problem(format!("{kind}/{key}"), &found.field, format!("{}{kept}", found.problem), &found.remedy)
            }));
        }
        for ((kind, key), error) in self.unreadable.iter() {
            let error = format!("it can't be read: {error}; what was last known of it stays in force");
            problems.push(problem(format!("{kind}/{key}"), "", error, "compare it with its API"));
        }
        problems
    }
}

/// Of something that everything may depend on.
fn settings(change: Change, tracker: &mut Tracker) -> Change {
    if change == Change::Matters {
        tracker.everything();
    }
    change
}

fn as_service(object: &Object) -> Option<&Service> {
    match object {
        Object::Service(service) => Some(service),
        _ => None,
    }
}

fn problem(object: String, field: &str, problem: String, remedy: &str) -> Problem {
    Problem { file: "".into(), document: 0, object, field: field.to_owned(), problem, remedy: remedy.to_owned() }
}
