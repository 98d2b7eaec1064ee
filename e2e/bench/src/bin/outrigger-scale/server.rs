//! A real API server, filled with the simulated cluster. Nobody else may work in it: without a controller manager nothing
//! collects pods of nodes that there aren't, and nobody writes slices but we.

use std::{
    cell::RefCell,
    collections::HashMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::{Method, Request, header::CONTENT_TYPE};
use k8s_openapi::ByteString;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use outrigger_wire::names::TOKEN_AUDIENCE;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::{
    api::POLICIES,
    run::ApiServer,
    world::{Network, Size, World, namespace_of},
};

const CORE: &str = "/api/v1/namespaces";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces";
const SYSTEM: &str = "outrigger-system";
/// Requests under way while it is filled.
const AT_ONCE: usize = 64;
/// Of the range of Services' addresses: ours begin there.
const FIRST_ADDRESS: u32 = 0x4000;

pub(crate) struct Server {
    runtime: Runtime,
    client: Client,
    kubeconfig: PathBuf,
    world: RefCell<World>,
    /// What it gave the pods, by name: slices refer to them.
    uids: RefCell<HashMap<String, Value>>,
}

impl Server {
    /// Fills it. It must be new.
    pub(crate) fn fill(kubeconfig: &Path, size: Size) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, network) = runtime.block_on(open(kubeconfig))?;
        let world = World::new(Size { network, ..size });
        let server = Self {
            runtime,
            client,
            kubeconfig: kubeconfig.to_owned(),
            world: RefCell::new(world),
            uids: RefCell::default(),
        };
        server.runtime.block_on(server.write_all()).context("the API server can't be filled")?;
        Ok(server)
    }

    async fn write_all(&self) -> Result<()> {
        let world = &World::new(self.world.borrow().size);
        let size = world.size;
        let pods = || (0..size.services).flat_map(|s| (0..size.endpoints_per_service).map(move |pod| (s, pod)));
        self.write("namespaces", world.namespaces().count(), world.namespaces(), async |it| {
            self.create(CORE, it).await
        })
        .await?;
        self.create(&format!("{CORE}/{SYSTEM}/secrets"), json!({ "metadata": { "name": "outrigger-root" } })).await?;
        let lease = json!({ "metadata": { "name": "outrigger-controller" }, "spec": {} });
        self.create(&format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"), lease).await?;
        self.write("service accounts", size.services, (0..size.services).map(World::service_account), async |it| {
            self.create(&format!("{CORE}/{}/serviceaccounts", text(&it, "namespace")), it).await
        })
        .await?;
        self.write("services", size.services, (0..size.services).map(|s| world.service(s)), async |it| {
            self.create(&format!("{CORE}/{}/services", text(&it, "namespace")), it).await
        })
        .await?;
        let all = pods().map(|(service, pod)| world.pod(service, pod, 1));
        self.write("pods", size.endpoints(), all, async |it| self.create_pod(it).await).await?;
        self.write("slices", size.services, (0..size.services).map(|s| self.slice(world, s)), async |it| {
            self.create(&format!("{SLICES}/{}/endpointslices", text(&it, "namespace")), it).await
        })
        .await
    }

    async fn write(
        &self,
        what: &str,
        count: usize,
        objects: impl Iterator<Item = Value>,
        write: impl AsyncFn(Value) -> Result<()>,
    ) -> Result<()> {
        let (done, told) = (AtomicUsize::new(0), RefCell::new(Instant::now()));
        let (done, told, write) = (&done, &told, &write);
        let all = stream::iter(objects).map(|object| async move {
            let name = text(&object, "name");
            write(object).await.with_context(|| format!("{what}: {name}"))?;
            let written = done.fetch_add(1, Relaxed) + 1;
            if told.borrow().elapsed() > Duration::from_secs(5) {
                *told.borrow_mut() = Instant::now();
                eprintln!("  {written} of {count} {what} written");
            }
            Ok::<_, anyhow::Error>(())
        });
        all.buffer_unordered(AT_ONCE).try_collect().await
    }

    async fn create(&self, path: &str, object: Value) -> Result<()> {
        self.ask(Method::POST, path, &object).await.map(drop)
    }

    /// Its status is a part of its own.
    async fn create_pod(&self, pod: Value) -> Result<()> {
        let path = format!("{CORE}/{}/pods", text(&pod, "namespace"));
        let created = self.ask(Method::POST, &path, &pod).await?;
        self.uids.borrow_mut().insert(text(&pod, "name"), created["metadata"]["uid"].clone());
        let status = format!("{path}/{}/status", text(&pod, "name"));
        self.ask(Method::PATCH, &status, &json!({ "status": pod["status"] })).await.map(drop)
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value> {
        let body = match method {
            Method::GET => Vec::new(),
            _ => serde_json::to_vec(&without_what_it_sets(body))?,
        };
        let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header(CONTENT_TYPE, kind).body(body)?;
        self.client.request(request).await.with_context(|| path.to_owned())
    }

    async fn rescale(&self, service: usize, replicas: usize) -> Result<Instant> {
        let (before, gone) = {
            let mut world = self.world.borrow_mut();
            let before = world.replicas(service);
            world.rescale(service, replicas);
            let gone: Vec<Value> = (replicas..before).map(|pod| world.pod(service, pod, 1)).collect();
            (before, gone)
        };
        for pod in before..replicas {
            let pod = self.world.borrow().pod(service, pod, 1);
            self.create_pod(pod).await?;
        }
        let slice = self.slice(&self.world.borrow(), service);
        let path = format!("{SLICES}/{}/endpointslices/{}", text(&slice, "namespace"), text(&slice, "name"));
        let written = Instant::now();
        self.ask(Method::PATCH, &path, &json!({ "endpoints": slice["endpoints"] })).await?;
        for pod in gone {
            let path = format!("{CORE}/{}/pods/{}", text(&pod, "namespace"), text(&pod, "name"));
            self.ask(Method::DELETE, &path, &json!({ "gracePeriodSeconds": 0 })).await?;
        }
        Ok(written)
    }

    fn slice(&self, world: &World, service: usize) -> Value {
        let (mut slice, uids) = (world.slice(service, 1), self.uids.borrow());
        for endpoint in slice["endpoints"].as_array_mut().into_iter().flatten() {
            let pod = &mut endpoint["targetRef"];
            pod["uid"] = uids[pod["name"].as_str().unwrap_or_default()].clone();
        }
        slice
    }

    async fn token(&self, proxy: usize) -> Result<String> {
        let size = self.world.borrow().size;
        let (namespace, account, pod) = size.names_of(proxy);
        let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": pod });
        let request =
            json!({ "spec": { "audiences": [TOKEN_AUDIENCE], "expirationSeconds": 7200, "boundObjectRef": bound } });
        let path = format!("{CORE}/{namespace}/serviceaccounts/{account}/token");
        let answer = self.ask(Method::POST, &path, &request).await?;
        Ok(answer["status"]["token"].as_str().context("no token in the answer")?.to_owned())
    }
}

impl ApiServer for Server {
    fn name(&self) -> &'static str {
        "kube-apiserver"
    }

    fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    fn size(&self) -> Size {
        self.world.borrow().size
    }

    fn root(&self) -> Result<Vec<u8>> {
        let path = format!("{CORE}/{SYSTEM}/secrets/outrigger-root");
        let secret = self.runtime.block_on(self.ask(Method::GET, &path, &Value::Null))?;
        let pem: ByteString =
            serde_json::from_value(secret["data"]["tls.crt"].clone()).context("the root's Secret isn't filled")?;
        Ok(pem.0)
    }

    fn tokens(&self) -> Result<Vec<String>> {
        let tokens = stream::iter(0..self.size().proxies).map(|proxy| self.token(proxy));
        self.runtime.block_on(tokens.buffered(AT_ONCE).try_collect()).context("tokens of the proxies")
    }

    fn rescale(&self, service: usize, replicas: usize) -> Result<Instant> {
        self.runtime.block_on(Self::rescale(self, service, replicas))
    }

    fn apply(&self, kind: &'static str, name: &str, mut object: Value) -> Result<()> {
        let singular = if kind == "accesspolicies" { "AccessPolicy" } else { "TrafficPolicy" };
        object["apiVersion"] = json!("outrigger.dev/v1alpha1");
        object["kind"] = json!(singular);
        object["metadata"] = json!({ "name": name, "namespace": SYSTEM });
        self.runtime.block_on(self.create(&format!("{POLICIES}/{kind}"), object))
    }

    fn delete(&self, kind: &'static str, name: &str) -> Result<()> {
        let path = format!("{POLICIES}/{kind}/{name}");
        self.runtime.block_on(self.ask(Method::DELETE, &path, &json!({}))).map(drop)
    }
}

/// A client, and where Services' addresses begin there.
async fn open(kubeconfig: &Path) -> Result<(Client, Network)> {
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &options).await?;
    let client = Client::try_from(config)?;
    let get = |path: &str| Request::get(path).body(Vec::new()).map(|request| client.request::<Value>(request));
    if get(&format!("{CORE}/{}", namespace_of(0)))?.await.is_ok() {
        bail!("{} has been filled before: it takes a new cluster", namespace_of(0));
    }
    let own = get(&format!("{CORE}/default/services/kubernetes"))?.await.context("the API server's own Service")?;
    let own: std::net::Ipv4Addr = own["spec"]["clusterIP"].as_str().context("its address")?.parse()?;
    let services = (u32::from(own) & 0xFFFF_0000) + FIRST_ADDRESS;
    Ok((client, Network { services }))
}

/// A new object has no version yet.
fn without_what_it_sets(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["uid", "resourceVersion", "creationTimestamp"] {
            metadata.remove(field);
        }
    }
    object
}

fn text(object: &Value, field: &str) -> String {
    object["metadata"][field].as_str().unwrap_or_default().to_owned()
}
