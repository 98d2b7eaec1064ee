mod files;
mod slow;

use std::path::PathBuf;

use arc_swap::ArcSwap;
use http_body_util::{BodyExt, StreamBody};
use hyper::{
    body::Body,
    client::conn::{http1, http2},
};
use outrigger_ca::{Authority, Material, Signer};
use outrigger_webhook::InjectorConfig;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::{
    certificate::{self, OwnCertificate},
    fake::{self, pod_token, refusal},
};

/// The name that API servers verify.
const SERVICE: &str = "outrigger-controller.outrigger-system.svc";

const ROOM: Room = Room { known: 1024, strangers: 1024, grace: Duration::from_secs(1) };

struct Port {
    address: SocketAddr,
    root: CertificateDer<'static>,
    webhook: Arc<Webhook>,
    namespaces: watch::Sender<Store<Namespace>>,
    derived: watch::Sender<Option<Arc<Derived>>>,
    stop: Stop,
    task: JoinHandle<Result<()>>,
}

/// Whose tokens are whose, and which namespaces' labels the API server tells.
async fn api(line: String, body: Value) -> (u16, Value) {
    let namespace = |name: &str, mode: &str| {
        let metadata = json!({ "name": name, "labels": { "outrigger.dev/mode": mode } });
        (200, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata }))
    };
    match line.as_str() {
        "GET /api/v1/namespaces/new" => namespace("new", "sidecar"),
        "GET /api/v1/namespaces/changed" => namespace("changed", "sidecar"),
        "GET /api/v1/namespaces/slow" => std::future::pending().await,
        "POST /apis/authentication.k8s.io/v1/tokenreviews" => {
            let status = match body["spec"]["token"].as_str().unwrap() {
                "controller" => pod_token(SYSTEM_NAMESPACE, CONTROLLER_NAME, "outrigger-controller-2"),
                "namesake" => pod_token("shop", CONTROLLER_NAME, "p"),
                "proxy" => pod_token("shop", "front", "front-1"),
                "away" => return refusal(500),
                _ => json!({ "authenticated": false }),
            };
            (201, json!({ "metadata": {}, "spec": {}, "status": status }))
        }
        _ => refusal(404),
    }
}

// === impl Port ===

impl Port {
    async fn open() -> Self {
        Self::open_with(None).await
    }

    /// With a certificate in files, which the port follows.
    async fn open_with(files: Option<PathBuf>) -> Self {
        let (chain, key) = Signer::generate("cluster.local").unwrap();
        let signer = Signer::read(Material { chain: &chain, key: &key, further: "" }, "cluster.local", &[]).unwrap();
        let authority = Arc::new(Authority::new(signer));
        let root = CertificateDer::from(authority.roots()[0].to_vec());
        let own = OwnCertificate::new(Arc::clone(&authority), certificate::names(Some("mesh.example"))).unwrap();
        let (namespaces, namespaces_seen) = watch::channel(Store::default());
        let (derived, derived_seen) = watch::channel(None);
        let client = fake::client(api);
        let webhook = Webhook::new(Sources {
            client: client.clone(),
            config: Arc::new(ArcSwap::from_pointee(InjectorConfig::default())),
            namespaces: namespaces_seen,
            derived: derived_seen,
            acks: Arc::default(),
            reviews: Arc::new(TokenReviews::new(client, watch::channel(Arc::default()).1, "cluster.local".to_owned())),
            admissions: Arc::default(),
            authority,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop { drain: CancellationToken::new(), end: CancellationToken::new() };
        let certificate = WebhookCertificate::new(own, files).unwrap();
        tokio::spawn(Arc::clone(&certificate).keep_fresh());
        let task = tokio::spawn(Arc::clone(&webhook).run(listener, ROOM, certificate, stop.clone()));
        Self { address, root, webhook, namespaces, derived, stop, task }
    }

    fn know(&self, name: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let namespace = Namespace { name: name.to_owned(), labels, ..Namespace::default() };
        self.namespaces.send_modify(|store| {
            store.insert(name.into(), Arc::new(namespace));
        });
    }

    async fn connect(&self, name: &'static str, alpn: &[u8]) -> TlsStream<TcpStream> {
        self.connect_by(self.root.clone(), name, alpn).await.unwrap()
    }

    /// Trusts only that root.
    async fn connect_by(
        &self,
        root: CertificateDer<'static>,
        name: &'static str,
        alpn: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name.try_into().unwrap(), stream).await
    }

    async fn send<B>(&self, request: Request<B>) -> (StatusCode, Bytes)
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let stream = TokioIo::new(self.connect(SERVICE, b"http/1.1").await);
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.unwrap();
        (answer.status(), answer.into_body().collect().await.unwrap().to_bytes())
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> (StatusCode, Bytes) {
        let request = Request::post(path).header("host", SERVICE).body(Full::from(body.into())).unwrap();
        self.send(request).await
    }

    /// The response of a review that was answered.
    async fn review(&self, path: &str, review: &Value) -> Value {
        let (status, body) = self.post(path, review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(answer["response"]["uid"], "705ab4f5");
        answer["response"].clone()
    }

    async fn ask(&self, token: Option<&str>) -> StatusCode {
        let mut request = Request::post(peers::PATH).header("host", SERVICE);
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let question = r#"{"objects":["MeshRoute/shop/split"]}"#;
        self.send(request.body(Full::from(question)).unwrap()).await.0
    }
}

fn review(namespace: &str, kind: (&str, &str), object: &Value) -> Value {
    let (group, kind) = kind;
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5",
            "kind": { "group": group, "version": "v1", "kind": kind },
            "namespace": namespace,
            "operation": "CREATE",
            "object": object,
        },
    })
}

