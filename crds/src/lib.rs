//! The resources that users write: our own kinds (`outrigger.dev/v1alpha1`) and the Gateway API's route kinds.
//!
//! Owns their types, what is valid, how they are read from files, and what is generated from them (CRD YAML and the
//! reference in docs/). It never talks to an API server and never decides what a resource means for traffic: that is
//! `control-plane/model`.

#![allow(unreachable_pub, reason = "the KubeSchema derive repeats each type inside a function, with its visibility")]
#![allow(clippy::duplicated_attributes, reason = "the lint takes printcolumn(type_ = …) for one attribute")]

mod access_policy;
mod common;
mod duration;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod gateway;
mod generate;
pub mod load;
mod mesh_config;
mod mesh_route;
mod object;
mod traffic_policy;
mod validate;
mod workload;

pub use access_policy::{
    AccessAction, AccessOperation, AccessPolicy, AccessPolicySpec, AccessRule, AccessSource, AccessTarget,
    AccessTargetKind, WorkloadSelector,
};
pub use common::{
    KeyMatch, KeyMatchType, OnControlPlaneLoss, OnFallbackFailure, OnSidecarFailure, Retry, Status, Stickiness,
};
pub use duration::{DURATION_PATTERN, Duration, DurationError};
pub use generate::{crds, reference, yaml};
pub use load::{Loaded, Problem, duplicates, parse, read_value};
pub use mesh_config::{AccessDefault, Fallback, MeshConfig, MeshConfigSpec, Mtls, MtlsMode, SharedPool, SharedProxy};
pub use mesh_route::{
    CallerMatch, DirectResponse, Fault, FaultAbort, FaultDelay, MeshBackendRef, MeshMirrorBackend, MeshRequestMirror,
    MeshRoute, MeshRouteFilter, MeshRouteFilterType, MeshRouteMatch, MeshRouteRule, MeshRouteSpec, MeshRouteTimeouts,
    ServiceRef,
};
pub use object::Object;
pub use traffic_policy::{
    Connections, LoadBalancer, LoadBalancerType, OutlierEjection, TrafficPolicy, TrafficPolicySpec, TrafficTarget,
    TrafficTargetKind,
};
pub use validate::{FieldProblem, validate};
pub use workload::{Workload, WorkloadMode, WorkloadPort, WorkloadProbe, WorkloadProtocol, WorkloadSpec};

/// `A, B and C`.
fn names<T: AsRef<str>>(names: impl Iterator<Item = T>) -> String {
    let names: Vec<T> = names.collect();
    match names.as_slice() {
        [] => String::new(),
        [name] => name.as_ref().into(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}
