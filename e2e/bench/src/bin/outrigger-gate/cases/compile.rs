//! What a proxy does when configuration arrives: checks and compiles it, and joins it with what it has.

use std::{hint::black_box, sync::Arc};

use anyhow::Result;
use outrigger_core::{
    Snapshot,
    config::{Inbound, Service},
};

use super::{Case, Once, access, balance, wire};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::here("compile/service", "a service with 50 rules (its message is cloned)", 50, service),
        Case::here("compile/inbound", "a workload with 100 policies (its message is cloned)", 30, inbound),
        Case::here("compile/endpoints", "one of 1000 endpoints has changed (the others are cloned)", 10, endpoints),
    ]
}

fn service() -> Result<Once> {
    let message = wire::service("shop/cart", 50);
    Ok(Box::new(move || {
        black_box(Service::compile(black_box(message.clone()))?);
        Ok(())
    }))
}

fn inbound() -> Result<Once> {
    let message = access::inbound(100);
    Ok(Box::new(move || {
        black_box(Inbound::compile(black_box(message.clone()))?);
        Ok(())
    }))
}

fn endpoints() -> Result<Once> {
    let mut snapshot = Snapshot::default();
    let mut specs = balance::endpoints(1000)?;
    snapshot.set_service(Arc::new(Service::compile(wire::service("shop/cart", 50))?), specs.clone());
    Ok(Box::new(move || {
        let one = specs.len() / 2;
        specs[one].draining = !specs[one].draining;
        let mut next = snapshot.clone();
        next.set_endpoints("shop/cart", specs.clone());
        snapshot = black_box(next);
        Ok(())
    }))
}
