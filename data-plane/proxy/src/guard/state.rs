//! Who accepts the pod's connections: the guard's decision as a pure state machine. What happened and what time it is
//! are handed in; orders to sidecars and the current authority come out. Knows no socket.

use std::time::Duration;

use tokio::time::Instant;

use crate::handover::channel::{Order, Report};

/// Who accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    Sidecar,
    Guard(Cause),
}

/// Why no sidecar accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// None has come yet.
    Absent,
    /// The first one has no config or certificate yet.
    NotReady,
    Died,
    Hung,
    /// It has ended on purpose.
    Left,
}

/// How patient a guard is.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Between two pings.
    pub ping_every: Duration,
    /// A sidecar that needs longer for an answer hangs.
    pub answer_within: Duration,
    /// How long a sidecar must be well before it accepts again, after one failure. Doubles with each further one.
    pub hold: Duration,
    pub longest_hold: Duration,
    /// How long a failure counts.
    pub memory: Duration,
}

pub(crate) type PeerId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A sidecar has received the sockets.
    Joined,
    Said(Report),
    /// Its connection has ended.
    Gone,
}

/// The decision and what it rests on.
pub(crate) struct Machine {
    patience: Patience,
    /// In the order in which they came; at most [`MAX_PEERS`].
    peers: Vec<Peer>,
    cause: Cause,
    /// The last sidecar that could have accepted failed, and none has accepted since.
    lost: bool,
    /// The latest ones; at most [`MAX_FAILURES`].
    failures: Vec<Instant>,
    orders: Vec<(PeerId, Order)>,
}

struct Peer {
    id: PeerId,
    phase: Phase,
    beat: Beat,
    /// It has answered a ping: before that nobody knows whether its workers do anything.
    answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Joined,
    /// Ready, and trusted if it is well until then and has shown it.
    Proving {
        until: Instant,
    },
    /// Told to accept.
    Granted,
    Accepting,
    Hung,
}

/// One ping is under way at a time, so a sidecar that hangs for long finds one and not a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beat {
    Off,
    Due(Instant),
    Sent(Instant),
}

/// One that accepts and one that takes over from it.
const MAX_PEERS: usize = 2;

/// Enough to reach the longest hold.
const MAX_FAILURES: usize = 16;

impl Default for Patience {
    fn default() -> Self {
        Self {
            ping_every: Duration::from_millis(100),
            answer_within: Duration::from_millis(500),
            hold: Duration::from_secs(1),
            longest_hold: Duration::from_secs(30),
            memory: Duration::from_secs(60),
        }
    }
}

// === impl Cause ===

impl Cause {
    /// For the dump.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::NotReady => "not_ready",
            Self::Died => "died",
            Self::Hung => "hung",
            Self::Left => "left",
        }
    }
}

// === impl Machine ===

impl Machine {
    pub(crate) fn new(patience: Patience) -> Self {
        Self {
            patience,
            peers: Vec::new(),
            cause: Cause::Absent,
            lost: false,
            failures: Vec::new(),
            orders: Vec::new(),
        }
    }

    pub(crate) fn authority(&self) -> Authority {
        let sidecar = self.peers.iter().any(|peer| peer.phase == Phase::Accepting);
        if sidecar { Authority::Sidecar } else { Authority::Guard(self.cause) }
    }

    /// What is to be told to sidecars since the last call.
    pub(crate) fn take_orders(&mut self) -> Vec<(PeerId, Order)> {
        std::mem::take(&mut self.orders)
    }

