//! Access policies and mTLS modes by kubectl.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{case, shop};
use crate::{
    Case,
    cluster::{Cluster, until},
};

pub(super) const CASES: &[Case] = &[
    case("policy: only the front may call", only_front),
    case("policy: strict mTLS keeps strangers out and probes in", strict),
];

const READERS: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: AccessPolicy
metadata: { name: catalog-readers, namespace: shop }
spec:
  selector: { matchLabels: { app: catalog } }
  action: Allow
  rules:
  - from: [{ serviceAccounts: [shop/front] }]
    to: [{ methods: [GET] }]
";

/// Waits for a status, then sees that it stays.
fn settles(cluster: &Cluster, namespace: &str, pod: &str, url: &str, status: u64) -> Result<()> {
    until(Duration::from_secs(20), || {
        let answers = cluster.call(namespace, pod, url, &["--count", "5"])?;
        ensure!(answers.iter().all(|answer| answer["status"] == status), "{url}: {answers:?}, not {status}");
        Ok(())
    })
}

fn only_front(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    let (front, stranger) = (shop::front(cluster)?, cluster.pod(shop::NAMESPACE, "app=stranger")?);
    cluster.apply(READERS)?;
    cluster.kubectl(&[
        "wait",
        "-n",
        shop::NAMESPACE,
        "accesspolicy/catalog-readers",
        "--for=condition=Programmed",
        "--timeout=30s",
    ])?;
    settles(cluster, shop::NAMESPACE, &stranger, "http://catalog/", 403)?;
    settles(cluster, shop::NAMESPACE, &front, "http://catalog/", 200)?;
    let posted = cluster.call(shop::NAMESPACE, &front, "http://catalog/", &["--method", "POST"])?;
    ensure!(posted[0]["status"] == 403, "{posted:?}");
    // The kubelet calls without an identity; its probes are let in all the same.
    ready_for(cluster, Duration::from_secs(6))?;
    cluster.kubectl(&["delete", "accesspolicy", "-n", shop::NAMESPACE, "catalog-readers"])?;
    settles(cluster, shop::NAMESPACE, &stranger, "http://catalog/", 200)
}

/// The catalog's pods are ready and weren't restarted, for so long.
fn ready_for(cluster: &Cluster, time: Duration) -> Result<()> {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        for pod in cluster.pods(shop::NAMESPACE, "app=catalog")? {
            let app = &pod["status"]["containerStatuses"][0];
            ensure!(app["ready"] == true && app["restartCount"] == 0, "{}: {app}", pod["metadata"]["name"]);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn strict(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: guests }\n")?;
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: { name: outsider, namespace: guests, labels: { app: outsider } }\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - { name: app, image: \"outrigger-testapp:e2e\", command: [outrigger-testapp, http] }\n",
    )?;
    cluster.kubectl(&["wait", "-n", "guests", "pod/outsider", "--for=condition=Ready", "--timeout=60s"])?;
    let url = "http://catalog.shop/";
    settles(cluster, "guests", "outsider", url, 200)?;
    cluster.apply(
        "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: default }\nspec: { mtls: { mode: Strict } }\n",
    )?;
    until(Duration::from_secs(20), || {
        let answers = cluster.call("guests", "outsider", url, &["--count", "5"])?;
        ensure!(answers.iter().all(|answer| answer["status"] != 200), "let in: {answers:?}");
        Ok(())
    })?;
    settles(cluster, shop::NAMESPACE, &shop::front(cluster)?, "http://catalog/", 200)?;
    ready_for(cluster, Duration::from_secs(6))?;
    cluster.kubectl(&["delete", "meshconfig", "default"])?;
    settles(cluster, "guests", "outsider", url, 200)?;
    cluster.kubectl(&["delete", "pod", "-n", "guests", "outsider", "--wait=false"])?;
    Ok(())
}
