//! What the API server holds and has held. Each kind of object is watched on its own, so a replica may know the newest
//! services with the endpoints of a while ago.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use outrigger_model::Inputs;

pub(crate) const KINDS: [Kind; 5] = [Kind::Service, Kind::Pod, Kind::EndpointSlice, Kind::Route, Kind::Policy];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Service,
    Pod,
    EndpointSlice,
    Route,
    Policy,
}

/// How far each kind has been read.
pub(crate) type Read = [usize; KINDS.len()];

pub(crate) type Shared = Rc<RefCell<Api>>;

pub(crate) struct Api {
    /// The newest last; none is ever forgotten.
    log: Vec<Version>,
}

struct Version {
    inputs: Arc<Inputs>,
    /// When each kind changed last, up to this version.
    changed: Read,
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::EndpointSlice => "EndpointSlice",
            Self::Route => "HTTPRoute",
            Self::Policy => "TrafficPolicy",
        }
    }
}

// === impl Api ===

impl Api {
    pub(crate) fn new(inputs: &Inputs) -> Self {
        // A version 0 is none to Kubernetes.
        let first = |changed| Version { inputs: Arc::new(inputs.clone()), changed };
        Self { log: vec![first([0; KINDS.len()]), first([1; KINDS.len()])] }
    }

    pub(crate) fn newest(&self) -> usize {
        self.log.len() - 1
    }

    pub(crate) fn inputs(&self) -> &Inputs {
        &self.log[self.newest()].inputs
    }

    /// Somebody writes an object of this kind.
    pub(crate) fn write(&mut self, kind: Kind, change: impl FnOnce(&mut Inputs)) {
        let last = &self.log[self.newest()];
        let (mut inputs, mut changed) = (Inputs::clone(&last.inputs), last.changed);
        change(&mut inputs);
        changed[kind as usize] = self.log.len();
        self.log.push(Version { inputs: Arc::new(inputs), changed });
    }

    /// When each kind changed last, of what has been read.
    pub(crate) fn changed(&self, read: &Read) -> Read {
        KINDS.map(|kind| self.log[read[kind as usize]].changed[kind as usize])
    }

    /// What there is for somebody who has read so far.
    pub(crate) fn view(&self, read: &Read) -> Inputs {
        let of = |kind: Kind| &*self.log[read[kind as usize]].inputs;
        let (routes, policies) = (of(Kind::Route), of(Kind::Policy));
        Inputs {
            mesh: policies.mesh.clone(),
            namespaces: policies.namespaces.clone(),
            services: of(Kind::Service).services.clone(),
            external_names: of(Kind::Service).external_names.clone(),
            workloads: of(Kind::Pod).workloads.clone(),
            endpoints: of(Kind::EndpointSlice).endpoints.clone(),
            routes: routes.routes.clone(),
            grants: routes.grants.clone(),
            traffic_policies: policies.traffic_policies.clone(),
            access_policies: policies.access_policies.clone(),
        }
    }
}
