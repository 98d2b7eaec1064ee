//! Picks and what comes of them, by a seed: endpoints appear, vanish, drain and move, are well, slow, failing or not there,
//! and whoever uses one ends, says how it was, or is dropped at any moment. Beside the set is a naive [`model`] of it, which
//! must agree after every step.

use std::{rc::Rc, time::Duration};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    tests::{ALL, policy, spec},
    *,
};
use crate::config::Ejection;

mod model;

use model::{Live, Model};

const STEPS: usize = 300;
/// Addresses that there are.
const MOST: u8 = 8;
const ZONES: [&str; 3] = ["", "a", "b"];

/// How an endpoint is, for a while.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Well,
    Failing,
    NotThere,
    /// One as the other.
    Moody,
}

/// A use of an endpoint that hasn't ended.
struct Held {
    picked: Picked,
    live: Rc<Live>,
    /// As it was when it was picked: so long may a request hold what it began with.
    set: Arc<EndpointSet>,
    model: Model,
    /// A maximum applied to it.
    counted: bool,
}

struct World {
    seed: u64,
    step: usize,
    dice: SmallRng,
    begun: Instant,
    now: Duration,
    policy: TrafficPolicy,
    set: Arc<EndpointSet>,
    model: Model,
    moods: [Mood; MOST as usize],
    held: Vec<Held>,
    /// Every endpoint that was ever used.
    used: Vec<Arc<Endpoint>>,
}

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = SmallRng::seed_from_u64(seed);
        let mut policy = policy(ALL[dice.random_range(0..ALL.len())]);
        policy.ejection = dice.random_bool(0.8).then(|| Ejection {
            consecutive_failures: dice.random_range(1..4),
            base: Duration::from_secs(dice.random_range(1..10)),
            max_percent: dice.random_range(1..=100),
        });
        Self {
            seed,
            step: 0,
            dice,
            begun: clock::next_second(),
            now: Duration::ZERO,
            set: Arc::new(EndpointSet::build(Vec::new(), None, &policy)),
            policy,
            model: Model::default(),
            moods: [Mood::Well; MOST as usize],
            held: Vec::new(),
            used: Vec::new(),
        }
    }

    fn at(&self) -> Instant {
        self.begun + self.now
    }

    fn where_it_is(&self) -> String {
        let Self { seed, step, now, policy, .. } = self;
        format!("seed {seed}, step {step}, {now:?}, {:?}, {:?}", policy.balancer, policy.ejection)
    }

    fn below(&mut self, end: usize) -> usize {
        self.dice.random_range(0..end)
    }

    fn happen(&mut self) {
        match self.below(100) {
            0..40 => self.pick(),
            40..80 if !self.held.is_empty() => self.end_one(),
            80..90 => {
                let most = [50, 50, 50, 1_000, 3_000, 70_000][self.below(6)];
                let passed = self.below(most) as u64;
                self.now += Duration::from_millis(passed);
            }
            90..95 => self.configure(),
            95..100 => {
                let one = self.below(self.moods.len());
                self.moods[one] = [Mood::Well, Mood::Failing, Mood::NotThere, Mood::Moody][self.below(4)];
            }
            _ => {}
        }
        self.agree();
    }

    /// Some endpoints are as they were, some aren't.
    fn configure(&mut self) {
        let mut specs: Vec<_> = self.set.iter().map(|endpoint| endpoint.spec.clone()).collect();
        for number in 0..MOST {
            let other = spec(number);
            let before = specs.iter().position(|spec| spec.workload == other.workload);
            match (self.below(10), before) {
                (0, Some(at)) => drop(specs.remove(at)),
                (1, Some(at)) => specs[at].draining ^= true,
                (2, Some(at)) => specs[at].weight = self.dice.random_range(1..=4),
                (3, Some(at)) => specs[at].address = [10, 0, 1, self.dice.random_range(0..3)].into(),
                (0..4, None) => {
                    let zone = ZONES[self.below(ZONES.len())].into();
                    specs.push(EndpointSpec { zone, draining: self.dice.random_bool(0.1), ..other });
                }
                _ => {}
            }
        }
        if self.below(8) == 0 {
            specs.clear();
        }
        self.policy.max_connections = [None, None, Some(1), Some(5), Some(20)][self.below(5)];
        self.model = self.model.followed_by(&specs);
        self.set = Arc::new(EndpointSet::build(specs, Some(&self.set), &self.policy));
    }

    fn pick(&mut self) {
        let (mut endpoints, mut lives) = (Vec::new(), Vec::new());
        for _ in 0..self.below(4).min(self.held.len()) {
            let other = &self.held[self.dice.random_range(0..self.held.len())];
            endpoints.push(other.picked.endpoint.clone());
            lives.push(other.live.clone());
        }
        let hash = self.dice.random_bool(0.5).then(|| self.dice.random());
        let zone = ZONES[self.below(ZONES.len())];
        let (at, dice) = (self.at(), &mut self.dice);
        let picked = self.set.pick(&self.policy, hash, &mut || dice.random(), at, &endpoints, zone);
        let by_table = self.policy.balancer == Balancer::ConsistentHash && hash.is_some();
        let taken = self.held.iter().filter(|held| held.counted).count();
        let full = self.policy.max_connections.is_some_and(|max| taken >= max as usize);
        let (may, careful) = self.model.may_pick(self.now, &lives, if by_table { "" } else { zone });
        let picked = match picked {
            Err(why) => {
                let expected = if full { Unpicked::Overload } else { Unpicked::Nobody };
                assert!(why == expected && (full || may.is_empty()), "{why:?}, not {may:?}; {}", self.where_it_is());
                return;
            }
            Ok(picked) => picked,
        };
        let endpoint = &picked.endpoint;
        assert!(!full, "more than the maximum; {}", self.where_it_is());
        assert!(self.set.iter().any(|of| Arc::ptr_eq(of, endpoint)), "one that is gone; {}", self.where_it_is());
        assert!(may.contains(&endpoint.spec), "{:?}, not {may:?}; {}", endpoint.spec, self.where_it_is());
        let live = self.model.find(&endpoint.spec);
        let trial = live.begin(self.now, careful).unwrap_or_else(|why| panic!("{why}; {}", self.where_it_is()));
        assert_eq!(picked.trial, trial, "{}", self.where_it_is());
        self.used.push(endpoint.clone());
        let counted = self.policy.max_connections.is_some();
        self.held.push(Held { picked, live, set: self.set.clone(), model: self.model.clone(), counted });
    }

    /// One that is held ends, or says how it is and goes on.
    fn end_one(&mut self) {
        let at = self.below(self.held.len());
        let of = &self.held[at];
        let mood = self.moods[usize::from(number(&of.picked.endpoint))];
        let outcome = match (mood, self.below(20)) {
            // Whoever asked is gone: dropped at whatever it waited for.
            (_, 0..3) => return self.drop_one(at),
            (_, 3) => Outcome::Neutral,
            (Mood::Well, _) | (Mood::Failing, 4) => Outcome::Success,
            (Mood::Failing, _) => Outcome::Failure,
            (Mood::NotThere, _) => Outcome::Unreachable,
            (Mood::Moody, any) => [Outcome::Success, Outcome::Failure, Outcome::Unreachable][any % 3],
        };
        let of = &self.held[at];
        let ejected = of.picked.endpoint.ejected(self.at());
        of.picked.record(outcome, self.at(), &self.policy, &of.set);
        of.live.end(outcome, self.now, self.policy.ejection.as_ref(), &of.model);
        if !ejected && of.picked.endpoint.ejected(self.at()) {
            let (all, now) = (of.set.len(), of.set.ejected(self.at()));
            let percent = self.policy.ejection.as_ref().map_or(0, |ejection| ejection.max_percent as usize);
            assert!(now < all && now <= (all * percent / 100).max(1), "{now} of {all}; {}", self.where_it_is());
        }
        // An answer's body may go on for long.
        if self.below(4) > 0 {
            self.drop_one(at);
        }
    }

    fn drop_one(&mut self, at: usize) {
        let Held { picked, live, .. } = self.held.swap_remove(at);
        drop(picked);
        live.ended();
    }

    fn agree(&self) {
        let nanos = clock::nanos(self.at());
        assert_eq!(self.set.len(), self.model.len(), "{}", self.where_it_is());
        for endpoint in self.set.iter() {
            let live = self.model.find(&endpoint.spec);
            let is = (endpoint.in_flight(), endpoint.is_ejected(nanos), endpoint.is_out(nanos));
            let expected = (live.in_flight(), live.is_ejected(self.now), live.is_out(self.now));
            assert_eq!(is, expected, "{:?}; {}", endpoint.spec, self.where_it_is());
        }
    }

    /// Nothing is left of what has ended.
    fn ends(&mut self) {
        while !self.held.is_empty() {
            let at = self.below(self.held.len());
            self.drop_one(at);
            self.agree();
        }
        assert!(self.used.iter().all(|endpoint| endpoint.in_flight() == 0), "{}", self.where_it_is());
    }

    fn leaks_no_place(&mut self) {
        self.policy.max_connections = Some(1);
        self.set = Arc::new(EndpointSet::build(vec![spec(0)], Some(&self.set), &self.policy));
        let pick = || self.set.pick(&self.policy, None, &mut || 0, self.at(), &[], "");
        let one = pick();
        assert!(one.is_ok() && pick().err() == Some(Unpicked::Overload), "a place has leaked; {}", self.where_it_is());
    }

    /// When all are well again, and whatever was slow is forgotten, each has its share.
    fn is_fair(&mut self) {
        self.configure();
        self.policy.max_connections = None;
        self.now += Duration::from_secs(24 * 3600);
        for endpoint in self.set.iter() {
            let use_of_it = Picked::new(endpoint.clone(), self.at(), Place::default());
            use_of_it.finish(Outcome::Success, self.at() + Duration::from_millis(1), &self.policy, &self.set);
        }
        let by_table = self.policy.balancer == Balancer::ConsistentHash;
        let zone = if by_table { "" } else { ZONES[self.below(ZONES.len())] };
        let (members, _) = self.model.may_pick(self.now, &[], zone);
        let total: u32 = members.iter().map(|spec| spec.weight).sum();
        let picks = 200 * members.len();
        let mut counts = vec![0; members.len()];
        for _ in 0..picks {
            let (hash, at, dice) = (self.dice.random(), self.at(), &mut self.dice);
            let picked = self.set.pick(&self.policy, Some(hash), &mut || dice.random(), at, &[], zone);
            let spec = picked.expect("there are some, and nothing is in the way").endpoint.spec.clone();
            let at = members.iter().position(|of| *of == spec);
            counts[at.unwrap_or_else(|| panic!("{spec:?}, not {members:?}; {}", self.where_it_is()))] += 1;
        }
        for (spec, &count) in members.iter().zip(&counts) {
            let (count, expected) = (f64::from(count), picks as f64 * f64::from(spec.weight) / f64::from(total));
            let fair = count > expected / 3.0 && count < expected * 2.5;
            assert!(fair, "{count} times {spec:?}, should be {expected}; {}", self.where_it_is());
        }
    }
}

fn number(endpoint: &Endpoint) -> u8 {
    (0..MOST).find(|&number| spec(number).workload == endpoint.spec.workload).expect("one of ours")
}

#[test]
fn whatever_becomes_of_endpoints_picks_are_as_a_naive_model_has_them() {
    outrigger_replay::seeds(500, |seed| {
        let mut world = World::new(seed);
        world.configure();
        while world.step < STEPS {
            world.happen();
            world.step += 1;
        }
        world.ends();
        world.is_fair();
        world.leaks_no_place();
    });
}
