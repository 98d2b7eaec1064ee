//! Asks every controller and every proxy's own admin interface. Whoever doesn't answer in time is noted as such.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use futures_util::{StreamExt, future::join_all, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use outrigger_wire::names::{INJECTED_ANNOTATION, containers, ports};
use serde_json::Value;

use super::{
    evaluate::{ControllerFacts, Facts, Pages, PodFacts},
    report::Mode,
};
use crate::{
    cluster::{self, Cluster},
    controller::{self, Controller, Replica},
    pods,
};

/// Pods asked at once.
const AT_ONCE: usize = 16;

const DUMP: &str = "/config_dump";

/// What an embedded controller knows: its streams. Its proxies' own pages are in other network namespaces.
pub(super) async fn embedded(controller: &mut Controller) -> Result<Facts> {
    let pages = pages(controller).await?;
    let name = controller.name.clone();
    Ok(Facts { now: now(), controllers: vec![ControllerFacts { name, ready: true, pages: Ok(pages) }], pods: None })
}

/// `namespace` limits whose pods are asked.
pub(super) async fn cluster(cluster: &Cluster, namespace: Option<&str>) -> Result<Facts> {
    let controllers = controllers(cluster).await?;
    let all: Vec<Pod> = match namespace {
        Some(namespace) => cluster::list(&cluster.of::<Pod>(namespace), ListParams::default()).await?,
        None => cluster.all::<Pod>(ListParams::default()).await?,
    };
    let asked = all.iter().filter(|pod| pods::is_running(pod)).filter_map(parts);
    let asked = asked.map(|(facts, wanted)| ask(cluster, facts, wanted));
    let pods = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    Ok(Facts { now: now(), controllers, pods: Some(pods) })
}

/// One pod, if it has proxies, and every controller.
pub(super) async fn pod(cluster: &Cluster, pod: &Pod) -> Result<Facts> {
    // First the proxies: what they hold by then is known to their controllers, or isn't.
    let pods = match parts(pod) {
        Some((facts, wanted)) => vec![ask(cluster, facts, wanted).await],
        None => Vec::new(),
    };
    Ok(Facts { now: now(), controllers: controllers(cluster).await?, pods: Some(pods) })
}

async fn controllers(cluster: &Cluster) -> Result<Vec<ControllerFacts>> {
    let replicas = controller::replicas(cluster).await?;
    if replicas.is_empty() {
        return Err(controller::none());
    }
    Ok(join_all(replicas.into_iter().map(replica)).await)
}

/// A pod's proxies for their dumps.
async fn ask(cluster: &Cluster, facts: PodFacts, wanted: Vec<(&'static str, u16)>) -> PodFacts {
    let dumps = join_all(wanted.into_iter().map(|(name, port)| dump(cluster, &facts.workload, name, port))).await;
    PodFacts { dumps, ..facts }
}

async fn replica(replica: Replica) -> ControllerFacts {
    let pages = match replica.controller {
        Ok(mut controller) => pages(&mut controller).await.map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("{error:#}")),
    };
    let name = replica.pod.metadata.name.clone().unwrap_or_default();
    ControllerFacts { name, ready: pods::is_ready(&replica.pod), pages }
}

async fn pages(controller: &mut Controller) -> Result<Pages> {
    // First what is held, then what is served: what is acknowledged meanwhile is no news.
    let proxies = controller.json("/debug/proxies").await?;
    let resources = controller.json("/debug/resources").await?;
    // An embedded controller leads nobody.
    let leader = controller.json("/debug/leader").await.unwrap_or(Value::Null);
    Ok(Pages { proxies, resources, leader })
}

/// A pod's proxies and the ports of their admin interfaces; none if it has none.
fn parts(pod: &Pod) -> Option<(PodFacts, Vec<(&'static str, u16)>)> {
    let (sidecar, guard) = (pods::has(pod, containers::SIDECAR), pods::has(pod, containers::GUARD));
    let (mode, parts) = match (sidecar, guard, pods::is_shared_proxy(pod)) {
        (_, _, true) => (Mode::SharedProxy, vec![("shared", ports::ADMIN)]),
        (true, true, _) => (Mode::Sidecar, vec![("sidecar", ports::ADMIN), ("guard", ports::GUARD_ADMIN)]),
        (true, false, _) => (Mode::Sidecar, vec![("sidecar", ports::ADMIN)]),
        (false, true, _) => (Mode::Shared, vec![("guard", ports::GUARD_ADMIN)]),
        (false, false, false) => return None,
    };
    let version = pods::annotation(pod, INJECTED_ANNOTATION).map(str::to_owned);
    Some((PodFacts { workload: pods::workload(pod), mode, version, dumps: Vec::new() }, parts))
}

async fn dump(
    cluster: &Cluster,
    workload: &str,
    name: &'static str,
    port: u16,
) -> (&'static str, Result<Value, String>) {
    let (namespace, pod) = workload.split_once('/').unwrap_or_default();
    let page = cluster.get(namespace, pod, port, DUMP).await.and_then(|page| page.json());
    (name, page.map_err(|error| format!("{error:#}")))
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}
