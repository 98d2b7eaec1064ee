//! The Kubernetes source: one watch per kind, one index, one derivation at a time. Owns what is watched, when a
//! derivation is made and what is published; a state that is worse than the last one because something couldn't be read
//! is never published.

mod derived;
mod health;

pub use derived::{Derived, Namespace, Resource, Store};
pub use health::{KindStatus, WatchStatus};

/// Kinds that users write and that are told about in [`Derived::resources`].
pub const RESOURCES: [&str; 9] = [
    "Service",
    "MeshConfig",
    "MeshRoute",
    "TrafficPolicy",
    "AccessPolicy",
    "Workload",
    "HTTPRoute",
    "GRPCRoute",
    "ReferenceGrant",
];
