//! Looks at a cluster. What can't be looked at says why; nothing is judged here.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use futures_util::future::{join, join_all};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        apps::v1::Deployment as AppsDeployment,
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace as CoreNamespace, Pod as CorePod},
        rbac::v1::ClusterRole,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Resource, ResourceExt, api::ListParams};
use outrigger_wire::names::{
    CONTROLLER_NAME, GROUP, INJECTED_ANNOTATION, MODE_LABEL, ROOT_FILE, ROTATION_ANNOTATION, SHARED_NAME,
    SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, containers,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    facts::{After, Before, Crd, Deployment, GatewayApi, Looked, Namespace, Pages, Pod, Replica, Webhook},
    probe,
};
use crate::{
    cluster::{self, Cluster},
    controller::{self, Controller},
    pods,
};

const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
/// What the mesh takes of the Gateway API.
const GATEWAY_KINDS: [&str; 2] = ["httproutes", "grpcroutes"];
/// Name of the objects that belong to the whole cluster.
const CONFIGURATION: &str = "outrigger";

pub(super) async fn before(cluster: &Cluster) -> Before {
    Before {
        server_version: cluster.version.clone(),
        permissions: looked(probe::permissions(cluster).await),
        gateway_api: looked(gateway_api(cluster).await),
        namespaces: looked(namespaces(cluster).await),
        other_meshes: looked(other_meshes(cluster).await),
        unowned: looked(unowned(cluster).await),
    }
}

pub(super) async fn after(cluster: &Cluster) -> After {
    let injector = looked(injector(cluster).await);
    let replicas = replicas(cluster, injector.as_ref().ok().and_then(Option::as_deref)).await;
    let (roots, rotation) = match looked(roots(cluster).await) {
        Ok(Some((roots, rotation))) => (Ok(Some(roots)), rotation),
        Ok(None) => (Ok(None), None),
        Err(error) => (Err(error), None),
    };
    After {
        server_version: cluster.version.clone(),
        controller: looked(deployment(cluster, CONTROLLER_NAME).await),
        shared: looked(deployment(cluster, SHARED_NAME).await),
        pools: looked(pools(cluster).await),
        replicas,
        leader: looked(leader(cluster).await),
        injector,
        validator: looked(validator(cluster).await),
        roots,
        rotation,
        crds: looked(crds(cluster).await),
        gateway_api: looked(gateway_api(cluster).await),
        namespaces: looked(namespaces(cluster).await),
        trust: looked(trust(cluster).await),
        pods: looked(all_pods(cluster).await),
    }
}

fn looked<T>(result: Result<T>) -> Looked<T> {
    result.map_err(|error| format!("{error:#}"))
}

async fn global<K>(cluster: &Cluster, name: &str) -> Result<Option<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    cluster::found(Api::all(cluster.client.clone()).get(name).await)
}

async fn gateway_api(cluster: &Cluster) -> Result<Option<GatewayApi>> {
    let mut found = GatewayApi::default();
    let mut any = false;
    for kind in GATEWAY_KINDS {
        let crd = global::<CustomResourceDefinition>(cluster, &format!("{kind}.gateway.networking.k8s.io")).await?;
        let served = |crd: &CustomResourceDefinition| crd.spec.versions.iter().any(|it| it.name == "v1" && it.served);
        match crd {
            Some(crd) if served(&crd) => {
                any = true;
                found.version = crd.annotations().get(BUNDLE_VERSION).cloned().or(found.version);
            }
            Some(_) => {
                any = true;
                found.missing.push(kind);
            }
            None => found.missing.push(kind),
        }
    }
    Ok(any.then_some(found))
}

async fn namespaces(cluster: &Cluster) -> Result<Vec<Namespace>> {
    let all = cluster.all::<CoreNamespace>(ListParams::default()).await?;
    let namespace = |it: &CoreNamespace| {
        let label = |key: &str| it.labels().get(key).cloned();
        let injected = |key: &str, on: &str| label(key).filter(|value| value == on).map(|_| key.to_owned());
        Namespace {
            name: it.name_any(),
            mode: label(MODE_LABEL),
            pod_security: label(POD_SECURITY),
            other_mesh: injected("istio-injection", "enabled")
                .or_else(|| label("istio.io/rev").map(|_| "istio.io/rev".to_owned()))
                .or_else(|| injected("istio.io/dataplane-mode", "ambient"))
                .or_else(|| injected("kuma.io/sidecar-injection", "enabled"))
                .or_else(|| it.annotations().get("linkerd.io/inject").filter(|v| *v == "enabled").cloned()),
        }
    };
    Ok(all.iter().map(namespace).collect())
}

/// Webhook configurations of injectors that we know by name.
async fn other_meshes(cluster: &Cluster) -> Result<Vec<String>> {
    const MESHES: [&str; 5] = ["istio", "linkerd", "kuma", "consul-connect", "osm-"];
    let all = cluster.all::<MutatingWebhookConfiguration>(ListParams::default()).await?;
    let names = all.iter().map(ResourceExt::name_any);
    Ok(names.filter(|name| MESHES.iter().any(|mesh| name.contains(mesh))).collect())
}

