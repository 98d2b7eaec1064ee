//! Where it happens: a namespace with a caller and callees, made for it and marked for it. All of them are on one node, so
//! that one clock tells what came first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Pod, Service},
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use outrigger_crds::{MeshConfig, MeshConfigSpec, SharedProxy};
use outrigger_testbed::{Kill, LoadSpec, fault::Fault};
use outrigger_wire::names::{CONTROLLER_NAME, MODE_LABEL, SHARED_NAME, SYSTEM_NAMESPACE};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::exec::{self, Load};
use crate::{
    cluster::{self, Cluster, found, told},
    pods, status,
    terminal::Progress,
};

pub(super) const NAMESPACE: &str = "outrigger-chaos";
/// On a namespace: what is in it may be broken.
pub(super) const MARK: (&str, &str) = ("outrigger.dev/chaos", "allowed");

const CALLER: &str = "caller";
const CALLEE: &str = "callee";
const CALLEES: usize = 3;

/// Until the pods are there, and until all is well after a fault: the kubelet waits for up to 20 s before it starts a
/// container for the third time.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(500);

/// Whose pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Caller,
    /// One of them.
    Callee,
}

pub(super) struct Ground {
    cluster: Cluster,
    pods: Api<Pod>,
    caller: String,
    callee: String,
    /// `http://ADDRESS:PORT/`
    target: String,
    /// Whether the mesh's own namespace is marked, too.
    pub(super) mesh_is_marked: bool,
}

// === impl Ground ===

impl Ground {
    pub(super) async fn prepare(cluster: &Cluster) -> Result<Self> {
        let _progress = Progress::start("making caller and callees");
        let image = image(cluster).await?;
        let namespaces = Api::<Namespace>::all(cluster.client.clone());
        if let Some(there) = found(namespaces.get(NAMESPACE).await)?
            && !is_marked(&there)
        {
            let (key, value) = MARK;
            bail!(
                "namespace {NAMESPACE} is there, and not marked for chaos: delete it, or if everything in it may break: \
                 kubectl label namespace {NAMESPACE} {key}={value}"
            );
        }
        apply(&namespaces, NAMESPACE, namespace()).await?;
        apply(&cluster.of::<Service>(NAMESPACE), CALLEE, service()).await?;
        for (name, replicas) in [(CALLER, 1), (CALLEE, CALLEES)] {
            apply(&cluster.of::<Deployment>(NAMESPACE), name, deployment(name, replicas, &image)).await?;
        }
        let pods = cluster.of::<Pod>(NAMESPACE);
        let (caller, callee) = (ready(&pods, CALLER, 1).await?, ready(&pods, CALLEE, CALLEES).await?);
        let service = cluster.of::<Service>(NAMESPACE).get(CALLEE).await.map_err(|error| anyhow!(told(&error)))?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("the Service has no address")?;
        let host = if address.contains(':') { format!("[{address}]") } else { address };
        let mesh = found(namespaces.get(SYSTEM_NAMESPACE).await)?;
        Ok(Self {
            cluster: cluster.clone(),
            pods,
            caller,
            callee,
            target: format!("http://{host}:80/"),
            mesh_is_marked: mesh.is_some_and(|mesh| is_marked(&mesh)),
        })
    }

