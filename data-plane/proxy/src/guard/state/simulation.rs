//! A guard and the sidecars of its pod, by a seed: sidecars begin, crash, hang (the process or its workers), leave and are
//! replaced, the guard is held up, crashes and comes back, and what one says to the other takes a while. The machine is the
//! guard's own; around it is a model of what runs it (`handover/host.rs`) and of whom it orders about
//! (`handover::Session::run`), which knows who really accepts.
//!
//! Not in it: a second set of sockets (a sidecar that begins while neither guard nor sidecar would give it theirs), and that
//! a guard which was restarted is found by a second sidecar. In a pod one sidecar begins after the other.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

mod faults;
mod guard;
mod sidecar;
mod trust;
mod truth;

use guard::{Guard, State};
use sidecar::Sidecar;
use truth::Truth;

/// Faults happen for so long (milliseconds), and whatever they began is over soon after.
const TROUBLE: u64 = 15_000;
const AFTERMATH: u64 = 3_000;
/// For so long it must stay as it is then.
const CALM: u64 = 3_000;
/// A sidecar is ready at most so long after it began.
const SLOWEST_START: u64 = 500;
/// Workers answer a heartbeat within.
const SLOWEST_BEAT: u64 = 20;

/// A connection between a guard and a sidecar: in order, and never lost while both ends live.
struct Link {
    sidecar: usize,
    /// Which guard's, counted from the first.
    guard: u32,
    /// Nothing comes out before what was put in before.
    last_up: u64,
    last_down: u64,
    /// The sidecar has closed it.
    closed: bool,
    told: Told,
}

/// What the guard has said and heard on a link.
#[derive(Default)]
struct Told {
    /// Since when it must be well to be trusted: it has said that it is ready, or has answered again.
    proving: Option<u64>,
    /// How long it must be.
    hold: u64,
    /// Its first answer to a ping.
    answered: Option<u64>,
    /// Pings that it has not answered, and orders that it has not read.
    unanswered: usize,
    unread: usize,
    /// It hangs, as the guard sees it.
    paused: bool,
    /// Told to go since then.
    goes: bool,
    /// It accepts, as the guard sees it.
    trusted: bool,
    /// It ends, by its own will or because it was told to: nothing may follow.
    ends: bool,
}

/// What a sidecar puts into a link.
#[derive(Debug, Clone, Copy)]
enum Up {
    /// It wants the sockets.
    Joins,
    /// It gives them back, after what it says it does with them.
    GivesBack(Option<Report>),
    Says(Report),
    End,
}

/// What a guard puts into a link.
#[derive(Debug, Clone, Copy)]
enum Down {
    Sockets,
    /// It has begun, and wants them back.
    Asks,
    Orders(Order),
    End,
}

#[derive(Debug, Clone, Copy)]
enum What {
    Up(usize, Up),
    Down(usize, Down),
    /// All workers have answered this heartbeat of a sidecar's.
    Beaten(usize, u32),
    Ready(usize),
    /// A sidecar's process or its workers go on.
    GoesOn(usize),
    GuardBegins,
    GuardGoesOn,
    Fault,
}

struct World {
    seed: u64,
    dice: SmallRng,
    begun: Instant,
    /// Milliseconds since.
    now: u64,
    patience: Patience,
    /// The longest that a packet is under way.
    delay: u64,
    ahead: BTreeMap<(u64, u64), What>,
    scheduled: u64,
    links: Vec<Link>,
    guard: Guard,
    sidecars: Vec<Sidecar>,
    /// The sidecar that a restarted guard finds.
    gate: Option<usize>,
    truth: Truth,
    seen: Seen,
}

