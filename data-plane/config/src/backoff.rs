//! Exponential back-off with full jitter: proxies that lost one controller don't come back in step.

use std::time::Duration;

pub(crate) struct Backoff {
    ceiling: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { ceiling: first, max }
    }

    /// How long to wait before the next try: anything up to a ceiling that doubles each time.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(rand::random());
        self.ceiling = (self.ceiling * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_maximum() {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
        let mut ceiling = Duration::from_millis(20);
        for _ in 0..20 {
            assert!(backoff.next() <= ceiling);
            ceiling = (ceiling * 2).min(Duration::from_secs(5));
            assert_eq!(backoff.ceiling, ceiling);
        }
    }
}
