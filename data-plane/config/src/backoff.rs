//! Exponential back-off with full jitter: proxies that lost one controller don't come back in step.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};

pub(crate) struct Backoff {
    ceiling: Duration,
    max: Duration,
    jitter: SmallRng,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { ceiling: first, max, jitter: SmallRng::from_os_rng() }
    }

    /// The same waits from the same seed.
    #[cfg(feature = "simulation")]
    pub(crate) fn seeded(self, seed: u64) -> Self {
        Self { jitter: SmallRng::seed_from_u64(seed), ..self }
    }

    /// How long to wait before the next try: anything up to a ceiling that doubles each time.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(self.jitter.random());
        self.ceiling = (self.ceiling * 2).min(self.max);
        wait
    }

    /// All was well for a while.
    pub(crate) fn restart(&mut self, first: Duration) {
        self.ceiling = first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        for _ in 0..2 {
            let mut ceiling = Duration::from_millis(20);
            for _ in 0..20 {
                assert!(backoff.next() <= ceiling);
                ceiling = (ceiling * 2).min(Duration::from_secs(5));
                assert_eq!(backoff.ceiling, ceiling);
            }
            backoff.restart(Duration::from_millis(20));
        }
    }
}
