//! The real binary on ports of its own, and a client as a proxy would be one.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outrigger_wire::proto::{
    ca::{IssueRequest, IssueResponse, certificate_authority_client::CertificateAuthorityClient},
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

/// A bound on waiting for what should take milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.10
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}}
spec: {addresses: [10.0.0.1], serviceAccount: web}
---
apiVersion: outrigger.dev/v1alpha1
kind: Workload
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {addresses: [10.0.0.2], serviceAccount: db}
";

pub(crate) struct Controller {
    process: Child,
    pub(crate) dir: TempDir,
    grpc: SocketAddr,
    admin: SocketAddr,
}

pub(crate) struct Delta {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

pub(crate) fn token(workload: &str) -> String {
    format!("{workload}:secret-of-{}", workload.replace('/', "-"))
}

// === impl Controller ===

impl Controller {
    /// With the shop's resources and a token for each of its workloads.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["config", "tokens"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for workload in ["shop/web-1", "shop/db-1"] {
            let file = dir.path().join("tokens").join(workload.replace('/', "."));
            fs::write(file, token(workload) + "\n").unwrap();
        }
        fs::write(dir.path().join("config/shop.yaml"), SHOP).unwrap();
        Self::start_in(dir)
    }

    pub(crate) fn start_in(dir: TempDir) -> Self {
        let path = |name: &str| dir.path().join(name);
        let mut process = Command::new(env!("CARGO_BIN_EXE_outrigger-controller"))
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "debug"])
            .arg("--config-dir")
            .arg(path("config"))
            .arg("--tokens")
            .arg(path("tokens"))
            .arg("--state")
            .arg(path("state"))
            .stdout(Stdio::piped())
            .stderr(fs::File::options().create(true).append(true).open(path("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let addresses: serde_json::Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| addresses[name].as_str().unwrap().parse().unwrap();
        Self { grpc: address("grpc"), admin: address("admin"), process, dir }
    }

    /// Stops it as an orchestrator does, and waits; its folder stays.
    pub(crate) fn stop(mut self) -> (std::process::ExitStatus, TempDir) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).unwrap();
        let status = self.process.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        (status, dir)
    }

    pub(crate) fn terminate(&self) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).unwrap();
    }

    pub(crate) fn write(&self, file: &str, yaml: &str) {
        fs::write(self.dir.path().join("config").join(file), yaml).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.dir.path().join("state/root.pem")).unwrap()
    }

    /// A plain connection to the proxies' port.
    pub(crate) fn raw(&self) -> TcpStream {
        TcpStream::connect(self.grpc).unwrap()
    }

    /// Status line and body of an admin page.
    pub(crate) fn get(&self, path: &str) -> (String, String) {
        get(self.admin, path).unwrap()
    }

    pub(crate) fn json(&self, path: &str) -> serde_json::Value {
        let (status, body) = self.get(path);
        assert_eq!(status, "HTTP/1.1 200 OK");
        serde_json::from_str(&body).unwrap()
    }

    /// The page, as soon as it is as wanted.
    pub(crate) fn json_when(&self, path: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let page = self.json(path);
            if wanted(&page) {
                return page;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} stays {page:#}");
        }
    }

    /// A verified TLS connection.
    pub(crate) async fn channel(&self) -> Channel {
        channel(self.grpc, self.root()).await
    }

    pub(crate) async fn issue(&self, token: Option<&str>, csr: &[u8]) -> Result<IssueResponse, Status> {
        let mut client = CertificateAuthorityClient::new(self.channel().await);
        let request = authorised(IssueRequest { csr: Bytes::copy_from_slice(csr) }, token);
        within(client.issue(request)).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn delta(&self, workload: &str) -> Delta {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await);
        let (requests, queue) = mpsc::channel(8);
        let request = authorised(ReceiverStream::new(queue), Some(&token(workload)));
        let responses = within(client.delta_aggregated_resources(request)).await.unwrap().into_inner();
        Delta { requests, responses }
    }

    pub(crate) async fn sotw(&self, workload: &str) -> (mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>) {
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await);
        let (requests, queue) = mpsc::channel(8);
        let request = authorised(ReceiverStream::new(queue), Some(&token(workload)));
        (requests, within(client.stream_aggregated_resources(request)).await.unwrap().into_inner())
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the controller ---\n{}", self.log());
        }
    }
}

// === impl Delta ===

impl Delta {
    pub(crate) async fn subscribe(&self, type_url: &str, names: &[&str]) {
        self.reconnect(type_url, names, HashMap::new()).await;
    }

    pub(crate) async fn reconnect(&self, type_url: &str, names: &[&str], known: HashMap<String, String>) {
        self.send(DeltaDiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            initial_resource_versions: known,
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn ack(&self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    pub(crate) async fn send(&self, request: DeltaDiscoveryRequest) {
        self.requests.send(request).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Result<DeltaDiscoveryResponse, Status> {
        within(self.responses.message()).await.map(|message| message.expect("the stream goes on"))
    }
}

/// Status line and body of a page.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((head.lines().next().unwrap().to_owned(), body.to_owned()))
}

/// A verified TLS connection to a controller.
pub(crate) async fn channel(address: SocketAddr, root: CertificateDer<'static>) -> Channel {
    let connector = connector(root, b"h2");
    let connect = service_fn(move |_| {
        let connector = connector.clone();
        async move {
            let stream = tokio::net::TcpStream::connect(address).await?;
            let name = "outrigger-controller.outrigger-system.svc".try_into().unwrap();
            connector.connect(name, stream).await.map(TokioIo::new)
        }
    });
    within(Endpoint::from_static("http://controller").connect_with_connector(connect)).await.unwrap()
}

pub(crate) fn connector(root: CertificateDer<'static>, alpn: &[u8]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    TlsConnector::from(Arc::new(tls))
}

pub(crate) fn authorised<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    request
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}
