//! Helm's upgrade and rollback under load, and the roll-out of new sidecars after it.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    case,
    install::SYSTEM,
    podinfo::{self, Steady},
};
use crate::{
    Case,
    cluster::{Cluster, until},
};

pub(super) const CASES: &[Case] = &[case("upgrade and rollback under load", upgrade)];

fn upgrade(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let root = cluster.get("secret", SYSTEM, "outrigger-root")?["data"].clone();
    ensure!(root["tls.key"].is_string(), "no root to begin with");
    let steady = Steady::start(cluster)?;

    let upgraded =
        cluster.outrigger(&["upgrade", "--set", "image.repository=outrigger", "--set", "image.tag=e2e-next"])?;
    ensure!(upgraded.ok, "upgrade: {}{}", upgraded.stdout, upgraded.stderr);
    runs(cluster, "e2e-next")?;
    // The apps take the new sidecars with them, one pod after the other.
    for name in ["backend", "frontend"] {
        cluster.restart(podinfo::NAMESPACE, name)?;
    }
    for pod in cluster.pods(podinfo::NAMESPACE, "app=backend")? {
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
    steady.goes_on(100)?;
    steady.finish(&[])
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
