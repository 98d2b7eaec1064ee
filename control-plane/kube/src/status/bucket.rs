//! A token bucket: how often something may be done.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(crate) struct Bucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

// === impl Bucket ===

impl Bucket {
    pub(crate) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self { per_second: per_second.into(), burst: burst.into(), tokens: burst.into(), at: now }
    }

    /// Takes a token, or says how long until there is one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.at = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.per_second).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(20, 50, start);
        assert_eq!((0..60).filter(|_| bucket.take(start).is_ok()).count(), 50);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(50)));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..60).filter(|_| bucket.take(later).is_ok()).count(), 20);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..60).filter(|_| bucket.take(much_later).is_ok()).count(), 50);
    }
}
