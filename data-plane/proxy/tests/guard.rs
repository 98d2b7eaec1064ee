//! A guard without a sidecar: whom it carries, through whom, and whom it refuses. Real sockets and certificates; the
//! shared proxies are played by the tests.

#![allow(clippy::unwrap_used)] // A test that can't go on has failed.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use outrigger_core::{
    Snapshot, Store, Svid,
    config::{EndpointSpec, Inbound, Service, Trust},
};
use outrigger_dataplane::{
    fallback::{Fallback, FallbackError},
    guard::{Guard, GuardConfig},
    handover::Names,
    listeners::Ports,
    telemetry::{Direction, FallbackReason, Metrics},
    tls::{MeshTls, ServerAlpn, peer_identity, server_name},
};
use outrigger_wire::{
    SpiffeId,
    names::{alpn, ports},
    proto::config as wire,
    tunnel::{Caller, GuardHeader, TcpHeader, frame_len},
};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

const SHARED_SERVICE: &str = "outrigger-system/outrigger-shared";
const PATIENCE: Duration = Duration::from_secs(20);

fn identity(name: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", name).unwrap()
}

/// One certificate authority and the workloads that it knows.
struct Mesh {
    root: Bytes,
    issuer: Issuer<'static, KeyPair>,
}

impl Mesh {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = Bytes::copy_from_slice(params.self_signed(&key).unwrap().der());
        Self { root, issuer: Issuer::new(params, key) }
    }

    fn store(&self, name: &str, mut snapshot: Snapshot) -> Arc<Store> {
        let id = identity(name);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let (store, _asks) = Store::new();
        snapshot.set_trust(vec![Trust {
            trust_domain: "cluster.local".into(),
            roots: vec![self.root.clone()],
            anchor: "".into(),
        }]);
        store.publish(snapshot);
        store.publish_svid(Svid {
            id,
            chain: vec![Bytes::copy_from_slice(leaf.der())],
            anchor: String::new(),
            key: key.serialize_der(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::now() + Duration::from_secs(3600),
        });
        store
    }

    fn tls(&self, name: &str) -> Arc<MeshTls> {
        MeshTls::new(self.store(name, Snapshot::default()))
    }

    /// What the guard of `front` knows.
    fn front(&self, shared: &[SocketAddr], fallback: &wire::Fallback) -> Arc<Store> {
        let mut snapshot = Snapshot::default();
        let fallback = wire::Fallback { shared_service: SHARED_SERVICE.into(), ..*fallback };
        let inbound = wire::Inbound {
            workload: "shop/front".into(),
            identity: identity("front").to_string(),
            fallback: Some(fallback),
            acting_identities: vec![identity("shared").to_string()],
            ..Default::default()
        };
        snapshot.set_inbound(Arc::new(Inbound::compile(inbound).unwrap()));
        snapshot.set_own("shop/front");
        let service = wire::Service {
            name: SHARED_SERVICE.into(),
            ports: vec![wire::ServicePort { port: u32::from(ports::MESH), ..Default::default() }],
            ..Default::default()
        };
        let endpoint = |(at, address): (usize, &SocketAddr)| {
            EndpointSpec::compile(wire::Endpoint {
                service: SHARED_SERVICE.into(),
                workload: format!("outrigger-system/shared-{at}"),
                address: address.ip().to_string(),
                ports: vec![wire::EndpointPort { port: u32::from(ports::MESH), target: u32::from(address.port()) }],
                identity: identity("shared").to_string(),
                meshed: true,
                ..Default::default()
            })
            .unwrap()
        };
        let endpoints = shared.iter().enumerate().map(endpoint).collect();
        snapshot.set_service(Arc::new(Service::compile(service).unwrap()), endpoints);
        self.store("front", snapshot)
    }

    /// Plays a shared proxy: reports each tunnel's opener and header, then sends back what comes.
    async fn shared(&self, tasks: &mut JoinSet<()>, name: &str) -> (SocketAddr, mpsc::UnboundedReceiver<Tunnel>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(self.tls(name).server(ServerAlpn::Shared).unwrap().config);
        let (opened, tunnels) = mpsc::unbounded_channel();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let opener = peer_identity(stream.get_ref().1).unwrap();
                let header = GuardHeader::decode(&read_frame(&mut stream).await).unwrap();
                opened.send(Tunnel { opener, header }).unwrap();
                let (mut reader, mut writer) = tokio::io::split(stream);
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            }
        });
        (address, tunnels)
    }
}

#[derive(Debug)]
struct Tunnel {
    opener: SpiffeId,
    header: GuardHeader,
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).await.unwrap();
    let mut frame = vec![0; frame_len(prefix).unwrap()];
    stream.read_exact(&mut frame).await.unwrap();
    frame
}

