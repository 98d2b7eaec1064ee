//! Whether a request is tried again ([`Tries`]), and how many retries a destination bears.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use http::Method;

use crate::clock;

mod tries;

pub use tries::{SAFE_RETRIES, Tries};

/// Retries that are always allowed within [`WINDOW`] seconds.
const FLOOR: u64 = 10;

/// Seconds that are looked back on, the current one included.
const WINDOW: usize = 10;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Keeps retries below a share of a destination's requests of the last ten seconds. Takes no lock.
#[derive(Debug, Default)]
pub struct RetryBudget {
    requests: Counter,
    retries: Counter,
}

/// One slot per second: the second in the upper half, the count in the lower.
#[derive(Debug, Default)]
struct Counter([AtomicU64; WINDOW]);

/// Whether a request of this method may be sent twice (RFC 9110 section 9.2.2).
pub fn idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

// === impl RetryBudget ===

impl RetryBudget {
    /// Counts a request; its retries don't count.
    pub fn request(&self, now: Instant) {
        self.requests.add(second(now));
    }

    /// Takes one retry out of the budget, if `percent` of the requests leave one.
    pub fn try_retry(&self, percent: u32, now: Instant) -> bool {
        let second = second(now);
        let limit = (self.requests.sum(second) * u64::from(percent) / 100).max(FLOOR);
        // Taken before it is checked, so that threads that come at once can't all have the last one.
        self.retries.add(second);
        let granted = self.retries.sum(second) <= limit;
        if !granted {
            self.retries.take_back(second);
        }
        granted
    }
}

fn second(now: Instant) -> u64 {
    clock::nanos(now) / NANOS_PER_SECOND
}

// === impl Counter ===

impl Counter {
    fn slot(&self, second: u64) -> &AtomicU64 {
        &self.0[second as usize % WINDOW]
    }

    fn add(&self, second: u64) {
        let next = |slot: u64| Some(if slot >> 32 == second { slot + 1 } else { second << 32 | 1 });
        // The closure always gives a value, so this never fails.
        let _ = self.slot(second).fetch_update(Relaxed, Relaxed, next);
    }

    fn take_back(&self, second: u64) {
        let next = |slot: u64| (slot >> 32 == second && slot as u32 > 0).then(|| slot - 1);
        // Fails if the second has passed: then nobody counts it any more.
        let _ = self.slot(second).fetch_update(Relaxed, Relaxed, next);
    }

    fn sum(&self, second: u64) -> u64 {
        let oldest = (second + 1).saturating_sub(WINDOW as u64);
        let slots = self.0.iter().map(|slot| slot.load(Relaxed));
        slots.filter(|slot| (oldest..=second).contains(&(slot >> 32))).map(|slot| slot & u64::from(u32::MAX)).sum()
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn granted(budget: &RetryBudget, percent: u32, now: Instant) -> usize {
        (0..1000).take_while(|_| budget.try_retry(percent, now)).count()
    }

    #[test]
    fn the_floor_is_ten_in_ten_seconds() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        assert_eq!(granted(&budget, 20, start), 10);
        assert_eq!(granted(&budget, 20, start + Duration::from_secs(8)), 0);
        assert_eq!(granted(&budget, 20, start + Duration::from_secs(11)), 10);
    }

    #[test]
    fn the_share_is_of_the_last_ten_seconds() {
        let (budget, start) = (RetryBudget::default(), Instant::now());
        for second in 0..5 {
            for _ in 0..100 {
                budget.request(start + Duration::from_secs(second));
            }
        }
        let now = start + Duration::from_secs(5);
        assert_eq!(granted(&budget, 20, now), 100);
        assert_eq!(granted(&budget, 30, now), 50);
        assert_eq!(granted(&budget, 30, now + Duration::from_secs(3600)), 10);
    }

    #[test]
    fn threads_together_never_exceed_it() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        for _ in 0..1000 {
            budget.request(now);
        }
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..500).filter(|_| budget.try_retry(20, now)).count())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(total <= 200, "{total}");
        assert!(total + granted(&budget, 20, now) == 200);
    }

    #[test]
    fn idempotent_methods() {
        for (method, expected) in [("GET", true), ("PUT", true), ("DELETE", true), ("POST", false), ("PATCH", false)] {
            assert_eq!(idempotent(&method.parse().unwrap()), expected, "{method}");
        }
        assert!(!idempotent(&"PROPFIND".parse().unwrap()));
        assert!(!idempotent(&Method::CONNECT));
    }
}
