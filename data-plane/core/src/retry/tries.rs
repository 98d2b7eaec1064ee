//! Whether one request is tried again, decided after each try. Pure: what came of a try, what time it is and whether the
//! budget has one left are handed in.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::idempotent;
use crate::config::Retry;

/// More tries of a request that nobody has worked on, whatever its method.
const UNSENT_RETRIES: u32 = 5;
/// More tries of an idempotent request without a body whose connection broke, if the owner said nothing.
pub const SAFE_RETRIES: u32 = 1;
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// One request's tries.
#[derive(Debug)]
pub struct Tries<'a> {
    retry: Option<&'a Retry>,
    /// One try's limit.
    each: Option<Duration>,
    /// The whole request's.
    deadline: Option<Instant>,
    /// More tries of a request that may have reached an app.
    repeats: u32,
    /// Tries that nobody has worked on.
    unsent: u32,
    /// Tries that were repeated though they may have reached an app.
    sent: u32,
}

// === impl Tries ===

impl<'a> Tries<'a> {
    /// `whole`: nothing follows the request's head, so that it can be made again.
    pub fn new(
        method: &Method,
        whole: bool,
        retry: Option<&'a Retry>,
        each: Option<Duration>,
        deadline: Option<Instant>,
    ) -> Self {
        let repeatable = whole && (idempotent(method) || retry.is_some_and(|retry| retry.non_idempotent));
        let repeats = if repeatable { retry.map_or(SAFE_RETRIES, |retry| retry.attempts) } else { 0 };
        Self { retry, each, deadline, repeats, unsent: 0, sent: 0 }
    }

    /// Whether the next try may be followed by another even if it reaches an app.
    pub fn repeatable(&self) -> bool {
        self.sent < self.repeats
    }

    /// When the try that begins now must have its answer: the route's limit, and never past the whole request's.
    pub fn until(&self, now: Instant) -> Option<Instant> {
        match (self.each.map(|limit| now + limit), self.deadline) {
            (Some(one), Some(all)) => Some(one.min(all)),
            (one, all) => one.or(all),
        }
    }

    /// Nobody has worked on it. Whether there is another try: that costs nobody anything, but if all were asked before, or one
    /// has as much to do as it can, more of that is what the budget is for.
    pub fn unsent(&mut self, bears_less: bool, budget: impl FnOnce() -> bool) -> bool {
        self.unsent += 1;
        self.unsent <= UNSENT_RETRIES && (!bears_less || budget())
    }

    /// There is an answer. Whether it is worth another try: the proxy at the far end couldn't reach its app, or the owner
    /// named this status.
    pub fn answered(&mut self, status: StatusCode, unreached: bool, budget: impl FnOnce() -> bool) -> bool {
        let worth = unreached || self.retry.is_some_and(|retry| retry.codes.contains(&status.as_u16()));
        self.again(worth, budget)
    }

    /// No answer came, and the app may have got the request. Who is `slow` isn't helped by being asked twice, unless the owner
    /// says so.
    pub fn broken(&mut self, slow: bool, budget: impl FnOnce() -> bool) -> bool {
        self.again(!slow || self.retry.is_some(), budget)
    }

    /// How long to wait before the next try of what may have reached an app; `None` if that would be past the deadline.
    pub fn pause(&self, now: Instant, random: u32) -> Option<Duration> {
        let pause = back_off(self.retry.map_or(Duration::ZERO, |retry| retry.backoff), self.sent, random);
        self.deadline.is_none_or(|deadline| now + pause < deadline).then_some(pause)
    }

    fn again(&mut self, worth: bool, budget: impl FnOnce() -> bool) -> bool {
        let again = worth && self.repeatable() && budget();
        self.sent += u32::from(again);
        again
    }
}

/// The pause after `sent` tries: doubled with each, and up to half more, so that callers don't come back all at once.
fn back_off(base: Duration, sent: u32, random: u32) -> Duration {
    let pause = base.saturating_mul(1 << sent.saturating_sub(1).min(6)).min(BACK_OFF_MAX.max(base));
    pause + pause / 512 * (random % 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_with_jitter_and_end_somewhere() {
        let ms = Duration::from_millis;
        for (base, sent, random, pause) in [
            (0, 1, 255, 0),
            (512, 1, 0, 512),
            (512, 1, 255, 767),
            (256, 2, 0, 512),
            (256, 3, 256, 1000),
            (100, u32::MAX, 0, 1000),
            // The owner's own is the least, whatever our most.
            (2048, 1, 0, 2048),
            (2048, 9, 0, 2048),
        ] {
            assert_eq!(back_off(ms(base), sent, random), ms(pause), "{base} {sent} {random}");
        }
    }
}
