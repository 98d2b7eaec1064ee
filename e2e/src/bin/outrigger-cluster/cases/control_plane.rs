//! The control plane and what it stands on, taken away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::LoadSpec;
use serde_json::Value;

use super::{
    case,
    install::{CONTROLLERS, SYSTEM},
    on_nodes, shop,
};
use crate::{
    Case,
    cluster::{Cluster, load_beside, text, until},
};

pub(super) const CASES: &[Case] = &[
    case("control plane: another replica leads", leader),
    case("control plane: away, meshed namespaces fail closed and nobody else is held up", away),
    on_nodes("control plane: the API server goes and comes back", api_server),
];

fn lease(cluster: &Cluster) -> Result<(String, u64)> {
    let spec = cluster.get("lease", SYSTEM, "outrigger-controller")?["spec"].clone();
    Ok((text(&spec["holderIdentity"]), spec["leaseTransitions"].as_u64().unwrap_or_default()))
}

fn leader(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    let (holder, epoch) = lease(cluster)?;
    ensure!(!holder.is_empty(), "nobody leads");
    let pods = cluster.pods(SYSTEM, CONTROLLERS)?;
    let name = pods.iter().map(|pod| text(&pod["metadata"]["name"])).find(|name| holder.starts_with(name.as_str()));
    let name = name.with_context(|| format!("the holder {holder} is no pod"))?;
    cluster.kubectl(&["delete", "pod", "-n", SYSTEM, &name, "--grace-period=0", "--force"])?;
    until(Duration::from_secs(60), || {
        let (now, later) = lease(cluster)?;
        ensure!(
            now != holder && !now.is_empty() && later > epoch,
            "{now} holds it in epoch {later}, before {holder} in {epoch}"
        );
        Ok(())
    })?;
    // The new leader writes; a late write in the old one's name is refused by the API server itself.
    cluster.apply(
        "apiVersion: outrigger.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: { name: fenced, namespace: shop }\nspec:\n  \
         targetRefs: [{ kind: Service, name: catalog }]\n  requestTimeout: 5s\n",
    )?;
    cluster.kubectl(&[
        "wait",
        "-n",
        shop::NAMESPACE,
        "trafficpolicy/fenced",
        "--for=condition=Programmed",
        "--timeout=40s",
    ])?;
    let late = r#"{"status":{"leaseTransitions":0}}"#;
    let said = cluster
        .try_kubectl(&[
            "patch",
            "trafficpolicy",
            "-n",
            shop::NAMESPACE,
            "fenced",
            "--subresource=status",
            "--type=merge",
            "-p",
            late,
        ])?
        .refusal()
        .context("a write with an old fencing token")?;
    ensure!(said.contains("leaseTransitions"), "{said}");
    cluster.kubectl(&["delete", "trafficpolicy", "-n", shop::NAMESPACE, "fenced"])?;
    cluster.rolled_out(SYSTEM, "deployment/outrigger-controller")
}