    pub(super) async fn remove(&self) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.cluster.client.clone());
        found(namespaces.delete(NAMESPACE, &DeleteParams::default()).await)?;
        Ok(())
    }

    /// The caller's calls of the callees' Service.
    pub(super) async fn load(&self, rate: u32) -> Result<Load> {
        let spec = LoadSpec::new(self.target.parse().map_err(anyhow::Error::msg)?, rate);
        Load::start(&self.pods, &self.caller, &spec).await
    }

    /// Has a fault befall a pod, and returns once it is over.
    pub(super) async fn befall(&self, whose: Whose, fault: Fault) -> Result<Kill> {
        let pod = match whose {
            Whose::Caller => &self.caller,
            Whose::Callee => &self.callee,
        };
        let said = exec::run(&self.pods, pod, &fault.arguments()).await?;
        serde_json::from_str(&said).with_context(|| format!("pod {pod} said {said:?}"))
    }

    /// The shared proxies that may carry the caller: its namespace's own, if it has some.
    pub(super) async fn shared_proxies(&self) -> Result<Vec<Pod>> {
        let config = found(Api::<MeshConfig>::all(self.cluster.client.clone()).get("default").await)?;
        let SharedProxy { namespace, service } = shared_proxy(config.as_ref().map(|config| &config.spec), NAMESPACE);
        let there = found(self.cluster.of::<Service>(&namespace).get(&service).await)?;
        let there = there.with_context(|| format!("no Service {service} in namespace {namespace}"))?;
        let selector = there.spec.and_then(|spec| spec.selector).unwrap_or_default();
        let params = ListParams::default().labels_from(&selector.into_iter().collect());
        let all = cluster::list(&self.cluster.of::<Pod>(&namespace), params).await?;
        // Whatever else it may select: only what is the mesh's own is broken here.
        Ok(all.into_iter().filter(pods::is_shared_proxy).collect())
    }

    pub(super) async fn controllers(&self) -> Result<Vec<Pod>> {
        let all = self.cluster.pods_of(SYSTEM_NAMESPACE, CONTROLLER_NAME).await?;
        all.with_context(|| format!("no Deployment {CONTROLLER_NAME} in namespace {SYSTEM_NAMESPACE}"))
    }

    /// Ends pods of the mesh's own with as little grace as there is, all but so many.
    pub(super) async fn end(&self, all: &[Pod], but: usize) -> Result<()> {
        let api = self.cluster.of::<Pod>(SYSTEM_NAMESPACE);
        let at_once = DeleteParams::default().grace_period(1);
        for pod in all.iter().filter(|pod| pods::is_running(pod)).skip(but) {
            found(api.delete(pods::name(pod), &at_once).await)?;
        }
        Ok(())
    }

    /// Waits until every proxy is itself again: in step, and its pod carried by nobody else.
    pub(super) async fn well(&self) -> Result<()> {
        let _progress = Progress::start("until all proxies are well");
        let start = Instant::now();
        loop {
            let seen = match status::report(&self.cluster, Some(NAMESPACE)).await {
                Ok(report) if !report.has_findings() && report.proxies.len() > CALLEES => return Ok(()),
                Ok(report) => format!("{:?}", report.summary),
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > PATIENCE {
                bail!("the proxies aren't well after {PATIENCE:?}: {seen}; outrigger status -n {NAMESPACE}");
            }
            sleep(LOOK).await;
        }
    }
}

/// The Service of the shared proxies that carry a namespace's pods.
fn shared_proxy(config: Option<&MeshConfigSpec>, namespace: &str) -> SharedProxy {
    let fallback = config.and_then(|config| config.fallback.as_ref());
    let mut pools = fallback.into_iter().flat_map(|fallback| &fallback.pools);
    let own = pools.find(|pool| pool.namespaces.iter().any(|name| name == namespace)).map(|pool| &pool.shared_proxy);
    let chosen = own.or_else(|| fallback?.shared_proxy.as_ref()).cloned();
    chosen.unwrap_or_else(|| SharedProxy { namespace: SYSTEM_NAMESPACE.to_owned(), service: SHARED_NAME.to_owned() })
}

fn is_marked(namespace: &Namespace) -> bool {
    let (key, value) = MARK;
    namespace.metadata.labels.as_ref().is_some_and(|labels| labels.get(key).is_some_and(|found| found == value))
}

/// The mesh's own image, which has the apps as well.
async fn image(cluster: &Cluster) -> Result<String> {
    let pods = cluster.pods_of(SYSTEM_NAMESPACE, CONTROLLER_NAME).await?;
    let pod = pods.into_iter().flatten().next().ok_or_else(crate::controller::none)?;
    let image = pods::containers(&pod).find_map(|container| container.image.clone());
    image.with_context(|| format!("pod {} has no image", pods::name(&pod)))
}

async fn apply<K>(api: &Api<K>, name: &str, object: Value) -> Result<()>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let params = PatchParams::apply("outrigger-chaos").force();
    let applied = api.patch(name, &params, &Patch::Apply(object)).await;
    applied.map(drop).map_err(|error| anyhow!("{name} in namespace {NAMESPACE}: {}", told(&error)))
}

