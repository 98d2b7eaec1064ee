//! The apps that most cases look at: a catalog in two versions on both nodes, a store that speaks first, two callers.

use anyhow::Result;

use crate::cluster::Cluster;

pub(crate) const NAMESPACE: &str = "shop";
const OBJECTS: &str = include_str!("shop.yaml");
const DEPLOYMENTS: [&str; 5] = ["catalog-v1", "catalog-v2", "store", "front", "stranger"];

/// Opens the shop, if it isn't open.
pub(crate) fn open(cluster: &Cluster) -> Result<()> {
    cluster.apply(OBJECTS)?;
    for name in DEPLOYMENTS {
        cluster.rolled_out(NAMESPACE, &format!("deployment/{name}"))?;
    }
    Ok(())
}

/// Name of the pod that calls.
pub(crate) fn front(cluster: &Cluster) -> Result<String> {
    cluster.pod(NAMESPACE, "app=front")
}
