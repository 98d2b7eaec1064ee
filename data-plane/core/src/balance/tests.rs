use std::{collections::BTreeMap, time::Duration};

use outrigger_wire::proto::config as wire;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::{config::Service, hash::hash};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn policy(balancer: Balancer) -> TrafficPolicy {
    let message = wire::TrafficPolicy { balancer: balancer.into(), ..wire::TrafficPolicy::default() };
    let service = wire::Service { name: "shop/cart".into(), traffic_policy: Some(message), ..wire::Service::default() };
    Service::compile(service).unwrap().policy
}

pub(super) fn spec(number: u8) -> EndpointSpec {
    let message = wire::Endpoint {
        service: "shop/cart".into(),
        workload: format!("shop/{number:03}"),
        address: format!("10.0.0.{number}"),
        ..wire::Endpoint::default()
    };
    EndpointSpec::compile(message).unwrap()
}

fn specs(count: u8) -> Vec<EndpointSpec> {
    (0..count).map(spec).collect()
}

/// A set with its policy, clock and dice.
struct Bench {
    policy: TrafficPolicy,
    set: EndpointSet,
    now: Instant,
    dice: SmallRng,
    zone: &'static str,
}

impl Bench {
    fn new(balancer: Balancer, specs: Vec<EndpointSpec>) -> Self {
        let policy = policy(balancer);
        let set = EndpointSet::build(specs, None, &policy);
        // Of our clock there is nothing before its first use, which may be another test's at this moment.
        Self { policy, set, now: Instant::now() + SECOND, dice: SmallRng::seed_from_u64(7), zone: "" }
    }

    fn rebuild(&mut self, specs: Vec<EndpointSpec>) {
        self.set = EndpointSet::build(specs, Some(&self.set), &self.policy);
    }

    fn pick_but(&mut self, hash: Option<u64>, tried: &[Arc<Endpoint>]) -> Option<Picked> {
        let dice = &mut self.dice;
        self.set.pick(&self.policy, hash, &mut || dice.random(), self.now, tried, self.zone).ok()
    }

    fn pick(&mut self) -> Picked {
        self.pick_but(None, &[]).unwrap()
    }

    /// Which of `count` picks go where, each finished at once.
    fn spread(&mut self, count: usize) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for _ in 0..count {
            *spread.entry(self.pick().endpoint.spec.workload.to_string()).or_default() += 1;
        }
        spread
    }

    /// Uses one endpoint, found by its number.
    fn use_one(&mut self, number: u8, took: Duration, outcome: Outcome) {
        let workload = spec(number).workload;
        let endpoint = self.set.iter().find(|endpoint| endpoint.spec.workload == workload).unwrap().clone();
        let picked = Picked::new(endpoint, self.now, Place::default());
        picked.finish(outcome, self.now + took, &self.policy, &self.set);
    }

    fn fail(&mut self, number: u8, times: usize) {
        for _ in 0..times {
            self.use_one(number, Duration::ZERO, Outcome::Failure);
        }
    }

    fn ejected(&self) -> usize {
        self.set.ejected(self.now)
    }
}

pub(super) const ALL: [Balancer; 4] =
    [Balancer::LeastRequest, Balancer::RoundRobin, Balancer::Random, Balancer::ConsistentHash];

#[test]
fn every_balancer_reaches_every_endpoint_and_none_of_nothing() {
    for balancer in ALL {
        let mut bench = Bench::new(balancer, specs(5));
        let spread = bench.spread(5_000);
        assert_eq!(spread.len(), 5, "{balancer:?}");
        assert!(spread.values().all(|count| (800..1200).contains(count)), "{balancer:?} {spread:?}");
        assert!(Bench::new(balancer, vec![]).pick_but(Some(1), &[]).is_none());
        let mut one = Bench::new(balancer, specs(1));
        assert_eq!(one.spread(10)["shop/000"], 10);
    }
}

