//! Probes that would reach the sidecar's socket instead of the app's: they are sent to the guard, which tries the app's
//! port from inside the pod.
//!
//! HTTP and gRPC probes stay: the proxies know them and let them in.

use outrigger_wire::names::ports::GUARD_HEALTH;
use serde_json::{Value, json};

use crate::{
    patch::{Operations, Place},
    pod::{Container, Pod},
};

const KINDS: [&str; 3] = ["startupProbe", "readinessProbe", "livenessProbe"];

/// Adds the operations; what can't be rewritten is left alone and told in `warnings`.
pub(crate) fn rewrite(pod: Pod<'_>, skipped: &[u16], operations: &mut Operations, warnings: &mut Vec<String>) {
    // Init containers too: those that go on running may have probes.
    for container in pod.containers().filter(|container| container.list != "ephemeralContainers") {
        for kind in KINDS {
            let probe = &container.value[kind];
            let Some(handler) = handler(probe) else { continue };
            let Some(port) = port(container, &probe[handler]["port"]) else {
                warnings.push(format!("{}.{kind}: container {} has no such port", container.field(), container.name()));
                continue;
            };
            if skipped.contains(&port) {
                continue;
            }
            let place = Place::new(&["spec", container.list]).at(container.index).of(kind);
            if handler != "httpGet" {
                operations.remove(&place.of(handler));
            }
            let path = format!("/probe/tcp/{port}");
            operations.add(&place.of("httpGet"), json!({ "path": path, "port": GUARD_HEALTH, "scheme": "HTTP" }));
        }
    }
}

/// What of a probe has to be replaced: TCP, and TLS, which nobody but the app can read. One that names a host doesn't
/// go to the pod.
fn handler(probe: &Value) -> Option<&'static str> {
    let to_pod = |handler: &Value| handler.is_object() && handler["host"].as_str().unwrap_or_default().is_empty();
    if to_pod(&probe["tcpSocket"]) {
        return Some("tcpSocket");
    }
    let http = &probe["httpGet"];
    (to_pod(http) && http["scheme"] == "HTTPS").then_some("httpGet")
}

/// By number, by name, or by a number in quotes, in the order that the kubelet tries them.
fn port(container: Container<'_>, port: &Value) -> Option<u16> {
    let number = |number: u64| u16::try_from(number).ok().filter(|number| *number > 0);
    let Some(name) = port.as_str() else {
        return number(port.as_u64()?);
    };
    let ports = container.value["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    match ports.iter().find(|port| port["name"] == *name) {
        Some(named) => number(named["containerPort"].as_u64()?),
        None => number(name.parse().ok()?),
    }
}
