//! A pod, as far as the mesh cares: read from what the API server sends, the rest forgotten. Knows what the pod has, never
//! what it should have.

use std::{collections::BTreeMap, net::IpAddr};

use outrigger_model::inputs::{Mode, Port};
use outrigger_wire::proto::config::Probe;

/// A pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// "" until it is scheduled.
    pub node: String,
    /// Unix time in seconds.
    pub created: Option<i64>,
    pub labels: BTreeMap<String, String>,
    /// The object that made it, `KIND/NAME`; "" if nobody did.
    pub owner: String,
    pub service_account: String,
    pub phase: Phase,
    /// It has been told to end.
    pub terminating: bool,
    /// It has no address of its own: it uses its node's.
    pub host_network: bool,
    pub addresses: Vec<IpAddr>,
    /// What its own label (or annotation) asks for; `None`: as its namespace.
    pub wish: Option<Mode>,
    /// What is there: containers of ours, and the injector's word for it.
    pub has: Mode,
    /// Version of the mesh that injected it; "" if none did.
    pub injected: String,
    /// All is ready but, at most, its sidecar, for which the guard stands in.
    pub fit: bool,
    /// TCP ports of the app's containers.
    pub ports: Vec<Port>,
    /// What the kubelet asks the app's containers in plaintext.
    pub probes: Vec<Probe>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    Pending,
    Running,
    /// All containers have ended, well or not; they won't come back.
    Ended,
    /// Its node isn't heard of.
    #[default]
    Unknown,
}
