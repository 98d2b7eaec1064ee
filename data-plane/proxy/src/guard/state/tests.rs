use super::*;

/// What happens at a time.
enum Do {
    On(PeerId, Event),
    /// Time passes, no more.
    Wait,
    /// A sidecar answers no ping from now on.
    Hang(PeerId),
    /// It answers again, and first the ping that it finds.
    Resume(PeerId),
}

use Authority::{Guard, Sidecar};
use Do::{Hang, On, Resume, Wait};
use Event::{Gone, Joined, Said};
use Report::{Accepting, Leaving, Ready};

/// When (milliseconds), what, and then who accepts and what sidecars are told, pings aside.
type Step = (u64, Do, Authority, &'static [(PeerId, Order)]);

/// A machine with sidecars that answer every ping, unless they hang.
struct World {
    machine: Machine,
    hanging: Vec<PeerId>,
    told: Vec<(PeerId, Order)>,
}

impl World {
    fn new() -> Self {
        Self { machine: Machine::new(Patience::default()), hanging: Vec::new(), told: Vec::new() }
    }

    /// Does what is due until `now`.
    fn pass(&mut self, now: Instant) {
        self.deliver(now);
        while let Some(deadline) = self.machine.deadline().filter(|deadline| *deadline <= now) {
            self.machine.tick(deadline);
            self.deliver(deadline);
        }
    }

    fn deliver(&mut self, now: Instant) {
        for (id, order) in self.machine.take_orders() {
            match order {
                Order::Ping if self.hanging.contains(&id) => {}
                Order::Ping => self.machine.on(now, id, Said(Report::Pong)),
                order => self.told.push((id, order)),
            }
        }
    }
}

fn story(steps: &[Step]) {
    let start = Instant::now();
    let mut world = World::new();
    for (step, (millis, what, authority, expected)) in steps.iter().enumerate() {
        let now = start + Duration::from_millis(*millis);
        world.pass(now);
        match what {
            On(id, event) => world.machine.on(now, *id, *event),
            Wait => {}
            Hang(id) => world.hanging.push(*id),
            Resume(id) => {
                world.hanging.retain(|hanging| hanging != id);
                world.machine.on(now, *id, Said(Report::Pong));
            }
        }
        world.pass(now);
        assert_eq!(world.machine.authority(), *authority, "step {step} at {millis} ms");
        assert_eq!(std::mem::take(&mut world.told), *expected, "step {step} at {millis} ms");
    }
}

#[test]
fn the_first_sidecar_is_trusted_at_once() {
    story(&[
        (0, Wait, Guard(Cause::Absent), &[]),
        (10, On(1, Joined), Guard(Cause::NotReady), &[]),
        (9_000, Wait, Guard(Cause::NotReady), &[]),
        (9_000, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (9_001, On(1, Said(Accepting)), Sidecar, &[]),
    ]);
}

/// An old one was drained for one whose workers had never done anything.
#[test]
fn one_that_never_answered_is_not_trusted() {
    story(&[
        (0, On(1, Joined), Guard(Cause::NotReady), &[]),
        (0, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (0, On(1, Said(Accepting)), Sidecar, &[]),
        (1_000, On(2, Joined), Sidecar, &[]),
        (1_000, Hang(2), Sidecar, &[]),
        (2_000, On(2, Said(Ready)), Sidecar, &[]),
        (2_500, Wait, Sidecar, &[(2, Order::Pause)]),
        // One failure, though it wasn't that of the one that accepts.
        (9_000, Resume(2), Sidecar, &[]),
        (9_999, Wait, Sidecar, &[]),
        (10_000, Wait, Sidecar, &[(2, Order::Go)]),
        (10_001, On(2, Said(Accepting)), Sidecar, &[(1, Order::Drain)]),
    ]);
}

#[test]
fn after_a_death_a_sidecar_must_be_well_for_a_while() {
    story(&[
        (0, On(1, Joined), Guard(Cause::NotReady), &[]),
        (0, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (0, On(1, Said(Accepting)), Sidecar, &[]),
        (500, Wait, Sidecar, &[]),
        (500, On(1, Gone), Guard(Cause::Died), &[]),
        (700, On(2, Joined), Guard(Cause::Died), &[]),
        (800, On(2, Said(Ready)), Guard(Cause::Died), &[]),
        (1_799, Wait, Guard(Cause::Died), &[]),
        (1_800, Wait, Guard(Cause::Died), &[(2, Order::Go)]),
        (1_801, On(2, Said(Accepting)), Sidecar, &[]),
        (90_000, Wait, Sidecar, &[]),
        // Long after the last failure it is one failure again, not a series.
        (90_000, On(2, Gone), Guard(Cause::Died), &[]),
        (90_000, On(3, Joined), Guard(Cause::Died), &[]),
        (90_000, On(3, Said(Ready)), Guard(Cause::Died), &[]),
        (91_000, Wait, Guard(Cause::Died), &[(3, Order::Go)]),
    ]);
}

#[test]
fn a_hang_is_seen_within_half_a_second_and_heals() {
    story(&[
        (0, On(1, Joined), Guard(Cause::NotReady), &[]),
        (0, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (0, On(1, Said(Accepting)), Sidecar, &[]),
        // The ping of 2,100 ms isn't answered.
        (2_050, Hang(1), Sidecar, &[]),
        (2_599, Wait, Sidecar, &[]),
        (2_600, Wait, Guard(Cause::Hung), &[(1, Order::Pause)]),
        (30_000, Wait, Guard(Cause::Hung), &[]),
        // It goes on: first it finds the old order, then that it must pause.
        (30_000, On(1, Said(Accepting)), Guard(Cause::Hung), &[]),
        (30_000, Resume(1), Guard(Cause::Hung), &[]),
        (30_001, On(1, Said(Accepting)), Guard(Cause::Hung), &[]),
        (30_999, Wait, Guard(Cause::Hung), &[]),
        (31_000, Wait, Guard(Cause::Hung), &[(1, Order::Go)]),
        (31_000, On(1, Said(Accepting)), Sidecar, &[]),
    ]);
}

#[test]
fn a_hang_that_ends_in_death_is_one_failure() {
    story(&[
        (0, On(1, Joined), Guard(Cause::NotReady), &[]),
        (0, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (0, On(1, Said(Accepting)), Sidecar, &[]),
        (50, Hang(1), Sidecar, &[]),
        (600, Wait, Guard(Cause::Hung), &[(1, Order::Pause)]),
        (5_000, On(1, Gone), Guard(Cause::Hung), &[]),
        (5_000, On(2, Joined), Guard(Cause::Hung), &[]),
        (5_000, On(2, Said(Ready)), Guard(Cause::Hung), &[]),
        (6_000, Wait, Guard(Cause::Hung), &[(2, Order::Go)]),
    ]);
}

#[test]
fn an_upgrade_drains_the_old_one_once_the_new_one_accepts() {
    story(&[
        (0, On(1, Joined), Guard(Cause::NotReady), &[]),
        (0, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (0, On(1, Said(Accepting)), Sidecar, &[]),
        (1_000, Wait, Sidecar, &[]),
        (1_000, On(2, Joined), Sidecar, &[]),
        (2_000, Wait, Sidecar, &[]),
        (2_000, On(2, Said(Ready)), Sidecar, &[(2, Order::Go)]),
        (2_001, On(2, Said(Accepting)), Sidecar, &[(1, Order::Drain)]),
        (2_100, On(1, Said(Leaving)), Sidecar, &[]),
        (2_200, On(1, Gone), Sidecar, &[]),
        (9_000, Wait, Sidecar, &[]),
    ]);
}

#[test]
fn a_candidate_that_fails_changes_nothing() {
    story(&[
        (0, On(1, Joined), Guard(Cause::NotReady), &[]),
        (0, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (0, On(1, Said(Accepting)), Sidecar, &[]),
        (100, On(2, Joined), Sidecar, &[]),
        (200, On(2, Gone), Sidecar, &[]),
        (300, On(3, Joined), Sidecar, &[]),
        // A third one takes the idle candidate's place, never the place of the one that accepts.
        (400, On(4, Joined), Sidecar, &[(3, Order::Drain)]),
        (400, Wait, Sidecar, &[]),
        (400, On(4, Said(Ready)), Sidecar, &[]),
        // One failure of late: it has to prove itself.
        (1_400, Wait, Sidecar, &[(4, Order::Go)]),
    ]);
}

#[test]
fn who_leaves_on_purpose_has_not_failed() {
    story(&[
        (0, On(1, Joined), Guard(Cause::NotReady), &[]),
        (0, On(1, Said(Ready)), Guard(Cause::NotReady), &[(1, Order::Go)]),
        (0, On(1, Said(Accepting)), Sidecar, &[]),
        (100, On(1, Said(Leaving)), Guard(Cause::Left), &[]),
        (200, On(1, Gone), Guard(Cause::Left), &[]),
        (300, On(2, Joined), Guard(Cause::Left), &[]),
        (400, On(2, Said(Ready)), Guard(Cause::Left), &[(2, Order::Go)]),
    ]);
}

#[test]
fn a_restarted_guard_finds_a_sidecar_that_accepts() {
    story(&[
        (0, On(0, Joined), Guard(Cause::NotReady), &[]),
        (0, On(0, Said(Ready)), Guard(Cause::NotReady), &[(0, Order::Go)]),
        (0, On(0, Said(Accepting)), Sidecar, &[]),
        (550, Hang(0), Sidecar, &[]),
        (1_100, Wait, Guard(Cause::Hung), &[(0, Order::Pause)]),
    ]);
}

#[test]
fn a_crash_loop_does_not_flap() {
    let start = Instant::now();
    let mut world = World::new();
    let mut takeovers = 0;
    // Killed every two seconds for five minutes; back and ready after 100 ms.
    for id in 0..150 {
        let born = start + Duration::from_millis(id * 2_000 + 100);
        let dies = born + Duration::from_millis(1_900);
        world.machine.on(born, id, Joined);
        world.machine.on(born, id, Said(Ready));
        world.pass(dies);
        if world.told.contains(&(id, Order::Go)) {
            world.machine.on(dies, id, Said(Accepting));
            takeovers += 1;
        }
        world.machine.on(dies, id, Gone);
        assert!(world.machine.failures.len() <= MAX_FAILURES);
    }
    assert_eq!(takeovers, 2, "the first start and one more");
}

#[test]
fn the_hold_doubles_up_to_a_limit() {
    let start = Instant::now();
    for (failures, seconds) in [(0, 0), (1, 1), (2, 2), (3, 4), (5, 16), (6, 30), (40, 30)] {
        let mut machine = Machine::new(Patience::default());
        for id in 0..failures {
            machine.on(start, id, Joined);
            machine.on(start, id, Gone);
        }
        machine.on(start, 100, Joined);
        machine.on(start, 100, Said(Ready));
        let until = start + Duration::from_secs(seconds);
        assert!(matches!(machine.peers[0].phase, Phase::Proving { until: at } if at == until), "{failures} failures");
    }
}
