//! What came of admission reviews, counted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

/// Page and verdict.
type Kind = (&'static str, &'static str);

/// Since the process began.
#[derive(Debug)]
pub(crate) struct Admissions {
    counts: Mutex<BTreeMap<Kind, u64>>,
    seconds: Histogram,
}

// === impl Admissions ===

impl Admissions {
    pub(super) fn count(&self, page: &'static str, verdict: &'static str, time: Duration) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry((page, verdict)).or_default() += 1;
        self.seconds.observe(time.as_secs_f64());
    }

    pub(crate) fn counts(&self) -> BTreeMap<Kind, u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn seconds(&self) -> &Histogram {
        &self.seconds
    }
}

impl Default for Admissions {
    fn default() -> Self {
        // 1 ms to 8 s, after which nobody waits for the answer any more.
        Self { counts: Mutex::default(), seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)) }
    }
}
