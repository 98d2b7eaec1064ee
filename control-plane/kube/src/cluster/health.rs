//! How the watches are doing: for readiness, metrics and whoever looks for the reason. Written by the watches, read by all.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::kinds::KINDS;

/// Of all kinds; cheap to clone.
#[derive(Debug, Clone)]
pub struct WatchStatus {
    kinds: Arc<[watch::Sender<KindStatus>]>,
}

/// The watch of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindStatus {
    /// As in `kind:`.
    pub kind: &'static str,
    /// Its objects have been listed once, or there is no such API.
    pub synced: bool,
    /// The API server has no such API; it counts as a kind without objects.
    pub absent: bool,
    pub objects: usize,
    /// When the API server last told anything of it, bookmarks included.
    pub heard: Option<Instant>,
    /// Lists after the first.
    pub relists: u64,
    /// Lists and watches that failed. A watch that the API server ends in order isn't counted.
    pub failures: u64,
    /// Why the last try failed; "" if it didn't.
    pub error: String,
}

// === impl WatchStatus ===

impl WatchStatus {
    pub fn kinds(&self) -> Vec<KindStatus> {
        self.kinds.iter().map(|kind| kind.borrow().clone()).collect()
    }

    /// Kinds that nothing can be published without, and that haven't been listed yet.
    pub fn missing(&self) -> Vec<&'static str> {
        self.kinds.iter().map(watch::Sender::borrow).filter(|kind| !kind.synced).map(|kind| kind.kind).collect()
    }

    pub(super) fn objects(&self, index: usize) -> usize {
        self.kinds.get(index).map_or(0, |kind| kind.borrow().objects)
    }

    pub(super) fn update(&self, index: usize, change: impl FnOnce(&mut KindStatus)) {
        if let Some(kind) = self.kinds.get(index) {
            kind.send_modify(change);
        }
    }
}

impl Default for WatchStatus {
    fn default() -> Self {
        Self { kinds: KINDS.iter().map(|kind| watch::Sender::new(KindStatus::new(kind.name))).collect() }
    }
}

// === impl KindStatus ===

impl KindStatus {
    fn new(kind: &'static str) -> Self {
        Self {
            kind,
            synced: false,
            absent: false,
            objects: 0,
            heard: None,
            relists: 0,
            failures: 0,
            error: String::new(),
        }
    }

    /// For how long nothing was heard; `None` if nothing ever was.
    pub fn silence(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.elapsed())
    }
}
