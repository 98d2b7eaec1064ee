//! What goes wrong.

use super::*;

/// One that accepts, one that takes over, and one more.
const MOST: usize = 3;

impl World {
    /// One thing goes wrong, and after a while the next.
    pub(super) fn fault(&mut self) {
        let pause = if self.below(4) == 0 { self.below(30) } else { self.below(1_500) };
        self.after(pause, What::Fault);
        let alive: Vec<_> = (0..self.sidecars.len()).filter(|&number| self.sidecars[number].alive).collect();
        if alive.is_empty() {
            self.begins();
            return;
        }
        let one = alive[self.below(alive.len() as u64) as usize];
        let length = if self.below(2) == 0 {
            self.below(millis(self.patience.answer_within) + 200)
        } else {
            self.below(AFTERMATH)
        };
        match self.below(12) {
            0..=2 if alive.len() < MOST && self.guard.is_there() => _ = self.begins(),
            3 | 4 => {
                self.seen.deaths += 1;
                self.ends(one);
            }
            5 | 6 if self.sidecars[one].is_well() => {
                self.seen.hangs += 1;
                self.sidecars[one].stopped = true;
                self.after(length, What::GoesOn(one));
            }
            7 if self.sidecars[one].is_well() => {
                self.seen.hangs += 1;
                self.sidecars[one].stuck = true;
                self.after(length, What::GoesOn(one));
            }
            8 if self.sidecars[one].is_well() => self.leaves(one),
            9 if self.guard.is_there() && !self.guard.held_up => {
                self.guard_crashes();
                self.after(length, What::GuardBegins);
            }
            10 if self.guard.runs() => {
                self.guard.held_up = true;
                self.after(length, What::GuardGoesOn);
            }
            _ => {}
        }
    }

    /// At most one sidecar stays, one that the guard knows of. It may be about to end as well, for one that accepted last.
    pub(super) fn end_all_but_one(&mut self) {
        assert!(self.guard.runs(), "{self}");
        let survivor = (0..self.sidecars.len()).find(|&number| self.is_known(number));
        for number in 0..self.sidecars.len() {
            if self.sidecars[number].alive && Some(number) != survivor {
                self.ends(number);
            }
        }
    }

    /// The one that is there; if there is none, one begins.
    pub(super) fn survivor(&mut self) -> usize {
        let alive = self.sidecars.iter().position(|sidecar| sidecar.alive);
        alive.unwrap_or_else(|| self.begins())
    }

    /// The guard has a connection to it, on which it has not been told to drain.
    pub(super) fn is_known(&self, number: usize) -> bool {
        let sidecar = &self.sidecars[number];
        let link = sidecar.link.map(|link| &self.links[link]);
        sidecar.alive && link.is_some_and(|link| link.guard == self.guard.number && !link.told.ends)
    }
}
