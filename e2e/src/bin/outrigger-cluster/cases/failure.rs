//! Proxies that die in real pods.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use outrigger_testbed::{LoadSpec, now_us};
use serde_json::Value;

use super::{on_nodes, shop};
use crate::{
    Case,
    cluster::{Cluster, condition, text, until},
};

/// An owner's choice, whose status says which pods it is in use for.
const CHOICE: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: failure-choice, namespace: shop }
spec: { targetRefs: [{ kind: Service, name: catalog-v2 }], onSidecarFailure: Fallback }
";

pub(super) const CASES: &[Case] = &[
    on_nodes("failure: a sidecar killed five times", killed),
    on_nodes("failure: a pod's rules are flushed", flushed),
];

/// What a pod's status says of one of its init containers, as native sidecars are.
pub(super) fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let statuses = pod["status"]["initContainerStatuses"].as_array();
    statuses.and_then(|all| all.iter().find(|status| status["name"] == container)).unwrap_or(&Value::Null)
}

pub(super) fn restarts(pod: &Value, container: &str) -> u64 {
    status(pod, container)["restartCount"].as_u64().unwrap_or_default()
}

/// Kills the sidecars of the caller and of one callee in turn under load: the kubelet restarts them with growing pauses,
/// so that the later ones are away for long.
fn killed(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    cluster.apply(CHOICE)?;
    let front = shop::front(cluster)?;
    let callee = cluster.pod(shop::NAMESPACE, "app=catalog,version=v2")?;
    let address = cluster.address(shop::NAMESPACE, "catalog-v2")?;
    let target = format!("http://{address}:80/").parse().map_err(anyhow::Error::msg)?;
    let load = cluster.load(shop::NAMESPACE, &front, &LoadSpec::new(target, 100))?;
    until(Duration::from_secs(20), || {
        ensure!(load.samples().ok().count() > 100, "{:?}", load.samples().by_outcome());
        Ok(())
    })?;
    let from = now_us();
    let mut kills = Vec::new();
    for round in 0..5 {
        let pod = if round % 2 == 0 { &callee } else { &front };
        until(Duration::from_secs(60), || cluster.process(shop::NAMESPACE, pod, "outrigger-sidecar").map(drop))?;
        kills.push(cluster.kill(shop::NAMESPACE, pod, "outrigger-sidecar")?);
        let killed_at = now_us();
        until(Duration::from_secs(10), || {
            let since = load.since(killed_at);
            ensure!(since.ok().count() > 150, "{:?}", since.by_outcome());
            Ok(())
        })?;
    }
    // While the sidecar is away the pod must stay an endpoint: it has only one of this service.
    let slices = cluster.kubectl(&[
        "get",
        "endpointslices",
        "-n",
        shop::NAMESPACE,
        "-l",
        "kubernetes.io/service-name=catalog-v2",
        "-o",
        "json",
    ])?;
    let slices: Value = serde_json::from_str(&slices)?;
    // Its third death in a row: the kubelet lets it be for twenty seconds.
    serving(cluster, "Fallback", &format!("carried by shared proxies: 1 pod ({}/{callee})", shop::NAMESPACE))?;
    println!("        Kubernetes says ready: {}", slices["items"][0]["endpoints"][0]["conditions"]["ready"]);
    until(Duration::from_secs(90), || {
        let pod = cluster.get("pod", shop::NAMESPACE, &callee)?;
        ensure!(restarts(&pod, "outrigger-sidecar") >= 3, "{} restarts", restarts(&pod, "outrigger-sidecar"));
        let state = &pod["status"]["initContainerStatuses"];
        let running = state
            .as_array()
            .is_some_and(|all| all.iter().filter(|one| one["state"]["running"].is_object()).count() == 2);
        ensure!(running, "the sidecar isn't back: {}", text(&state[2]["state"]["waiting"]["reason"]));
        Ok(())
    })?;
    serving(cluster, "SidecarsServing", "all pods are served by their own proxies")?;
    cluster.kubectl(&["delete", "trafficpolicy", "-n", shop::NAMESPACE, "failure-choice"])?;
    let samples = load.finish()?;
    let deaths = samples.between(from, u64::MAX).deaths(&kills);
    println!(
        "        {} calls, {} refused, {} failed on new connections, {} in flight, slowest first answer {:?}",
        deaths.calls,
        deaths.refused,
        deaths.failed_new,
        deaths.in_flight,
        deaths.slowest_first_answer()
    );
    ensure!(deaths.refused == 0 && deaths.failed_new == 0, "{deaths:?} {:?}", samples.by_outcome());
    Ok(())
}

/// Waits until the choice's status says this of the pods that it is for.
fn serving(cluster: &Cluster, reason: &str, message: &str) -> Result<()> {
    until(Duration::from_secs(15), || {
        let policy = cluster.get("trafficpolicy", shop::NAMESPACE, "failure-choice")?;
        let told = condition(&policy["status"]["conditions"], "SidecarsServing");
        ensure!(told["reason"] == reason && told["message"] == message, "{told}");
        Ok(())
    })
}

/// Kubernetes takes the pod out of its Services, the guard and an event on the pod say why, and a pod in its place has its
/// rules.
fn flushed(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    let front = shop::front(cluster)?;
    let guard = cluster.process(shop::NAMESPACE, &front, "outrigger-guard")?;
    let flush = ["delete", "table", "inet", "outrigger"];
    let done = Command::new("nsenter").args(["-t", &guard.to_string(), "-n", "nft"]).args(flush).status()?;
    ensure!(done.success(), "nft: {done}");
    until(Duration::from_secs(40), || {
        let pod = cluster.get("pod", shop::NAMESPACE, &front)?;
        let ready = &condition(&pod["status"]["conditions"], "Ready")["status"];
        ensure!(*ready == "False" && status(&pod, "outrigger-guard")["ready"] == false, "ready: {ready}");
        Ok(())
    })?;
    let log = cluster.kubectl(&["logs", "-n", shop::NAMESPACE, &front, "-c", "outrigger-guard"])?;
    ensure!(log.contains("nothing captures this pod's traffic"), "the guard's log:\n{log}");
    until(Duration::from_secs(20), || {
        let events = cluster.get("events.events.k8s.io", shop::NAMESPACE, "")?;
        let about = events["items"].as_array().into_iter().flatten().filter(|it| it["regarding"]["name"] == *front);
        let told: Vec<_> = about.map(|it| (text(&it["reason"]), text(&it["note"]))).collect();
        let said = |(reason, note): &(String, String)| {
            reason == "NotCaptured" && note.contains("nft") && note.contains("delete the pod")
        };
        ensure!(told.iter().any(said), "{told:?}");
        Ok(())
    })?;
    cluster.kubectl(&["delete", "pod", "-n", shop::NAMESPACE, &front, "--wait=false"])?;
    cluster.rolled_out(shop::NAMESPACE, "deployment/front")
}
