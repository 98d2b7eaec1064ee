//! When requests are due.

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::{Duration, Instant},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::io::unix::AsyncFd;

/// How long a closed loop waits after a connection broke, lest it does nothing but being refused.
const AFTER_BREAK: Duration = Duration::from_millis(1);

/// Shared by all who make requests. Each takes the next due time when it is free, so that a request due while all are
/// busy is made late, by whoever is free first, and its latency counts from when it was due.
#[derive(Debug)]
pub(crate) struct Pace {
    end: Instant,
    /// Without one each request is due when the one before is done.
    schedule: Option<RefCell<Schedule>>,
}

#[derive(Debug)]
struct Schedule {
    start: Instant,
    interval: Duration,
    made: u32,
    random: SmallRng,
}

/// The event loop's own timers count milliseconds: too coarse to be part of a latency.
#[derive(Debug)]
pub(crate) struct Timer(AsyncFd<Clock>);

#[derive(Debug)]
struct Clock(TimerFd);

// === impl Pace ===

impl Pace {
    /// `rate` is requests per second. The same seed gives the same schedule, so that all that are compared get one load.
    pub(crate) fn new(start: Instant, end: Instant, rate: Option<f64>, seed: u64) -> Self {
        let schedule = rate.map(|rate| {
            let random = SmallRng::seed_from_u64(seed);
            RefCell::new(Schedule { start, interval: Duration::from_secs_f64(1.0 / rate), made: 0, random })
        });
        Self { end, schedule }
    }

    pub(crate) fn timer(&self) -> io::Result<Option<Timer>> {
        self.schedule.as_ref().map(|_| Timer::new()).transpose()
    }

    /// Returns when the next request was due, not before. `None` at the end.
    pub(crate) async fn next(&self, timer: Option<&Timer>) -> io::Result<Option<Instant>> {
        let due = match &self.schedule {
            Some(schedule) => schedule.borrow_mut().next(),
            None => Instant::now(),
        };
        if due >= self.end {
            return Ok(None);
        }
        if let Some(timer) = timer {
            timer.until(due).await?;
        }
        Ok(Some(due))
    }

    pub(crate) async fn after_break(&self) {
        if self.schedule.is_none() {
            tokio::time::sleep(AFTER_BREAK).await;
        }
    }

    /// Requests that were due and that nobody came to make.
    pub(crate) fn left(&self) -> u64 {
        let Some(schedule) = &self.schedule else { return 0 };
        let mut schedule = schedule.borrow_mut();
        std::iter::from_fn(|| Some(schedule.next())).take_while(|due| *due < self.end).count() as u64
    }
}

// === impl Schedule ===

impl Schedule {
    /// One in each interval, anywhere in it: arrivals that keep step with something else would be no fair sample.
    fn next(&mut self) -> Instant {
        let due = self.start + self.interval * self.made + self.interval.mul_f64(self.random.random());
        self.made += 1;
        due
    }
}

// === impl Timer ===

impl Timer {
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe to call; a clock owns its descriptor as long as it lives"
    )]
    fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Self(AsyncFd::new(Clock(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))?))
    }

    async fn until(&self, due: Instant) -> io::Result<()> {
        loop {
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(());
            }
            let once = Expiration::OneShot(TimeSpec::from(wait));
            self.0.get_ref().0.set(once, TimerSetTimeFlags::empty())?;
            // What it has counted needn't be read: setting it anew forgets that.
            self.0.readable().await?.clear_ready();
        }
    }
}

impl AsRawFd for Clock {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
