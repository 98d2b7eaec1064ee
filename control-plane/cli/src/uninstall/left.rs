//! Looks for everything that an installation makes.

use anyhow::Result;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::Deployment,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount},
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{Api, Resource, ResourceExt, api::ListParams};
use outrigger_wire::names::{CONTROLLER_NAME, GROUP, ROOT_SECRET, SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, containers};
use serde::de::DeserializeOwned;

use super::Report;
use crate::{
    cluster::{self, Cluster},
    pods,
};

/// Names of the objects that belong to the whole cluster, and of a ConfigMap.
const CONFIGURATION: &str = "outrigger";
const INJECTOR_CONFIG: &str = "outrigger-config";

pub(super) async fn look(cluster: &Cluster) -> Result<Report> {
    let mut report = Report::default();
    crds(cluster, &mut report).await?;
    let left = &mut report.left;
    global::<MutatingWebhookConfiguration>(cluster, CONFIGURATION, left).await?;
    global::<ValidatingWebhookConfiguration>(cluster, CONFIGURATION, left).await?;
    global::<ClusterRole>(cluster, CONTROLLER_NAME, left).await?;
    global::<ClusterRoleBinding>(cluster, CONTROLLER_NAME, left).await?;
    own::<Deployment>(cluster, named(CONTROLLER_NAME), left).await?;
    own::<PodDisruptionBudget>(cluster, named(CONTROLLER_NAME), left).await?;
    own::<Service>(cluster, named(CONTROLLER_NAME), left).await?;
    own::<ServiceAccount>(cluster, named(CONTROLLER_NAME), left).await?;
    own::<Deployment>(cluster, shared(), left).await?;
    own::<PodDisruptionBudget>(cluster, shared(), left).await?;
    own::<Service>(cluster, shared(), left).await?;
    own::<ServiceAccount>(cluster, shared(), left).await?;
    own::<Role>(cluster, named(CONTROLLER_NAME), left).await?;
    own::<RoleBinding>(cluster, named(CONTROLLER_NAME), left).await?;
    own::<Lease>(cluster, named(CONTROLLER_NAME), left).await?;
    own::<Secret>(cluster, named(ROOT_SECRET), left).await?;
    own::<ConfigMap>(cluster, named(INJECTOR_CONFIG), left).await?;
    let trust = cluster.all::<ConfigMap>(named(TRUST_CONFIG_MAP)).await?;
    left.extend(trust.iter().map(|it| format!("ConfigMap {}/{}", it.namespace().unwrap_or_default(), it.name_any())));
    let all = cluster.all::<Pod>(ListParams::default()).await?;
    // Those that drain are still there.
    let own = |pod: &&Pod| pods::label(pod, "app.kubernetes.io/part-of") == Some("outrigger");
    let own = all.iter().filter(|pod| pods::namespace(pod) == SYSTEM_NAMESPACE).filter(own);
    left.extend(own.map(|pod| format!("Pod {}", pods::workload(pod))));
    let meshed = all.iter().filter(|pod| pods::is_running(pod) && pods::has(pod, containers::GUARD));
    report.meshed_pods = meshed
        .map(|pod| {
            let owner = pods::owner(pod).map(|owner| format!(" ({owner})")).unwrap_or_default();
            format!("{}{owner}", pods::workload(pod))
        })
        .collect();
    Ok(report)
}

/// Definitions of our kinds; those that Helm was told to keep are no left-overs.
async fn crds(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let all = cluster.all::<CustomResourceDefinition>(ListParams::default()).await?;
    for crd in all.iter().filter(|crd| crd.spec.group == GROUP) {
        let kept = crd.annotations().get("helm.sh/resource-policy").is_some_and(|policy| policy == "keep");
        let to = if kept { &mut report.kept } else { &mut report.left };
        to.push(format!("CustomResourceDefinition {}", crd.name_any()));
    }
    Ok(())
}

async fn global<K>(cluster: &Cluster, name: &str, left: &mut Vec<String>) -> Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    if cluster::found(Api::<K>::all(cluster.client.clone()).get_metadata(name).await)?.is_some() {
        left.push(format!("{} {name}", K::kind(&())));
    }
    Ok(())
}

/// What is there of the system namespace.
async fn own<K>(cluster: &Cluster, of: ListParams, left: &mut Vec<String>) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    // Without what is in them: one is the root's Secret.
    let found = cluster::found(cluster.of::<K>(SYSTEM_NAMESPACE).list_metadata(&of).await)?;
    let found = found.into_iter().flatten();
    left.extend(found.map(|it| format!("{} {SYSTEM_NAMESPACE}/{}", K::kind(&()), it.name_any())));
    Ok(())
}

/// Of shared proxies, of all pools.
fn shared() -> ListParams {
    ListParams::default().labels(pods::SHARED_PROXIES)
}

fn named(name: &str) -> ListParams {
    ListParams::default().fields(&format!("metadata.name={name}"))
}
