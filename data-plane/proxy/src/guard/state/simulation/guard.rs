//! What a guard does with its machine, as `handover::Host` does it.

use super::*;

pub(super) struct Guard {
    pub(super) machine: Machine,
    pub(super) state: State,
    /// Its process reads nothing (SIGSTOP).
    pub(super) held_up: bool,
    pub(super) peers: Vec<(PeerId, usize)>,
    /// Come, but not read.
    inbox: VecDeque<(usize, Up)>,
    next_id: PeerId,
    /// When sidecars have failed, as far as this one has heard; and whether the pod has been without one since.
    pub(super) failures: Vec<u64>,
    pub(super) lost: bool,
    /// When it was held up last.
    pub(super) went_on: u64,
    /// How many there were before.
    pub(super) number: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Down,
    /// It has asked a sidecar for the sockets.
    Asking(usize),
    Up,
}

// === impl Guard ===

impl Guard {
    pub(super) fn new(patience: Patience) -> Self {
        Self {
            machine: Machine::new(patience),
            state: State::Up,
            held_up: false,
            peers: Vec::new(),
            inbox: VecDeque::new(),
            next_id: 0,
            failures: Vec::new(),
            lost: false,
            went_on: 0,
            number: 0,
        }
    }

    /// Somebody listens under its name.
    pub(super) fn is_there(&self) -> bool {
        self.state != State::Down
    }

    pub(super) fn runs(&self) -> bool {
        self.state == State::Up && !self.held_up
    }

    pub(super) fn link(&self, id: PeerId) -> Option<usize> {
        self.peers.iter().find(|(peer, _)| *peer == id).map(|(_, link)| *link)
    }

    fn id(&self, link: usize) -> Option<PeerId> {
        self.peers.iter().find(|(_, of)| *of == link).map(|(id, _)| *id)
    }
}

// === impl World ===

impl World {
    pub(super) fn deadline(&self) -> Option<u64> {
        let due = self.guard.machine.deadline().filter(|_| self.guard.runs())?;
        // One that is held up is late.
        Some(millis(due.duration_since(self.begun)).max(self.now))
    }

    pub(super) fn tick(&mut self) {
        self.guard.machine.tick(self.instant());
        self.tell();
    }

    pub(super) fn guard_crashes(&mut self) {
        let (patience, number) = (self.patience, self.guard.number);
        for link in 0..self.links.len() {
            if self.links[link].guard == number && !self.links[link].closed {
                self.down(link, Down::End);
            }
        }
        self.guard = Guard { state: State::Down, number: number + 1, ..Guard::new(patience) };
    }

    pub(super) fn guard_begins(&mut self) {
        match self.gate {
            Some(sidecar) => {
                let link = self.link(sidecar);
                self.guard.state = State::Asking(link);
                self.down(link, Down::Asks);
            }
            None => self.guard.state = State::Up,
        }
    }

    pub(super) fn guard_goes_on(&mut self) {
        (self.guard.held_up, self.guard.went_on) = (false, self.now);
        self.read();
    }

    pub(super) fn comes_up(&mut self, link: usize, what: Up) {
        if self.links[link].guard == self.guard.number {
            self.guard.inbox.push_back((link, what));
            self.read();
        }
    }

    /// Until the sockets are there, it reads from the one that it has asked for them, and nothing else.
    fn read(&mut self) {
        while !self.guard.held_up {
            let next = match self.guard.state {
                State::Down => None,
                State::Asking(link) => self.guard.inbox.iter().position(|(of, _)| *of == link),
                State::Up => Some(0),
            };
            let Some((link, what)) = next.and_then(|at| self.guard.inbox.remove(at)) else { return };
            self.hear(link, what);
            self.tell();
        }
    }

    fn hear(&mut self, link: usize, what: Up) {
        let now = self.instant();
        match what {
            Up::Joins => _ = self.enter(link),
            Up::GivesBack(state) => {
                self.guard.state = State::Up;
                self.seen.given_back += 1;
                let id = self.enter(link);
                if let Some(report) = state {
                    self.says(link, id, report);
                }
            }
            Up::Says(report) => {
                if let Some(id) = self.guard.id(link) {
                    self.says(link, id, report);
                }
            }
            Up::End => match self.guard.id(link) {
                Some(id) => {
                    self.guard.peers.retain(|(peer, _)| *peer != id);
                    let hung = self.links[link].told.paused;
                    let ends = self.links[link].told.ends;
                    self.guard.machine.on(now, id, Event::Gone);
                    if !hung && !ends {
                        self.failed();
                    }
                }
                // Asked, it had no sockets to give back.
                None => self.guard.state = State::Up,
            },
        }
    }

    fn enter(&mut self, link: usize) -> PeerId {
        let id = self.guard.next_id;
        self.guard.next_id += 1;
        self.guard.peers.push((id, link));
        if !matches!(self.guard.state, State::Asking(_)) {
            self.down(link, Down::Sockets);
        }
        self.guard.machine.on(self.instant(), id, Event::Joined);
        id
    }

    fn says(&mut self, link: usize, id: PeerId, report: Report) {
        self.heard(link, report);
        self.guard.machine.on(self.instant(), id, Event::Said(report));
        if self.guard.machine.authority() == Authority::Sidecar {
            self.guard.lost = false;
        }
    }

    fn tell(&mut self) {
        let orders = self.guard.machine.take_orders();
        assert!(orders.len() <= 2 * (MAX_PEERS + 1), "{self}: {orders:?} at once");
        for (id, order) in orders {
            let Some(link) = self.guard.link(id) else { panic!("{self}: {order:?} to {id}, which is gone") };
            self.may_be_told(link, order);
            self.down(link, Down::Orders(order));
        }
    }
}