struct Running {
    ports: Ports,
    metrics: Arc<Metrics>,
    _tasks: JoinSet<()>,
}

impl Running {
    async fn start(store: Arc<Store>, connections: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let metrics = Metrics::new();
        let guard = Guard::start(GuardConfig {
            ports: Ports { outbound: 0, inbound: 0, mesh: 0 },
            workers: 1,
            tls: MeshTls::new(store.clone()),
            store,
            metrics: metrics.clone(),
            mark: None,
            zone: String::new(),
            names: Names { guard: format!("test-carrier-{unique}"), sidecar: format!("test-carried-{unique}") },
            patience: Default::default(),
            sidecar: true,
            connections,
            pipes: 16,
            authority: watch::Sender::new(None),
            captured: None,
        });
        let guard = guard.await.unwrap();
        let ports = guard.ports().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { guard.run(std::future::pending()).await.unwrap() });
        Self { ports, metrics, _tasks: tasks }
    }

    /// Calls the mesh port as the workload `name`.
    async fn call(&self, mesh: &Mesh, name: &str, protocol: &'static [u8]) -> io::Result<TlsStream<TcpStream>> {
        let config = mesh.tls(name).client(&[identity("front")], protocol).unwrap();
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.mesh)).await?;
        TlsConnector::from(config.config).connect(server_name(Ipv4Addr::LOCALHOST.into()), stream).await
    }
}

/// Sends `bytes`, and reads all that comes back.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut answer).await
    };
    timeout(PATIENCE, exchange).await.expect("in time")?;
    Ok(answer)
}

#[tokio::test]
async fn a_meshed_peer_is_passed_on_with_the_identity_that_it_proved() {
    let (mesh, mut tasks) = (Mesh::new(), JoinSet::new());
    let (shared, mut tunnels) = mesh.shared(&mut tasks, "shared").await;
    let guard = Running::start(mesh.front(&[shared], &wire::Fallback::default()), 16).await;
    for protocol in [alpn::TCP, alpn::H2] {
        let mut stream = guard.call(&mesh, "catalogue", protocol).await.unwrap();
        let source = stream.get_ref().0.local_addr().unwrap();
        assert_eq!(exchange(&mut stream, b"hello").await.unwrap(), b"hello");
        let tunnel = tunnels.recv().await.unwrap();
        assert_eq!(tunnel.opener, identity("front"));
        let destination = (Ipv4Addr::LOCALHOST, guard.ports.mesh).into();
        let (peer, alpn) = (identity("catalogue"), protocol.to_vec());
        assert_eq!(tunnel.header, GuardHeader::InboundMesh { source, destination, peer, alpn });
    }
    assert_eq!(guard.metrics.fallback(Direction::Inbound, FallbackReason::SidecarDown).get(), 2);
}

#[tokio::test]
async fn deliveries_are_taken_from_shared_proxies_alone() {
    let (mesh, mut tasks) = (Mesh::new(), JoinSet::new());
    let (shared, mut tunnels) = mesh.shared(&mut tasks, "shared").await;
    let guard = Running::start(mesh.front(&[shared], &wire::Fallback::default()), 16).await;
    let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let header = TcpHeader { port: app.local_addr().unwrap().port(), caller: Caller::Peer, address: None }.encode();
    let (reached, mut calls) = mpsc::unbounded_channel();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = app.accept().await.unwrap();
            reached.send(()).unwrap();
            stream.write_all(b"the app").await.unwrap();
        }
    });

    let mut stream = guard.call(&mesh, "catalogue", alpn::DELIVER).await.unwrap();
    assert!(exchange(&mut stream, &header).await.is_err());
    assert!(calls.try_recv().is_err(), "somebody else's delivery reached the app");

    let mut stream = guard.call(&mesh, "shared", alpn::DELIVER).await.unwrap();
    assert_eq!(exchange(&mut stream, &header).await.unwrap(), b"the app");
    assert!(calls.try_recv().is_ok());

    // Back to the guard itself it goes in no case.
    let mut stream = guard.call(&mesh, "shared", alpn::DELIVER).await.unwrap();
    let header = TcpHeader { port: guard.ports.mesh, caller: Caller::Peer, address: None }.encode();
    assert!(exchange(&mut stream, &header).await.is_err());
    assert!(tunnels.try_recv().is_err());
}

