//! Helm's upgrade and rollback under load, and the roll-out of new sidecars after it.

use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_testbed::{LoadSpec, Samples};

use super::{case, install::SYSTEM, shop};
use crate::{
    Case,
    cluster::{Cluster, until},
};

pub(super) const CASES: &[Case] = &[case("upgrade and rollback under load", upgrade)];

fn upgrade(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    let root = cluster.get("secret", SYSTEM, "outrigger-root")?["data"].clone();
    ensure!(root["tls.key"].is_string(), "no root to begin with");
    let front = shop::front(cluster)?;
    let address = cluster.address(shop::NAMESPACE, "catalog")?;
    let target: outrigger_testbed::call::Target =
        format!("http://{address}:80/").parse().map_err(anyhow::Error::msg)?;
    let new = cluster.load(shop::NAMESPACE, &front, &LoadSpec::new(target.clone(), 50))?;
    let kept = cluster.load(shop::NAMESPACE, &front, &LoadSpec { keep_alive: true, ..LoadSpec::new(target, 50) })?;

    let upgraded =
        cluster.outrigger(&["upgrade", "--set", "image.repository=outrigger", "--set", "image.tag=e2e-next"])?;
    ensure!(upgraded.ok, "upgrade: {}{}", upgraded.stdout, upgraded.stderr);
    runs(cluster, "e2e-next")?;
    // The apps take the new sidecars with them, one pod after the other.
    for name in ["catalog-v1", "catalog-v2"] {
        cluster.kubectl(&["rollout", "restart", "-n", shop::NAMESPACE, &format!("deployment/{name}")])?;
        cluster.rolled_out(shop::NAMESPACE, &format!("deployment/{name}"))?;
    }
    for pod in cluster.pods(shop::NAMESPACE, "app=catalog")? {
        ensure!(pod["spec"]["initContainers"][2]["image"] == "outrigger:e2e-next", "{}", pod["metadata"]["name"]);
    }
    cluster.helm(&["rollback", "outrigger", "1", "-n", SYSTEM, "--wait", "--timeout", "120s"])?;
    runs(cluster, "e2e")?;
    until(Duration::from_secs(30), || {
        let checked = cluster.outrigger(&["check", "--json"])?;
        ensure!(checked.ok, "check: {}{}", checked.stdout, checked.stderr);
        Ok(())
    })?;
    ensure!(cluster.get("secret", SYSTEM, "outrigger-root")?["data"] == root, "the root has changed");
    for (what, samples) in [("new connections", new.finish()?), ("kept connections", kept.finish()?)] {
        println!("        {what}: {}", summary(&samples));
        ensure!(samples.failed() == 0, "{what}: {:?}", samples.by_outcome());
    }
    Ok(())
}

fn summary(samples: &Samples) -> String {
    format!("{} calls, {} failed, p99 {:?}", samples.len(), samples.failed(), samples.latency(0.99).unwrap_or_default())
}

/// Both deployments run this tag, all replicas.
fn runs(cluster: &Cluster, tag: &str) -> Result<()> {
    for name in ["outrigger-controller", "outrigger-shared"] {
        cluster.rolled_out(SYSTEM, &format!("deployment/{name}"))?;
        let found = cluster.get("deployment", SYSTEM, name)?;
        let image = &found["spec"]["template"]["spec"]["containers"][0]["image"];
        ensure!(*image == format!("outrigger:{tag}"), "{name} runs {image}");
    }
    Ok(())
}
