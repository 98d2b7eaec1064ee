//! What is different between two snapshots, as far as clients can ask for it.

use std::{collections::BTreeSet, sync::Arc};

use outrigger_model::{MeshSnapshot, TypeSet};

/// With more than this and an eighth of a type's resources, it is cheaper to compare what a client holds with all of them.
const MANY: usize = 256;

/// A resource that came, went, or has other content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) name: Arc<str>,
    /// Those that it had and those that it has.
    pub(crate) aliases: Vec<Arc<str>>,
}

/// What is different of one type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    These(Vec<Arc<Change>>),
    Many,
}

/// What is different, by type; types that have stayed the same aren't there.
pub(crate) fn between(before: &MeshSnapshot, after: &MeshSnapshot) -> Vec<(&'static str, Changed)> {
    let types: BTreeSet<&'static str> = before.types.keys().chain(after.types.keys()).copied().collect();
    let none = Arc::<TypeSet>::default();
    let changed = |type_url: &'static str| {
        let (old, new) = (before.types.get(type_url).unwrap_or(&none), after.types.get(type_url).unwrap_or(&none));
        if Arc::ptr_eq(old, new) {
            return None;
        }
        let differences = old.resources.differences(&new.resources);
        if differences.len() > MANY.max(new.resources.len() / 8) {
            return Some((type_url, Changed::Many));
        }
        let changes = differences.iter().map(|difference| {
            let aliases = difference.before.into_iter().chain(difference.after).flat_map(|resource| &resource.aliases);
            let aliases: BTreeSet<&Arc<str>> = aliases.collect();
            Arc::new(Change { name: Arc::clone(difference.key), aliases: aliases.into_iter().cloned().collect() })
        });
        Some((type_url, Changed::These(changes.collect())))
    };
    types.into_iter().filter_map(changed).collect()
}

// === impl Changed ===

impl Changed {
    /// Takes in what came later.
    pub(crate) fn add(&mut self, later: &Arc<Change>) {
        if let Self::These(changes) = self {
            // Known by several names, it is told once.
            if changes.last().is_none_or(|last| !Arc::ptr_eq(last, later)) {
                changes.push(Arc::clone(later));
            }
            if changes.len() > MANY {
                *self = Self::Many;
            }
        }
    }
}
