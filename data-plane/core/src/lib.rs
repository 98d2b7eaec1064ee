//! The engine of every proxy, free of IO: compiled configuration, route matching, authorisation, balancing and
//! protocol detection. Knows no socket, no TLS and no gRPC; clocks and randomness are handed in.
//!
//! The control thread compiles what arrives and publishes a [`Snapshot`] through the [`Store`]; workers read it
//! once per connection or request.

pub mod access;
pub mod balance;
mod clock;
pub mod config;
pub mod detect;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hash;
pub mod host;
pub mod path;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod store;

pub use hash::Map;
pub use snapshot::{Destination, Snapshot};
pub use store::{Lookup, Store, Svid};
