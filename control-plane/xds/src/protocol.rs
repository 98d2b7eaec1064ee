//! What goes in and out of a [`Subscription`](crate::Subscription), the same for both protocols and without a transport.

use std::{collections::HashMap, sync::Arc};

use outrigger_model::Resource;

/// Names, aliases, globs and known versions that one subscription may hold.
pub(crate) const MAX_NAMES: usize = 100_000;
/// Bytes of one name or version.
pub(crate) const MAX_NAME: usize = 512;
/// Bytes kept of what a client calls itself.
pub(crate) const MAX_NODE: usize = 512;

/// Which of the two xDS protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    Delta,
    StateOfTheWorld,
}

/// A request without its transport.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub names: Names,
    /// Of the response that is answered; `None` if there is none, or one that we never made.
    pub nonce: Option<u64>,
    /// Why that response was rejected.
    pub error: Option<String>,
}

/// What a request says about the names of interest.
#[derive(Debug, Clone)]
pub enum Names {
    /// Delta.
    Change {
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        /// `initial_resource_versions`: what the client kept from an earlier stream.
        known: HashMap<String, String>,
    },
    /// State of the world: all names from now on.
    Whole(Vec<String>),
}

/// What a request said about the push in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it had no nonce or a stale one.
    None,
    Ack,
    Nack,
}

/// A response without its transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    pub type_url: &'static str,
    pub nonce: u64,
    /// Delta: what is new to the client. State of the world: all that it asked for.
    pub resources: Vec<Arc<Resource>>,
    /// Names, aliases and globs that lead nowhere. Empty for state of the world.
    pub removed: Vec<Arc<str>>,
}

/// A client asks for more than a mesh can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {MAX_NAMES} names of one type, or one, or its version, longer than {MAX_NAME} bytes")]
pub struct TooManyNames;

// === impl Names ===

impl Names {
    /// All that may be refused is refused here, before anybody is told of the names.
    ///
    /// # Errors
    /// If there are too many beside those that are `present`, or one is too long.
    pub(crate) fn check(&self, present: usize) -> Result<(), TooManyNames> {
        let long = |text: &String| text.len() > MAX_NAME;
        let (names, known, long_known) = match self {
            Self::Change { subscribe, known, .. } => {
                (subscribe, known.len(), known.iter().any(|(name, version)| long(name) || long(version)))
            }
            Self::Whole(names) => (names, 0, false),
        };
        let many = present + names.len() > MAX_NAMES || known > MAX_NAMES;
        if many || long_known || names.iter().any(long) { Err(TooManyNames) } else { Ok(()) }
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::Change { subscribe: Vec::new(), unsubscribe: Vec::new(), known: HashMap::new() }
    }
}
