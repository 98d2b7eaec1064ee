//! One endpoint and its live state: how busy, how fast, and whether it is ejected.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::{
    clock,
    config::{Ejection, EndpointSpec},
};

/// How long it takes a latency that was seen to count half.
const HALF_LIFE_MS: f32 = 5_000.0;

/// One slow answer, of a lost packet perhaps, is no reason to leave an endpoint alone for many half-lives: after so long one
/// request asks whether it is still slow, or after so many times what it took, so that it costs callers no more than this share
/// of their time.
const BELIEVED: Duration = Duration::from_secs(5);
const BELIEVED_TIMES: f32 = 20.0;

/// Differences below this are noise (seconds). Also what an endpoint of which nothing is remembered takes.
const NOISE: f32 = 0.000_5;

/// A failure counts as at least this slow: what fails fast must not look fast.
const FAILURE: Duration = Duration::from_millis(50);

/// Longest ejection. One that stays well for as long after its last is forgiven.
const LONGEST_EJECTION: Duration = Duration::from_secs(60);

/// How long an endpoint is left alone that couldn't be reached; doubled with each time in a row, up to the longest.
const UNREACHABLE: Duration = Duration::from_secs(1);
const LONGEST_UNREACHABLE: Duration = Duration::from_secs(8);
/// How long all others leave it to the one that tries it.
const TRIAL: Duration = Duration::from_secs(2);

/// An endpoint and its live state.
#[derive(Debug)]
pub struct Endpoint {
    pub spec: EndpointSpec,
    /// Shared with the endpoint's earlier and later versions.
    live: Arc<Live>,
}

#[derive(Debug, Default)]
struct Live {
    in_flight: AtomicU32,
    /// Peak EWMA: bits of the seconds (`f32`) in the upper half, of when (milliseconds, wrapping) in the lower.
    /// 0: never seen.
    latency: AtomicU64,
    failures_in_a_row: AtomicU32,
    /// Nanoseconds of our [`clock`].
    ejected_until: AtomicU64,
    ejections_in_a_row: AtomicU32,
    /// Nanoseconds of our [`clock`], as long as it doesn't answer at all.
    unreachable_until: AtomicU64,
    unreachable_in_a_row: AtomicU32,
}

impl Endpoint {
    pub(super) fn new(spec: EndpointSpec, before: Option<&Self>) -> Self {
        Self { spec, live: before.map(|before| before.live.clone()).unwrap_or_default() }
    }

    pub(super) fn key(&self) -> (&str, IpAddr) {
        (&self.spec.workload, self.spec.address)
    }