fn pod(namespace: &str) -> Value {
    let spec = json!({ "containers": [{ "name": "app", "image": "app:1" }] });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-" }, "spec": spec });
    review(namespace, ("", "Pod"), &pod)
}

#[tokio::test]
async fn a_pod_is_injected_as_its_namespace_says() {
    let port = Port::open().await;
    port.know("shop", &[("outrigger.dev/mode", "sidecar")]);
    port.know("plain", &[]);
    // The watch is behind: the API server called because of a label that it has, and tells it.
    port.know("changed", &[]);
    for (namespace, injected) in [("shop", true), ("plain", false), ("changed", true), ("new", true)] {
        let answer = port.review("/inject", &pod(namespace)).await;
        assert_eq!((&answer["allowed"], answer["patch"].is_string()), (&json!(true), injected), "{namespace}");
    }
    let counts = port.webhook.admissions.counts();
    assert_eq!((counts[&("inject", "injected")], counts[&("inject", "untouched")]), (3, 1), "{counts:?}");
}

#[tokio::test]
async fn a_namespace_that_nobody_knows_stops_its_pods_for_now() {
    let port = Port::open().await;
    for namespace in ["nowhere", "slow"] {
        let begun = Instant::now();
        let answer = port.review("/inject", &pod(namespace)).await;
        assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(503)), "{namespace}");
        assert!(begun.elapsed() < NAMESPACE * 2, "{namespace}");
    }
}

#[tokio::test]
async fn a_bad_object_is_denied() {
    let port = Port::open().await;
    let object = json!({
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MeshRoute",
        "metadata": { "name": "canary", "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "name": "web" }],
            "rules": [{
                "matches": [{ "path": { "type": "RegularExpression", "value": "(" } }],
                "backendRefs": [{ "name": "web", "port": 80 }],
            }],
        },
    });
    let answer = port.review("/validate", &review("shop", ("outrigger.dev", "MeshRoute"), &object)).await;
    assert_eq!(answer["allowed"], false);
    assert!(answer["status"]["message"].as_str().unwrap().contains("MeshRoute/shop/canary"), "{answer}");
    assert_eq!(port.webhook.admissions.counts()[&("validate", "denied")], 1);
}

