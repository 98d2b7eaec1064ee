//! Sidecars as the proxy starts them, without a control plane: what it would say is in their stores already.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use outrigger_core::{
    Snapshot, Store, Svid,
    config::{EndpointSpec, Inbound, Service, Trust},
};
use outrigger_dataplane::{Engine, Role, listeners::Listeners, pressure::Level, tls::MeshTls, worker::Workers};
use outrigger_wire::{names::ports, proto::config as proto};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio::sync::watch;

use super::super::{access, wire};

/// Address of the service, which the namespace's rules redirect to the caller's sidecar.
const SERVICE: [u8; 4] = [127, 1, 0, 1];
/// Address of the pod with the app.
const POD: [u8; 4] = [127, 2, 0, 1];
const APP: u16 = 8080;
/// Of the service's table.
const RULES: usize = 4;
/// Of the called pod; the last one allows.
const POLICIES: usize = 4;
/// Nothing takes that long, not even under valgrind; a case that hangs is one that a sidecar has refused.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is between the caller's sidecar and the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// Nothing.
    Plain,
    /// Mutual TLS and the app's own sidecar.
    Mesh,
}

pub(super) struct Stage {
    app: TcpListener,
    _sidecars: Vec<Sidecar>,
}

/// A sidecar serves while this lives.
struct Sidecar {
    _workers: Workers,
    _accept: watch::Sender<bool>,
    _drain: watch::Sender<bool>,
}

struct Authority {
    root: Bytes,
    issuer: Issuer<'static, KeyPair>,
}

/// The rules that a case's network namespace needs, for `nft -f`.
pub(crate) fn rules() -> String {
    format!(
        "table ip gate {{\n\
         chain output {{\n\
         type nat hook output priority -100;\n\
         ip daddr {} tcp dport 80 redirect to :{}\n\
         }}\n\
         }}\n",
        IpAddr::from(SERVICE),
        ports::OUTBOUND
    )
}

impl Stage {
    pub(super) fn start(hop: Hop) -> Result<Self> {
        let authority = Authority::new()?;
        let app = TcpListener::bind((IpAddr::from(POD), APP)).context("the app's address")?;
        app.set_nonblocking(true)?;
        let mut sidecars = Vec::new();
        if hop == Hop::Mesh {
            let mesh = vec![listener((POD, ports::MESH).into())?];
            sidecars
                .push(Sidecar::start(authority.store("cart", called()?)?, Listeners { mesh, ..Default::default() })?);
        }
        let outbound = vec![listener(([127, 0, 0, 1], ports::OUTBOUND).into())?];
        let listeners = Listeners { outbound, ..Default::default() };
        sidecars.push(Sidecar::start(authority.store("front", calling(hop)?)?, listeners)?);
        Ok(Self { app, _sidecars: sidecars })
    }

    /// The connection that comes to the app.
    pub(super) fn accept(&self) -> Result<TcpStream> {
        let since = Instant::now();
        loop {
            match self.app.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return ready(stream);
                }
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error).context("the app"),
                Err(_) if since.elapsed() > PATIENCE => bail!("no request came to the app"),
                Err(_) => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
}

/// A connection to the service, as the calling app opens it.
pub(super) fn call() -> Result<TcpStream> {
    let stream = TcpStream::connect((IpAddr::from(SERVICE), 80));
    ready(stream.context("the service can't be called: is its address redirected in this network namespace?")?)
}

fn ready(stream: TcpStream) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn listener(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .with_context(|| format!("{address}: this case wants a network namespace of its own, as `check` makes one"))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What the caller's sidecar knows.
fn calling(hop: Hop) -> Result<Snapshot> {
    let port = proto::ServicePort { port: 80, name: "http".to_owned(), protocol: proto::Protocol::Http.into() };
    let service = proto::Service {
        addresses: vec![IpAddr::from(SERVICE).to_string()],
        ports: vec![port],
        ..wire::service("shop/cart", RULES)
    };
    let endpoint = proto::Endpoint {
        service: "shop/cart".to_owned(),
        workload: "shop/cart-0".to_owned(),
        address: IpAddr::from(POD).to_string(),
        ports: vec![proto::EndpointPort { port: 80, target: APP.into() }],
        identity: if hop == Hop::Mesh { wire::identity("cart") } else { String::new() },
        meshed: hop == Hop::Mesh,
        ..proto::Endpoint::default()
    };
    let mut snapshot = Snapshot::default();
    snapshot.set_service(Arc::new(Service::compile(service)?), vec![EndpointSpec::compile(endpoint)?]);
    Ok(snapshot)
}

/// What the called pod's sidecar knows.
fn called() -> Result<Snapshot> {
    let port = proto::ServicePort { port: APP.into(), name: "http".to_owned(), protocol: proto::Protocol::Http.into() };
    let inbound = proto::Inbound {
        addresses: vec![IpAddr::from(POD).to_string()],
        ports: vec![port],
        ..access::inbound(POLICIES)
    };
    let mut snapshot = Snapshot::default();
    snapshot.set_inbound(Arc::new(Inbound::compile(inbound)?));
    snapshot.set_own("shop/cart-0");
    Ok(snapshot)
}

impl Sidecar {
    fn start(store: Arc<Store>, listeners: Listeners) -> Result<Self> {
        let tls = MeshTls::new(store.clone());
        let engine = Arc::new(Engine::new(Role::Sidecar, store, tls));
        let (accept, drain) = (watch::Sender::new(true), watch::Sender::new(false));
        let memory = watch::Sender::new(Level::Calm).subscribe();
        let workers = Workers::start(&engine, vec![listeners], &accept.subscribe(), &drain.subscribe(), &memory);
        Ok(Self { _workers: workers.context("a sidecar's worker")?, _accept: accept, _drain: drain })
    }
}

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let root = Bytes::copy_from_slice(params.self_signed(&key)?.der());
        Ok(Self { root, issuer: Issuer::new(params, key) })
    }

    /// With what is known and a certificate for `name`.
    fn store(&self, name: &str, mut snapshot: Snapshot) -> Result<Arc<Store>> {
        let id = wire::spiffe(name)?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let leaf = params.signed_by(&key, &self.issuer)?;
        // Nobody asks: every address that matters is known.
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
            not_after: SystemTime::now() + Duration::from_secs(24 * 3600),
        });
        Ok(store)
    }
}