    pub(crate) fn on(&mut self, now: Instant, id: PeerId, event: Event) {
        if event == Event::Joined {
            return self.joined(id);
        }
        // Who has been told to drain is known no more.
        let Some(at) = self.peers.iter().position(|peer| peer.id == id) else { return };
        match event {
            Event::Joined => {}
            Event::Said(Report::Ready) if self.peers[at].phase == Phase::Joined => self.prove(now, at),
            Event::Said(Report::Accepting) => self.accepting(now, at),
            Event::Said(Report::Pong) => self.pong(now, at),
            Event::Said(Report::Leaving) => {
                if self.peers.remove(at).phase == Phase::Accepting {
                    self.cause = Cause::Left;
                }
            }
            Event::Said(Report::Ready) => {}
            Event::Gone => {
                // A hang that ends in death is one failure.
                if self.peers.remove(at).phase != Phase::Hung {
                    self.failed(now, Cause::Died);
                }
            }
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant) {
        for at in 0..self.peers.len() {
            let Peer { id, phase, beat, answered } = self.peers[at];
            match beat {
                Beat::Due(due) if due <= now => {
                    self.peers[at].beat = Beat::Sent(now);
                    self.orders.push((id, Order::Ping));
                }
                Beat::Sent(sent) if phase != Phase::Hung && sent + self.patience.answer_within <= now => {
                    self.peers[at].phase = Phase::Hung;
                    self.orders.push((id, Order::Pause));
                    self.failed(now, Cause::Hung);
                }
                _ => {}
            }
            if matches!(self.peers[at].phase, Phase::Proving { until } if until <= now && answered) {
                self.peers[at].phase = Phase::Granted;
                self.orders.push((id, Order::Go));
            }
        }
    }

    /// When [`tick`](Self::tick) must be called at the latest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let beats = self.peers.iter().filter_map(|peer| match (peer.beat, peer.phase) {
            (Beat::Due(due), _) => Some(due),
            (Beat::Sent(_), Phase::Hung) | (Beat::Off, _) => None,
            (Beat::Sent(sent), _) => Some(sent + self.patience.answer_within),
        });
        let proofs = self.peers.iter().filter_map(|peer| match peer.phase {
            Phase::Proving { until } if peer.answered => Some(until),
            _ => None,
        });
        beats.chain(proofs).min()
    }

    fn joined(&mut self, id: PeerId) {
        if self.cause == Cause::Absent {
            self.cause = Cause::NotReady;
        }
        self.peers.push(Peer { id, phase: Phase::Joined, beat: Beat::Off, answered: false });
        if self.peers.len() > MAX_PEERS
            && let Some(at) = self.peers.iter().position(|peer| peer.phase != Phase::Accepting)
        {
            let idle = self.peers.remove(at);
            self.orders.push((idle.id, Order::Drain));
        }
    }

    /// From now on it must answer, and for as long as the failures of late demand.
    fn prove(&mut self, now: Instant, at: usize) {
        self.failures.retain(|failure| now.duration_since(*failure) < self.patience.memory);
        let doublings = match self.failures.len() {
            0 | 1 => 0,
            several => several.min(MAX_FAILURES) as u32 - 1,
        };
        let hold = if self.lost || !self.failures.is_empty() {
            (self.patience.hold * (1 << doublings)).min(self.patience.longest_hold)
        } else {
            Duration::ZERO
        };
        self.peers[at].phase = Phase::Proving { until: now + hold };
        if self.peers[at].beat == Beat::Off {
            self.peers[at].beat = Beat::Due(now);
        }
    }

    fn accepting(&mut self, now: Instant, at: usize) {
        // One that has just joined accepts already if the guard was restarted. One that hung may have said this
        // before it read that it must pause.
        if !matches!(self.peers[at].phase, Phase::Joined | Phase::Granted) {
            return;
        }
        self.peers[at].phase = Phase::Accepting;
        if self.peers[at].beat == Beat::Off {
            self.peers[at].beat = Beat::Due(now);
        }
        self.lost = false;
        for old in self.peers.drain(..at) {
            self.orders.push((old.id, Order::Drain));
        }
    }

    fn pong(&mut self, now: Instant, at: usize) {
        if let Beat::Sent(sent) = self.peers[at].beat {
            self.peers[at].answered = true;
            self.peers[at].beat = Beat::Due(now.max(sent + self.patience.ping_every));
            if self.peers[at].phase == Phase::Hung {
                self.prove(now, at);
            }
        }
    }

    fn failed(&mut self, now: Instant, cause: Cause) {
        if self.failures.len() == MAX_FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(now);
        if self.authority() != Authority::Sidecar {
            self.cause = cause;
            self.lost = true;
        }
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
