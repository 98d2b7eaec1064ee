//! When to derive. A change in a quiet time at once, so that what somebody writes is served within milliseconds; in a busy
//! time as often as leaves the other half of a core free. No clock of its own.

use std::time::Duration;

use tokio::time::Instant;

use super::index::Change;

/// How long after the first sign of a change further signs are gathered: enough for what comes in one packet.
const GATHER: Duration = Duration::from_millis(1);

/// Between two derivations at least.
const GAP: Duration = Duration::from_millis(10);

/// Between two derivations at most, however long they take: nobody waits longer for what they wrote.
const MAX_GAP: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What has come since the last derivation began, and when the first of it did.
    pending: Change,
    since: Option<Instant>,
    /// Before that no derivation begins.
    rest_until: Option<Instant>,
    last_ended: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    pub(super) fn note(&mut self, change: Change, now: Instant) {
        if change > Change::Nothing {
            self.pending = self.pending.max(change);
            self.since.get_or_insert(now);
        }
    }

    /// When to begin; `None` while there is no reason to.
    pub(super) fn due(&self) -> Option<Instant> {
        let gathered = self.since? + GATHER;
        Some(self.rest_until.map_or(gathered, |rest| rest.max(gathered)))
    }

    /// What has come; from now on all is new.
    pub(super) fn begin(&mut self) -> Change {
        self.since = None;
        std::mem::take(&mut self.pending)
    }

    /// What was idle before it counts as rest: a long one in a quiet time holds nobody up who comes after it.
    pub(super) fn ended(&mut self, took: Duration, now: Instant) {
        let idle = self.last_ended.map(|last| now.saturating_duration_since(last).saturating_sub(took));
        let rest = idle.map_or(Duration::ZERO, |idle| took.saturating_sub(idle));
        self.rest_until = Some(now + rest.clamp(GAP, MAX_GAP));
        self.last_ended = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn at_once_when_idle_and_half_the_time_when_busy() {
        let begin = Instant::now();
        // A derivation's duration, the idle time before it, and how long the next one waits after it.
        for (took, idle, rest) in
            [(0, 0, 10), (4, 0, 10), (300, 0, 300), (300, 100, 200), (300, 5_000, 10), (5_000, 0, 1_000)]
        {
            let mut pace = Pace::default();
            pace.ended(ms(1), begin);
            let begin = begin + ms(idle);
            pace.note(Change::Nothing, begin);
            assert_eq!(pace.due(), None);
            pace.note(Change::Beside, begin);
            pace.note(Change::Matters, begin + ms(1));
            assert_eq!(pace.due(), Some(begin + ms(if idle == 0 { 10 } else { 1 })));
            assert_eq!(pace.begin(), Change::Matters);
            assert_eq!(pace.due(), None);
            let ended = begin + ms(took);
            // Of a burst, all but the first wait together.
            pace.note(Change::Matters, begin);
            pace.ended(ms(took), ended);
            pace.note(Change::Matters, ended + ms(3));
            assert_eq!(pace.due(), Some(ended + ms(rest)), "{took} ms");
            pace.begin();
            pace.note(Change::Matters, ended + ms(2_000));
            assert_eq!(pace.due(), Some(ended + ms(2_001)), "{took} ms, then idle");
        }
    }
}