#[test]
fn weights_are_shares() {
    for balancer in ALL {
        let weighted = vec![EndpointSpec { weight: 9, ..spec(0) }, spec(1)];
        let light = Bench::new(balancer, weighted.clone()).spread(10_000)["shop/001"];
        assert!((800..1200).contains(&light), "{balancer:?} {light}");
        // Under load as well: what is in flight counts relative to the weight.
        let mut bench = Bench::new(balancer, weighted);
        let held: Vec<_> = (0..1_000).map(|_| bench.pick()).collect();
        let light = held.iter().filter(|picked| picked.endpoint.spec.weight == 1).count();
        assert!((50..150).contains(&light), "{balancer:?} {light}");
    }
}

#[test]
fn the_less_busy_and_the_faster_are_preferred() {
    let mut bench = Bench::new(Balancer::LeastRequest, specs(2));
    let held: Vec<_> = (0..100).map(|_| bench.pick()).collect();
    let first = held.iter().filter(|picked| &*picked.endpoint.spec.workload == "shop/000").count();
    assert!((49..=51).contains(&first), "{first}");
    drop(held);
    assert!(bench.set.iter().all(|endpoint| endpoint.in_flight() == 0));

    bench.use_one(0, Duration::from_millis(10), Outcome::Success);
    assert_eq!(bench.spread(100).len(), 2, "one that never answered is taken for as fast as the other");
    bench.use_one(1, Duration::from_millis(500), Outcome::Success);
    assert_eq!(bench.spread(100)["shop/000"], 100);
    // Neutral says nothing: neither fast nor slow.
    bench.use_one(0, 10 * SECOND, Outcome::Neutral);
    assert_eq!(bench.spread(100)["shop/000"], 100);
    // A peak is forgotten, so that the slow one is tried again.
    bench.now += 120 * SECOND;
    bench.use_one(0, Duration::from_millis(10), Outcome::Success);
    assert_eq!(bench.spread(100).len(), 2);
}

/// When the second of two endpoints was used in a minute and a half of 100 requests a second, of which the first always takes
/// a millisecond.
fn uses(seed: u64, took: impl Fn(Duration) -> Duration) -> Vec<Duration> {
    let mut bench = Bench::new(Balancer::LeastRequest, specs(2));
    bench.dice = SmallRng::seed_from_u64(seed);
    let begun = bench.now;
    let (mut uses, mut open) = (Vec::new(), Vec::<(Instant, Picked)>::new());
    for tick in 0..9_000 {
        bench.now = begun + tick * Duration::from_millis(10);
        for (end, picked) in open.extract_if(.., |(end, _)| *end <= bench.now) {
            picked.finish(Outcome::Success, end, &bench.policy, &bench.set);
        }
        let (picked, at) = (bench.pick(), bench.now - begun);
        let second = *picked.endpoint.spec.workload == *"shop/001";
        uses.extend(second.then_some(at));
        let took = if second { took(at) } else { Duration::from_millis(1) };
        open.push((bench.now + took, picked));
    }
    uses
}

/// After a lost packet an endpoint had no request for up to 55 s.
#[test]
fn one_slow_answer_is_no_reason_to_leave_an_endpoint_alone_for_long() {
    for slow in [200, 1_000, 3_000].map(Duration::from_millis) {
        for seed in 0..20 {
            // Whatever is asked in these moments.
            let lost = 10 * SECOND..10 * SECOND + SECOND / 10;
            let uses = uses(seed, |at| if lost.contains(&at) { slow } else { Duration::from_millis(1) });
            let gap = uses.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            let most = (20 * slow).max(5 * SECOND) + slow + 2 * SECOND;
            assert!(gap > 4 * SECOND && gap < most, "seed {seed}: {gap:?} after {slow:?}");
            let after = uses.iter().filter(|at| **at > 80 * SECOND).count();
            assert!((300..700).contains(&after), "seed {seed}: {after} of 1,000 after {slow:?}");
        }
    }
}

#[test]
fn one_that_stays_slow_is_asked_by_one_and_seldom() {
    for (slow, most) in [(200, 20), (1_000, 6), (10_000, 3)] {
        for seed in 0..20 {
            let uses = uses(seed, |_| Duration::from_millis(slow)).len();
            assert!(uses <= most && (uses > 1 || slow > 1_000), "seed {seed}: {uses} times {slow} ms");
        }
    }
}

