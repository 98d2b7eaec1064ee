//! Everything that knows the shapes of Kubernetes objects: sources of the model's inputs. That is a cluster, or a folder of
//! YAML files. Owns reading, watching and conversion; never decides what the objects mean for traffic, and never serves them.

use bytes::Bytes;

pub mod acknowledged;
mod api;
pub mod cluster;
pub mod convert;
pub mod derive;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod fixtures;
pub mod folder;
pub mod leader;
pub mod lease;
pub mod peers;
pub mod pod;
pub mod pod_events;
mod publish;
pub mod rotation;
pub mod slice;
mod status;
pub mod unmeshed;

pub use outrigger_crds::Problem;

/// What the controller knows without any object.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Used unless a MeshConfig names another.
    pub trust_domain: String,
    /// Certificates that members of the trust domain are verified against, DER.
    pub roots: Vec<Bytes>,
    /// Which of them signs now; "" if nobody says.
    pub anchor: String,
}
