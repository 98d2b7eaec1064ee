//! The part of a pod's JSON that is looked at.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString};
use outrigger_wire::names::containers;
use serde::{Deserialize, Deserializer};

#[derive(Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) spec: Spec,
    #[serde(default)]
    pub(super) status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
pub(super) struct Metadata {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) creation_timestamp: Option<Time>,
    pub(super) deletion_timestamp: Option<Time>,
    pub(super) owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) controller: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    pub(super) node_name: String,
    pub(super) service_account_name: String,
    pub(super) host_network: bool,
    pub(super) containers: Vec<Container>,
    pub(super) init_containers: Vec<Container>,
    pub(super) readiness_gates: Vec<ReadinessGate>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) restart_policy: String,
    pub(super) ports: Vec<ContainerPort>,
    pub(super) startup_probe: Option<Probe>,
    pub(super) liveness_probe: Option<Probe>,
    pub(super) readiness_probe: Option<Probe>,
    pub(super) lifecycle: Lifecycle,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPort {
    #[serde(default)]
    pub(super) name: String,
    /// 0 if it is no port.
    #[serde(deserialize_with = "port")]
    pub(super) container_port: u16,
    #[serde(default)]
    pub(super) protocol: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Lifecycle {
    pub(super) post_start: Option<Probe>,
    pub(super) pre_stop: Option<Probe>,
}

/// A probe or a hook: those that are requests.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Probe {
    pub(super) http_get: Option<HttpGet>,
    pub(super) grpc: Option<Grpc>,
}

#[derive(Deserialize)]
pub(super) struct HttpGet {
    #[serde(default)]
    pub(super) path: String,
    pub(super) port: IntOrString,
    #[serde(default)]
    pub(super) scheme: String,
    #[serde(default)]
    pub(super) host: String,
}

#[derive(Deserialize)]
pub(super) struct Grpc {
    #[serde(deserialize_with = "port")]
    pub(super) port: u16,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadinessGate {
    pub(super) condition_type: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) phase: String,
    #[serde(rename = "podIP")]
    pub(super) pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pub(super) pod_ips: Vec<PodIp>,
    pub(super) conditions: Vec<Condition>,
    pub(super) container_statuses: Vec<ContainerStatus>,
    pub(super) init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Deserialize)]
pub(super) struct PodIp {
    pub(super) ip: String,
}

#[derive(Deserialize)]
pub(super) struct Condition {
    pub(super) r#type: String,
    pub(super) status: String,
}

#[derive(Deserialize)]
pub(super) struct ContainerStatus {
    pub(super) name: String,
    #[serde(default)]
    pub(super) ready: bool,
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    Ok(i64::deserialize(deserializer)?.try_into().unwrap_or(0))
}

// === impl Spec ===

impl Spec {
    /// Containers that listen and aren't ours: those of the app, and init containers that stay.
    pub(super) fn apps(&self) -> impl Iterator<Item = &Container> {
        let helpers = self.init_containers.iter().filter(|container| container.stays());
        let ours = [containers::REDIRECT, containers::GUARD, containers::SIDECAR];
        self.containers.iter().chain(helpers).filter(move |container| !ours.contains(&container.name.as_str()))
    }
}

// === impl Container ===

impl Container {
    /// An init container that runs beside the app instead of before it.
    pub(super) fn stays(&self) -> bool {
        self.restart_policy == "Always"
    }
}
