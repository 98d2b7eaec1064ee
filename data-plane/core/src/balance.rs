//! Picks the endpoint of a request or connection, and learns from what comes of it. Neither connects nor probes.
//!
//! Live state is atomics only. It belongs to the endpoint, not to a set, so it outlives changes of the configuration.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use crate::{
    clock,
    config::{Balancer, EndpointSpec, TrafficPolicy},
    hash::{Map, mix, scale},
};

mod endpoint;
mod group;
mod limit;
mod maglev;

pub use endpoint::Endpoint;
use group::Group;
use limit::{InFlight, Place};
use maglev::Table;

/// The endpoints of one destination, in the order of their workloads' names.
#[derive(Debug, Default)]
pub struct EndpointSet {
    endpoints: Vec<Arc<Endpoint>>,
    ready: Group,
    /// The ready ones by zone; empty if all are in one.
    zones: Map<Arc<str>, Group>,
    draining: Group,
    /// For [`Balancer::ConsistentHash`].
    table: Option<Table>,
    turn: AtomicU32,
    in_flight: InFlight,
}

/// Why no endpoint was picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unpicked {
    /// There is none, or none that wasn't tried.
    Nobody,
    /// As much is in flight as the policy allows.
    Overload,
}

/// What came of using an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// A 5xx answer, a connection that couldn't be made, or a timeout.
    Failure,
    /// No connection could be made, or nobody is left at the other end of one: left alone by all, whatever share of the
    /// endpoints that is, until somebody answers a trial.
    Unreachable,
    /// Says nothing of the endpoint, such as a caller that went away.
    Neutral,
}

/// An endpoint in use. It counts as busy while this lives.
#[derive(Debug)]
pub struct Picked {
    pub endpoint: Arc<Endpoint>,
    /// Nobody was there last time: whoever can wait for another endpoint's answer should.
    pub trial: bool,
    started: Instant,
    _place: Place,
}

/// How often a random draw may meet an endpoint that can't be had before the rest are counted.
const DRAWS: usize = 4;

// === impl EndpointSet ===

impl EndpointSet {
    /// Joins what the control plane says with the live state in `previous`, by workload and address. What hasn't
    /// changed is the same [`Endpoint`] as before. Of several with the same key the last counts.
    pub fn build(specs: Vec<EndpointSpec>, previous: Option<&Self>, policy: &TrafficPolicy) -> Self {
        let mut specs: Vec<_> = specs.into_iter().rev().collect();
        specs.sort_by(|a, b| (&a.workload, a.address).cmp(&(&b.workload, b.address)));
        specs.dedup_by(|a, b| a.workload == b.workload && a.address == b.address);
        let endpoints: Vec<_> = specs
            .into_iter()
            .map(|spec| match previous.and_then(|previous| previous.find(&spec.workload, spec.address)) {
                Some(before) if before.spec == spec => before.clone(),
                before => Arc::new(Endpoint::new(spec, before.map(|before| &**before))),
            })
            .collect();
        let group = |wanted: &dyn Fn(&EndpointSpec) -> bool| Group::new(&endpoints, |endpoint| wanted(&endpoint.spec));
        let ready = group(&|spec| !spec.draining);
        let draining = group(&|spec| spec.draining);
        let mut zones = Map::default();
        for zone in endpoints.iter().map(|endpoint| &endpoint.spec.zone).filter(|zone| !zone.is_empty()) {
            if !zones.contains_key(zone) {
                zones.insert(zone.clone(), group(&|spec| !spec.draining && spec.zone == *zone));
            }
        }
        zones.retain(|_, members| !members.is_empty() && members.len() < ready.len());
        let table = (policy.balancer == Balancer::ConsistentHash).then(|| Table::new(&endpoints, ready.members()));
        // Sets that follow each other fast, as in a rollout, must not all begin with the same endpoint.
        let turn = AtomicU32::new(previous.map_or(0, |previous| previous.turn.load(Relaxed)));
        let in_flight = previous.map(|previous| previous.in_flight.clone()).unwrap_or_default();
        Self { endpoints, ready, zones, draining, table, turn, in_flight }
    }

