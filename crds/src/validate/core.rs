//! Kubernetes' own Service, as far as we use it. The API server has checked it; files nobody has.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{Problems, syntax};

pub(crate) fn service(service: &Service, problems: &mut Problems) {
    let Some(spec) = &service.spec else {
        problems.add("spec", "it is missing", "write the Service's ports");
        return;
    };
    if !matches!(spec.type_.as_deref(), None | Some("ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName")) {
        problems.add("spec.type", "unknown type", "write ClusterIP");
    }
    let headless = |address: &str| matches!(address, "None" | "");
    if let Some(address) = spec.cluster_ip.as_deref().filter(|address| !headless(address)) {
        problems.check("spec.clusterIP", syntax::address(address));
    }
    for (index, address) in spec.cluster_ips.iter().flatten().enumerate().filter(|(_, address)| !headless(address)) {
        problems.check(&format!("spec.clusterIPs[{index}]"), syntax::address(address));
    }
    for (key, value) in spec.selector.iter().flatten() {
        let path = format!("spec.selector[{key:?}]");
        problems.check(&path, syntax::label_key(key));
        problems.check(&path, syntax::label_value(value));
    }
    let ports = spec.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        service_port(&format!("spec.ports[{index}]"), port, ports.len() > 1, problems);
    }
    let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".into());
    problems.unique("spec.ports", &ports.iter().map(|port| (protocol(port), port.port)).collect::<Vec<_>>(), ".port");
    let names: Vec<_> = ports.iter().filter_map(|port| port.name.as_ref()).collect();
    if names.len() == ports.len() {
        problems.unique("spec.ports", &names, ".name");
    }
}

fn service_port(path: &str, port: &ServicePort, several: bool, problems: &mut Problems) {
    let remedy = "write a number from 1 to 65535";
    if !(1..=65535).contains(&port.port) {
        problems.add(&format!("{path}.port"), format!("{} is out of range", port.port), remedy);
    }
    match &port.name {
        Some(name) => problems.check(&format!("{path}.name"), syntax::label(name)),
        None if several => problems.add(&format!("{path}.name"), "it is missing", "name each of several ports"),
        None => {}
    }
    match &port.target_port {
        Some(IntOrString::Int(target)) if !(1..=65535).contains(target) => {
            problems.add(&format!("{path}.targetPort"), format!("{target} is out of range"), remedy);
        }
        Some(IntOrString::String(name)) => problems.check(&format!("{path}.targetPort"), syntax::port_name(name)),
        Some(IntOrString::Int(_)) | None => {}
    }
    if !matches!(port.protocol.as_deref(), None | Some("TCP" | "UDP" | "SCTP")) {
        problems.add(
            &format!("{path}.protocol"),
            "unknown protocol",
            "write TCP, or leave it out; the rest is appProtocol",
        );
    }
}
