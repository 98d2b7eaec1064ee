//! The whole client against a controller in this process, over TLS on loopback.

use std::path::Path;

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use outrigger_core::{Lookup, Svid};
use outrigger_wire::proto::{
    ca::{
        IssueRequest, IssueResponse,
        certificate_authority_server::{CertificateAuthority, CertificateAuthorityServer},
    },
    discovery::{
        DiscoveryRequest, DiscoveryResponse, Resource,
        aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair, SanType,
};
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Request, Response, Status};

use super::*;
use crate::{
    Role,
    state::{
        Kind,
        tests::{endpoint, inbound, service, trust},
    },
};

const TOKEN: &str = "shop/front:secret";

/// A bootstrap whose files are in `dir`.
pub(crate) fn bootstrap(dir: &Path, controller: &str) -> Bootstrap {
    Bootstrap {
        role: Role::Sidecar,
        controller: controller.into(),
        controller_name: Bootstrap::CONTROLLER_NAME.into(),
        root_cert: dir.join("root.pem"),
        token: dir.join("token"),
        workload: "shop/front".into(),
        state_dir: Some(dir.into()),
        zone: "z1".into(),
        taster: None,
        mark: None,
    }
}

type Issuer = CertifiedIssuer<'static, KeyPair>;
type Answers = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// One stream, seen from the controller.
struct Conversation {
    requests: Streaming<DeltaDiscoveryRequest>,
    answers: Answers,
    /// What it must not be older than.
    known: String,
}

struct Discovery(mpsc::Sender<Conversation>);

struct Authority(Arc<Issuer>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Discovery {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        authenticate(&request)?;
        let (answers, answered) = mpsc::channel(16);
        let known = request.metadata().get(NOT_OLDER_THAN).map(|known| known.to_str().unwrap().to_owned());
        let known = known.unwrap_or_default();
        let conversation = Conversation { requests: request.into_inner(), answers, known };
        self.0.send(conversation).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}

#[tonic::async_trait]
impl CertificateAuthority for Authority {
    async fn issue(&self, request: Request<IssueRequest>) -> Result<Response<IssueResponse>, Status> {
        authenticate(&request)?;
        let csr = CertificateSigningRequestDer::from(request.into_inner().csr.to_vec());
        let mut csr = CertificateSigningRequestParams::from_der(&csr).unwrap();
        csr.params.subject_alt_names =
            vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/front".try_into().unwrap())];
        let leaf = csr.signed_by(&self.0).unwrap();
        Ok(Response::new(IssueResponse { chain: vec![leaf.der().to_vec().into()], ..Default::default() }))
    }
}

fn authenticate<T>(request: &Request<T>) -> Result<(), Status> {
    let token = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
    if token == Some("Bearer shop/front:secret") { Ok(()) } else { Err(Status::unauthenticated("who?")) }
}

/// Serves until the test ends; its files are in `dir`.
async fn controller(dir: &Path) -> (String, mpsc::Receiver<Conversation>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = Arc::new(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap());
    std::fs::write(dir.join("root.pem"), root.pem()).unwrap();
    std::fs::write(dir.join("token"), format!("{TOKEN}\n")).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([Bootstrap::CONTROLLER_NAME.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, &root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));

    let (conversations, arrived) = mpsc::channel(1);
    let routes = tonic::service::Routes::new(AggregatedDiscoveryServiceServer::new(Discovery(conversations)))
        .add_service(CertificateAuthorityServer::new(Authority(root)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, routes) = (tls.clone(), routes.clone());
            tokio::spawn(async move {
                let io = TokioIo::new(tls.accept(tcp).await.unwrap());
                let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = http2.serve_connection(io, TowerToHyperService::new(routes)).await;
            });
        }
    });
    (address, arrived)
}

impl Conversation {
    /// The next request; the stream must not end.
    async fn hear(&mut self) -> DeltaDiscoveryRequest {
        self.requests.message().await.unwrap().unwrap()
    }

