//! The mesh as pure data: [`Inputs`] in, [`MeshSnapshot`] out. No clock, no IO, no Kubernetes.

pub mod inputs;
pub mod snapshot;

mod access;
mod build;
mod finding;
#[cfg(test)]
mod fixtures;
mod mesh;
mod routes;
mod traffic;

pub use build::{Built, build};
pub use finding::{Concern, Finding, Reason};
pub use inputs::Inputs;
pub use snapshot::{MeshSnapshot, Resource, TypeSet};
