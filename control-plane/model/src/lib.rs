//! The mesh as pure data: [`Inputs`] in, [`MeshSnapshot`] out. No clock, no IO, no Kubernetes.

pub mod held;
pub mod inputs;
pub mod map;
pub mod part;
mod progress;
pub mod snapshot;

mod access;
mod affects;
mod build;
mod departure;
mod finding;
#[cfg(test)]
mod fixtures;
mod mesh;
mod routes;
mod traffic;

pub use affects::{Affects, Effects, Reach};
pub use build::{Built, build};
pub use departure::{Departure, departures};
pub use finding::{Concern, Finding, Reason};
pub use held::{Held, Holdings};
pub use inputs::Inputs;
pub use map::Map;
pub use mesh::{is_shared_proxy, namespace_of};
pub use part::{Before, Part};
pub use progress::Progress;
pub use snapshot::{MeshSnapshot, Resource, TypeSet};
