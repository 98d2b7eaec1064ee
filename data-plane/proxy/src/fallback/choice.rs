//! Which shared proxy is tried first. Pure, but for what it remembers of dead and busy ones.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
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

/// What this proxy has seen of shared proxies lately, without anybody's word for it.
#[derive(Debug)]
pub(super) struct Seen(Mutex<Past>);

#[derive(Debug)]
struct Past {
    failed: Vec<(SocketAddr, Instant)>,
    opened: Vec<Opened>,
    /// The shortest time that any tunnel took.
    fastest: Duration,
}

/// How long a tunnel to a shared proxy takes to open: what it is asked for first costs it the most, so this says how
/// busy it is.
#[derive(Debug)]
struct Opened {
    address: SocketAddr,
    took: Duration,
    at: Instant,
}

/// The shared proxies that are rather not asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shunned {
    /// Asked last, not never.
    pub(super) failed: Vec<SocketAddr>,
    pub(super) busy: Vec<SocketAddr>,
}

/// How long a failure, or a tunnel that was slow to open, is remembered.
const MEMORY: Duration = Duration::from_secs(5);

/// A shared proxy is busy whose tunnels take that much longer than the fastest one did. Between zones a handshake
/// takes a few milliseconds, on a processor that has nothing to spare many tens.
const BUSY: Duration = Duration::from_millis(25);

/// More shared proxies than that aren't remembered at once.
const MAX_REMEMBERED: usize = 64;

/// Sorts `candidates` by preference: answering, not draining, not busy, near; among equals it is another one's turn
/// each time.
pub(super) fn rank(candidates: &mut [Candidate], turn: usize, shunned: &Shunned) {
    if candidates.is_empty() {
        return;
    }
    candidates.sort_by_key(|candidate| candidate.address);
    candidates.rotate_left(turn % candidates.len());
    candidates.sort_by_key(|Candidate { address, draining, near, .. }| {
        (shunned.failed.contains(address), *draining, shunned.busy.contains(address), !near)
    });
}

// === impl Seen ===