    /// Whether both are versions of one endpoint.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.live, &other.live)
    }

    /// Requests or connections that use it now.
    pub fn in_flight(&self) -> u32 {
        self.live.in_flight.load(Relaxed)
    }

    /// Whether it is ejected now, for admin and metrics.
    pub fn ejected(&self, now: Instant) -> bool {
        self.is_ejected(clock::nanos(now))
    }

    pub(super) fn begin(&self) {
        self.live.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn end(&self) {
        self.live.in_flight.fetch_sub(1, Relaxed);
    }

    /// How busy it would be with one more, relative to its share of the weight.
    pub(super) fn busy(&self, mean_weight: f32) -> f32 {
        let share = self.spec.weight.max(1) as f32 / mean_weight;
        1.0 + self.in_flight() as f32 / share
    }

    /// Seconds that it takes lately; less the longer ago that was. `None` if nothing is known of it, or nothing that is
    /// believed and nobody is just asking.
    pub(super) fn latency(&self, now: u64) -> Option<f32> {
        let packed = self.live.latency.load(Relaxed);
        let known = packed != 0 && (is_believed(packed, now) || self.in_flight() > 0);
        known.then(|| NOISE + decayed(packed, now))
    }

    /// Takes in a latency: a higher one at once, a lower one slowly.
    fn observe(&self, took: Duration, now: u64) {
        let took = took.as_secs_f32();
        let next = |packed: u64| {
            let remembered = decayed(packed, now);
            let next = if took >= remembered || !is_believed(packed, now) {
                took
            } else {
                let share = remembered / seconds(packed).max(f32::MIN_POSITIVE);
                remembered + took * (1.0 - share)
            };
            // At least one bit, so that it differs from "never seen".
            Some(u64::from(next.to_bits()) << 32 | u64::from(millis(now).max(1)))
        };
        // The closure always gives a value, so this never fails.
        let _ = self.live.latency.fetch_update(Relaxed, Relaxed, next);
    }

    pub(super) fn is_ejected(&self, now: u64) -> bool {
        self.live.ejected_until.load(Relaxed) > now
    }

    /// Whether it is left alone: for its failures, or because it can't be reached.
    pub(super) fn is_out(&self, now: u64) -> bool {
        self.is_ejected(now) || self.live.unreachable_until.load(Relaxed) > now
    }

    /// Nobody is there to take a request: no answer to a connection, or no sign of life on one.
    pub(super) fn unreachable(&self, now: u64) {
        let until = self.live.unreachable_until.load(Relaxed);
        if until > now {
            return;
        }
        let before = self.live.unreachable_in_a_row.load(Relaxed);
        let length = UNREACHABLE.saturating_mul(1 << before.min(16)).min(LONGEST_UNREACHABLE);
        let next = now.saturating_add(clock::as_nanos(length));
        // Of threads that see the same only one counts.
        if self.live.unreachable_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok() {
            self.live.unreachable_in_a_row.store(before.saturating_add(1), Relaxed);
        }
    }

    /// Whether it couldn't be reached last time, so that this use of it is a trial. Others leave it alone meanwhile.
    pub(super) fn on_trial(&self, now: u64) -> bool {
        let is = self.live.unreachable_in_a_row.load(Relaxed) != 0;
        if is {
            self.live.unreachable_until.fetch_max(now.saturating_add(clock::as_nanos(TRIAL)), Relaxed);
        }
        is
    }

    /// Somebody is there again.
    pub fn reached(&self) {
        // Written only if needed: the line is shared by all workers.
        if self.live.unreachable_in_a_row.load(Relaxed) != 0 {
            self.live.unreachable_in_a_row.store(0, Relaxed);
            self.live.unreachable_until.store(0, Relaxed);
        }
    }

    pub(super) fn succeeded(&self, took: Duration, now: u64) {
        self.observe(took, now);
        self.reached();
        if self.live.failures_in_a_row.load(Relaxed) != 0 {
            self.live.failures_in_a_row.store(0, Relaxed);
        }
        if self.live.ejections_in_a_row.load(Relaxed) != 0 {
            let forgiven = self.live.ejected_until.load(Relaxed).saturating_add(clock::as_nanos(LONGEST_EJECTION));
            if now >= forgiven {
                self.live.ejections_in_a_row.store(0, Relaxed);
            }
        }
    }

    pub(super) fn failed(
        &self,
        took: Duration,
        now: u64,
        ejection: Option<&Ejection>,
        may_eject: impl FnOnce(u32) -> bool,
    ) {
        self.observe(took.max(FAILURE), now);
        let failures = self.live.failures_in_a_row.fetch_add(1, Relaxed).saturating_add(1);
        let Some(ejection) = ejection else { return };
        let until = self.live.ejected_until.load(Relaxed);
        if failures < ejection.consecutive_failures || until > now || !may_eject(ejection.max_percent) {
            return;
        }
        let before = self.live.ejections_in_a_row.load(Relaxed);
        let length = ejection.base.saturating_mul(1 << before.min(16)).min(LONGEST_EJECTION);
        let next = now.saturating_add(clock::as_nanos(length));
        // Of threads that see the same failure one ejects.
        if self.live.ejected_until.compare_exchange(until, next, Relaxed, Relaxed).is_ok() {
            self.live.ejections_in_a_row.store(before.saturating_add(1), Relaxed);
            // One more failure after it has come back ejects it again.
            self.live.failures_in_a_row.store(ejection.consecutive_failures.saturating_sub(1), Relaxed);
        }
    }
}

/// What is left of a remembered latency.
fn decayed(packed: u64, now: u64) -> f32 {
    seconds(packed) * (-(age_ms(packed, now) as f32) / HALF_LIFE_MS).exp2()
}

/// Whether it is too early to ask again.
fn is_believed(packed: u64, now: u64) -> bool {
    let age = age_ms(packed, now) as f32 / 1_000.0;
    age < BELIEVED.as_secs_f32() || age < BELIEVED_TIMES * seconds(packed)
}

fn seconds(packed: u64) -> f32 {
    f32::from_bits((packed >> 32) as u32)
}

fn age_ms(packed: u64, now: u64) -> u32 {
    let age = millis(now).wrapping_sub(packed as u32);
    // Two threads may disagree by a moment; a clock behind the memory is no age of 49 days.
    if age > u32::MAX / 2 { 0 } else { age }
}

/// Milliseconds, wrapping after 49 days.
fn millis(nanos: u64) -> u32 {
    (nanos / 1_000_000) as u32
}
