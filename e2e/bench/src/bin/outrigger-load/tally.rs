//! What came of the requests.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::failure::Failure;

/// One thread's. Requests that were due in the warm-up aren't in it.
#[derive(Debug)]
pub(crate) struct Tally {
    /// The end of the warm-up.
    begin: Instant,
    last: Instant,
    gap: Arc<Gap>,
    /// Nanoseconds.
    latency: Histogram<u64>,
    requests: u64,
    warmup_requests: u64,
    bytes: u64,
    under_way: u64,
    errors: BTreeMap<String, u64>,
}

/// The longest time without a success, over all threads. Nanoseconds since the end of the warm-up.
#[derive(Debug, Default)]
pub(crate) struct Gap {
    last: AtomicU64,
    longest: AtomicU64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) error_kinds: BTreeMap<String, u64>,
    /// From the end of the warm-up until the last answer that counts.
    pub(crate) seconds: f64,
    pub(crate) rate: f64,
    /// Of bodies and messages that came back.
    pub(crate) bytes: u64,
    pub(crate) longest_gap_us: u64,
    pub(crate) latency_us: Latency,
    /// Answered besides, before anything was counted: whoever divides CPU time by requests needs both.
    pub(crate) warmup_requests: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

// === impl Tally ===

impl Tally {
    pub(crate) fn new(begin: Instant, gap: Arc<Gap>) -> Result<Self> {
        Ok(Self {
            begin,
            last: begin,
            gap,
            latency: Histogram::new_with_bounds(1, Duration::from_secs(600).as_nanos() as u64, 3)?,
            requests: 0,
            warmup_requests: 0,
            bytes: 0,
            under_way: 0,
            errors: BTreeMap::new(),
        })
    }

    pub(crate) fn start(&mut self) {
        self.under_way += 1;
    }

    pub(crate) fn end(&mut self, due: Instant, result: &Result<u64, Failure>) {
        self.under_way -= 1;
        match result {
            Ok(bytes) => self.success(due, Instant::now(), *bytes),
            Err(failure) if due >= self.begin => self.failed(failure.to_string(), 1),
            Err(_) => {}
        }
    }

    fn success(&mut self, due: Instant, now: Instant, bytes: u64) {
        if let Some(since) = now.checked_duration_since(self.begin) {
            self.gap.success(since);
        }
        if due < self.begin {
            self.warmup_requests += 1;
            return;
        }
        self.requests += 1;
        self.bytes += bytes;
        self.last = now;
        self.latency.saturating_record((now - due).as_nanos() as u64);
    }

    pub(crate) fn failed(&mut self, kind: String, times: u64) {
        if times > 0 {
            *self.errors.entry(kind).or_default() += times;
        }
    }

    /// Of what lasts longer than a request.
    pub(crate) fn finished(&mut self, result: Result<(), Failure>) {
        self.under_way -= 1;
        if let Err(failure) = result {
            self.failed(failure.to_string(), 1);
        }
    }

    /// What nobody waits for any longer has failed.
    pub(crate) fn give_up(&mut self, never_sent: u64) {
        self.failed("unfinished".to_owned(), self.under_way);
        self.failed("never sent".to_owned(), never_sent);
        self.under_way = 0;
    }

    pub(crate) fn merge(&mut self, other: Self) -> Result<()> {
        self.last = self.last.max(other.last);
        self.latency.add(other.latency)?;
        self.requests += other.requests;
        self.warmup_requests += other.warmup_requests;
        self.bytes += other.bytes;
        self.under_way += other.under_way;
        for (kind, times) in other.errors {
            self.failed(kind, times);
        }
        Ok(())
    }

    pub(crate) fn report(self, end: Instant) -> Report {
        self.gap.until(end - self.begin);
        let seconds = (self.last.max(end) - self.begin).as_secs_f64();
        let micros = |ns: u64| (ns + 500) / 1000;
        let at = |quantile| micros(self.latency.value_at_quantile(quantile));
        Report {
            requests: self.requests,
            errors: self.errors.values().sum(),
            seconds,
            rate: self.requests as f64 / seconds,
            bytes: self.bytes,
            longest_gap_us: self.gap.longest.load(Ordering::Relaxed) / 1000,
            latency_us: Latency {
                mean: self.latency.mean() / 1000.0,
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: micros(self.latency.max()),
            },
            error_kinds: self.errors,
            warmup_requests: self.warmup_requests,
        }
    }
}

// === impl Gap ===

impl Gap {
    fn success(&self, at: Duration) {
        let at = at.as_nanos() as u64;
        let before = self.last.fetch_max(at, Ordering::Relaxed);
        self.longest.fetch_max(at.saturating_sub(before), Ordering::Relaxed);
    }

    fn until(&self, end: Duration) {
        self.success(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(begin: Instant, ms: u64) -> Instant {
        begin + Duration::from_millis(ms)
    }

    #[test]
    fn two_threads_become_one_report() {
        let (begin, gap) = (Instant::now(), Arc::new(Gap::default()));
        let [mut one, mut two] = [(); 2].map(|()| Tally::new(begin, gap.clone()).unwrap());
        for ms in 0..90 {
            one.success(at(begin, ms), at(begin, ms + 1), 10);
        }
        for ms in 0..10 {
            two.success(at(begin, ms), at(begin, ms + 100), 10);
        }
        two.failed("reset".to_owned(), 2);
        two.start();
        two.give_up(3);
        one.failed("reset".to_owned(), 1);
        one.merge(two).unwrap();
        let report = one.report(at(begin, 200));
        assert_eq!((report.requests, report.errors, report.bytes), (100, 7, 1000));
        let kinds = [("never sent".to_owned(), 3), ("reset".to_owned(), 3), ("unfinished".to_owned(), 1)];
        assert_eq!(report.error_kinds, BTreeMap::from(kinds));
        // Three digits count.
        let close = |us: u64, ms: u64| us.abs_diff(ms * 1000) <= ms;
        assert!(close(report.latency_us.p50, 1) && close(report.latency_us.p90, 1), "{report:?}");
        assert!(close(report.latency_us.p99, 100) && close(report.latency_us.max, 100), "{report:?}");
        // The last answer came after 109 ms, the end after 200.
        assert_eq!(report.longest_gap_us, 91_000);
        assert_eq!(report.seconds, 0.2);
    }

    #[test]
    fn the_warm_up_counts_for_nothing_but_itself() {
        let begin = Instant::now() + Duration::from_secs(1);
        let mut tally = Tally::new(begin, Arc::default()).unwrap();
        let due = begin.checked_sub(Duration::from_millis(500)).unwrap();
        tally.start();
        tally.end(due, &Ok(1));
        tally.start();
        tally.end(due, &Err(Failure::CLOSED));
        tally.success(begin, at(begin, 250), 1);
        let report = tally.report(at(begin, 500));
        assert_eq!((report.requests, report.warmup_requests, report.errors), (1, 1, 0));
        assert_eq!(report.longest_gap_us, 250_000);
    }
}