#[test]
fn failures_that_come_fast_do_not_look_fast() {
    let mut bench = Bench::new(Balancer::LeastRequest, specs(2));
    bench.use_one(0, Duration::from_millis(5), Outcome::Success);
    bench.use_one(1, Duration::from_millis(5), Outcome::Success);
    bench.fail(1, 1);
    assert_eq!(bench.spread(100)["shop/000"], 100);
}

#[test]
fn ejected_after_failures_in_a_row_for_longer_each_time() {
    let mut bench = Bench::new(Balancer::RoundRobin, specs(4));
    bench.fail(0, 4);
    bench.use_one(0, Duration::ZERO, Outcome::Success);
    bench.fail(0, 4);
    assert_eq!(bench.ejected(), 0, "a success in between starts anew");
    bench.fail(0, 1);
    assert_eq!(bench.ejected(), 1);
    assert!(!bench.spread(100).contains_key("shop/000"));
    for length in [10, 20, 40, 60, 60] {
        bench.now += (length - 1) * SECOND;
        assert_eq!(bench.ejected(), 1, "{length}");
        bench.now += SECOND;
        assert_eq!(bench.ejected(), 0, "{length}");
        // On probation: one more failure is enough.
        bench.fail(0, 1);
        assert_eq!(bench.ejected(), 1, "{length}");
    }
    bench.now += 60 * SECOND;
    bench.use_one(0, Duration::ZERO, Outcome::Success);
    bench.now += 60 * SECOND;
    bench.use_one(0, Duration::ZERO, Outcome::Success);
    bench.fail(0, 5);
    bench.now += 10 * SECOND;
    assert_eq!(bench.ejected(), 0, "forgiven after a minute without: the first length again");
}

#[test]
fn never_more_than_the_share_and_never_the_last() {
    for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
        let mut bench = Bench::new(Balancer::Random, specs(count));
        for number in 0..count {
            bench.fail(number, 5);
        }
        assert_eq!(bench.ejected(), most, "of {count}");
    }
    let mut all = Bench::new(Balancer::Random, specs(3));
    all.policy.ejection = all.policy.ejection.map(|ejection| crate::config::Ejection { max_percent: 100, ..ejection });
    for number in 0..3 {
        all.fail(number, 5);
    }
    assert_eq!(all.ejected(), 2);
    let mut off = Bench::new(Balancer::Random, specs(3));
    off.policy.ejection = None;
    off.fail(0, 100);
    assert_eq!(off.ejected(), 0);
}

#[test]
fn whoever_cannot_be_reached_is_left_alone_however_many_they_are() {
    for balancer in ALL {
        let mut bench = Bench::new(balancer, specs(4));
        for number in 0..3 {
            bench.use_one(number, Duration::ZERO, Outcome::Unreachable);
        }
        assert_eq!(bench.ejected(), 0, "that is something else");
        assert_eq!(bench.spread(100), BTreeMap::from([("shop/003".to_owned(), 100)]), "{balancer:?}");
        // Nobody else is left: any is better than none.
        bench.use_one(3, Duration::ZERO, Outcome::Unreachable);
        assert_eq!(bench.spread(400).len(), 4, "{balancer:?}");
    }
}

#[test]
fn one_trial_at_a_time_and_less_and_less_often() {
    let mut bench = Bench::new(Balancer::RoundRobin, specs(2));
    bench.use_one(0, Duration::ZERO, Outcome::Unreachable);
    for pause in [1, 2, 4, 8, 8] {
        bench.now += Duration::from_secs(pause) - Duration::from_millis(1);
        assert_eq!(bench.spread(10).len(), 1, "not before {pause} s");
        bench.now += Duration::from_millis(1);
        let trials: Vec<_> = (0..10).map(|_| bench.pick()).filter(|picked| picked.trial).collect();
        assert_eq!(trials.len(), 1, "after {pause} s");
        // Nobody answered within the time that a trial has.
        bench.now += 2 * SECOND;
        trials[0].record(Outcome::Unreachable, bench.now, &bench.policy, &bench.set);
    }
    bench.now += 8 * SECOND;
    let trial = (0..2).map(|_| bench.pick()).find(|picked| picked.trial).unwrap();
    trial.record(Outcome::Success, bench.now, &bench.policy, &bench.set);
    assert_eq!(bench.spread(10)["shop/000"], 5);
    assert!((0..10).all(|_| !bench.pick().trial));
}

