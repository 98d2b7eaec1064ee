//! A namespace with shared proxies of its own: these carry its pods, no others do, and no others go down with them.

use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_testbed::{Load, LoadSpec, now_us};
use serde_json::Value;

use super::{install::SYSTEM, on_nodes, shop};
use crate::{
    Case,
    cluster::{Cluster, until},
};

pub(super) const CASES: &[Case] = &[on_nodes("pools: a namespace has shared proxies of its own", own)];

/// That the installation has this pool, and that all shared proxies say whom they carry.
pub(super) const VALUES: [&str; 2] = [
    "--set",
    "shared.accessLog=json,shared.pools[0].name=aside,shared.pools[0].replicas=1,shared.pools[0].drainSeconds=1",
];

pub(super) const NAMESPACE: &str = "aside";
const OBJECTS: &str = include_str!("pools.yaml");
const POOL: &str = "outrigger-shared-aside";
const OTHERS: &str = "outrigger-shared";
const SIDECAR: &str = "outrigger-sidecar";

/// What each asks for: logs of shared proxies say that, and not who asked.
const PATH: &str = "/aside";
const OTHER_PATH: &str = "/others";

fn own(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    cluster.apply(OBJECTS)?;
    cluster.rolled_out(NAMESPACE, "deployment/front")?;
    cluster.kubectl(&["wait", "meshconfig/default", "--for=condition=Programmed", "--timeout=30s"])?;
    let address = cluster.address(shop::NAMESPACE, "catalog")?;
    let spec = |path: &str| -> Result<LoadSpec> {
        Ok(LoadSpec::new(format!("http://{address}:80{path}").parse().map_err(anyhow::Error::msg)?, 50))
    };
    let (pod, other) = (cluster.pod(NAMESPACE, "app=front")?, shop::front(cluster)?);
    let load = cluster.load(NAMESPACE, &pod, &spec(PATH)?)?;
    let others = cluster.load(shop::NAMESPACE, &other, &spec(OTHER_PATH)?)?;
    goes_on(&load, 0)?;
    goes_on(&others, 0)?;

    let first = killed(cluster, NAMESPACE, &pod)?;
    goes_on(&load, first)?;
    until(Duration::from_secs(10), || {
        ensure!(carried(cluster, POOL, PATH)? > 0, "the pool carried nothing");
        Ok(())
    })?;

    cluster.kubectl(&["scale", "-n", SYSTEM, &format!("deployment/{POOL}"), "--replicas=0"])?;
    cluster.until_pods(SYSTEM, &format!("app.kubernetes.io/name={POOL}"), 0)?;
    // Its second death in a row: the kubelet lets it be for ten seconds.
    let second = killed(cluster, NAMESPACE, &pod)?;
    let before = carried(cluster, OTHERS, OTHER_PATH)?;
    let killed_other = killed(cluster, shop::NAMESPACE, &other)?;
    until(Duration::from_secs(10), || {
        ensure!(load.since(second).failed() > 0, "somebody carries it: {:?}", load.since(second).by_outcome());
        Ok(())
    })?;
    goes_on(&others, killed_other)?;
    until(Duration::from_secs(10), || {
        ensure!(carried(cluster, OTHERS, OTHER_PATH)? > before, "the others carried nothing");
        Ok(())
    })?;
    let strangers = carried(cluster, OTHERS, PATH)?;
    ensure!(strangers == 0, "the others carried {strangers} calls of a namespace that has a pool");

    cluster.kubectl(&["scale", "-n", SYSTEM, &format!("deployment/{POOL}"), "--replicas=1"])?;
    let (samples, others) = (load.finish()?, others.finish()?);
    println!("        of the pool's namespace {:?}, of others {:?}", samples.by_outcome(), others.by_outcome());
    cluster.kubectl(&["delete", "meshconfig", "default"])?;
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"])?;
    cluster.rolled_out(SYSTEM, &format!("deployment/{POOL}"))
}

/// Kills a pod's sidecar, once it is there, and says when.
fn killed(cluster: &Cluster, namespace: &str, pod: &str) -> Result<u64> {
    until(Duration::from_secs(60), || cluster.process(namespace, pod, SIDECAR).map(drop))?;
    cluster.kill(namespace, pod, SIDECAR)?;
    Ok(now_us())
}

/// Waits until calls made since then have been answered.
fn goes_on(load: &Load, since: u64) -> Result<()> {
    until(Duration::from_secs(20), || {
        let since = load.since(since);
        ensure!(since.ok().count() > 50, "{:?}", since.by_outcome());
        Ok(())
    })
}

/// Calls of this path that shared proxies of a Deployment have carried.
fn carried(cluster: &Cluster, deployment: &str, path: &str) -> Result<usize> {
    let selector = format!("app.kubernetes.io/name={deployment}");
    let log = cluster.kubectl(&["logs", "-n", SYSTEM, "-l", &selector, "--tail=-1"])?;
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(records.filter(|record| record["direction"] == "outbound" && record["path"] == path).count())
}
