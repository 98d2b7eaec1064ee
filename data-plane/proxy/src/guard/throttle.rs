//! Keeps repeated log lines from filling the log.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// Lets one line pass per interval and counts the others.
#[derive(Debug)]
pub(super) struct Throttle {
    start: Instant,
    /// Milliseconds after `start` at which the next line may pass.
    next: AtomicU64,
    held_back: AtomicU64,
}

const INTERVAL: Duration = Duration::from_secs(1);

// === impl Throttle ===

impl Throttle {
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, next: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }

    /// `Some` if a line may be written now: how many were held back since the last one.
    pub(super) fn pass(&self, now: Instant) -> Option<u64> {
        let elapsed = now.duration_since(self.start).as_millis() as u64;
        let next = self.next.load(Ordering::Relaxed);
        let after = elapsed + INTERVAL.as_millis() as u64;
        if elapsed >= next && self.next.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Some(self.held_back.swap(0, Ordering::Relaxed));
        }
        self.held_back.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_second() {
        let start = Instant::now();
        let throttle = Throttle::new(start);
        let millis = Duration::from_millis;
        for (at, expected) in [(0, Some(0)), (1, None), (999, None), (1000, Some(2)), (1500, None), (5000, Some(1))] {
            assert_eq!(throttle.pass(start + millis(at)), expected, "after {at} ms");
        }
    }
}
