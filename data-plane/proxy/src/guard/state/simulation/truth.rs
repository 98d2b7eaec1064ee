//! Who really accepts, and what must hold of that at every moment.

use super::*;

#[derive(Default)]
pub(super) struct Truth {
    gap: Option<Gap>,
    authority: Option<Authority>,
}

/// Nobody accepts.
#[derive(Debug, Clone, Copy)]
struct Gap {
    since: u64,
    /// Whom the guard trusts: one that hangs may hand over to another that does, and is judged then.
    trusted: Option<PeerId>,
    /// A sidecar has hung meanwhile, which is seen by the answer that is missing.
    hung: bool,
}

impl World {
    /// After something has happened.
    pub(super) fn look(&mut self) {
        let guard = &self.guard;
        let hung = self.sidecars.iter().any(|it| it.alive && (it.stopped || it.stuck));
        let guarded = guard.runs() && matches!(guard.machine.authority(), Authority::Guard(_));
        // One that no guard knows of isn't counted on.
        let accepts = |number: usize| !guard.runs() || self.is_known(number);
        let served = guarded
            || (0..self.sidecars.len())
                .any(|number| self.sidecars[number].is_well() && self.sidecars[number].accepts && accepts(number));
        // Without a guard that runs, a sidecar must that has config, once it has heard of the guard's end.
        let expected =
            guard.runs() || (guard.state == State::Down && self.sidecars.iter().any(|it| it.is_well() && it.is_ready));
        let trusted = guard.machine.peers.iter().find(|peer| peer.phase == Phase::Accepting).map(|peer| peer.id);
        self.truth.gap = match self.truth.gap {
            _ if served || !expected => None,
            Some(gap) if gap.trusted == trusted => Some(Gap { hung: gap.hung || hung, ..gap }),
            _ => Some(Gap { since: self.now, trusted, hung }),
        };
        let authority = guard.runs().then(|| guard.machine.authority());
        if self.truth.authority != authority {
            self.seen.takeovers += 1;
            self.truth.authority = authority;
        }
        self.bounded();
        self.trusts();
        self.nobody_astray();
    }

    /// Nobody has accepted for no longer than it takes to be seen: a death as soon as it is heard of, a hang by the ping that
    /// isn't answered.
    pub(super) fn still_served(&self) {
        let Some(gap) = self.truth.gap else { return };
        let Patience { ping_every, answer_within, .. } = self.patience;
        let most = self.delay + if gap.hung { millis(ping_every + answer_within) } else { 0 };
        assert!(self.now - gap.since <= most, "{self}: nobody accepts since {} ms, allowed {most}", gap.since);
    }

    /// Who isn't trusted accepts no longer than it takes to be told.
    fn nobody_astray(&mut self) {
        for number in 0..self.sidecars.len() {
            let told = self.sidecars[number].link.map(|link| &self.links[link].told);
            let trusted = told.is_some_and(|told| told.trusted || told.goes);
            let sidecar = &self.sidecars[number];
            let astray = self.guard.runs() && self.is_known(number) && sidecar.is_well() && sidecar.accepts && !trusted;
            let since = if astray { sidecar.astray.or(Some(self.now)) } else { None };
            assert!(since.is_none_or(|since| self.now - since <= self.delay), "{self}: {number} accepts untrusted");
            self.sidecars[number].astray = since;
        }
    }

    fn bounded(&self) {
        let machine = &self.guard.machine;
        let accepting = machine.peers.iter().filter(|peer| peer.phase == Phase::Accepting).count();
        assert!(accepting <= 1, "{self}: two that accept");
        assert!(machine.peers.len() <= MAX_PEERS && machine.failures.len() <= MAX_FAILURES, "{self}: too many");
        assert!(
            machine.peers.iter().all(|peer| self.guard.link(peer.id).is_some()),
            "{self}: a peer without connection"
        );
        let latest = self.instant() + self.patience.longest_hold;
        let held = |peer: &Peer| matches!(peer.phase, Phase::Proving { until } if until > latest);
        assert!(!machine.peers.iter().any(held), "{self}: held for too long");
    }

    /// This sidecar accepts, the guard knows that, and nobody else does.
    pub(super) fn carries(&self, survivor: usize) {
        assert_eq!(self.guard.machine.authority(), Authority::Sidecar, "{self}: {survivor} isn't back");
        let accept: Vec<_> = (0..self.sidecars.len()).filter(|&number| self.sidecars[number].accepts).collect();
        assert_eq!(accept, [survivor], "{self}");
    }
}
