//! What a name leads to in a snapshot, for a client that may see only a part of it.

use std::sync::Arc;

use outrigger_model::{Resource, TypeSet};

/// What a client may see of a type. The rest doesn't exist for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    Everything,
    /// Only the resource of this name.
    Own(Arc<str>),
}

// === impl Scope ===

impl Scope {
    /// Everything that `ask` (a name, an alias, a glob or `*`) leads to and that may be seen.
    pub(crate) fn find<'s>(&self, set: &'s TypeSet, ask: &str, mut found: impl FnMut(&'s Arc<Resource>)) {
        let mut visible = |resource: &'s Arc<Resource>| {
            if self.sees(resource) {
                found(resource);
            }
        };
        if ask == "*" {
            set.resources.values().for_each(visible);
        } else if is_glob(ask) {
            set.resources.beginning_with(&ask[..ask.len() - 1]).for_each(|(_, resource)| visible(resource));
        } else if let Some(resource) = named(set, ask) {
            visible(resource);
        }
    }

    /// As [`find`](Self::find), but one is enough, and `*` leads to none.
    pub(crate) fn first<'s>(&self, set: &'s TypeSet, ask: &str) -> Option<&'s Arc<Resource>> {
        if is_glob(ask) {
            let mut members = set.resources.beginning_with(&ask[..ask.len() - 1]);
            return members.find(|(_, resource)| self.sees(resource)).map(|(_, resource)| resource);
        }
        named(set, ask).filter(|resource| self.sees(resource))
    }

    pub(crate) fn sees(&self, resource: &Resource) -> bool {
        match self {
            Self::Everything => true,
            Self::Own(name) => *name == resource.name,
        }
    }
}

/// By its name or an alias.
fn named<'s>(set: &'s TypeSet, ask: &str) -> Option<&'s Arc<Resource>> {
    set.resources.get(ask).or_else(|| set.aliases.get(ask).and_then(|name| set.resources.get(name)))
}

/// Globs that a name is a member of. One that looks like a glob itself isn't its own.
pub(crate) fn globs_of(name: &str) -> impl Iterator<Item = String> {
    let globs = name.match_indices('/').map(|(at, _)| [&name[..=at], "*"].concat());
    globs.filter(move |glob| glob != name)
}

/// A name of all resources whose names begin with what is before the star.
pub(crate) fn is_glob(ask: &str) -> bool {
    ask.ends_with("/*")
}
