//! Serves any snapshot source as an aggregated discovery service, delta and state-of-the-world.
//!
//! Owns the protocol: what a client is owed, what it has acknowledged, in which order types are pushed. All of
//! that is in [`Subscription`] (one type of one stream) and [`Session`] (one stream), which know neither a runtime nor
//! a socket. Never derives configuration, never authenticates: it finds a [`Principal`] in the request's
//! extensions or refuses the call.

mod acks;
mod changes;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hub;
mod protocol;
mod scope;
mod server;
mod session;
mod subscription;
mod transport;

use std::sync::Arc;

use outrigger_wire::SpiffeId;

pub use acks::{Acks, Counts};
pub use protocol::{Names, Push, Request, TooManyNames, Variant, Verdict};
pub use scope::Scope;
pub use server::Ads;
pub use session::{Session, known_type};
pub use subscription::Subscription;

/// Who calls, as proven by its credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `NAMESPACE/NAME`.
    pub workload: Arc<str>,
    pub identity: SpiffeId,
    /// A shared proxy: it may see every workload's `Inbound`.
    pub shared: bool,
}
