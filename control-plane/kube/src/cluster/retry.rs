//! How long a watch waits before it tries again. No clock of its own.
//!
//! An API server that isn't there, and one that refuses, are counted apart: when it is back after a while, what it refuses
//! at first (a version from before its start, say) is no reason to wait as long as for one that has refused all the while.

use std::time::Duration;

use kube::runtime::{utils::Backoff, watcher::DefaultBackoff};

/// Nobody is spared by waiting longer for an API server that isn't there, and what it says when it is back is needed soon.
const MAX_AWAY: Duration = Duration::from_secs(5);

/// At most, for one that refuses; what kube's own watches wait.
const MAX_REFUSED: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Retry {
    away: DefaultBackoff,
    refused: DefaultBackoff,
}

// === impl Retry ===

impl Retry {
    /// It can't be asked, or isn't ready to answer.
    pub(super) fn away(&mut self) -> Duration {
        self.refused.reset();
        self.away.next().unwrap_or(MAX_AWAY).min(MAX_AWAY)
    }

    /// It has answered, but not with what was asked for.
    pub(super) fn refused(&mut self) -> Duration {
        self.refused.next().unwrap_or(MAX_REFUSED)
    }

    /// It has answered well for a while.
    pub(super) fn well(&mut self) {
        self.away.reset();
        self.refused.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_after_an_absence_is_refused_for_the_first_time() {
        let mut retry = Retry::default();
        let short = Duration::from_secs(2);
        let refusals: Vec<Duration> = (0..8).map(|_| retry.refused()).collect();
        assert!(refusals[0] < short && refusals[7] >= Duration::from_secs(30), "{refusals:?}");
        let absences: Vec<Duration> = (0..8).map(|_| retry.away()).collect();
        assert!(absences[0] < short && absences[7] == MAX_AWAY, "{absences:?}");
        assert!(retry.refused() < short);
        retry.well();
        assert!(retry.away() < short);
    }
}
