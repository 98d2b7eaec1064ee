//! Other proxies in pods that go on running, under load.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    case,
    failure::status,
    long,
    podinfo::{self, NAMESPACE, Steady},
};
use crate::{
    Case,
    cluster::{Cluster, text},
};

pub(super) const CASES: &[Case] = &[
    case("upgrade: proxies in place under load", of_caller),
    long("upgrade: all proxies in place under load", of_all),
    case("upgrade: proxies that can't start are rolled back", rolled_back),
];

const NEXT: &str = "outrigger:e2e-next";
/// Nobody listens there.
const NOWHERE: &str = "localhost:1/none:none";
const BACKENDS: &str = "app=backend";
const PROXIES: [&str; 2] = ["outrigger-sidecar", "outrigger-guard"];

fn of_caller(cluster: &Cluster) -> Result<()> {
    in_place(cluster, "app=caller")
}

/// Guards of podinfo's pods wait for more than a minute until its idle connections have ended.
fn of_all(cluster: &Cluster) -> Result<()> {
    in_place(cluster, "app")
}

/// There by a given image, and back by the injector's own.
fn in_place(cluster: &Cluster, selector: &str) -> Result<()> {
    podinfo::open(cluster)?;
    let before = pods(cluster, selector)?;
    let steady = Steady::start(cluster)?;
    let there = upgrade(cluster, &["--image", NEXT, "-l", selector])?;
    ensure!(there.0, "{:#}", there.1);
    let between = pods(cluster, selector)?;
    same_apps(&before, &between)?;
    for (old, new) in before.iter().zip(&between) {
        let name = &new["metadata"]["name"];
        for proxy in PROXIES {
            ensure!(image(new, proxy) == NEXT, "{name}: {proxy} is of {}", image(new, proxy));
            let id = |pod| text(&status(pod, proxy)["containerID"]);
            ensure!(id(old) != id(new), "{name}: {proxy} wasn't replaced");
        }
        ensure!(
            image(new, "outrigger-redirect") == NEXT,
            "{name}: its rules are of {}",
            image(new, "outrigger-redirect")
        );
    }
    steady.goes_on(100)?;
    let back = upgrade(cluster, &["-l", selector])?;
    ensure!(back.0, "{:#}", back.1);
    let after = pods(cluster, selector)?;
    same_apps(&before, &after)?;
    for (old, new) in before.iter().zip(&after) {
        ensure!(PROXIES.iter().all(|proxy| image(new, proxy) == image(old, proxy)), "{}", new["metadata"]["name"]);
    }
    steady.goes_on(100)?;
    steady.finish(&[])
}

fn rolled_back(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let before = pods(cluster, BACKENDS)?;
    let steady = Steady::start(cluster)?;
    // The kubelet doesn't say that it waits for the image of a sidecar that has ended as it should.
    let (ok, report) = upgrade(cluster, &["--image", NOWHERE, "-l", BACKENDS, "--timeout", "40s"])?;
    ensure!(!ok, "it is content with an image that isn't there: {report:#}");
    let results: Vec<String> =
        report["pods"].as_array().context("no pods")?.iter().map(|pod| text(&pod["result"])).collect();
    ensure!(results == ["rolledBack", "planned"], "{report:#}");
    let after = pods(cluster, BACKENDS)?;
    same_apps(&before, &after)?;
    for (old, new) in before.iter().zip(&after) {
        ensure!(PROXIES.iter().all(|proxy| image(new, proxy) == image(old, proxy)), "{}", new["metadata"]["name"]);
    }
    steady.goes_on(100)?;
    steady.finish(&[])
}

/// Whether it is content, and what it says.
fn upgrade(cluster: &Cluster, more: &[&str]) -> Result<(bool, Value)> {
    let mut args = vec!["upgrade-proxies", "-n", NAMESPACE, "--watch", "5s", "--json"];
    args.extend(more);
    let done = cluster.outrigger(&args)?;
    for line in done.stderr.lines() {
        println!("        {line}");
    }
    let report = serde_json::from_str(&done.stdout).with_context(|| format!("{}{}", done.stdout, done.stderr))?;
    Ok((done.ok, report))
}

/// By name.
fn pods(cluster: &Cluster, selector: &str) -> Result<Vec<Value>> {
    let mut pods = cluster.pods(NAMESPACE, selector)?;
    pods.sort_by_key(|pod| text(&pod["metadata"]["name"]));
    Ok(pods)
}

fn image(pod: &Value, container: &str) -> String {
    let containers = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    containers.filter(|one| one["name"] == container).map(|one| text(&one["image"])).collect()
}

/// They are the same pods, and not one of their apps was restarted.
fn same_apps(before: &[Value], after: &[Value]) -> Result<()> {
    let apps = |pods: &[Value]| -> Vec<(String, Vec<String>)> {
        let ids = |pod: &Value| {
            let apps = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            apps.map(|app| text(&app["containerID"])).collect()
        };
        pods.iter().map(|pod| (text(&pod["metadata"]["uid"]), ids(pod))).collect()
    };
    ensure!(!before.is_empty() && apps(before) == apps(after), "{:?} have become {:?}", apps(before), apps(after));
    Ok(())
}
