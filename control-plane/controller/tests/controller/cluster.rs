//! As much of an API server as a controller needs, on loopback, with a thread of its own; and replicas that use it.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use k8s_openapi::ByteString;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_stream::Pending;

use crate::harness::{PATIENCE, get};

pub(crate) const TRUST: &str = "/api/v1/namespaces/outrigger-system/configmaps/outrigger-trust";
const ROOT: &str = "/api/v1/namespaces/outrigger-system/secrets/outrigger-root";
pub(crate) const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/outrigger-system/leases/outrigger-controller";

/// An answer, or a watch that never tells anything.
type Body = Either<Full<Bytes>, StreamBody<Pending<Result<Frame<Bytes>, Infallible>>>>;

#[derive(Default)]
struct State {
    /// By path.
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Token reviews fail.
    away: bool,
}

pub(crate) struct Cluster {
    state: Arc<Mutex<State>>,
    kubeconfig: TempDir,
}

/// One controller.
pub(crate) struct Replica {
    process: Child,
    dir: TempDir,
    pub(crate) grpc: SocketAddr,
    pub(crate) webhook: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) admin: SocketAddr,
}

// === impl Cluster ===

impl Cluster {
    /// With a namespace `shop` whose pods are to be in the mesh, and the Lease; without the Secret.
    pub(crate) fn new() -> Self {
        let state = Arc::<Mutex<State>>::default();
        {
            let mut state = state.lock().unwrap();
            let metadata = json!({ "name": "shop", "uid": "1", "labels": { "outrigger.dev/mode": "sidecar" } });
            state.store("/api/v1/namespaces/shop", json!({ "metadata": metadata }));
            state.store(LEASE, json!({ "metadata": { "name": "outrigger-controller" }, "spec": {} }));
        }
        let (ready, address) = std::sync::mpsc::channel();
        thread::spawn({
            let state = Arc::clone(&state);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    ready.send(listener.local_addr().unwrap()).unwrap();
                    serve(&listener, &state).await;
                });
            }
        });
        let kubeconfig = tempfile::tempdir().unwrap();
        let server = format!("http://{}", address.recv().unwrap());
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": server } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        fs::write(kubeconfig.path().join("config"), config.to_string()).unwrap();
        Self { state, kubeconfig }
    }

    /// Puts the Secret there, as the chart does.
    pub(crate) fn install(&self) {
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "outrigger-root" } });
        self.state.lock().unwrap().store(ROOT, secret);
    }

    /// Puts another root into the Secret, as its owner does.
    pub(crate) fn replace_root(&self, certificate: &str, key: &str) {
        let encoded = |text: &str| serde_json::to_value(ByteString(text.as_bytes().to_vec())).unwrap();
        let mut secret = self.object(ROOT);
        secret["data"] = json!({ "tls.crt": encoded(certificate), "tls.key": encoded(key) });
        self.state.lock().unwrap().store(ROOT, secret);
    }

    pub(crate) fn object(&self, path: &str) -> Value {
        self.state.lock().unwrap().objects.get(path).cloned().unwrap_or_default()
    }

    /// What the Secret holds.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        let pem: ByteString = serde_json::from_value(self.object(ROOT)["data"]["tls.crt"].clone()).unwrap();
        CertificateDer::from_pem_slice(&pem.0).unwrap()
    }

    /// From now on, or no longer, nobody can have a token reviewed.
    pub(crate) fn be_away(&self, away: bool) {
        self.state.lock().unwrap().away = away;
    }

    pub(crate) fn start(&self, pod: &str) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_outrigger-controller"))
            .args(["--kubernetes", "--pod-name", pod, "--log", "debug"])
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(["--webhook-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .env("KUBECONFIG", self.kubeconfig.path().join("config"))
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        Replica {
            grpc: address("grpc"),
            webhook: address("webhook"),
            health: address("health"),
            admin: address("admin"),
            process,
            dir,
        }
    }
}

// === impl Replica ===

impl Replica {
    /// Waits until a page of the health listener begins like that; gives the whole of it.
    pub(crate) fn until(&self, path: &str, status: &str) -> String {
        let begun = Instant::now();
        loop {
            let (line, body) = get(self.health, path).unwrap();
            if line.contains(status) {
                return body;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} stays {line} {body}\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn terminate(&self) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).unwrap();
    }

    pub(crate) fn wait(mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if thread::panicking() {
            eprintln!("--- log of the controller ---\n{}", self.log());
        }
    }
}

async fn serve(listener: &TcpListener, state: &Arc<Mutex<State>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(state);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let state = Arc::clone(&state);
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let body = serde_json::from_slice(&body).unwrap_or_default();
                    if parts.uri.query().is_some_and(|query| query.contains("watch=")) {
                        return Ok(Response::new(Either::Right(StreamBody::new(tokio_stream::pending()))));
                    }
                    let answer = state.lock().unwrap().answer(&parts.method, parts.uri.path(), body);
                    Ok::<_, Infallible>(respond(answer))
                }
            });
            // A controller that ends hangs up.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn respond(answer: Result<Value, u16>) -> Response<Body> {
    let (code, object) = match answer {
        Ok(object) => (200, object),
        Err(code) => {
            let reason = match code {
                404 => "NotFound",
                409 => "Conflict",
                _ => "InternalError",
            };
            (code, json!({ "kind": "Status", "status": "Failure", "code": code, "message": "no", "reason": reason }))
        }
    };
    let mut response = Response::new(Either::Left(Full::from(object.to_string())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

// === impl State ===

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn answer(&mut self, method: &Method, path: &str, body: Value) -> Result<Value, u16> {
        if path.ends_with("/tokenreviews") {
            return if self.away { Err(500) } else { Ok(json!({ "metadata": {}, "spec": {}, "status": said(&body) })) };
        }
        match *method {
            Method::GET => self.read(path),
            Method::PUT => {
                let before = self.objects.get(path).ok_or(404_u16)?;
                if before["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"] {
                    return Err(409);
                }
                Ok(self.store(path, body))
            }
            Method::PATCH => Ok(self.store(path, body)),
            _ => Ok(body),
        }
    }

    fn read(&self, path: &str) -> Result<Value, u16> {
        if let Some(object) = self.objects.get(path) {
            return Ok(object.clone());
        }
        let (_, last) = path.rsplit_once('/').unwrap();
        // Names have a hyphen, kinds have none; and there are no APIs of the gateway here.
        if last.contains('-') || path.contains("gateway.networking.k8s.io") {
            return Err(404);
        }
        let below = format!("{path}/");
        let items = self.objects.iter().filter(|(name, _)| name.strip_prefix(&below).is_some_and(|n| !n.contains('/')));
        let items: Vec<&Value> = items.map(|(_, object)| object).collect();
        let version = self.version.to_string();
        Ok(json!({ "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": version }, "items": items }))
    }
}

/// Of a token `NAMESPACE:ACCOUNT:POD`.
fn said(review: &Value) -> Value {
    let parts: Vec<&str> = review["spec"]["token"].as_str().unwrap().split(':').collect();
    let [namespace, account, pod] = parts[..] else { return json!({ "authenticated": false }) };
    let extra = json!({
        "authentication.kubernetes.io/pod-name": [pod],
        "authentication.kubernetes.io/pod-uid": ["2"],
    });
    let user = json!({ "username": format!("system:serviceaccount:{namespace}:{account}"), "extra": extra });
    json!({ "authenticated": true, "audiences": review["spec"]["audiences"], "user": user })
}
