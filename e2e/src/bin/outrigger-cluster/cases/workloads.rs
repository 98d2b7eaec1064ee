//! What works without the mesh works with it: kinds of workloads, probes, and what people do to pods by kubectl.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::LoadSpec;
use serde_json::Value;

use super::{
    case,
    install::{CONTROLLERS, SYSTEM},
    on_nodes,
    podinfo::Steady,
    shop,
};
use crate::{
    Case,
    cluster::{Cluster, text, until},
};

pub(super) const CASES: &[Case] = &[
    case("workloads: a StatefulSet with probes of every kind", stateful),
    case("workloads: a rolling restart of apps that end at once", rolling),
    case("workloads: exec, logs, port-forward, debug", by_hand),
    on_nodes("workloads: the controllers' memory", memory),
];

fn stateful(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    cluster.apply(include_str!("stateful.yaml"))?;
    cluster.rolled_out(shop::NAMESPACE, "statefulset/ledger")?;
    let front = shop::front(cluster)?;
    let reached = |name: &str| {
        until(Duration::from_secs(30), || {
            let answers = cluster.call(
                shop::NAMESPACE,
                &front,
                &format!("http://{name}.ledger.shop.svc.cluster.local:8080/"),
                &[],
            )?;
            ensure!(answers[0]["status"] == 200, "{name}: {answers:?}");
            Ok(())
        })
    };
    reached("ledger-0")?;
    reached("ledger-1")?;
    // The same name, at another address.
    cluster.kubectl(&["delete", "pod", "-n", shop::NAMESPACE, "ledger-1"])?;
    cluster.rolled_out(shop::NAMESPACE, "statefulset/ledger")?;
    reached("ledger-1")?;
    let pods = cluster.pods(shop::NAMESPACE, "app=ledger")?;
    let restarts: u64 =
        pods.iter().filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64()).sum();
    ensure!(restarts == 0, "a probe failed: {restarts} restarts");
    cluster.kubectl(&["delete", "-n", shop::NAMESPACE, "statefulset/ledger", "service/ledger", "--wait=false"])?;
    Ok(())
}

/// Apps without a hook, which die of SIGTERM with all that they have, under calls that may not be repeated: none fails, as
/// they are told to end only once nobody calls them any more.
fn rolling(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    let (front, address) = (shop::front(cluster)?, cluster.address(shop::NAMESPACE, "catalog-v1")?);
    let load = |keep_alive| {
        let target = format!("echo://{address}:80/echo").parse().map_err(anyhow::Error::msg)?;
        cluster.load(shop::NAMESPACE, &front, &LoadSpec { keep_alive, ..LoadSpec::new(target, 100) })
    };
    let steady = Steady::of(vec![("POST", load(false)?), ("POST, kept alive", load(true)?)])?;
    let waited = || -> Result<Vec<String>> {
        let log = cluster.kubectl(&["logs", "-n", SYSTEM, "-l", CONTROLLERS, "--tail=-1"])?;
        let of = |line: &&str| line.contains("has waited for its callers") && line.contains("shop/catalog-v1-");
        Ok(log.lines().filter(of).map(str::to_owned).collect())
    };
    let before = waited()?.len();
    for _ in 0..3 {
        cluster.restart(shop::NAMESPACE, "catalog-v1")?;
        steady.goes_on(100)?;
    }
    cluster.until_pods(shop::NAMESPACE, "app=catalog,version=v1", 2)?;
    steady.finish(&[])?;
    let departures = waited()?.split_off(before);
    ensure!(departures.len() == 6, "six pods have ended: {departures:?}");
    ensure!(departures.iter().all(|line| !line.contains("missing")), "not all had left: {departures:?}");
    Ok(())
}

fn by_hand(cluster: &Cluster) -> Result<()> {
    let pod = cluster.pod(shop::NAMESPACE, "app=catalog,version=v2")?;
    let said = cluster.exec(shop::NAMESPACE, &pod, "app", &["outrigger-testapp", "--version"])?;
    ensure!(said.starts_with("outrigger-testapp"), "exec: {said}");
    let log = cluster.kubectl(&["logs", "-n", shop::NAMESPACE, &pod, "-c", "app"])?;
    ensure!(log.contains("listening"), "logs: {log}");
    let forward = cluster.forward(shop::NAMESPACE, &pod, 8080)?;
    let answer = cluster.call_here(&format!("http://127.0.0.1:{}/", forward.port))?;
    ensure!(answer["status"] == 200 && answer["body"]["version"] == "v2", "port-forward: {answer}");
    // Another container in a running pod: it is in the mesh as its app is.
    let image = "--image=outrigger-testapp:e2e";
    let debug = ["debug", "-n", shop::NAMESPACE, &pod, image, "--image-pull-policy=IfNotPresent", "-c", "look", "--"];
    cluster.kubectl(&[&debug[..], &["outrigger-testapp", "get", "http://catalog-v1/"]].concat())?;
    until(Duration::from_secs(30), || {
        let log = cluster.kubectl(&["logs", "-n", shop::NAMESPACE, &pod, "-c", "look"])?;
        let answer: Value = serde_json::from_str(log.trim()).context("the answer")?;
        ensure!(answer["status"] == 200 && answer["body"]["version"] == "v1", "debug: {answer}");
        Ok(())
    })
}

fn memory(cluster: &Cluster) -> Result<()> {
    for pod in cluster.pods(SYSTEM, CONTROLLERS)? {
        let name = text(&pod["metadata"]["name"]);
        let process = cluster.process(SYSTEM, &name, "controller")?;
        let status = fs::read_to_string(format!("/proc/{process}/status")).context("the process's status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        println!("        {name}: {} MB resident", kib / 1024);
        ensure!(kib <= 60 * 1024, "{name} uses {} MB", kib / 1024);
    }
    Ok(())
}
