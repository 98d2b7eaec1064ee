//! One consistent view of the configuration. Immutable; the control thread builds the next from the last.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use crate::{
    balance::EndpointSet,
    config::{Inbound, Service, Trust},
    retry::RetryBudget,
};

/// A service joined with its endpoints and its live state.
#[derive(Debug)]
pub struct Destination {
    pub service: Arc<Service>,
    pub endpoints: Arc<EndpointSet>,
    /// Shared by every version of this destination.
    pub budget: Arc<RetryBudget>,
}

/// What a proxy knows. Cheap to clone: maps of [`Arc`].
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// By name: `NAMESPACE/NAME` or `@ADDRESS`.
    pub services: HashMap<Arc<str>, Arc<Destination>>,
    /// By each of a service's addresses. `None`: known not to be in the mesh.
    pub addresses: HashMap<IpAddr, Option<Arc<Destination>>>,
    /// By workload name. A sidecar or guard holds its own alone.
    pub inbounds: HashMap<Arc<str>, Arc<Inbound>>,
    /// The same by address.
    pub inbound_addresses: HashMap<IpAddr, Arc<Inbound>>,
    /// Name of this proxy's own workload.
    pub own: Option<Arc<Inbound>>,
    pub trust: Arc<Vec<Trust>>,
    /// Grows with each published snapshot of this process.
    pub generation: u64,
}