#[test]
fn tried_ones_are_left_out_and_the_ejected_are_the_last_resort() {
    for balancer in ALL {
        let mut bench = Bench::new(balancer, specs(3));
        bench.fail(0, 5);
        let mut tried = Vec::new();
        for _ in 0..3 {
            let picked = bench.pick_but(Some(1), &tried).unwrap();
            assert!(!tried.iter().any(|tried| Arc::ptr_eq(tried, &picked.endpoint)), "{balancer:?}");
            tried.push(picked.endpoint.clone());
        }
        assert_eq!(&*tried[2].spec.workload, "shop/000", "{balancer:?}");
        assert!(bench.pick_but(Some(1), &tried).is_none());
        // Still known as tried after the configuration has changed.
        bench.rebuild((0..3).map(|number| EndpointSpec { weight: 3, ..spec(number) }).collect());
        assert!(bench.pick_but(Some(1), &tried).is_none());
    }
}

#[test]
fn draining_ones_only_when_no_other_is_healthy() {
    for balancer in ALL {
        let draining = |number| EndpointSpec { draining: true, ..spec(number) };
        let mut bench = Bench::new(balancer, vec![spec(0), draining(1)]);
        assert_eq!(bench.spread(100)["shop/000"], 100);
        let tried = [bench.pick().endpoint.clone()];
        assert_eq!(&*bench.pick_but(Some(5), &tried).unwrap().endpoint.spec.workload, "shop/001");
        bench.rebuild(vec![draining(0), draining(1)]);
        assert_eq!(bench.spread(100).len(), 2, "{balancer:?}");
    }
}

#[test]
fn the_own_zone_first_where_it_is_enough() {
    let zoned = |number, zone: &str| EndpointSpec { zone: zone.into(), ..spec(number) };
    let mut enough = Bench::new(Balancer::LeastRequest, vec![zoned(0, "a"), zoned(1, "b"), zoned(2, "b")]);
    assert_eq!(enough.spread(300).len(), 3);
    enough.zone = "a";
    assert_eq!(enough.spread(300)["shop/000"], 300);
    enough.fail(0, 5);
    assert_eq!(enough.spread(300).len(), 2, "another zone where the own has no healthy one");
    let mut few = Bench::new(Balancer::LeastRequest, (0..8).map(|n| zoned(n, if n < 2 { "a" } else { "b" })).collect());
    few.zone = "a";
    assert_eq!(few.spread(1000).len(), 8);
}

#[test]
fn live_state_is_carried_over() {
    let mut bench = Bench::new(Balancer::LeastRequest, specs(3));
    bench.fail(0, 5);
    let before: Vec<_> = bench.set.iter().cloned().collect();
    let held = Picked::new(before[1].clone(), bench.now, Place::default());
    bench.rebuild(vec![EndpointSpec { weight: 2, ..spec(1) }, spec(2), spec(0), spec(3)]);
    let after: Vec<_> = bench.set.iter().cloned().collect();
    assert!(Arc::ptr_eq(&before[0], &after[0]) && Arc::ptr_eq(&before[2], &after[2]));
    assert!(!Arc::ptr_eq(&before[1], &after[1]) && after[1].in_flight() == 1);
    assert!(after[0].ejected(bench.now));
    drop(held);
    assert_eq!(after[1].in_flight(), 0);
    // The same workload at another address is another endpoint; of two alike the last counts.
    let moved = EndpointSpec { address: [10, 9, 9, 9].into(), ..spec(0) };
    bench.rebuild(vec![moved, spec(1), EndpointSpec { weight: 7, ..spec(1) }]);
    let after: Vec<_> = bench.set.iter().collect();
    assert!(after.len() == 2 && !after[0].ejected(bench.now) && after[1].spec.weight == 7);
}

