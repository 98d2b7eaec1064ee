//! The command line against a cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{case, shop};
use crate::{
    Case,
    cluster::{Cluster, until},
};

pub(super) const CASES: &[Case] = &[
    case("terminal: status shows every proxy", status),
    case("terminal: explain says what happens", explain),
    case("terminal: inject by hand is what the webhook does", inject),
    case("terminal: pods that slipped by are found", slipped),
];

fn json(cluster: &Cluster, args: &[&str]) -> Result<Value> {
    let output = cluster.outrigger(args)?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{args:?}: {}{}", output.stdout, output.stderr))
}

fn status(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    until(Duration::from_secs(30), || {
        let page = json(cluster, &["status", "--json"])?;
        let proxies = page["proxies"].as_array().context("proxies")?;
        let of_shop: Vec<_> = proxies
            .iter()
            .filter(|proxy| proxy["workload"].as_str().is_some_and(|name| name.starts_with("shop/")))
            .collect();
        ensure!(of_shop.len() >= 6, "{page:#}");
        for proxy in of_shop {
            ensure!(proxy["sync"] == "SYNCED", "{proxy:#}");
            ensure!(proxy["certificateExpires"].is_string(), "{proxy:#}");
        }
        Ok(())
    })?;
    let table = cluster.outrigger(&["status"])?;
    ensure!(table.ok && table.stdout.contains("catalog-v1"), "{}{}", table.stdout, table.stderr);
    Ok(())
}

fn explain(cluster: &Cluster) -> Result<()> {
    cluster.apply(
        "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: { name: no-strangers, namespace: shop }\nspec:\n  \
         selector: { matchLabels: { app: catalog } }\n  action: Deny\n  rules: [{ from: [{ serviceAccounts: [shop/stranger] }] }]\n",
    )?;
    cluster.kubectl(&[
        "wait",
        "-n",
        shop::NAMESPACE,
        "accesspolicy/no-strangers",
        "--for=condition=Programmed",
        "--timeout=30s",
    ])?;
    let route = "HTTPRoute/shop/catalog";
    for (from, header, verdict, rule) in [
        ("deploy/front", "x-beta: yes", true, format!("{route}#0")),
        ("deploy/front", "x-beta: no", true, format!("{route}#1")),
        ("deploy/stranger", "x-beta: no", false, format!("{route}#1")),
    ] {
        let said = json(
            cluster,
            &["explain", "-n", shop::NAMESPACE, from, "svc/catalog:80", "GET", "/", "-H", header, "--json"],
        )?;
        ensure!(said["allowed"] == verdict, "{from} {header}: {said:#}");
        ensure!(said["route"]["rule"] == rule.as_str(), "{from} {header}: {said:#}");
        if !verdict {
            ensure!(said.to_string().contains("AccessPolicy/shop/no-strangers"), "{said:#}");
        }
    }
    let text =
        cluster.outrigger(&["explain", "-n", shop::NAMESPACE, "deploy/stranger", "svc/catalog:80", "GET", "/"])?;
    ensure!(text.stdout.contains("no-strangers"), "{}{}", text.stdout, text.stderr);
    cluster.kubectl(&["delete", "accesspolicy", "-n", shop::NAMESPACE, "no-strangers"])?;
    Ok(())
}

fn inject(cluster: &Cluster) -> Result<()> {
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: by-hand, namespace: shop }\nspec:\n  containers:\n  - { name: app, image: \"outrigger-testapp:e2e\", command: [outrigger-testapp, http] }\n";
    let file = std::env::temp_dir().join(format!("outrigger-by-hand-{}.yaml", std::process::id()));
    std::fs::write(&file, pod)?;
    let output = cluster.outrigger(&["inject", "-f", &file.to_string_lossy()]);
    let removed = std::fs::remove_file(&file);
    let output = output?;
    removed?;
    ensure!(output.ok, "{}", output.stderr);
    cluster.apply(&output.stdout)?;
    let by_hand = cluster.get("pod", shop::NAMESPACE, "by-hand")?;
    let names: Vec<_> = by_hand["spec"]["initContainers"].as_array().context("no init containers")?.clone();
    ensure!(names.len() == 3, "injected twice, or not at all: {names:#?}");
    cluster.kubectl(&["wait", "-n", shop::NAMESPACE, "pod/by-hand", "--for=condition=Ready", "--timeout=60s"])?;
    cluster.kubectl(&["delete", "pod", "-n", shop::NAMESPACE, "by-hand", "--wait=false"])?;
    Ok(())
}

fn slipped(cluster: &Cluster) -> Result<()> {
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: guests }\n")?;
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: early-bird, namespace: guests }\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - { name: app, image: \"outrigger-testapp:e2e\", command: [outrigger-testapp, http] }\n",
    )?;
    cluster.kubectl(&["wait", "-n", "guests", "pod/early-bird", "--for=condition=Ready", "--timeout=60s"])?;
    cluster.kubectl(&["label", "namespace", "guests", "outrigger.dev/mode=sidecar"])?;
    let found = until(Duration::from_secs(30), || {
        let checked = cluster.outrigger(&["check", "--json"])?;
        ensure!(checked.stdout.contains("guests/early-bird"), "{}", checked.stdout);
        let events = cluster.kubectl(&["get", "events", "-n", "guests", "-o", "json"])?;
        ensure!(events.contains("early-bird") && events.contains("outrigger"), "no event says so");
        Ok(())
    });
    cluster.kubectl(&["label", "namespace", "guests", "outrigger.dev/mode-"])?;
    cluster.kubectl(&["delete", "pod", "-n", "guests", "early-bird", "--wait=false"])?;
    found
}
