//! Verdicts that are remembered for a while: bounded, and without a sweep.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// SHA-256 of a token.
pub(super) type Key = [u8; 32];

/// Two generations: when the younger is full or old, it takes the place of the older, which is forgotten.
pub(super) struct Verdicts<V> {
    time: Duration,
    limit: usize,
    young: HashMap<Key, (Instant, V)>,
    old: HashMap<Key, (Instant, V)>,
    turned: Instant,
}

// === impl Verdicts ===

impl<V: Clone> Verdicts<V> {
    /// Each is remembered for `time`, and twice `limit` of them at most.
    pub(super) fn new(time: Duration, limit: usize) -> Self {
        Self { time, limit, young: HashMap::new(), old: HashMap::new(), turned: Instant::now() }
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<V> {
        let (until, verdict) = self.young.get(key).or_else(|| self.old.get(key))?;
        (now < *until).then(|| verdict.clone())
    }

    pub(super) fn insert(&mut self, key: Key, verdict: V, now: Instant) {
        if self.young.len() >= self.limit || now.duration_since(self.turned) >= self.time {
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
        }
        self.young.insert(key, (now + self.time, verdict));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