#[test]
fn equal_hashes_stay_together_and_few_move() {
    let owners = |bench: &mut Bench| -> Vec<Arc<str>> {
        let keys = (0..2_000_u32).map(|key| hash(&key.to_be_bytes()));
        keys.map(|key| bench.pick_but(Some(key), &[]).unwrap().endpoint.spec.workload.clone()).collect()
    };
    let mut bench = Bench::new(Balancer::ConsistentHash, specs(10));
    let ten = owners(&mut bench);
    assert_eq!(ten, owners(&mut bench));
    assert_eq!(ten, owners(&mut Bench::new(Balancer::ConsistentHash, specs(10).into_iter().rev().collect())));
    for number in 0..10 {
        let workload = spec(number).workload;
        let own = ten.iter().filter(|owner| **owner == workload).count();
        assert!((120..280).contains(&own), "{workload} {own}");
    }
    // One fails: only its keys move.
    bench.fail(3, 5);
    let failed = spec(3).workload;
    for (before, after) in ten.iter().zip(owners(&mut bench)) {
        assert!(after != failed && (*before == failed || *before == after));
    }
    // One is added: about a tenth moves, and few for no reason.
    let eleven = owners(&mut Bench::new(Balancer::ConsistentHash, specs(11)));
    let moved = ten.iter().zip(&eleven).filter(|(before, after)| before != after).count();
    assert!((100..400).contains(&moved), "{moved}");
}

#[test]
fn thousands_of_endpoints_of_all_weights() {
    let many = |count: u32| {
        (0..count).map(|number| EndpointSpec {
            workload: format!("shop/{number}").into(),
            weight: if number % 3 == 0 { u32::MAX } else { number },
            ..spec(0)
        })
    };
    for balancer in ALL {
        let mut bench = Bench::new(balancer, many(3_000).collect());
        for key in 0..1_000 {
            assert!(bench.pick_but(Some(hash(&u32::to_be_bytes(key))), &[]).is_some());
        }
    }
}

#[test]
fn no_more_in_flight_than_the_maximum() {
    for balancer in ALL {
        let mut bench = Bench::new(balancer, specs(3));
        let before_it_was_set = bench.pick();
        bench.policy.max_connections = Some(2);
        let pick = |bench: &Bench| bench.set.pick(&bench.policy, Some(1), &mut || 0, bench.now, &[], "").map(drop);
        let held = [bench.pick(), bench.pick()];
        assert_eq!(pick(&bench), Err(Unpicked::Overload), "{balancer:?}");
        // What is in flight stays in flight, even if its endpoint is gone.
        bench.rebuild(vec![spec(9)]);
        assert_eq!(pick(&bench), Err(Unpicked::Overload), "{balancer:?}");
        drop(before_it_was_set);
        assert_eq!(pick(&bench), Err(Unpicked::Overload), "{balancer:?}");
        drop(held);
        assert_eq!(pick(&bench), Ok(()), "{balancer:?}");
        // Who finds nobody takes no place.
        bench.rebuild(vec![]);
        for _ in 0..3 {
            assert_eq!(pick(&bench), Err(Unpicked::Nobody), "{balancer:?}");
        }
    }
}

#[test]
fn threads_together_never_exceed_the_maximum() {
    let (policy, now) = (TrafficPolicy { max_connections: Some(5), ..policy(Balancer::Random) }, Instant::now());
    let set = EndpointSet::build(specs(3), None, &policy);
    let pick = || set.pick(&policy, None, &mut || 0, now, &[], "").ok();
    let held: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..10).filter_map(|_| pick()).collect())).collect();
        threads.into_iter().flat_map(|thread| -> Vec<Picked> { thread.join().unwrap() }).collect()
    });
    assert_eq!(held.len(), 5);
    drop(held);
    assert!(pick().is_some());
}

#[test]
fn threads_leave_no_trace() {
    let (policy, now) = (policy(Balancer::LeastRequest), Instant::now());
    let set = EndpointSet::build(specs(3), None, &policy);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (set, policy) = (&set, &policy);
            scope.spawn(move || {
                let mut dice = SmallRng::seed_from_u64(seed);
                for step in 0..5_000_u32 {
                    let now = now + Duration::from_millis(step.into());
                    let picked = set.pick(policy, None, &mut || dice.random(), now, &[], "").unwrap();
                    let outcome = if step % 7 == 0 { Outcome::Failure } else { Outcome::Success };
                    picked.finish(outcome, now + Duration::from_micros(step.into()), policy, set);
                }
            });
        }
    });
    assert!(set.iter().all(|endpoint| endpoint.in_flight() == 0));
}
