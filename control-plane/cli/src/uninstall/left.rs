//! Looks for everything that an installation makes.

use anyhow::Result;
use k8s_openapi::{
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
    own::<Deployment>(cluster, CONTROLLER_NAME, left).await?;
    own::<PodDisruptionBudget>(cluster, CONTROLLER_NAME, left).await?;
    own::<Service>(cluster, CONTROLLER_NAME, left).await?;
    own::<ServiceAccount>(cluster, CONTROLLER_NAME, left).await?;
    shared::<Deployment>(cluster, left).await?;
    shared::<PodDisruptionBudget>(cluster, left).await?;
    shared::<Service>(cluster, left).await?;
    shared::<ServiceAccount>(cluster, left).await?;
    own::<Role>(cluster, CONTROLLER_NAME, left).await?;
    own::<RoleBinding>(cluster, CONTROLLER_NAME, left).await?;
    own::<Lease>(cluster, CONTROLLER_NAME, left).await?;
    own::<Secret>(cluster, ROOT_SECRET, left).await?;
    own::<ConfigMap>(cluster, INJECTOR_CONFIG, left).await?;
    let params = ListParams::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
    let trust = cluster.all::<ConfigMap>(params).await?;
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

/// Of the system namespace.
async fn own<K>(cluster: &Cluster, name: &str, left: &mut Vec<String>) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    if cluster::found(cluster.of::<K>(SYSTEM_NAMESPACE).get_metadata(name).await)?.is_some() {
        left.push(format!("{} {SYSTEM_NAMESPACE}/{name}", K::kind(&())));
    }
    Ok(())
}

/// Of shared proxies, of all pools.
async fn shared<K>(cluster: &Cluster, left: &mut Vec<String>) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let params = ListParams::default().labels(pods::SHARED_PROXIES);
    let found = cluster::list(&cluster.of::<K>(SYSTEM_NAMESPACE), params).await?;
    left.extend(found.iter().map(|it| format!("{} {SYSTEM_NAMESPACE}/{}", K::kind(&()), it.name_any())));
    Ok(())
}
