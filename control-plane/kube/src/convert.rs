//! Objects as users write them to the model's inputs. Fills in defaults, resolves selectors and port names, and turns
//! what isn't supported into something that fails closed. Never decides precedence or permission: that is the model's.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
};

use k8s_openapi::{api::core::v1::Service, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use outrigger_crds::{
    AccessPolicy, MeshConfig, MeshRoute, Object, TrafficPolicy, Workload,
    gateway::{GrpcRoute, HttpRoute, ReferenceGrant},
};
use outrigger_model::{Finding, Inputs, Reason};
use outrigger_wire::proto::config as wire;

use crate::{Settings, pod::Pod, slice::Slice};

mod filters;
mod gateway_routes;
mod matches;
mod members;
mod mesh_routes;
mod pods;
mod policies;
mod slices;

pub(crate) use policies::mesh_settings;

/// Every object of the mesh, by kind.
#[derive(Debug, Default)]
pub struct Objects<'a> {
    pub mesh_configs: Vec<&'a MeshConfig>,
    /// Names and labels.
    pub namespaces: Vec<(&'a str, &'a BTreeMap<String, String>)>,
    pub services: Vec<&'a Service>,
    pub workloads: Vec<&'a Workload>,
    pub http_routes: Vec<&'a HttpRoute>,
    pub grpc_routes: Vec<&'a GrpcRoute>,
    pub mesh_routes: Vec<&'a MeshRoute>,
    pub grants: Vec<&'a ReferenceGrant>,
    pub traffic_policies: Vec<&'a TrafficPolicy>,
    pub access_policies: Vec<&'a AccessPolicy>,
    pub pods: Vec<&'a Pod>,
    pub slices: Vec<&'a Slice>,
    /// Zones of nodes, by name.
    pub zones: HashMap<&'a str, &'a str>,
}

/// Findings of one object.
struct Report<'a> {
    object: &'a str,
    findings: &'a mut Vec<Finding>,
}

/// What the objects say. What can't be converted is left out, or fails closed, and is reported.
pub fn inputs(objects: &Objects<'_>, settings: &Settings) -> (Inputs, Vec<Finding>) {
    let mut findings = Vec::new();
    let mesh = mesh_settings(&objects.mesh_configs, settings);
    let (external, services): (Vec<&Service>, _) = objects.services.iter().partition(|s| members::is_external(s));
    let carried: Vec<&Service> = services.into_iter().filter(|service| members::speaks_tcp(service)).collect();
    let services: Vec<_> = carried.iter().map(|s| members::service(s, &mut findings)).collect();

    let mut workloads = pods::workloads(&objects.pods, &objects.zones);
    let written = objects.workloads.iter().map(|w| members::workload(w, &mut findings)).collect();
    let written = pods::without_pods(written, &workloads, &mut findings);
    let mut endpoints = members::endpoints(&carried, &written, &mut findings);
    endpoints.extend(slices::endpoints(&carried, &objects.pods, &objects.slices, &mut workloads));
    workloads.extend(written);

    let mut routes = Vec::new();
    routes.extend(objects.http_routes.iter().map(|r| gateway_routes::http_route(r, &services, &mut findings)));
    routes.extend(objects.grpc_routes.iter().map(|r| gateway_routes::grpc_route(r, &services, &mut findings)));
    routes.extend(objects.mesh_routes.iter().map(|r| mesh_routes::mesh_route(r, &mesh.trust_domain)));

    let access = objects.access_policies.iter();
    let inputs = Inputs {
        namespaces: objects
            .namespaces
            .iter()
            .map(|(name, labels)| members::namespace(name, labels, &mut findings))
            .collect(),
        grants: objects.grants.iter().map(|g| gateway_routes::grant(g)).collect(),
        traffic_policies: objects.traffic_policies.iter().map(|p| policies::traffic_policy(p)).collect(),
        access_policies: access.map(|p| policies::access_policy(p, &mesh.trust_domain)).collect(),
        external_names: external.into_iter().map(|service| names(&service.metadata)).map(join).collect(),
        mesh,
        services,
        workloads,
        endpoints,
        routes,
    };
    (inputs, findings)
}

/// Whether the mesh carries what is sent to a service; `None` for a name of something outside, which it doesn't.
pub(crate) fn carries(service: &Service) -> Option<bool> {
    (!members::is_external(service)).then(|| members::speaks_tcp(service))
}

/// Services that a route is attached to or would be, and those that it sends to; `None` for what is no route.
pub(crate) fn references(object: &Object) -> Option<(Vec<String>, Vec<String>)> {
    let mut findings = Vec::new();
    let (route, parents) = match object {
        Object::HttpRoute(route) => (
            gateway_routes::http_route(route, &[], &mut findings),
            gateway_routes::named_parents(&route.spec.parent_refs, &route.metadata),
        ),
        Object::GrpcRoute(route) => (
            gateway_routes::grpc_route(route, &[], &mut findings),
            gateway_routes::named_parents(&route.spec.parent_refs, &route.metadata),
        ),
        Object::MeshRoute(route) => {
            let route = mesh_routes::mesh_route(route, "");
            let parents = route.parents.iter().map(|parent| parent.service.clone()).collect();
            (route, parents)
        }
        _ => return None,
    };
    let mirror = |filter: &wire::Filter| match &filter.kind {
        Some(wire::filter::Kind::Mirror(mirror)) => mirror.backend.as_ref().map(|backend| backend.service.clone()),
        _ => None,
    };
    let mut backends = Vec::new();
    for rule in &route.rules {
        backends.extend(rule.filters.iter().filter_map(mirror));
        for backend in &rule.backends {
            backends.push(backend.service.clone());
            backends.extend(backend.filters.iter().filter_map(mirror));
        }
    }
    Some((parents, backends))
}

/// Namespace and name.
fn names(metadata: &ObjectMeta) -> (String, String) {
    let namespace = metadata.namespace.clone().unwrap_or_else(|| "default".to_owned());
    (namespace, metadata.name.clone().unwrap_or_default())
}

/// `NAMESPACE/NAME`.
fn join((namespace, name): (String, String)) -> String {
    format!("{namespace}/{name}")
}

/// Unix time in seconds.
fn created(metadata: &ObjectMeta) -> Option<i64> {
    metadata.creation_timestamp.as_ref().map(|time| time.0.as_second())
}

/// `NAMESPACE/NAME` of a reference, in the namespace of the object that holds it unless it names another.
fn qualified(namespace: Option<&String>, own: &str, name: &str) -> String {
    format!("{}/{name}", namespace.map_or(own, String::as_str))
}

/// A number of a field whose schema bounds it; out of bounds is what isn't set.
fn number<N: Default>(number: impl TryInto<N>) -> N {
    number.try_into().unwrap_or_default()
}

/// Percent to parts per million; `None` is all.
fn ppm(percent: Option<i32>) -> u32 {
    percent.map_or(1_000_000, |percent| number::<u32>(percent.clamp(0, 100)) * 10_000)
}

// === impl Report ===

impl Report<'_> {
    fn add(&mut self, field: impl Display, reason: Reason, message: String, remedy: &str) {
        self.findings.push(Finding::new(self.object, &field.to_string(), reason, message, remedy));
    }
}
