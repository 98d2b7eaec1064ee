//! What the kubelet asks a pod's containers in plaintext: probes, and hooks that are requests.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use outrigger_wire::{names::ports, proto::config::Probe};

use super::raw::{Container, HttpGet};

/// HTTP and gRPC; the injector turns the other kinds into questions to the guard.
pub(super) fn of<'a>(apps: impl Iterator<Item = &'a Container>) -> Vec<Probe> {
    let mut found: Vec<Probe> = Vec::new();
    for container in apps {
        let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
        let hooks = [&container.lifecycle.post_start, &container.lifecycle.pre_stop];
        for handler in probes.into_iter().chain(hooks).flatten() {
            let http = handler.http_get.as_ref().and_then(|get| http(get, container));
            let grpc = handler.grpc.as_ref().map(|grpc| (grpc.port, String::new(), true));
            let asked = http.map(|(port, path)| (port, path, false)).into_iter().chain(grpc);
            for (port, path, grpc) in asked.filter(|(port, ..)| *port != 0 && !ports::is_own(*port)) {
                let probe = Probe { port: port.into(), path, grpc };
                if !found.contains(&probe) {
                    found.push(probe);
                }
            }
        }
    }
    found
}

/// Port and path, without query. TLS isn't plaintext, and another host isn't the pod.
fn http(get: &HttpGet, container: &Container) -> Option<(u16, String)> {
    if !get.host.is_empty() || get.scheme == "HTTPS" {
        return None;
    }
    let port = match &get.port {
        IntOrString::Int(port) => u16::try_from(*port).ok()?,
        IntOrString::String(name) => container.ports.iter().find(|port| port.name == *name)?.container_port,
    };
    let path = get.path.split(['?', '#']).next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Some((port, format!("{slash}{path}")))
}
