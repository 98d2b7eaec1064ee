//! How much may be in flight to one destination at once. Takes no lock; nothing waits.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// What is in flight. Shared by every version of a destination's set; only what a maximum applied to is counted, so
/// that others don't write to a line that all workers share.
#[derive(Debug, Default, Clone)]
pub(super) struct InFlight(Arc<AtomicU32>);

/// Its request or connection is in flight while this lives.
#[derive(Debug, Default)]
pub(super) struct Place(Option<InFlight>);

// === impl InFlight ===

impl InFlight {
    /// A place; `None` if `max` are taken.
    pub(super) fn enter(&self, max: Option<u32>) -> Option<Place> {
        let Some(max) = max else { return Some(Place::default()) };
        let one_more = |taken| (taken < max).then_some(taken + 1);
        self.0.fetch_update(Relaxed, Relaxed, one_more).ok().map(|_| Place(Some(self.clone())))
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(of) = &self.0 {
            of.0.fetch_sub(1, Relaxed);
        }
    }
}