    pub fn len(&self) -> usize {
        self.endpoints.len()
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Arc<Endpoint>> {
        self.endpoints.iter()
    }

    fn find(&self, workload: &str, address: IpAddr) -> Option<&Arc<Endpoint>> {
        let at = self.endpoints.binary_search_by(|endpoint| endpoint.key().cmp(&(workload, address)));
        at.ok().map(|at| &self.endpoints[at])
    }

    /// How many are ejected now.
    pub fn ejected(&self, now: Instant) -> usize {
        let now = clock::nanos(now);
        self.endpoints.iter().filter(|endpoint| endpoint.is_ejected(now)).count()
    }

    /// Picks by the policy among the ready endpoints that aren't ejected and can be reached, then among those that drain,
    /// then among all. Never one of `tried`. `hash` matters to consistent hashing alone, `zone` (the caller's; may be
    /// empty) to the rest.
    ///
    /// # Errors
    /// If there is no other, or as much is in flight as the policy allows.
    pub fn pick(
        &self,
        policy: &TrafficPolicy,
        hash: Option<u64>,
        random: &mut dyn FnMut() -> u32,
        now: Instant,
        tried: &[Arc<Endpoint>],
        zone: &str,
    ) -> Result<Picked, Unpicked> {
        let place = self.in_flight.enter(policy.max_connections).ok_or(Unpicked::Overload)?;
        let nanos = clock::nanos(now);
        let untried = |at: usize| !tried.iter().any(|tried| tried.is_same(&self.endpoints[at]));
        let healthy = |at: usize| !self.endpoints[at].is_out(nanos) && untried(at);
        let at = match (&self.table, hash) {
            (Some(table), Some(hash)) => self.by_hash(table, hash, healthy),
            _ => self.local(zone).and_then(|group| self.from(group, policy, random, nanos, healthy)),
        };
        let at = at
            .or_else(|| self.from(&self.ready, policy, random, nanos, healthy))
            .or_else(|| self.from(&self.draining, policy, random, nanos, healthy))
            .or_else(|| self.from(&self.ready, policy, random, nanos, untried))
            .or_else(|| self.from(&self.draining, policy, random, nanos, untried))
            .ok_or(Unpicked::Nobody)?;
        Ok(Picked::new(self.endpoints[at].clone(), now, place))
    }

    /// The endpoints of the caller's zone, if they are enough to bear its traffic: a third of all.
    fn local(&self, zone: &str) -> Option<&Group> {
        self.zones.get(zone).filter(|members| members.len() * 3 >= self.ready.len())
    }

    /// The endpoint that owns the hash; if it can't be had, the owner of the next hash, and so on: the others' keys
    /// stay where they are.
    fn by_hash(&self, table: &Table, mut hash: u64, usable: impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..self.ready.len() * 2 {
            let at = table.owner(hash)?;
            if usable(at) {
                return Some(at);
            }
            hash = mix(hash);
        }
        None
    }

    fn from(
        &self,
        group: &Group,
        policy: &TrafficPolicy,
        random: &mut dyn FnMut() -> u32,
        now: u64,
        usable: impl Fn(usize) -> bool + Copy,
    ) -> Option<usize> {
        if group.is_empty() {
            return None;
        }
        match policy.balancer {
            Balancer::RoundRobin => {
                (0..group.len()).map(|_| group.turn(self.turn.fetch_add(1, Relaxed))).find(|&at| usable(at))
            }
            Balancer::Random => None,
            Balancer::LeastRequest | Balancer::ConsistentHash => self.better_of_two(group, random, now, usable),
        }
        .or_else(|| draw(group, random, usable))
    }

    fn better_of_two(
        &self,
        group: &Group,
        random: &mut dyn FnMut() -> u32,
        now: u64,
        usable: impl Fn(usize) -> bool + Copy,
    ) -> Option<usize> {
        if let [only] = group.members() {
            return Some(*only as usize).filter(|&at| usable(at));
        }
        let first = draw(group, random, usable)?;
        let Some(second) = draw(group, random, |at| at != first && usable(at)) else { return Some(first) };
        let (a, b) = (&self.endpoints[first], &self.endpoints[second]);
        let (of_a, of_b) = (a.latency(now), b.latency(now));
        // One that hasn't answered yet is taken for as fast as the other.
        let cost_a = a.busy(group.mean_weight()) * of_a.or(of_b).unwrap_or(1.0);
        let cost_b = b.busy(group.mean_weight()) * of_b.or(of_a).unwrap_or(1.0);
        Some(if cost_b < cost_a { second } else { first })
    }

    /// Whether one more may be ejected: at most the policy's share, and never the last.
    fn may_eject(&self, max_percent: u32, now: u64) -> bool {
        let ejected = self.endpoints.iter().filter(|endpoint| endpoint.is_ejected(now)).count();
        let share = self.len() * max_percent as usize / 100;
        ejected < share.max(1).min(self.len().saturating_sub(1)) && max_percent > 0
    }
}

/// A usable member at random, by weight; evenly if few of them are usable.
fn draw(group: &Group, random: &mut dyn FnMut() -> u32, usable: impl Fn(usize) -> bool) -> Option<usize> {
    (0..DRAWS).map(|_| group.draw(random())).find(|&at| usable(at)).or_else(|| {
        let members = || group.members().iter().map(|&at| at as usize).filter(|&at| usable(at));
        let count = u32::try_from(members().count()).unwrap_or(u32::MAX);
        members().nth(scale(random(), count) as usize)
    })
}

// === impl Picked ===

impl Picked {
    fn new(endpoint: Arc<Endpoint>, started: Instant, place: Place) -> Self {
        endpoint.begin();
        let trial = endpoint.on_trial(clock::nanos(started));
        Self { endpoint, trial, started, _place: place }
    }

    /// Says what came of it, and frees the endpoint.
    pub fn finish(self, outcome: Outcome, now: Instant, policy: &TrafficPolicy, set: &EndpointSet) {
        self.record(outcome, now, policy, set);
    }

    /// Says what came of it, but keeps counting as busy, such as while an answer's body still streams.
    pub fn record(&self, outcome: Outcome, now: Instant, policy: &TrafficPolicy, set: &EndpointSet) {
        let took = now.saturating_duration_since(self.started);
        let now = clock::nanos(now);
        match outcome {
            Outcome::Success => self.endpoint.succeeded(took, now),
            Outcome::Failure => {
                self.endpoint
                    .failed(took, now, policy.ejection.as_ref(), |max_percent| set.may_eject(max_percent, now));
            }
            Outcome::Unreachable => self.endpoint.unreachable(now),
            Outcome::Neutral => {}
        }
    }
}

impl Drop for Picked {
    fn drop(&mut self) {
        self.endpoint.end();
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
