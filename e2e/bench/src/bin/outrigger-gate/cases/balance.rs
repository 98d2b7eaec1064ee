//! One endpoint picked, and what came of it: least requests, and consistent hashing.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use outrigger_core::{
    balance::{EndpointSet, Outcome},
    config::{EndpointSpec, Service},
};
use outrigger_wire::proto::config as proto;
use proto::traffic_policy::Balancer;

use super::{Case, Once, wire};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::here("balance/10", "least requests of 10 endpoints, with its outcome", 20_000, || {
            pick(10, Balancer::LeastRequest)
        }),
        Case::here("balance/1000", "least requests of 1000 endpoints, with its outcome", 20_000, || {
            pick(1000, Balancer::LeastRequest)
        }),
        Case::here("balance/hash", "the owner of a key among 1000 endpoints", 20_000, || {
            pick(1000, Balancer::ConsistentHash)
        }),
    ]
}

/// Compiled endpoints of `shop/cart`.
pub(super) fn endpoints(count: usize) -> Result<Vec<EndpointSpec>> {
    (0..count).map(|index| Ok(EndpointSpec::compile(wire::endpoint("shop/cart", index))?)).collect()
}

fn pick(count: usize, balancer: Balancer) -> Result<Once> {
    let policy = proto::TrafficPolicy { balancer: balancer.into(), ..proto::TrafficPolicy::default() };
    let message =
        proto::Service { name: "shop/cart".to_owned(), traffic_policy: Some(policy), ..proto::Service::default() };
    let policy = Service::compile(message)?.policy;
    let set = EndpointSet::build(endpoints(count)?, None, &policy);
    // A clock and dice of our own: every run sees the same.
    let (mut now, mut dice) = (Instant::now(), 1_u64);
    let mut random = move || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as u32
    };
    let mut key = 0_u64;
    Ok(Box::new(move || {
        key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let hash = (balancer == Balancer::ConsistentHash).then_some(key);
        let picked = set.pick(&policy, hash, &mut random, now, &[], "").ok().context("no endpoint was picked")?;
        now += Duration::from_micros(500);
        black_box(picked).finish(Outcome::Success, now, &policy, &set);
        Ok(())
    }))
}
