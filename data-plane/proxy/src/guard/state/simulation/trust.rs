//! What the guard may tell a sidecar, and when: a naive account of what it has heard.

use super::*;

impl World {
    /// A sidecar has failed the guard.
    pub(super) fn failed(&mut self) {
        self.guard.failures.push(self.now);
        self.guard.lost |= self.guard.machine.authority() != Authority::Sidecar;
    }

    pub(super) fn heard(&mut self, link: usize, report: Report) {
        let (now, hold) = (self.now, self.hold());
        let told = &mut self.links[link].told;
        let begins = match report {
            Report::Ready => told.proving.is_none() && !told.ends,
            Report::Pong => {
                told.unanswered = told.unanswered.saturating_sub(1);
                told.answered.get_or_insert(now);
                // It hung until now.
                std::mem::take(&mut told.paused)
            }
            Report::Leaving => {
                told.ends = true;
                false
            }
            // What one says that hung may be older than that it must pause.
            Report::Accepting => {
                told.trusted |= told.goes || told.proving.is_none() && !told.paused;
                false
            }
        };
        if begins {
            (told.proving, told.hold) = (Some(now), hold);
        }
    }

    /// How long a sidecar that is ready now must be well: twice as long with each failure of late.
    fn hold(&self) -> u64 {
        let memory = millis(self.patience.memory);
        let late = self.guard.failures.iter().filter(|&&failure| self.now - failure < memory).count();
        let doubled = millis(self.patience.hold) << late.saturating_sub(1).min(MAX_FAILURES - 1);
        if late > 0 || self.guard.lost { doubled.min(millis(self.patience.longest_hold)) } else { 0 }
    }

    pub(super) fn may_be_told(&mut self, link: usize, order: Order) {
        let told = &self.links[link].told;
        let sidecar = self.links[link].sidecar;
        assert!(!told.ends, "{self}: {order:?} to {sidecar}, which ends");
        let fine = match order {
            Order::Ping => told.unanswered == 0,
            Order::Pause => told.unanswered == 1 && !told.paused,
            // As soon as it has been well for so long and has answered, unless the guard itself was late.
            Order::Go => told.proving.zip(told.answered).is_some_and(|(since, answered)| {
                let from = (since + told.hold).max(answered);
                !told.paused && (from..=from.max(self.guard.went_on)).contains(&self.now)
            }),
            // One that accepts only for another that does.
            Order::Drain => !told.trusted || self.guard.machine.authority() == Authority::Sidecar,
        };
        assert!(fine, "{self}: {order:?} to {sidecar}");
        // What follows a ping that it has read: pause, and after a late answer a ping, go, pause, drain. No hang makes that longer.
        assert!(told.unread < 5, "{self}: {sidecar} doesn't read, and {order:?}");
        let told = &mut self.links[link].told;
        told.unread += 1;
        match order {
            Order::Ping => told.unanswered += 1,
            Order::Go => told.goes = true,
            Order::Drain => {
                told.ends = true;
                self.seen.upgrades += 1;
            }
            Order::Pause => {
                (told.paused, told.goes, told.trusted) = (true, false, false);
                self.failed();
            }
        }
    }

    /// The guard trusts whom it should, and nobody else.
    pub(super) fn trusts(&self) {
        let trusted = |&(_, link): &(PeerId, usize)| self.links[link].told.trusted && !self.links[link].told.ends;
        let sidecar = self.guard.peers.iter().any(trusted);
        assert_eq!(
            self.guard.machine.authority() == Authority::Sidecar,
            sidecar,
            "{self}: {:?}",
            self.guard.machine.authority()
        );
    }
}
