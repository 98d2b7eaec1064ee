//! Namespaces, services, workloads, and which workload is behind which service.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::{
    api::core::v1::{self, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};
use outrigger_crds::{self as crds, WorkloadMode, WorkloadProtocol};
use outrigger_model::{
    Finding, Reason,
    inputs::{Addressing, Endpoint, EndpointState, Mode, Namespace, Port, Service, Workload},
};
use outrigger_wire::{
    names::MODE_LABEL,
    proto::config::{Probe, Protocol},
};

use super::{Report, names, number};
use crate::pod;

pub(super) fn namespace(name: &str, labels: &BTreeMap<String, String>, findings: &mut Vec<Finding>) -> Namespace {
    let mode = match labels.get(MODE_LABEL).map(|label| pod::mode(label).ok_or(label)) {
        None => None,
        Some(Ok(mode)) => Some(mode),
        Some(Err(other)) => {
            let mut report = Report { object: &format!("Namespace/{name}"), findings };
            let message = format!("{other:?} is no mode; the label is ignored");
            let field = format_args!("metadata.labels[{MODE_LABEL:?}]");
            report.add(field, Reason::Invalid, message, "write sidecar, shared or none");
            None
        }
    };
    Namespace { name: name.to_owned(), mode }
}

/// Whether it is but a name for something outside.
pub(super) fn is_external(object: &v1::Service) -> bool {
    object.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

/// Whether any of its ports is ours to carry; a headless service may have none at all.
pub(super) fn speaks_tcp(object: &v1::Service) -> bool {
    let ports = object.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    ports.is_empty() || ports.iter().any(is_tcp)
}

pub(super) fn service(object: &v1::Service, findings: &mut Vec<Finding>) -> Service {
    let (namespace, name) = names(&object.metadata);
    let origin = format!("Service/{namespace}/{name}");
    let spec = object.spec.clone().unwrap_or_default();
    let mut texts = spec.cluster_ips.unwrap_or_default();
    texts.extend(spec.cluster_ip);
    // Headless, or not assigned yet.
    texts.retain(|text| text != "None" && !text.is_empty());
    let addresses = addresses(&texts, &mut Report { object: &origin, findings }, "spec.clusterIPs");
    let ports = spec.ports.unwrap_or_default();
    let ports = ports.iter().filter(|port| is_tcp(port)).map(|port| Port {
        port: number(port.port),
        name: port.name.clone().unwrap_or_default(),
        protocol: protocol(port.app_protocol.as_deref()),
    });
    Service { ports: ports.collect(), origin, namespace, name, addresses }
}

fn probe(probe: &crds::WorkloadProbe) -> Probe {
    Probe { port: number(probe.port), path: probe.path.clone().unwrap_or_default(), grpc: probe.path.is_none() }
}

pub(super) fn workload(object: &crds::Workload, findings: &mut Vec<Finding>) -> Workload {
    let (namespace, name) = names(&object.metadata);
    let origin = format!("Workload/{namespace}/{name}");
    let spec = &object.spec;
    let ports = spec.ports.iter().map(|port| Port {
        port: number(port.port),
        name: port.name.clone(),
        protocol: match port.protocol {
            None => Protocol::Auto,
            Some(WorkloadProtocol::Http) => Protocol::Http,
            Some(WorkloadProtocol::Http2 | WorkloadProtocol::Grpc) => Protocol::Http2,
            Some(WorkloadProtocol::Tcp) => Protocol::Tcp,
        },
    });
    let mode = match spec.mode {
        WorkloadMode::Sidecar => Mode::Sidecar,
        WorkloadMode::Shared => Mode::Shared,
        WorkloadMode::None => Mode::None,
    };
    Workload {
        service_account: spec.service_account.clone(),
        addresses: addresses(&spec.addresses, &mut Report { object: &origin, findings }, "spec.addresses"),
        addressing: Addressing::Claimed,
        labels: object.metadata.labels.clone().unwrap_or_default().into(),
        ports: ports.collect(),
        zone: spec.zone.clone().unwrap_or_default(),
        weight: number(spec.weight.unwrap_or(1)),
        mode: Some(mode),
        draining: object.metadata.deletion_timestamp.is_some(),
        probes: spec.probes.iter().map(probe).collect(),
        origin,
        namespace,
        name,
    }
}

/// Who is behind which service: workloads of its namespace with all labels of its selector.
pub(super) fn endpoints(
    services: &[&v1::Service],
    workloads: &[Workload],
    findings: &mut Vec<Finding>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for object in services {
        let (namespace, name) = names(&object.metadata);
        let Some(spec) = &object.spec else { continue };
        let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { continue };
        let ports: Vec<&ServicePort> = spec.ports.iter().flatten().filter(|port| is_tcp(port)).collect();
        for workload in workloads.iter().filter(|w| w.namespace == namespace) {
            if !selector.iter().all(|(key, value)| workload.labels.get(key) == Some(value)) {
                continue;
            }
            let mut targets = Vec::with_capacity(ports.len());
            for port in &ports {
                match target(port, workload) {
                    Ok(target) => targets.push((number(port.port), target)),
                    Err(missing) => findings.push(Finding::new(
                        &workload.origin,
                        "spec.ports",
                        Reason::Invalid,
                        format!("no port {missing:?}, so it is no endpoint of Service/{namespace}/{name}"),
                        "name the port, or give the service's targetPort a number",
                    )),
                }
            }
            // A port that isn't listed would map to itself, so a workload that lacks one can't be an endpoint.
            if targets.len() == ports.len() {
                endpoints.push(Endpoint {
                    service: format!("{namespace}/{name}"),
                    workload: format!("{}/{}", workload.namespace, workload.name),
                    ports: targets,
                    address: None,
                    state: if workload.draining { EndpointState::Draining } else { EndpointState::Ready },
                });
            }
        }
    }
    endpoints
}

/// Port of the workload; `Err` with the name that it lacks.
pub(super) fn target(port: &ServicePort, workload: &Workload) -> Result<u16, String> {
    match &port.target_port {
        None => Ok(number(port.port)),
        Some(IntOrString::Int(target)) => Ok(number(*target)),
        Some(IntOrString::String(name)) => {
            let found = workload.ports.iter().find(|p| p.name == *name);
            found.map(|p| p.port).ok_or_else(|| name.clone())
        }
    }
}

fn addresses(texts: &[String], report: &mut Report<'_>, field: &str) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(address) if addresses.contains(&address) => {}
            Ok(address) => addresses.push(address),
            Err(_) => {
                let message = format!("{text:?} is no IP address; it is ignored");
                report.add(field, Reason::Invalid, message, "write an IP address");
            }
        }
    }
    addresses
}

pub(super) fn is_tcp(port: &ServicePort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

/// What `appProtocol` declares (Kubernetes' standard names and the common bare ones). Unknown ones are detected.
fn protocol(app_protocol: Option<&str>) -> Protocol {
    match app_protocol {
        Some("http" | "kubernetes.io/ws") => Protocol::Http,
        Some("http2" | "h2c" | "grpc" | "kubernetes.io/h2c") => Protocol::Http2,
        Some("tcp" | "tls" | "https" | "kubernetes.io/wss") => Protocol::Tcp,
        _ => Protocol::Auto,
    }
}
