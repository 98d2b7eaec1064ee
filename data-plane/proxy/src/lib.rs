//! The proxy: everything of it that touches sockets. Knows configuration only through `outrigger_core::Store`,
//! never xDS.
//!
//! A request's way: [`listeners`] → `outbound` or `inbound` → `http` or `tcp` → `pool` → the wire. A [`worker`]
//! owns everything on that way; a request never changes thread.

pub mod admin;
mod chunk;
mod drain;
mod engine;
pub mod fallback;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod guard;
pub mod handover;
mod http;
mod http1;
mod http2;
mod inbound;
pub mod listeners;
pub mod memory;
mod outbound;
mod pool;
pub mod pressure;
mod pump;
pub mod redirect;
mod series;
mod shared;
mod splice;
mod stream;
pub mod sys;
mod tcp;
pub mod telemetry;
pub mod tls;
pub mod worker;

pub use engine::{Engine, Limits, Role};