/// Waits for pods of an app and gives the name of the first.
async fn ready(pods: &Api<Pod>, app: &str, count: usize) -> Result<String> {
    let start = Instant::now();
    loop {
        let all = cluster::list(pods, ListParams::default().labels(&format!("app={app}"))).await?;
        let ready: Vec<_> = all.iter().filter(|pod| pods::is_ready(pod) && pods::is_running(pod)).collect();
        if ready.len() == count {
            return Ok(pods::name(ready[0]).to_owned());
        }
        if start.elapsed() > PATIENCE {
            bail!(
                "{} of {count} pods of {app} are ready after {PATIENCE:?}: kubectl get pods -n {NAMESPACE}",
                ready.len()
            );
        }
        sleep(LOOK).await;
    }
}

/// Privileged in the words of Pod Security, for what the redirection needs and the faults do.
fn namespace() -> Value {
    let (key, value) = MARK;
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": NAMESPACE, "labels": {
            MODE_LABEL: "sidecar", key: value, "pod-security.kubernetes.io/enforce": "privileged",
        } },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": CALLEE, "namespace": NAMESPACE },
        "spec": { "selector": { "app": CALLEE }, "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
    })
}

/// The pod shares its process namespace and its app may signal and cut, so that faults need nothing but an exec.
fn deployment(name: &str, replicas: usize, image: &str) -> Value {
    let of_ours = json!({ "matchLabels": { "part-of": NAMESPACE } });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name, "part-of": NAMESPACE } },
                "spec": {
                    "shareProcessNamespace": true,
                    "terminationGracePeriodSeconds": 5,
                    "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [
                        { "topologyKey": "kubernetes.io/hostname", "labelSelector": of_ours },
                    ] } },
                    "containers": [{
                        "name": "app",
                        "image": image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["/usr/local/bin/outrigger", "app", "http", "--name", name],
                        "ports": [{ "containerPort": 8080 }],
                        "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 }, "periodSeconds": 1 },
                        "resources": { "requests": { "cpu": "10m", "memory": "32Mi" } },
                        "securityContext": {
                            "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false,
                            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                            "capabilities": { "drop": ["ALL"], "add": ["KILL", "NET_ADMIN"] },
                            "seccompProfile": { "type": "RuntimeDefault" },
                        },
                    }],
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mark_itself_is_one() {
        let labelled = |labels: Value| {
            serde_json::from_value(json!({ "metadata": { "name": "x", "labels": labels } })).expect("a namespace")
        };
        assert!(is_marked(&labelled(json!({ "outrigger.dev/chaos": "allowed" }))));
        assert!(!is_marked(&labelled(json!({ "outrigger.dev/chaos": "denied" }))));
        assert!(!is_marked(&labelled(json!({}))));
        assert!(is_marked(&serde_json::from_value(namespace()).expect("a namespace")));
    }

    #[test]
    fn shared_proxies_are_those_of_the_namespaces_pool() {
        let chosen = |spec: Option<Value>| {
            let spec: Option<MeshConfigSpec> = spec.map(|spec| serde_json::from_value(spec).expect("a MeshConfig"));
            shared_proxy(spec.as_ref(), NAMESPACE).service
        };
        let proxy = |service: &str| json!({ "namespace": SYSTEM_NAMESPACE, "service": service });
        let pool = |name: &str| json!([{ "namespaces": ["shop", name], "sharedProxy": proxy("pool") }]);
        assert_eq!(chosen(None), SHARED_NAME);
        assert_eq!(chosen(Some(json!({ "fallback": { "pools": pool("other") } }))), SHARED_NAME);
        let fallback = |name| json!({ "fallback": { "sharedProxy": proxy("all"), "pools": pool(name) } });
        assert_eq!(chosen(Some(fallback("other"))), "all");
        assert_eq!(chosen(Some(fallback(NAMESPACE))), "pool");
    }

    #[test]
    fn what_is_made_is_of_the_kinds_that_it_is_said_to_be() {
        let deployment: Deployment =
            serde_json::from_value(deployment(CALLEE, 3, "outrigger:1")).expect("a Deployment");
        assert_eq!(deployment.spec.and_then(|spec| spec.replicas), Some(3));
        let service: Service = serde_json::from_value(service()).expect("a Service");
        assert_eq!(service.metadata.name.as_deref(), Some(CALLEE));
    }
}
