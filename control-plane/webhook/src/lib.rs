//! Admission: a pod to the patch that injects its proxies, an object to a verdict. Pure functions and their JSON edge;
//! never listens, never asks an API server.
//!
//! Pods are JSON from end to end: what this version doesn't know of them isn't lost, and only what must change is
//! patched.

mod annotations;
mod config;
mod containers;
mod departure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod in_place;
mod inject;
mod manifest;
mod patch;
mod pod;
mod probes;
mod quantity;
mod refusal;
mod review;
mod validate;
mod yaml;

pub use config::{AccessLog, Amounts, ConfigError, ContainerResources, InjectorConfig, PullPolicy, Resources};
pub use in_place::{Difference, Obstacle, in_place};
pub use inject::{NamespaceView, Outcome, Untouched, inject};
pub use json_patch::{Patch, patch as apply};
pub use manifest::{Manifest, ManifestError, ManifestProblem, inject_yaml};
pub use refusal::Refusal;
pub use review::{Answer, BadReview, Review, Verdict};
