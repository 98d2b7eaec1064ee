//! Which shared proxy is tried first. Pure, but for what it remembers of dead ones.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use outrigger_wire::SpiffeId;
use tokio::time::Instant;

/// A shared proxy that could be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    pub(super) identity: SpiffeId,
    pub(super) draining: bool,
    /// In this proxy's own zone.
    pub(super) near: bool,
}

/// Shared proxies that have failed lately. They are asked last, not never.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Vec<(SocketAddr, Instant)>>);

/// How long a failure is remembered.
const MEMORY: Duration = Duration::from_secs(5);

/// More shared proxies than that aren't remembered at once.
const MAX_REMEMBERED: usize = 64;

/// Sorts `candidates` by preference: answering, not draining, near; among equals it is another one's turn each time.
pub(super) fn rank(candidates: &mut [Candidate], turn: usize, failed: &[SocketAddr]) {
    if candidates.is_empty() {
        return;
    }
    candidates.sort_by_key(|candidate| candidate.address);
    candidates.rotate_left(turn % candidates.len());
    candidates.sort_by_key(|candidate| (failed.contains(&candidate.address), candidate.draining, !candidate.near));
}

// === impl Failures ===

impl Failures {
    pub(super) fn remember(&self, address: SocketAddr, now: Instant) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|(failed, at)| *failed != address && now.duration_since(*at) < MEMORY);
        if failures.len() < MAX_REMEMBERED {
            failures.push((address, now));
        }
    }

    pub(super) fn forget(&self, address: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|(failed, _)| *failed != address);
    }

    pub(super) fn current(&self, now: Instant) -> Vec<SocketAddr> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().filter(|(_, at)| now.duration_since(*at) < MEMORY).map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(port: u16, draining: bool, near: bool) -> Candidate {
        let identity = SpiffeId::new("cluster.local", "outrigger-system", "outrigger-shared").unwrap();
        Candidate { address: SocketAddr::from(([10, 0, 0, 1], port)), identity, draining, near }
    }

    fn order(candidates: &[Candidate], turn: usize, failed: &[u16]) -> Vec<u16> {
        let mut candidates = candidates.to_vec();
        let failed: Vec<_> = failed.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
        rank(&mut candidates, turn, &failed);
        candidates.iter().map(|candidate| candidate.address.port()).collect()
    }

    #[test]
    fn preference() {
        let equal = [candidate(1, false, false), candidate(2, false, false), candidate(3, false, false)];
        let mixed = [candidate(1, false, false), candidate(2, false, true), candidate(3, true, true)];
        for (name, candidates, turn, failed, expected) in [
            ("nothing known", &equal[..0], 7, &[][..], &[][..]),
            ("the first turn", &equal, 0, &[], &[1, 2, 3]),
            ("the second turn", &equal, 1, &[], &[2, 3, 1]),
            ("turns wrap", &equal, 5, &[], &[3, 1, 2]),
            ("failed ones come last", &equal, 0, &[1], &[2, 3, 1]),
            ("all failed", &equal, 1, &[1, 2, 3], &[2, 3, 1]),
            ("near first, draining later", &mixed, 0, &[], &[2, 1, 3]),
            ("a near one that failed is no better", &mixed, 0, &[2], &[1, 3, 2]),
        ] {
            assert_eq!(order(candidates, turn, failed), expected, "{name}");
        }
    }

    #[test]
    fn failures_are_forgotten() {
        let (failures, start) = (Failures::default(), Instant::now());
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        failures.remember(address(1), start);
        failures.remember(address(2), start + MEMORY / 2);
        assert_eq!(failures.current(start + MEMORY / 2), [address(1), address(2)]);
        assert_eq!(failures.current(start + MEMORY), [address(2)]);
        failures.forget(address(2));
        assert!(failures.current(start).iter().all(|failed| *failed != address(2)));
        for port in 0..1000 {
            failures.remember(address(port), start + MEMORY);
        }
        assert!(failures.current(start + MEMORY).len() <= MAX_REMEMBERED);
    }
}
