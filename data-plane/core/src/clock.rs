//! Time as a number, so that it fits an atomic.

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

static BASE: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since a moment early in this process; 0 for what was before it.
pub(crate) fn nanos(now: Instant) -> u64 {
    as_nanos(now.saturating_duration_since(*BASE))
}

/// Nanoseconds, capped at 584 years.
pub(crate) fn as_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A moment soon at which a second of this clock begins, so that what follows is the same in each process.
#[cfg(test)]
pub(crate) fn next_second() -> Instant {
    // Of what is before the clock's beginning it knows nothing.
    LazyLock::force(&BASE);
    let (now, second) = (Instant::now(), as_nanos(Duration::from_secs(1)));
    now + Duration::from_nanos(second - nanos(now) % second)
}
