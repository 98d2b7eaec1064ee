//! Helm's release: comes, is seen, and goes without a trace.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::{case, pools};
use crate::{
    Case,
    cluster::{Cluster, until},
};

pub(crate) const SYSTEM: &str = "outrigger-system";
/// Selects the pods of the controller.
pub(crate) const CONTROLLERS: &str = "app.kubernetes.io/component=controller";
/// Values that make the chart use the harness's image.
pub(crate) const IMAGE: [&str; 4] = ["--set", "image.repository=outrigger", "--set", "image.tag=e2e"];

pub(super) const FIRST: &[Case] = &[case("install", install)];
pub(super) const LAST: &[Case] = &[case("uninstall leaves nothing", uninstall)];

fn install(cluster: &Cluster) -> Result<()> {
    let before = cluster.outrigger(&["check", "--pre", "--json"])?;
    ensure!(before.ok, "check --pre: {}{}", before.stdout, before.stderr);
    let mut args = vec!["install"];
    args.extend(IMAGE);
    args.extend(pools::VALUES);
    let installed = cluster.outrigger(&args)?;
    ensure!(installed.ok, "install: {}{}", installed.stdout, installed.stderr);
    let releases: Value = serde_json::from_str(&cluster.helm(&["list", "-n", SYSTEM, "-o", "json"])?)?;
    ensure!(releases[0]["name"] == "outrigger" && releases[0]["status"] == "deployed", "helm list: {releases}");
    if cluster.has_nodes() {
        // Where it comes later than the mesh, it is picked up without a restart.
        cluster.apply_gateway_api()?;
    }
    until(Duration::from_secs(60), || {
        let after = cluster.outrigger(&["check", "--json"])?;
        ensure!(after.ok, "check: {}{}", after.stdout, after.stderr);
        serde_json::from_str::<Value>(&after.stdout).map(drop).context("check --json")
    })
}

/// Everything that Kubernetes holds and that bears our name, by `KIND NAMESPACE/NAME`.
fn traces(cluster: &Cluster) -> Result<Vec<String>> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
    let mut found = Vec::new();
    for kind in kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.contains("metrics")) {
        let Ok(list) = cluster.get(kind, "", "") else { continue };
        for item in list["items"].as_array().into_iter().flatten() {
            let metadata = &item["metadata"];
            let (namespace, name) =
                (metadata["namespace"].as_str().unwrap_or(""), metadata["name"].as_str().unwrap_or(""));
            let ours = name.contains("outrigger") || namespace == SYSTEM;
            let default = matches!((kind, name), ("configmaps", "kube-root-ca.crt") | ("serviceaccounts", "default"));
            let namespace_itself = kind == "namespaces" && name == SYSTEM;
            if ours && !default && !namespace_itself {
                found.push(format!("{kind} {namespace}/{name}"));
            }
        }
    }
    Ok(found)
}

fn uninstall(cluster: &Cluster) -> Result<()> {
    // The apps go first, as an owner would take them out of the mesh.
    for namespace in ["podinfo", "shop", "guests", "strict-shop", pools::NAMESPACE] {
        cluster.kubectl(&["delete", "namespace", namespace, "--ignore-not-found", "--wait=true", "--timeout=90s"])?;
    }
    let removed = cluster.outrigger(&["uninstall"])?;
    ensure!(removed.ok, "uninstall: {}{}", removed.stdout, removed.stderr);
    until(Duration::from_secs(60), || match traces(cluster)? {
        left if left.is_empty() => Ok(()),
        left => bail!("left behind: {}", left.join(", ")),
    })
}
