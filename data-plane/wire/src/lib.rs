//! What both planes must agree on: identities, type URLs, ports, labels, protobufs and the small headers that
//! travel between proxies. Knows no socket, no runtime and no Kubernetes client.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod identity;
pub mod limits;
pub mod names;
pub mod proto;
pub mod tunnel;

pub use identity::{IdentityError, SpiffeId};
