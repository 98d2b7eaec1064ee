//! The control plane's xDS server and the proxies' client, both as they are in production, over a simulated network: hosts
//! are cut off, crash and come back, messages are late or lost, replicas lag behind the API server, all by a seed and in
//! simulated time. Only what opens and accepts connections is the simulation's, and there is no TLS.
//!
//! What must hold all along, and what in the end, is in [`proxy`] and [`expected`].

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod api;
mod changes;
mod controller;
mod expected;
mod faults;
mod proxy;
mod world;

pub use world::run;
