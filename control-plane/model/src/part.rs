//! A part of the mesh that is built anew, and put in the place of what was there: so the cost of a change is that of its
//! neighbourhood. Whoever chooses the part knows what depends on what; here it is only exchanged.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use outrigger_wire::names::{address_alias, type_url};

use crate::{
    Affects, Built, Finding, MeshSnapshot, Reach,
    snapshot::{Resource, TypeSet},
};

/// What is to be exchanged: all resources of these, those that are gone included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// `NAMESPACE/NAME`; with their endpoints.
    pub services: BTreeSet<Arc<str>>,
    /// `NAMESPACE/NAME`.
    pub workloads: BTreeSet<Arc<str>>,
    /// Of workloads that are called by them.
    pub addresses: BTreeSet<IpAddr>,
    /// Objects whose findings are exchanged.
    pub origins: BTreeSet<String>,
    /// Objects that may have, or have had, an effect on any of it.
    pub affecting: BTreeSet<String>,
}

/// What was built before.
#[derive(Debug, Clone, Copy)]
pub struct Before<'b> {
    pub snapshot: &'b MeshSnapshot,
    /// Sorted.
    pub findings: &'b [Finding],
    pub affects: &'b Affects,
}

// === impl Built ===

impl Built {
    /// The whole mesh, of which `self` has what belongs to the part right, whatever else it has.
    #[must_use]
    pub fn in_place(self, part: &Part, before: Before<'_>) -> Self {
        let names = part.names(before.snapshot, &self.snapshot);
        let mut affects = before.affects.clone();
        affects.exchange(&self.affects, &part.affecting, &names);
        let kept = before.findings.iter().filter(|finding| !part.origins.contains(&finding.object)).cloned();
        let new = self.problems.into_iter().filter(|finding| part.origins.contains(&finding.object));
        let mut problems: Vec<Finding> = kept.chain(new).collect();
        problems.sort();
        problems.dedup();
        Self { snapshot: before.snapshot.exchanged(&self.snapshot, part, &names), problems, affects }
    }
}

// === impl Part ===

impl Part {
    /// Names of its resources, by type.
    fn names(&self, before: &MeshSnapshot, after: &MeshSnapshot) -> BTreeMap<&'static str, BTreeSet<Arc<str>>> {
        let addresses = self.addresses.iter().map(|address| address_alias(*address).into());
        let mut endpoints = BTreeSet::new();
        for set in [before, after].into_iter().filter_map(|snapshot| snapshot.types.get(type_url::ENDPOINT)) {
            for service in &self.services {
                let own = set.resources.beginning_with(format!("{service}/"));
                endpoints.extend(own.map(|(name, _)| Arc::clone(name)));
            }
        }
        BTreeMap::from([
            (type_url::SERVICE, self.services.iter().cloned().chain(addresses).collect()),
            (type_url::ENDPOINT, endpoints),
            (type_url::INBOUND, self.workloads.clone()),
        ])
    }
}

// === impl MeshSnapshot ===

impl MeshSnapshot {
    fn exchanged(&self, other: &Self, part: &Part, names: &BTreeMap<&'static str, BTreeSet<Arc<str>>>) -> Self {
        let mut next = self.clone();
        for (type_url, names) in names {
            let (Some(set), Some(other)) = (next.types.get_mut(type_url), other.types.get(type_url)) else { continue };
            let differ = |name: &&Arc<str>| match (set.resources.get(*name), other.resources.get(*name)) {
                (None, None) => false,
                (Some(before), Some(after)) => !Arc::ptr_eq(before, after),
                _ => true,
            };
            let changed: Vec<&Arc<str>> = names.iter().filter(differ).collect();
            if !changed.is_empty() {
                Arc::make_mut(set).exchange(other, &changed);
            }
        }
        for workload in &part.workloads {
            match other.workloads.get(workload) {
                Some(identity) if next.workloads.get(workload) != Some(identity) => {
                    next.workloads.insert(Arc::clone(workload), Arc::clone(identity));
                }
                Some(_) => {}
                None => drop(next.workloads.remove(workload)),
            }
        }
        next.generation = self.generation + u64::from(!next.same_content(self));
        next
    }
}

// === impl TypeSet ===

impl TypeSet {
    fn exchange(&mut self, other: &Self, names: &[&Arc<str>]) {
        // An alias may move from one to another: first all go.
        for name in names {
            let Some(before) = self.resources.remove(*name) else { continue };
            for alias in before
                .aliases
                .iter()
                .filter(|alias| self.aliases.get(*alias) == Some(*name))
                .cloned()
                .collect::<Vec<_>>()
            {
                self.aliases.remove(&alias);
            }
        }
        for name in names {
            let Some(resource) = other.resources.get(*name) else { continue };
            self.put(resource);
        }
    }

    pub(crate) fn put(&mut self, resource: &Arc<Resource>) {
        for alias in &resource.aliases {
            self.aliases.insert(Arc::clone(alias), Arc::clone(&resource.name));
        }
        self.resources.insert(Arc::clone(&resource.name), Arc::clone(resource));
    }
}

// === impl Affects ===

impl Affects {
    /// What `other` says of these names takes the place of what was said.
    fn exchange(
        &mut self,
        other: &Self,
        origins: &BTreeSet<String>,
        names: &BTreeMap<&'static str, BTreeSet<Arc<str>>>,
    ) {
        let known = self.iter().chain(other.iter()).map(|(origin, _)| origin);
        let known: BTreeSet<Arc<str>> = known.filter(|origin| origins.contains(*origin)).map(Arc::from).collect();
        for origin in known {
            for (type_url, names) in names {
                let all = |affects: &Self| matches!(affects.of(&origin).get(type_url), Some(Reach::All));
                match (all(self), all(other)) {
                    // Which of the two it is follows from the object alone.
                    (_, true) => self.all(&origin, type_url),
                    (true, false) => self.forget(&origin, type_url),
                    (false, false) => {}
                }
                let there = |affects: &Self| -> BTreeSet<Arc<str>> {
                    affects.named(&origin, type_url).filter(|name| names.contains(*name)).cloned().collect()
                };
                let (before, after) = (there(self), there(other));
                before.difference(&after).for_each(|name| self.remove(&origin, type_url, name));
                after.difference(&before).for_each(|name| self.add(&origin, type_url, name));
            }
        }
    }
}
