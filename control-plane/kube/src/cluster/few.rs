//! A set of names that has one, mostly.

use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Few {
    One(Arc<str>),
    More(Vec<Arc<str>>),
}

// === impl Few ===

impl Few {
    pub(super) fn add(&mut self, name: &Arc<str>) {
        match self {
            Self::One(one) if one == name => {}
            Self::One(one) => *self = Self::More(vec![Arc::clone(one), Arc::clone(name)]),
            Self::More(names) if names.contains(name) => {}
            Self::More(names) => names.push(Arc::clone(name)),
        }
    }

    /// Says whether nothing is left; it is to be dropped then.
    pub(super) fn remove(&mut self, name: &Arc<str>) -> bool {
        match self {
            Self::One(one) => one == name,
            Self::More(names) => {
                names.retain(|other| other != name);
                names.is_empty()
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::More(names) => names.iter(),
        }
    }
}
