//! A machine of pods without a cluster: every pod is a network namespace with its real addresses, real redirection and
//! real processes, so that the mesh is seen as its users see it. The demo and the end-to-end tests stand on it.
//!
//! It is black box: it starts binaries, writes YAML, sends requests and judges answers. It never reaches into a proxy
//! or the controller other than by what they offer to everyone.

use std::time::{SystemTime, UNIX_EPOCH};

pub mod apps;
pub mod call;
pub mod command;
pub mod controller;
pub mod fault;
pub mod get;
pub mod load;
pub mod machine;
pub mod mesh;
pub mod net;
pub mod pod;
pub mod probe;
pub mod samples;
pub mod spec;

pub use load::{Load, LoadSpec};
pub use machine::Machine;
pub use mesh::Mesh;
pub use pod::{Pod, Process};
pub use samples::{Kill, Outcome, Sample, Samples};
pub use spec::{PodSpec, Proxies, Spec};

/// Microseconds since the Unix epoch: the one clock that the processes of a machine share.
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
