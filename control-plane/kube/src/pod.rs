//! A pod, as far as the mesh cares: read from what the API server sends, the rest forgotten. Knows what the pod has, never
//! what it should have.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use outrigger_model::inputs::{Mode, Port};
use outrigger_wire::{
    names::{INJECTED_ANNOTATION, MODE_LABEL, containers},
    proto::config::Probe,
};
use serde_json::Value;

mod probes;
mod raw;
#[cfg(test)]
mod tests;

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
    /// Kept once for pods of one template.
    pub labels: Arc<BTreeMap<String, String>>,
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
    pub carrier: Carrier,
    /// TCP ports of the app's containers.
    pub ports: Vec<Port>,
    /// What the kubelet asks the app's containers in plaintext.
    pub probes: Vec<Probe>,
}

/// Who has a meshed pod's connections, as far as the kubelet knows: a sidecar that hangs looks well to it for a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Carrier {
    Sidecar,
    /// Its guard, which is well.
    Guard,
    #[default]
    Nobody,
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

/// What a label or annotation says of enrolment; `None` if it is no mode.
pub fn mode(text: &str) -> Option<Mode> {
    match text {
        "sidecar" => Some(Mode::Sidecar),
        "shared" => Some(Mode::Shared),
        "none" => Some(Mode::None),
        _ => None,
    }
}

// === impl Pod ===

impl Pod {
    /// # Errors
    /// If a field that matters has another type than ever. Fields that aren't known don't matter.
    pub fn read(value: Value) -> Result<Self, serde_json::Error> {
        let raw::Pod { metadata, spec, status } = serde_json::from_value(value)?;
        let labels = metadata.labels;
        let wish = labels.get(MODE_LABEL).or_else(|| metadata.annotations.get(MODE_LABEL));
        let owner = metadata.owner_references.iter().find(|owner| owner.controller);
        let mut addresses: Vec<IpAddr> = Vec::with_capacity(1);
        // A field that isn't an address is none; `podIP` is the first of `podIPs`.
        for ip in status.pod_ips.iter().map(|each| &each.ip).chain(&status.pod_ip).filter_map(|ip| ip.parse().ok()) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        let has = has(&metadata.annotations, &spec);
        let apps = || spec.apps();
        Ok(Self {
            wish: wish.and_then(|text| mode(text)),
            fit: fit(&spec, &status),
            carrier: carrier(&status),
            ports: ports(apps()),
            probes: probes::of(apps()),
            phase: match status.phase.as_str() {
                "Pending" => Phase::Pending,
                "Running" => Phase::Running,
                "Succeeded" | "Failed" => Phase::Ended,
                _ => Phase::Unknown,
            },
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            created: metadata.creation_timestamp.map(|time| time.0.as_second()),
            owner: owner.map(|owner| format!("{}/{}", owner.kind, owner.name)).unwrap_or_default(),
            terminating: metadata.deletion_timestamp.is_some(),
            injected: metadata.annotations.get(INJECTED_ANNOTATION).cloned().unwrap_or_default(),
            has,
            labels: Arc::new(labels),
            addresses,
            node: spec.node_name,
            service_account: Some(spec.service_account_name)
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            host_network: spec.host_network,
        })
    }

    /// Whether all that is served is the same of both.
    pub(crate) fn is_served_as(&self, other: &Self) -> bool {
        *self == Self { carrier: self.carrier, ..other.clone() }
    }
}

/// By its containers; a copy of them without the injector's word is somebody else's.
fn has(annotations: &BTreeMap<String, String>, spec: &raw::Spec) -> Mode {
    let there = |name| spec.init_containers.iter().any(|container| container.name == name);
    match (annotations.contains_key(INJECTED_ANNOTATION), there(containers::GUARD), there(containers::SIDECAR)) {
        (true, true, true) => Mode::Sidecar,
        (true, true, false) => Mode::Shared,
        (_, _, _) => Mode::None,
    }
}

/// Kubernetes takes a pod out of its services while any of its containers is unready; a sidecar's absence is made good
/// by the guard, so it is no reason.
fn fit(spec: &raw::Spec, status: &raw::Status) -> bool {
    let apps = spec.containers.iter().all(|container| ready(&status.container_statuses, &container.name));
    let helpers = spec.init_containers.iter().filter(|c| c.stays() && c.name != containers::SIDECAR);
    let helpers = helpers.map(|c| &c.name).all(|name| ready(&status.init_container_statuses, name));
    let holds = |kind: &str| status.conditions.iter().any(|c| c.r#type == kind && c.status == "True");
    apps && helpers && status.phase == "Running" && spec.readiness_gates.iter().all(|gate| holds(&gate.condition_type))
}

fn carrier(status: &raw::Status) -> Carrier {
    match [containers::SIDECAR, containers::GUARD].map(|name| ready(&status.init_container_statuses, name)) {
        [true, _] => Carrier::Sidecar,
        [false, true] => Carrier::Guard,
        [false, false] => Carrier::Nobody,
    }
}

fn ready(statuses: &[raw::ContainerStatus], name: &str) -> bool {
    statuses.iter().any(|status| status.name == name && status.ready)
}

/// Each number once: the first name counts.
fn ports<'a>(apps: impl Iterator<Item = &'a raw::Container>) -> Vec<Port> {
    let mut ports: Vec<Port> = Vec::new();
    for port in apps.flat_map(|container| &container.ports).filter(|port| matches!(port.protocol.as_str(), "" | "TCP"))
    {
        let known = ports.iter().any(|known| known.port == port.container_port);
        if !known && port.container_port != 0 {
            ports.push(Port { port: port.container_port, name: port.name.clone(), ..Port::default() });
        }
    }
    ports
}
