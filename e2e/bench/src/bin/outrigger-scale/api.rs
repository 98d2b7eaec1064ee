//! As much of an API server as the real controller needs, over HTTP on loopback, with a thread of its own: lists by pages,
//! watches, token reviews, the Lease, and whatever the controller writes. Objects of the [`World`] are made when they are
//! asked for.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};

use crate::{
    run::ApiServer,
    world::{Size, World},
};

const ROOT: &str = "/api/v1/namespaces/outrigger-system/secrets/outrigger-root";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/outrigger-system/leases/outrigger-controller";
pub(crate) const IN_MEMORY: &str = "in memory";
/// Where users' policies are.
pub(crate) const POLICIES: &str = "/apis/outrigger.dev/v1alpha1/namespaces/outrigger-system";

/// Kinds that can be listed and watched, as the last part of their path.
const KINDS: [&str; 13] = [
    "namespaces",
    "nodes",
    "services",
    "endpointslices",
    "pods",
    "meshconfigs",
    "meshroutes",
    "trafficpolicies",
    "accesspolicies",
    "workloads",
    "httproutes",
    "grpcroutes",
    "referencegrants",
];

type Watch = UnboundedReceiverStream<Bytes>;
type Events = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;
type Body = Either<Full<Bytes>, StreamBody<Events>>;

/// The server. It serves as long as the process lives.
pub(crate) struct Api {
    state: Arc<Mutex<State>>,
    files: TempDir,
}

struct State {
    world: World,
    version: u64,
    /// Everything that isn't the world's, by path.
    objects: BTreeMap<String, Value>,
    watches: HashMap<&'static str, Vec<mpsc::UnboundedSender<Bytes>>>,
    /// All events by kind: a watch begins at a version.
    told: HashMap<&'static str, Vec<(u64, Bytes)>>,
}

// === impl Api ===

impl Api {
    pub(crate) fn start(world: World) -> Result<Self> {
        let state =
            State { world, version: 1, objects: BTreeMap::new(), watches: HashMap::new(), told: HashMap::new() };
        let state = Arc::new(Mutex::new(state));
        {
            let mut state = lock(&state);
            state.store(ROOT, json!({ "kind": "Secret", "metadata": { "name": "outrigger-root" } }));
            state.store(LEASE, json!({ "kind": "Lease", "metadata": { "name": "outrigger-controller" }, "spec": {} }));
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("the API server's address")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let served = Arc::clone(&state);
        thread::Builder::new().name("api-server".to_owned()).spawn(move || {
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                serve(&listener, &served).await
            })
        })?;
        let files = tempfile::tempdir().context("a folder for the kubeconfig")?;
        std::fs::write(files.path().join("kubeconfig"), kubeconfig(address).to_string())?;
        Ok(Self { state, files })
    }
}

impl ApiServer for Api {
    fn name(&self) -> &'static str {
        IN_MEMORY
    }

    fn kubeconfig(&self) -> PathBuf {
        self.files.path().join("kubeconfig")
    }

    fn size(&self) -> Size {
        lock(&self.state).world.size
    }

    fn root(&self) -> Result<Vec<u8>> {
        let data = lock(&self.state).objects[ROOT]["data"]["tls.crt"].clone();
        let pem: k8s_openapi::ByteString = serde_json::from_value(data).context("the root's Secret isn't filled")?;
        Ok(pem.0)
    }

    /// What [`review`] takes.
    fn tokens(&self) -> Result<Vec<String>> {
        let size = self.size();
        let token = |proxy| {
            let (namespace, account, pod) = size.names_of(proxy);
            format!("{namespace}:{account}:{pod}")
        };
        Ok((0..size.proxies).map(token).collect())
    }

    fn rescale(&self, service: usize, replicas: usize) -> Result<Instant> {
        let written = Instant::now();
        let state = &mut *lock(&self.state);
        let before = state.world.replicas(service);
        state.world.rescale(service, replicas);
        for pod in before..replicas {
            state.version += 1;
            let pod = state.world.pod(service, pod, state.version);
            state.tell("pods", "ADDED", &pod);
        }
        state.version += 1;
        let slice = state.world.slice(service, state.version);
        state.tell("endpointslices", "MODIFIED", &slice);
        for pod in replicas..before {
            state.version += 1;
            let pod = state.world.pod(service, pod, state.version);
            state.tell("pods", "DELETED", &pod);
        }
        Ok(written)
    }

    fn apply(&self, kind: &'static str, name: &str, mut object: Value) -> Result<()> {
        let state = &mut *lock(&self.state);
        object["metadata"] = json!({ "namespace": "outrigger-system", "name": name, "uid": name, "generation": 1 });
        let object = state.store(&format!("{POLICIES}/{kind}/{name}"), object);
        state.tell(kind, "ADDED", &object);
        Ok(())
    }

    fn delete(&self, kind: &'static str, name: &str) -> Result<()> {
        let state = &mut *lock(&self.state);
        if let Some(mut object) = state.objects.remove(&format!("{POLICIES}/{kind}/{name}")) {
            state.version += 1;
            object["metadata"]["resourceVersion"] = state.version.to_string().into();
            state.tell(kind, "DELETED", &object);
        }
        Ok(())
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kubeconfig(address: SocketAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "scale",
        "clusters": [{ "name": "scale", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "scale", "user": {} }],
        "contexts": [{ "name": "scale", "context": { "cluster": "scale", "user": "scale" } }],
    })
}