#[tokio::test]
async fn without_a_shared_proxy_or_by_the_owners_will_connections_are_closed() {
    let (mesh, mut tasks) = (Mesh::new(), JoinSet::new());
    let (shared, mut tunnels) = mesh.shared(&mut tasks, "shared").await;
    let closed =
        wire::Fallback { on_sidecar_failure: wire::fallback::OnSidecarFailure::Closed.into(), ..Default::default() };
    let guard = Running::start(mesh.front(&[shared], &closed), 16).await;
    let mut stream = guard.call(&mesh, "catalogue", alpn::TCP).await.unwrap();
    assert!(exchange(&mut stream, b"hello").await.is_err());
    assert!(tunnels.try_recv().is_err());

    let dead = refusing();
    let address = dead.local_addr().unwrap().as_socket().unwrap();
    let guard = Running::start(mesh.front(&[address], &wire::Fallback::default()), 16).await;
    let mut stream = guard.call(&mesh, "catalogue", alpn::TCP).await.unwrap();
    assert!(exchange(&mut stream, b"hello").await.is_err());
    assert_eq!(guard.metrics.fallback_failures(Direction::Inbound).get(), 1);
    assert_eq!(guard.metrics.fallback(Direction::Inbound, FallbackReason::SidecarDown).get(), 0);
}

#[tokio::test]
async fn what_leads_back_and_what_is_too_much_is_reset() {
    let (mesh, mut tasks) = (Mesh::new(), JoinSet::new());
    let (shared, mut tunnels) = mesh.shared(&mut tasks, "shared").await;
    let guard = Running::start(mesh.front(&[shared], &wire::Fallback::default()), 1).await;
    // Called directly, the capture ports are their own destination.
    for port in [guard.ports.outbound, guard.ports.inbound] {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let error = timeout(PATIENCE, stream.read_u8()).await.expect("in time").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let mut first = guard.call(&mesh, "catalogue", alpn::TCP).await.unwrap();
    first.write_all(b"x").await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'x');
    assert!(guard.call(&mesh, "catalogue", alpn::TCP).await.is_err());
    assert_eq!(exchange(&mut first, b"y").await.unwrap(), b"y");
    assert!(tunnels.recv().await.is_some());
    assert!(tunnels.try_recv().is_err());
}

/// A port at which nobody listens, held so that nobody will.
fn refusing() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    socket
}

fn outbound() -> GuardHeader {
    GuardHeader::Outbound { source: "10.0.0.1:4000".parse().unwrap(), destination: "10.0.0.2:80".parse().unwrap() }
}

#[tokio::test]
async fn the_next_shared_proxy_is_asked_when_one_is_dead_hung_or_an_impostor() {
    let (mesh, mut tasks) = (Mesh::new(), JoinSet::new());
    let dead = refusing();
    // Its kernel answers, it never does.
    let hung = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (impostor, mut betrayed) = mesh.shared(&mut tasks, "catalogue").await;
    let (alive, mut tunnels) = mesh.shared(&mut tasks, "shared").await;
    let addresses = [dead.local_addr().unwrap().as_socket().unwrap(), hung.local_addr().unwrap(), impostor, alive];
    let store = mesh.front(&addresses, &wire::Fallback::default());
    let fallback = Fallback::new(store.clone(), MeshTls::new(store), None, String::new());
    assert!(fallback.usable());
    for _ in 0..addresses.len() * 2 {
        let mut tunnel = timeout(PATIENCE, fallback.open(&outbound())).await.expect("in time").unwrap();
        assert_eq!(exchange(&mut tunnel, b"hello").await.unwrap(), b"hello");
        let opened = tunnels.recv().await.unwrap();
        assert_eq!((opened.opener, opened.header), (identity("front"), outbound()));
    }
    assert!(betrayed.try_recv().is_err());
    assert!(fallback.is_shared_proxy(alive));
    assert!(!fallback.is_shared_proxy("10.0.0.2:80".parse().unwrap()));
}

#[tokio::test]
async fn what_is_missing_is_named() {
    let mesh = Mesh::new();
    let open = async |store: Arc<Store>| {
        let fallback = Fallback::new(store.clone(), MeshTls::new(store), None, String::new());
        fallback.open(&outbound()).await.map(drop).unwrap_err()
    };
    assert!(matches!(open(mesh.store("front", Snapshot::default())).await, FallbackError::NoConfig));
    assert!(matches!(open(mesh.front(&[], &wire::Fallback::default())).await, FallbackError::NoSharedProxy));
    let dead = refusing();
    let addresses = [dead.local_addr().unwrap().as_socket().unwrap()];
    assert!(matches!(
        open(mesh.front(&addresses, &wire::Fallback::default())).await,
        FallbackError::Unreachable { tried: 1, .. }
    ));
    let without_certificate = Store::new().0;
    without_certificate.publish(Snapshot::clone(&mesh.front(&addresses, &wire::Fallback::default()).load()));
    assert!(matches!(open(without_certificate).await, FallbackError::NoCertificate));
}
