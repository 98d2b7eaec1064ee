//! The mesh as pure data: [`Inputs`](inputs) in, [`MeshSnapshot`] out. No clock, no IO, no Kubernetes.

pub mod snapshot;

pub use snapshot::{MeshSnapshot, Resource, TypeSet};