async fn serve(listener: &TcpListener, state: &Arc<Mutex<State>>) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let state = Arc::clone(state);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&state, request));
            // A controller that is killed hangs up.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(state: &Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    let kind = KINDS.into_iter().find(|kind| path.rsplit_once('/').is_some_and(|(_, last)| last == *kind));
    if let Some(kind) = kind.filter(|_| parameter(query, "watch").is_some()) {
        let since = parameter(query, "resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let events = lock(state).watch(kind, since).map(|event| Ok(Frame::data(event)));
        return Ok(Response::new(Either::Right(StreamBody::new(Box::pin(events)))));
    }
    let answer = match kind {
        Some(kind) if parts.method == Method::GET => Ok(lock(state).list(kind, path, query)),
        _ => lock(state).answer(&parts.method, path, body).map(|object| object.to_string()),
    };
    let (code, text) = match answer {
        Ok(text) => (StatusCode::OK, text),
        Err(code) => {
            let reason = if code == StatusCode::CONFLICT { "Conflict" } else { "NotFound" };
            let status = json!({ "kind": "Status", "status": "Failure", "code": code.as_u16(), "message": "no", "reason": reason });
            (code, status.to_string())
        }
    };
    let mut response = Response::new(Either::Left(Full::from(text)));
    *response.status_mut() = code;
    Ok(response)
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

// === impl State ===

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn tell(&mut self, kind: &'static str, what: &str, object: &Value) {
        let event = Bytes::from(format!("{}\n", json!({ "type": what, "object": object })));
        self.told.entry(kind).or_default().push((self.version, event.clone()));
        self.watches.entry(kind).or_default().retain(|watch| watch.send(event.clone()).is_ok());
    }

    fn watch(&mut self, kind: &'static str, since: u64) -> Watch {
        let (sender, watch) = mpsc::unbounded_channel();
        for (_, event) in self.told.get(kind).into_iter().flatten().filter(|(version, _)| *version > since) {
            // The other end is right here.
            let _ = sender.send(event.clone());
        }
        self.watches.entry(kind).or_default().push(sender);
        UnboundedReceiverStream::new(watch)
    }

    /// One page. The objects of the world are counted by their services: `continue` is the first of the next page.
    fn list(&self, kind: &str, path: &str, query: &str) -> String {
        let limit: usize = parameter(query, "limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
        let first: usize = parameter(query, "continue").and_then(|next| next.parse().ok()).unwrap_or(0);
        let services = self.world.size.services;
        let page = |each: usize| first..first.saturating_add((limit / each).max(1)).min(services);
        let of_stored = || {
            let path = path.strip_suffix(kind).unwrap_or(path).to_owned();
            let stored = self
                .objects
                .iter()
                .filter(move |(key, _)| key.starts_with(&path) && key.rsplit('/').nth(1).is_some_and(|of| of == kind));
            stored.map(|(_, object)| object.clone()).collect()
        };
        let (items, end): (Vec<Value>, usize) = match kind {
            "namespaces" => (self.world.namespaces().collect(), services),
            "services" => (page(1).map(|service| self.world.service(service)).collect(), page(1).end),
            "endpointslices" => (page(1).map(|s| self.world.slice(s, 1)).collect(), page(1).end),
            "pods" => {
                let page = page(self.world.size.endpoints_per_service);
                let pods = page.clone().flat_map(|s| (0..self.world.replicas(s)).map(move |pod| (s, pod)));
                (pods.map(|(service, pod)| self.world.pod(service, pod, 1)).collect(), page.end)
            }
            _ => (of_stored(), services),
        };
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if end < services {
            metadata["continue"] = end.to_string().into();
        }
        json!({ "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items }).to_string()
    }

    fn answer(&mut self, method: &Method, path: &str, body: Value) -> Result<Value, StatusCode> {
        if path.ends_with("/tokenreviews") {
            return Ok(json!({ "metadata": {}, "spec": {}, "status": review(&body) }));
        }
        match *method {
            Method::GET if path.ends_with("/configmaps") => {
                Ok(json!({ "kind": "List", "metadata": { "resourceVersion": "1" }, "items": [] }))
            }
            Method::GET => self.objects.get(path).cloned().ok_or(StatusCode::NOT_FOUND),
            Method::PUT => {
                let before = self.objects.get(path).ok_or(StatusCode::NOT_FOUND)?;
                if before["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Err(StatusCode::CONFLICT);
                }
                Ok(self.store(path, body))
            }
            Method::PATCH => match path.strip_suffix("/status") {
                Some(path) => self.status(path, &body),
                None => Ok(self.store(path, body)),
            },
            _ => Ok(body),
        }
    }

    /// A status is part of its object, and whoever watches is told.
    fn status(&mut self, path: &str, body: &Value) -> Result<Value, StatusCode> {
        let mut object = self.objects.get(path).cloned().ok_or(StatusCode::NOT_FOUND)?;
        object["status"] = body["status"].clone();
        let object = self.store(path, object);
        if let Some(kind) = path.rsplit('/').nth(1).and_then(|of| KINDS.into_iter().find(|kind| *kind == of)) {
            self.tell(kind, "MODIFIED", &object);
        }
        Ok(object)
    }
}

/// Of a token `NAMESPACE:ACCOUNT:POD`.
fn review(review: &Value) -> Value {
    let parts: Vec<&str> = review["spec"]["token"].as_str().unwrap_or_default().split(':').collect();
    let [namespace, account, pod] = parts[..] else { return json!({ "authenticated": false }) };
    let extra = json!({
        "authentication.kubernetes.io/pod-name": [pod],
        "authentication.kubernetes.io/pod-uid": [pod],
    });
    let user = json!({ "username": format!("system:serviceaccount:{namespace}:{account}"), "extra": extra });
    json!({ "authenticated": true, "audiences": review["spec"]["audiences"], "user": user })
}
