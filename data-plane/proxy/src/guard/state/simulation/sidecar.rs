//! What a sidecar does, as `handover::join` and `Session::run` do it.

use super::*;

#[derive(Debug, Default)]
pub(super) struct Sidecar {
    pub(super) alive: bool,
    /// It has the sockets.
    pub(super) joined: bool,
    /// The process reads nothing (SIGSTOP).
    pub(super) stopped: bool,
    /// Its workers do nothing, while what speaks to the guard still does.
    pub(super) stuck: bool,
    /// Config and certificate are there.
    ready: bool,
    /// And it has acted on that.
    pub(super) is_ready: bool,
    pub(super) accepts: bool,
    /// To the guard that it hears.
    pub(super) link: Option<usize>,
    beat: Beat,
    beats: u32,
    /// Since when it accepts though it shouldn't.
    pub(super) astray: Option<u64>,
    /// Come, but not read.
    inbox: VecDeque<(usize, Down)>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Beat {
    #[default]
    Off,
    Asked,
    Answered,
}

// === impl Sidecar ===

impl Sidecar {
    /// It does what it should, whether it may accept or not.
    pub(super) fn is_well(&self) -> bool {
        self.alive && self.joined && !self.stopped && !self.stuck
    }
}

// === impl World ===

impl World {
    pub(super) fn begins(&mut self) -> usize {
        let number = self.sidecars.len();
        let mut sidecar = Sidecar { alive: true, ..Sidecar::default() };
        self.gate.get_or_insert(number);
        if self.guard.is_there() {
            let link = self.link(number);
            sidecar.link = Some(link);
            self.up(link, Up::Joins);
        } else {
            sidecar.joined = true;
        }
        self.sidecars.push(sidecar);
        let pause = self.below(SLOWEST_START);
        self.after(pause, What::Ready(number));
        number
    }

    /// Its connections end with it, after what it has said.
    pub(super) fn ends(&mut self, number: usize) {
        self.sidecars[number] = Sidecar { accepts: false, alive: false, ..Sidecar::default() };
        for link in 0..self.links.len() {
            self.close(link, number);
        }
        if self.gate == Some(number) {
            self.gate = None;
            self.seek_gate();
        }
    }

    fn close(&mut self, link: usize, number: usize) {
        let of = &mut self.links[link];
        if of.sidecar == number && of.guard == self.guard.number && !std::mem::replace(&mut of.closed, true) {
            self.up(link, Up::End);
        }
    }

    /// It tries again every few milliseconds to be the one that a restarted guard finds.
    fn seek_gate(&mut self) {
        let next = || self.sidecars.iter().position(|sidecar| sidecar.alive && !sidecar.stopped);
        self.gate = self.gate.or_else(next);
    }

    pub(super) fn leaves(&mut self, number: usize) {
        self.report(number, Report::Leaving);
        self.ends(number);
    }

    fn report(&mut self, number: usize, report: Report) {
        if let Some(link) = self.sidecars[number].link {
            self.up(link, Up::Says(report));
        }
    }

    pub(super) fn comes_down(&mut self, link: usize, what: Down) {
        let number = self.links[link].sidecar;
        if self.sidecars[number].alive {
            self.sidecars[number].inbox.push_back((link, what));
            self.settle(number);
        }
    }

    pub(super) fn is_ready(&mut self, number: usize) {
        self.sidecars[number].ready = true;
        self.settle(number);
    }

    pub(super) fn beaten(&mut self, number: usize, beat: u32) {
        let sidecar = &mut self.sidecars[number];
        if sidecar.beats == beat && sidecar.beat == Beat::Asked && !sidecar.stuck {
            sidecar.beat = Beat::Answered;
            self.settle(number);
        }
    }

    pub(super) fn goes_on(&mut self, number: usize) {
        let sidecar = &mut self.sidecars[number];
        sidecar.stopped = false;
        if std::mem::take(&mut sidecar.stuck) && sidecar.beat == Beat::Asked {
            let beat = sidecar.beats;
            self.after(0, What::Beaten(number, beat));
        }
        self.settle(number);
        self.seek_gate();
    }

    /// Does what there is to do, in the order in which its loop looks.
    fn settle(&mut self, number: usize) {
        loop {
            let sidecar = &mut self.sidecars[number];
            if !sidecar.alive || sidecar.stopped {
                return;
            }
            // A guard that asks comes last: it isn't there before the last one's end has been.
            let packet = sidecar.inbox.iter().position(|(_, what)| !matches!(what, Down::Asks));
            if let Some((link, what)) = packet.and_then(|at| sidecar.inbox.remove(at)) {
                self.reads(number, link, what);
            } else if sidecar.joined && sidecar.ready && !sidecar.is_ready {
                sidecar.is_ready = true;
                self.report(number, Report::Ready);
            } else if sidecar.beat == Beat::Answered {
                sidecar.beat = Beat::Off;
                self.report(number, Report::Pong);
            } else if let Some((link, _)) = sidecar.inbox.pop_front() {
                self.asked(number, link);
            } else {
                return;
            }
            let sidecar = &mut self.sidecars[number];
            if sidecar.joined && sidecar.link.is_none() && sidecar.is_ready {
                sidecar.accepts = true;
            }
        }
    }

    fn reads(&mut self, number: usize, link: usize, what: Down) {
        let sidecar = &mut self.sidecars[number];
        if sidecar.link != Some(link) {
            return;
        }
        if matches!(what, Down::Orders(_)) {
            self.links[link].told.unread -= 1;
        }
        match what {
            Down::Sockets | Down::Asks => sidecar.joined = true,
            Down::Orders(Order::Go) => {
                sidecar.accepts = true;
                self.report(number, Report::Accepting);
            }
            Down::Orders(Order::Pause) => {
                sidecar.accepts = false;
                self.seen.paused += 1;
            }
            Down::Orders(Order::Ping) => {
                sidecar.beat = Beat::Asked;
                sidecar.beats += 1;
                let (beat, stuck) = (sidecar.beats, sidecar.stuck);
                let pause = self.below(SLOWEST_BEAT);
                if !stuck {
                    self.after(pause, What::Beaten(number, beat));
                }
            }
            Down::Orders(Order::Drain) => self.ends(number),
            // Before it had the sockets, it makes its own.
            Down::End => {
                (sidecar.link, sidecar.beat, sidecar.joined) = (None, Beat::Off, true);
            }
        }
    }

    /// A guard that has begun wants the sockets.
    fn asked(&mut self, number: usize, link: usize) {
        // It may have ended meanwhile: then nothing can be given back.
        if self.links[link].guard != self.guard.number {
            return;
        }
        let sidecar = &mut self.sidecars[number];
        if !sidecar.joined {
            return self.close(link, number);
        }
        if sidecar.link.is_some() {
            // The last guard's end, which is read first wherever it is.
            (sidecar.link, sidecar.beat) = (None, Beat::Off);
            sidecar.accepts |= sidecar.is_ready;
        }
        let state = match (sidecar.accepts, sidecar.is_ready) {
            (true, _) => Some(Report::Accepting),
            (false, true) => Some(Report::Ready),
            (false, false) => None,
        };
        sidecar.link = Some(link);
        self.up(link, Up::GivesBack(state));
    }
}