    /// The next request subscribes to just this.
    async fn subscribed(&mut self, kind: Kind, names: &[&str]) -> DeltaDiscoveryRequest {
        let request = self.hear().await;
        assert_eq!((request.type_url.as_str(), request.response_nonce.as_str()), (kind.url(), ""));
        assert_eq!(request.resource_names_subscribe, names);
        request
    }

    /// Sends a response and gets its ACK.
    async fn say(&mut self, nonce: &str, kind: Kind, resources: Vec<Resource>) {
        let response = DeltaDiscoveryResponse {
            type_url: kind.url().into(),
            nonce: nonce.into(),
            resources,
            system_version_info: format!("Service={nonce} Pod=9"),
            ..Default::default()
        };
        self.answers.send(Ok(response)).await.unwrap();
        let ack = self.hear().await;
        assert_eq!((ack.type_url.as_str(), ack.response_nonce.as_str()), (kind.url(), nonce));
        assert_eq!((ack.error_detail, ack.node), (None, None));
    }
}

#[tokio::test]
async fn connects_follows_and_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut conversations) = controller(dir.path()).await;
    let (store, asked) = Store::new();
    let status = ClientStatus::new();
    let bootstrap = bootstrap(dir.path(), &address);
    let restored = crate::restore(&bootstrap, &store);
    let never = std::future::pending();
    let client = tokio::spawn(crate::run(bootstrap, restored, store.clone(), asked, status.clone(), never));

    let mut first = conversations.recv().await.unwrap();
    let request = first.subscribed(Kind::Trust, &["*"]).await;
    let node = request.node.unwrap();
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("shop/front/sidecar", "shop"));
    assert_eq!(node.locality.unwrap().zone, "z1");
    assert_eq!(first.subscribed(Kind::Inbound, &["shop/front"]).await.node, None);
    first.say("1", Kind::Trust, vec![trust("cluster.local", 1)]).await;
    first.say("2", Kind::Inbound, vec![inbound("shop/front", 1, "")]).await;

    // A worker waits for an address; the route leads on.
    let worker = store.clone();
    let waiting =
        tokio::spawn(async move { worker.lookup_within("10.96.0.1".parse().unwrap(), Duration::from_secs(60)).await });
    first.subscribed(Kind::Service, &["@10.96.0.1"]).await;
    first.say("3", Kind::Service, vec![service("shop/a", 1, &["10.96.0.1"], &["shop/b"])]).await;
    first.subscribed(Kind::Endpoint, &["shop/a/*", "shop/b/*"]).await;
    first.subscribed(Kind::Service, &["shop/b"]).await;
    first.say("4", Kind::Service, vec![service("shop/b", 1, &[], &[])]).await;
    assert!(!waiting.is_finished());
    let endpoints = vec![endpoint("shop/a", "a-1", 1, "10.0.0.1"), endpoint("shop/b", "b-1", 1, "10.0.0.2")];
    first.say("5", Kind::Endpoint, endpoints).await;
    assert!(matches!(waiting.await.unwrap(), Lookup::Known(found) if &*found.service.name == "shop/a"));
    let seen = status.get();
    assert!(seen.connected && seen.refusals.is_empty());
    assert_eq!(seen.resources.map(|(_, count)| count), [1, 1, 2, 2]);

    // The controller goes; what is known stays known.
    drop(first);
    let mut second = conversations.recv().await.unwrap();
    assert_eq!(second.known, "Service=5 Pod=9");
    let request = second.subscribed(Kind::Trust, &["*"]).await;
    assert_eq!(request.initial_resource_versions["cluster.local"], "1");
    assert!(request.node.is_some());
    second.subscribed(Kind::Inbound, &["shop/front"]).await;
    let request = second.subscribed(Kind::Endpoint, &["shop/a/*", "shop/b/*"]).await;
    assert_eq!(request.initial_resource_versions.len(), 2);
    let request = second.subscribed(Kind::Service, &["@10.96.0.1", "shop/b"]).await;
    assert_eq!(request.initial_resource_versions["shop/a"], "1");
    assert!(matches!(store.lookup("10.96.0.1".parse().unwrap()), Lookup::Known(_)));

    // The certificate came on its own connection.
    let mut changes = store.changes();
    while store.svid().is_none() {
        changes.changed().await.unwrap();
    }
    assert_eq!(store.svid().unwrap().id.as_str(), "spiffe://cluster.local/ns/shop/sa/front");
    client.abort();
}