impl Seen {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Past { failed: Vec::new(), opened: Vec::new(), fastest: Duration::MAX }))
    }

    pub(super) fn failed(&self, address: SocketAddr, now: Instant) {
        let mut past = self.past();
        past.failed.retain(|(failed, at)| *failed != address && now.duration_since(*at) < MEMORY);
        if past.failed.len() < MAX_REMEMBERED {
            past.failed.push((address, now));
        }
    }

    /// A slower one counts at once, faster ones half each.
    pub(super) fn opened(&self, address: SocketAddr, took: Duration, now: Instant) {
        let mut past = self.past();
        past.failed.retain(|(failed, _)| *failed != address);
        past.fastest = past.fastest.min(took);
        past.opened.retain(|opened| now.duration_since(opened.at) < MEMORY);
        let before = past.opened.iter().position(|opened| opened.address == address);
        let before = before.map_or(took, |at| past.opened.swap_remove(at).took);
        if past.opened.len() < MAX_REMEMBERED {
            past.opened.push(Opened { address, took: took.max((before + took) / 2), at: now });
        }
    }

    pub(super) fn shunned(&self, now: Instant) -> Shunned {
        let past = self.past();
        let lately = |at: Instant| now.duration_since(at) < MEMORY;
        let busy = |opened: &&Opened| lately(opened.at) && opened.took.saturating_sub(past.fastest) > BUSY;
        Shunned {
            failed: past.failed.iter().filter(|(_, at)| lately(*at)).map(|(address, _)| *address).collect(),
            busy: past.opened.iter().filter(busy).map(|opened| opened.address).collect(),
        }
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(port: u16, draining: bool, near: bool) -> Candidate {
        let identity = SpiffeId::new("cluster.local", "outrigger-system", "outrigger-shared").unwrap();
        Candidate { address: SocketAddr::from(([10, 0, 0, 1], port)), identity, draining, near }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn order(candidates: &[Candidate], turn: usize, failed: &[u16], busy: &[u16]) -> Vec<u16> {
        let mut candidates = candidates.to_vec();
        let addresses = |ports: &[u16]| ports.iter().map(|port| address(*port)).collect();
        rank(&mut candidates, turn, &Shunned { failed: addresses(failed), busy: addresses(busy) });
        candidates.iter().map(|candidate| candidate.address.port()).collect()
    }

    #[test]
    fn preference() {
        let equal = [candidate(1, false, false), candidate(2, false, false), candidate(3, false, false)];
        let mixed = [candidate(1, false, false), candidate(2, false, true), candidate(3, true, true)];
        for (name, candidates, turn, failed, busy, expected) in [
            ("nothing known", &equal[..0], 7, &[][..], &[][..], &[][..]),
            ("the first turn", &equal, 0, &[], &[], &[1, 2, 3]),
            ("the second turn", &equal, 1, &[], &[], &[2, 3, 1]),
            ("turns wrap", &equal, 5, &[], &[], &[3, 1, 2]),
            ("failed ones come last", &equal, 0, &[1], &[], &[2, 3, 1]),
            ("all failed", &equal, 1, &[1, 2, 3], &[], &[2, 3, 1]),
            ("near first, draining later", &mixed, 0, &[], &[], &[2, 1, 3]),
            ("a near one that failed is no better", &mixed, 0, &[2], &[], &[1, 3, 2]),
            ("busy ones come later", &equal, 0, &[], &[1], &[2, 3, 1]),
            ("all busy", &equal, 1, &[], &[1, 2, 3], &[2, 3, 1]),
            ("rather a busy one than one that failed", &equal, 0, &[2], &[1], &[3, 1, 2]),
            ("rather a busy one than one that drains", &mixed, 0, &[], &[1, 2], &[2, 1, 3]),
            ("a near one that is busy is no better", &mixed, 0, &[], &[2], &[1, 2, 3]),
        ] {
            assert_eq!(order(candidates, turn, failed, busy), expected, "{name}");
        }
    }

    #[test]
    fn failures_are_forgotten() {
        let (seen, start) = (Seen::new(), Instant::now());
        seen.failed(address(1), start);
        seen.failed(address(2), start + MEMORY / 2);
        assert_eq!(seen.shunned(start + MEMORY / 2).failed, [address(1), address(2)]);
        assert_eq!(seen.shunned(start + MEMORY).failed, [address(2)]);
        seen.opened(address(2), Duration::ZERO, start);
        assert!(seen.shunned(start).failed.iter().all(|failed| *failed != address(2)));
        for port in 0..1000 {
            seen.failed(address(port), start + MEMORY);
            seen.opened(address(port + 1000), BUSY * 2, start + MEMORY);
        }
        let shunned = seen.shunned(start + MEMORY);
        assert!(shunned.failed.len() <= MAX_REMEMBERED && shunned.busy.len() <= MAX_REMEMBERED);
    }

    #[test]
    fn busy_is_who_is_slower_than_the_fastest() {
        let (seen, start) = (Seen::new(), Instant::now());
        let open = |port, millis| seen.opened(address(port), Duration::from_millis(millis), start);
        let busy = |after| seen.shunned(start + after).busy;
        open(1, 3);
        open(2, 20);
        assert_eq!(busy(Duration::ZERO), [], "farther away, not busy");
        open(2, 100);
        assert_eq!(busy(Duration::ZERO), [address(2)], "a slow one counts at once");
        open(2, 4);
        assert_eq!(busy(Duration::ZERO), [address(2)], "a fast one counts half");
        open(2, 4);
        assert_eq!(busy(Duration::ZERO), [], "and the next one half again");
        open(1, 80);
        open(2, 80);
        assert_eq!(busy(Duration::ZERO), [address(1), address(2)], "both, so another zone's is asked");
        assert_eq!(busy(MEMORY), [], "asked again after a while");
    }
}