fn away(cluster: &Cluster) -> Result<()> {
    let replicas = cluster.get("deployment", SYSTEM, "outrigger-controller")?["spec"]["replicas"].to_string();
    let front = shop::front(cluster)?;
    let address = cluster.address(shop::NAMESPACE, "catalog")?;
    let target = format!("http://{address}:80/").parse().map_err(anyhow::Error::msg)?;
    let load = cluster.load(shop::NAMESPACE, &front, &LoadSpec::new(target, 50))?;
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/outrigger-controller", "--replicas=0"])?;
    let gone = until(Duration::from_secs(60), || {
        let pods = cluster.pods(SYSTEM, CONTROLLERS)?;
        ensure!(pods.is_empty(), "{} controllers are left", pods.len());
        Ok(())
    });
    let pod = |namespace: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: newborn, namespace: {namespace} }}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
             containers:\n  - {{ name: app, image: \"outrigger-testapp:e2e\", command: [outrigger-testapp, http] }}\n"
        )
    };
    let closed = until(Duration::from_secs(40), || {
        let refused = cluster.try_apply(&pod(shop::NAMESPACE))?;
        if refused.ok {
            cluster.kubectl(&["delete", "pod", "-n", shop::NAMESPACE, "newborn", "--wait=false"])?;
        }
        ensure!(!refused.ok, "a pod without proxies came into a meshed namespace");
        Ok(())
    });
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: guests }\n")?;
    let others: Vec<Result<()>> = ["guests", "kube-system"]
        .iter()
        .map(|namespace| {
            cluster.apply(&pod(namespace))?;
            cluster.kubectl(&["wait", "-n", namespace, "pod/newborn", "--for=condition=Ready", "--timeout=60s"])?;
            cluster.kubectl(&["delete", "pod", "-n", namespace, "newborn", "--wait=false"])?;
            Ok(())
        })
        .collect();
    // A cold start: its own pods need no webhook.
    cluster.kubectl(&["scale", "-n", SYSTEM, "deployment/outrigger-controller", &format!("--replicas={replicas}")])?;
    cluster.rolled_out(SYSTEM, "deployment/outrigger-controller")?;
    until(Duration::from_secs(30), || {
        cluster.apply(&pod(shop::NAMESPACE))?;
        Ok(())
    })?;
    cluster.kubectl(&["wait", "-n", shop::NAMESPACE, "pod/newborn", "--for=condition=Ready", "--timeout=60s"])?;
    cluster.kubectl(&["delete", "pod", "-n", shop::NAMESPACE, "newborn", "--wait=false"])?;
    gone.and(closed)?;
    others.into_iter().collect::<Result<Vec<_>>>()?;
    let samples = load.finish()?;
    ensure!(samples.failed() == 0, "{:?} of {} calls", samples.by_outcome(), samples.len());
    Ok(())
}

/// Stopped, killed and started again by the harness, while calls go on from inside a pod's network.
fn api_server(cluster: &Cluster) -> Result<()> {
    let front = shop::front(cluster)?;
    let address = cluster.address(shop::NAMESPACE, "catalog")?;
    let target = format!("http://{address}:80/").parse().map_err(anyhow::Error::msg)?;
    let app = cluster.process(shop::NAMESPACE, &front, "app")?;
    let generation = |cluster: &Cluster| -> Result<Value> { cluster.get("deployment", SYSTEM, "outrigger-controller") };
    let restarts_before = restarts(cluster)?;
    let load = load_beside(app, &LoadSpec::new(target, 50))?;
    cluster.process_of_control("stop", "kube-apiserver")?;
    // Long enough for watches to break and to be tried again several times.
    std::thread::sleep(Duration::from_secs(20));
    cluster.process_of_control("start", "kube-apiserver")?;
    until(Duration::from_secs(60), || generation(cluster).map(drop))?;
    cluster.apply(
        "apiVersion: outrigger.dev/v1alpha1\nkind: MeshRoute\nmetadata: { name: after, namespace: shop }\nspec:\n  \
         parentRefs: [{ name: catalog }]\n  rules:\n  - matches: [{ path: { type: Exact, value: /after } }]\n    filters:\n    \
         - { type: DirectResponse, directResponse: { status: 200, body: after, contentType: text/plain } }\n",
    )?;
    until(Duration::from_secs(60), || {
        let answers = cluster.call(shop::NAMESPACE, &front, "http://catalog/after", &[])?;
        ensure!(answers[0]["body"] == "after", "{answers:?}");
        Ok(())
    })?;
    cluster.kubectl(&["delete", "meshroute", "-n", shop::NAMESPACE, "after"])?;
    let samples = load.finish()?;
    ensure!(samples.failed() == 0, "{:?} of {} calls", samples.by_outcome(), samples.len());
    ensure!(restarts(cluster)? == restarts_before, "a controller died of it");
    Ok(())
}

/// Of all controllers together.
fn restarts(cluster: &Cluster) -> Result<u64> {
    let pods = cluster.pods(SYSTEM, CONTROLLERS)?;
    Ok(pods.iter().filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64()).sum())
}