#[tokio::test]
async fn the_control_plane_hears_which_root_the_own_certificate_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut conversations) = controller(dir.path()).await;
    let (store, asked) = Store::new();
    let bootstrap = bootstrap(dir.path(), &address);
    let restored = crate::restore(&bootstrap, &store);
    let never = std::future::pending();
    let client = tokio::spawn(crate::run(bootstrap, restored, store.clone(), asked, ClientStatus::new(), never));
    let said = |request: &DeltaDiscoveryRequest| {
        let metadata = request.node.clone().unwrap().metadata.unwrap();
        metadata.fields.get(ANCHOR_METADATA).and_then(|value| value.kind.clone())
    };

    let mut first = conversations.recv().await.unwrap();
    let request = first.subscribed(Kind::Trust, &["*"]).await;
    assert_eq!(said(&request), None);
    first.subscribed(Kind::Inbound, &["shop/front"]).await;
    let mut changes = store.changes();
    while store.svid().is_none() {
        changes.changed().await.unwrap();
    }
    let old = store.svid().unwrap();
    store.publish_svid(Svid {
        id: old.id.clone(),
        chain: old.chain.clone(),
        anchor: "b2".to_owned(),
        key: old.key.clone(),
        not_before: old.not_before,
        not_after: old.not_after,
    });
    let request = first.subscribed(Kind::Trust, &[]).await;
    let expected = Some(value::Kind::StringValue("b2".to_owned()));
    assert_eq!(said(&request), expected);

    drop(first);
    let mut second = conversations.recv().await.unwrap();
    assert_eq!(said(&second.subscribed(Kind::Trust, &["*"]).await), expected);
    client.abort();
}

#[tokio::test]
async fn serves_from_disk_without_a_controller() {
    let dir = tempfile::tempdir().unwrap();
    let bootstrap = bootstrap(dir.path(), "127.0.0.1:1");
    let (store, _asked) = Store::new();
    let restored = crate::restore(&bootstrap, &store);
    assert!(!restored.config && !restored.svid);

    let mut state = State::new(Role::Sidecar, "shop/front");
    let response = |kind: Kind, resources, removed: &[&str]| DeltaDiscoveryResponse {
        type_url: kind.url().into(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    };
    let (address, snapshot, now) = ("10.96.0.1".parse().unwrap(), Snapshot::default(), Instant::now());
    state.ask(&[address], &snapshot, now);
    state.apply(response(Kind::Service, vec![service("shop/a", 1, &["10.96.0.1"], &[])], &[]), &snapshot, now);
    state.apply(response(Kind::Endpoint, vec![], &["shop/a/*"]), &snapshot, now);
    let path = bootstrap.state_file("config").unwrap();
    saved::write(&path, &state.save()).unwrap();
    let restored = crate::restore(&bootstrap, &store);
    assert!(restored.config && !restored.svid);
    assert!(matches!(store.lookup(address), Lookup::Known(_)));

    std::fs::write(&path, b"rubbish").unwrap();
    let (store, _asked) = Store::new();
    assert!(!crate::restore(&bootstrap, &store).config);
    let other = Bootstrap { workload: "shop/other".into(), ..bootstrap };
    saved::write(&path, &state.save()).unwrap();
    assert!(!crate::restore(&other, &store).config);
}