#[tokio::test]
async fn what_is_no_review_is_refused() {
    let port = Port::open().await;
    port.know("shop", &[("outrigger.dev/mode", "sidecar")]);
    for page in ["/inject", "/validate"] {
        assert_eq!(port.post(page, "{}").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(port.post(page, "").await.0, StatusCode::BAD_REQUEST);
        assert_eq!(port.post(page, vec![b'['; 8 << 20]).await.0, StatusCode::BAD_REQUEST);
        // It is told before it has sent any of it.
        let announced = Request::post(page).header("host", SERVICE).header("content-length", (8 << 20) + 1);
        let (status, _) = port.send(announced.body(StreamBody::new(tokio_stream::pending())).unwrap()).await;
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(port.post("/", "{}").await.0, StatusCode::NOT_FOUND);
    let get = Request::get("/inject").header("host", SERVICE).body(Full::default()).unwrap();
    assert_eq!(port.send(get).await.0, StatusCode::METHOD_NOT_ALLOWED);
    // And nothing of it was in the way of the next.
    assert_eq!(port.review("/inject", &pod("shop")).await["allowed"], true);
}

#[tokio::test]
async fn it_shows_the_names_of_its_service_signed_by_the_mesh() {
    let port = Port::open().await;
    for name in
        [SERVICE, "outrigger-controller.outrigger-system.svc.mesh.example", "outrigger-controller.outrigger-system"]
    {
        port.connect_by(port.root.clone(), name, b"h2").await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for name in [
        "outrigger-controller.outrigger-system.svc.cluster.local",
        "outrigger-controller.shop.svc",
        "outrigger-shared.outrigger-system.svc",
        "localhost",
    ] {
        assert!(port.connect_by(port.root.clone(), name, b"h2").await.is_err(), "{name}");
    }
    let (other, _) = Signer::generate("cluster.local").unwrap();
    let other = CertificateDer::from_pem_slice(other.as_bytes()).unwrap();
    assert!(port.connect_by(other, SERVICE, b"h2").await.is_err());
}

#[tokio::test]
async fn http2_is_spoken_too() {
    let port = Port::open().await;
    port.know("shop", &[("outrigger.dev/mode", "shared")]);
    let stream = TokioIo::new(port.connect("outrigger-controller.outrigger-system.svc.mesh.example", b"h2").await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let body = Full::<Bytes>::from(pod("shop").to_string());
    let request = Request::post(format!("https://{SERVICE}/inject")).body(body).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    // A port that is told to stop ends idle connections, and itself.
    port.stop.end.cancel();
    port.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_draining_replica_answers_but_keeps_nobody() {
    let port = Port::open().await;
    port.know("shop", &[("outrigger.dev/mode", "shared")]);
    let request = || {
        let body = Full::<Bytes>::from(pod("shop").to_string());
        Request::post(format!("https://{SERVICE}/inject")).body(body).unwrap()
    };
    let connect = async || {
        let stream = TokioIo::new(port.connect(SERVICE, b"h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        (sender, tokio::spawn(connection))
    };
    // One that was asked something, and one that is there and hasn't been.
    let (mut asked, asked_connection) = connect().await;
    assert_eq!(asked.send_request(request()).await.unwrap().status(), StatusCode::OK);
    let (mut new, new_connection) = connect().await;
    port.stop.drain.cancel();
    asked_connection.await.unwrap().unwrap();
    // Those whom nobody has told that it goes come yet.
    let (mut late, late_connection) = connect().await;
    for (sender, connection) in [(&mut new, new_connection), (&mut late, late_connection)] {
        assert_eq!(sender.send_request(request()).await.unwrap().status(), StatusCode::OK);
        connection.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_panic_is_one_calls_own() {
    let port = Port::open().await;
    let page = port.webhook.judge(|| -> () { panic!("in a test") }).await.unwrap_err();
    assert_eq!(page.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(port.webhook.judges.available_permits(), JUDGES);
}

#[tokio::test]
async fn replicas_are_told_what_proxies_hold_and_nobody_else_is() {
    let port = Port::open().await;
    for (token, status) in [
        (None, StatusCode::UNAUTHORIZED),
        (Some("guess"), StatusCode::UNAUTHORIZED),
        (Some("away"), StatusCode::SERVICE_UNAVAILABLE),
        (Some("proxy"), StatusCode::FORBIDDEN),
        (Some("namesake"), StatusCode::FORBIDDEN),
        // Nothing has been derived yet.
        (Some("controller"), StatusCode::SERVICE_UNAVAILABLE),
    ] {
        assert_eq!(port.ask(token).await, status, "{token:?}");
    }
    port.derived.send_replace(Some(Arc::default()));
    assert_eq!(port.ask(Some("controller")).await, StatusCode::OK);
    assert_eq!(port.ask(Some("proxy")).await, StatusCode::FORBIDDEN);
}
