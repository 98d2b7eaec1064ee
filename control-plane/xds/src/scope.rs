//! What a name leads to in a snapshot, for a client that may see only a part of it.

use std::{ops::Bound, sync::Arc};

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
        let mut visible = |resource: &'s Arc<Resource>| match self {
            Self::Own(name) if *name != resource.name => {}
            Self::Own(_) | Self::Everything => found(resource),
        };
        if ask == "*" {
            set.resources.values().for_each(visible);
        } else if is_glob(ask) {
            let prefix = &ask[..ask.len() - 1];
            set.resources
                .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
                .take_while(|(name, _)| name.starts_with(prefix))
                .for_each(|(_, resource)| visible(resource));
        } else if let Some(resource) =
            set.resources.get(ask).or_else(|| set.aliases.get(ask).and_then(|name| set.resources.get(name)))
        {
            visible(resource);
        }
    }
}

/// A name of all resources whose names begin with what is before the star.
pub(crate) fn is_glob(ask: &str) -> bool {
    ask.ends_with("/*")
}