/// What stands in Helm's way: it takes over nothing that it hasn't made.
async fn unowned(cluster: &Cluster) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut note = |kind: &str, metadata: Option<&ObjectMeta>| {
        if let Some(metadata) = metadata.filter(|metadata| !is_helms(metadata)) {
            found.push(format!("{kind} {}", metadata.name.as_deref().unwrap_or_default()));
        }
    };
    let crds = own_crds(cluster).await?;
    for (_, crd) in &crds {
        note("CustomResourceDefinition", crd.as_ref().map(|crd| &crd.metadata));
    }
    let role = global::<ClusterRole>(cluster, CONTROLLER_NAME).await?;
    note("ClusterRole", role.as_ref().map(|it| &it.metadata));
    let injector = global::<MutatingWebhookConfiguration>(cluster, CONFIGURATION).await?;
    note("MutatingWebhookConfiguration", injector.as_ref().map(|it| &it.metadata));
    let validator = global::<ValidatingWebhookConfiguration>(cluster, CONFIGURATION).await?;
    note("ValidatingWebhookConfiguration", validator.as_ref().map(|it| &it.metadata));
    for name in [CONTROLLER_NAME, SHARED_NAME] {
        let found = cluster::found(cluster.of::<AppsDeployment>(SYSTEM_NAMESPACE).get(name).await)?;
        note("Deployment", found.as_ref().map(|it| &it.metadata));
    }
    Ok(found)
}

/// Whether a release in the system namespace owns it.
fn is_helms(metadata: &ObjectMeta) -> bool {
    let annotations = metadata.annotations.as_ref();
    let labels = metadata.labels.as_ref();
    annotations.and_then(|all| all.get("meta.helm.sh/release-namespace")).is_some_and(|it| it == SYSTEM_NAMESPACE)
        && labels.and_then(|all| all.get("app.kubernetes.io/managed-by")).is_some_and(|it| it == "Helm")
}

/// The kinds that this program knows, as the cluster has them.
async fn own_crds(cluster: &Cluster) -> Result<Vec<(String, Option<CustomResourceDefinition>)>> {
    let names = ["accesspolicies", "meshconfigs", "meshroutes", "trafficpolicies", "workloads"];
    let asked = names.map(|plural| async move {
        let name = format!("{plural}.{GROUP}");
        global::<CustomResourceDefinition>(cluster, &name).await.map(|crd| (name, crd))
    });
    join_all(asked).await.into_iter().collect()
}

async fn crds(cluster: &Cluster) -> Result<Vec<Crd>> {
    let established = |crd: CustomResourceDefinition| {
        let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True")
    };
    let all = own_crds(cluster).await?;
    Ok(all.into_iter().map(|(name, crd)| Crd { name, established: crd.map(established) }).collect())
}

async fn deployment(cluster: &Cluster, name: &str) -> Result<Option<Deployment>> {
    let found = cluster::found(cluster.of::<AppsDeployment>(SYSTEM_NAMESPACE).get(name).await)?;
    Ok(found.map(replicas_of))
}

async fn pools(cluster: &Cluster) -> Result<Vec<(String, Deployment)>> {
    let params = ListParams::default().labels(pods::SHARED_PROXIES);
    let all = cluster::list(&cluster.of::<AppsDeployment>(SYSTEM_NAMESPACE), params).await?;
    let named = all.into_iter().map(|it| (it.name_any(), replicas_of(it)));
    Ok(named.filter(|(name, _)| name != SHARED_NAME).collect())
}

fn replicas_of(deployment: AppsDeployment) -> Deployment {
    let status = deployment.status.unwrap_or_default();
    Deployment {
        wanted: deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1),
        ready: status.ready_replicas.unwrap_or_default(),
        updated: status.updated_replicas.unwrap_or_default(),
    }
}

async fn replicas(cluster: &Cluster, injector: Option<&[Webhook]>) -> Vec<Replica> {
    let bundle = injector.and_then(|all| all.iter().map(|it| it.ca_bundle.as_str()).find(|it| !it.is_empty()));
    let Ok(found) = controller::replicas(cluster).await else { return Vec::new() };
    join_all(found.into_iter().map(|replica| async move {
        let name = pods::name(&replica.pod).to_owned();
        let asked = async {
            match replica.controller {
                Ok(mut controller) => looked(pages(&mut controller).await),
                Err(error) => Err(format!("{error:#}")),
            }
        };
        let shaken = async {
            match bundle {
                Some(bundle) if pods::is_ready(&replica.pod) => {
                    Some(looked(probe::handshake(cluster, &name, bundle).await))
                }
                _ => None,
            }
        };
        let (pages, serving) = join(asked, shaken).await;
        let version = pods::label(&replica.pod, "app.kubernetes.io/version").map(str::to_owned);
        Replica { version, pages, serving, name: name.clone() }
    }))
    .await
}