/// How often what happened, so that a simulation of nothing isn't taken for one of something.
#[derive(Debug, Default)]
struct Seen {
    takeovers: u64,
    deaths: u64,
    hangs: u64,
    given_back: u64,
    upgrades: u64,
    paused: u64,
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let mut between = |from: u64, to: u64| Duration::from_millis(dice.random_range(from..=to));
        let hold = between(50, 1_000);
        let patience = Patience {
            ping_every: between(20, 150),
            answer_within: between(200, 500),
            hold,
            longest_hold: hold + between(0, 3_000),
            memory: between(1_000, 10_000),
        };
        // A sidecar that is well answers in time, there and back.
        let delay = dice.random_range(0..=80);
        Self {
            seed,
            dice,
            begun: Instant::now(),
            now: 0,
            patience,
            delay,
            ahead: BTreeMap::new(),
            scheduled: 0,
            links: Vec::new(),
            guard: Guard::new(patience),
            sidecars: Vec::new(),
            gate: None,
            truth: Truth::default(),
            seen: Seen::default(),
        }
    }

    fn instant(&self) -> Instant {
        self.begun + Duration::from_millis(self.now)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.dice.random_range(0..end)
    }

    fn at(&mut self, when: u64, what: What) {
        self.scheduled += 1;
        self.ahead.insert((when, self.scheduled), what);
    }

    fn after(&mut self, pause: u64, what: What) {
        self.at(self.now + pause, what);
    }

    fn link(&mut self, sidecar: usize) -> usize {
        let guard = self.guard.number;
        self.links.push(Link { sidecar, guard, last_up: 0, last_down: 0, closed: false, told: Told::default() });
        self.links.len() - 1
    }

    fn up(&mut self, link: usize, what: Up) {
        let earliest = self.now + self.dice.random_range(0..=self.delay);
        let of = &mut self.links[link];
        of.last_up = of.last_up.max(earliest);
        let when = of.last_up;
        self.at(when, What::Up(link, what));
    }

    fn down(&mut self, link: usize, what: Down) {
        let earliest = self.now + self.dice.random_range(0..=self.delay);
        let of = &mut self.links[link];
        of.last_down = of.last_down.max(earliest);
        let when = of.last_down;
        self.at(when, What::Down(link, what));
    }

    /// Lets happen what happens until then.
    fn run(&mut self, until: u64) {
        loop {
            let next = self.ahead.first_key_value().map_or(u64::MAX, |((when, _), _)| *when);
            // What has come is heard before a deadline is judged.
            let due = self.deadline().unwrap_or(u64::MAX);
            let when = next.min(due);
            if when > until {
                break;
            }
            self.now = self.now.max(when);
            self.still_served();
            if next <= due {
                let Some((_, what)) = self.ahead.pop_first() else { break };
                self.happen(what);
            } else {
                self.tick();
                assert!(self.deadline().is_none_or(|due| due > self.now), "{self}: a deadline that doesn't pass");
            }
            self.look();
        }
        self.now = until;
        self.still_served();
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Up(link, up) => self.comes_up(link, up),
            What::Down(link, down) => self.comes_down(link, down),
            What::Beaten(sidecar, beat) => self.beaten(sidecar, beat),
            What::Ready(sidecar) => self.is_ready(sidecar),
            What::GoesOn(sidecar) => self.goes_on(sidecar),
            What::GuardBegins => self.guard_begins(),
            What::GuardGoesOn => self.guard_goes_on(),
            What::Fault if self.now < TROUBLE => self.fault(),
            What::Fault => {}
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, now, delay, patience, .. } = self;
        write!(f, "seed {seed} at {now} ms, packets take up to {delay} ms, {patience:?}")?;
        for (number, sidecar) in self.sidecars.iter().enumerate().filter(|(_, sidecar)| sidecar.alive) {
            write!(f, "\n  {number}: {sidecar:?}")?;
        }
        write!(f, "\n  {:?}, peers by link {:?}", self.guard.state, self.guard.peers)?;
        self.guard.machine.peers.iter().try_for_each(|peer| write!(f, "\n  {} is {:?}", peer.id, peer.phase))
    }
}

/// Trouble, then a sidecar that is well.
fn simulate(seed: u64) -> Seen {
    let mut world = World::new(seed);
    world.begins();
    world.after(0, What::Fault);
    world.run(TROUBLE + AFTERMATH + 3 * world.delay);
    world.end_all_but_one();
    world.run(world.now + 3 * world.delay);
    let survivor = world.survivor();
    let Patience { longest_hold, ping_every, answer_within, .. } = world.patience;
    let back = millis(longest_hold) + SLOWEST_START + millis(ping_every + answer_within) + 4 * world.delay;
    world.run(world.now + back);
    world.carries(survivor);
    for _ in 0..CALM / 100 {
        world.run(world.now + 100);
        world.carries(survivor);
    }
    world.seen
}

#[test]
fn whatever_happens_somebody_accepts_and_in_the_end_the_sidecar() {
    let mut all = Seen::default();
    outrigger_replay::seeds(2_000, |seed| {
        let Seen { takeovers, deaths, hangs, given_back, upgrades, paused } = simulate(seed);
        all.takeovers += takeovers;
        all.deaths += deaths;
        all.hangs += hangs;
        all.given_back += given_back;
        all.upgrades += upgrades;
        all.paused += paused;
    });
    println!("{all:?}");
}