async fn pages(controller: &mut Controller) -> Result<Pages> {
    Ok(Pages {
        proxies: controller.json("/debug/proxies").await?,
        problems: controller.json("/debug/problems").await?,
        // One of another version may not have it.
        unmeshed: controller.json("/debug/unmeshed").await.unwrap_or(Value::Null),
    })
}

async fn leader(cluster: &Cluster) -> Result<Option<String>> {
    let lease = cluster::found(cluster.of::<Lease>(SYSTEM_NAMESPACE).get(CONTROLLER_NAME).await)?;
    Ok(lease.and_then(|lease| lease.spec?.holder_identity).filter(|holder| !holder.is_empty()))
}

async fn injector(cluster: &Cluster) -> Result<Option<Vec<Webhook>>> {
    let found = global::<MutatingWebhookConfiguration>(cluster, CONFIGURATION).await?;
    Ok(found.map(|it| {
        let by_cert_manager = by_cert_manager(&it.metadata);
        let webhooks = it.webhooks.unwrap_or_default();
        webhooks.iter().map(|one| webhook(&one.name, &one.client_config, by_cert_manager)).collect()
    }))
}

async fn validator(cluster: &Cluster) -> Result<Option<Vec<Webhook>>> {
    let found = global::<ValidatingWebhookConfiguration>(cluster, CONFIGURATION).await?;
    Ok(found.map(|it| {
        let by_cert_manager = by_cert_manager(&it.metadata);
        let webhooks = it.webhooks.unwrap_or_default();
        webhooks.iter().map(|one| webhook(&one.name, &one.client_config, by_cert_manager)).collect()
    }))
}

fn by_cert_manager(metadata: &ObjectMeta) -> bool {
    metadata.annotations.as_ref().is_some_and(|all| all.contains_key("cert-manager.io/inject-ca-from"))
}

fn webhook(name: &str, config: &WebhookClientConfig, by_cert_manager: bool) -> Webhook {
    let bundle = config.ca_bundle.as_ref().map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned());
    Webhook { name: name.to_owned(), ca_bundle: bundle.unwrap_or_default(), by_cert_manager }
}

fn root_file(map: ConfigMap) -> Option<String> {
    map.data?.remove(ROOT_FILE)
}

/// The roots, and what a change of them waits for.
async fn roots(cluster: &Cluster) -> Result<Option<(String, Option<String>)>> {
    let map = cluster::found(cluster.of::<ConfigMap>(SYSTEM_NAMESPACE).get(TRUST_CONFIG_MAP).await)?;
    Ok(map.and_then(|map| {
        let waits = waits(&map.metadata);
        Some((root_file(map)?, waits))
    }))
}

fn waits(metadata: &ObjectMeta) -> Option<String> {
    let said = metadata.annotations.as_ref()?.get(ROTATION_ANNOTATION)?;
    Some(serde_json::from_str::<Value>(said).ok()?["waits"].as_str()?.to_owned())
}

async fn trust(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let params = ListParams::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
    let maps = cluster.all::<ConfigMap>(params).await?;
    Ok(maps.into_iter().filter_map(|map| Some((map.namespace()?, root_file(map)?))).collect())
}

async fn all_pods(cluster: &Cluster) -> Result<Vec<Pod>> {
    let all = cluster.all::<CorePod>(ListParams::default()).await.map_err(|error| anyhow!("pods: {error:#}"))?;
    let there =
        |pod: &&CorePod| matches!(pods::phase(pod), "Running" | "Pending") && pod.metadata.deletion_timestamp.is_none();
    Ok(all.iter().filter(there).map(pod).collect())
}

fn pod(pod: &CorePod) -> Pod {
    Pod {
        namespace: pods::namespace(pod).to_owned(),
        name: pods::name(pod).to_owned(),
        mode: pods::label(pod, MODE_LABEL).or_else(|| pods::annotation(pod, MODE_LABEL)).map(str::to_owned),
        meshed: pods::has(pod, containers::GUARD),
        injected: pods::annotation(pod, INJECTED_ANNOTATION).map(str::to_owned),
        unready: unready(pod),
        owner: pods::owner(pod),
    }
}

/// Which of our containers isn't well.
fn unready(pod: &CorePod) -> Option<String> {
    let ours: BTreeSet<_> = [containers::SIDECAR, containers::GUARD].into();
    let statuses = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    let bad = statuses.iter().find(|it| ours.contains(it.name.as_str()) && !(it.ready && it.started == Some(true)))?;
    let state = bad.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
    let ended = state.and_then(|state| state.terminated.as_ref()).and_then(|ended| ended.reason.clone());
    let why = waiting.or(ended).unwrap_or_else(|| "not ready".to_owned());
    Some(format!("{}: {why}, {} restarts", bad.name, bad.restart_count))
}
