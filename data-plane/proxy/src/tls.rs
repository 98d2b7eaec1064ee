//! Mutual TLS on the mesh port: the configurations of both ends, rebuilt whenever the certificate or the roots
//! change. TLS 1.3 only. Sessions are not resumed, every one authorises anew; tunnels to shared proxies aside.
//!
//! Never decides what a peer may do, only who it is.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use outrigger_core::{Store, Svid, config::Trust};
use outrigger_wire::{SpiffeId, names::alpn};
use rustls::{
    CipherSuite, ClientConfig, NamedGroup, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    server::{NoServerSessionStorage, ServerSessionMemoryCache},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::sync::watch;

mod handshake;
mod record;
mod roots;
mod stream;
mod verify;

pub(crate) use handshake::{Agreed, accept, connect};
pub(crate) use roots::Root;
use roots::Roots;
pub use stream::TlsStream;
pub use verify::{SvidError, spiffe_id};
use verify::{Verifier, still_valid};

/// The TLS configurations in force. Reading takes no lock.
pub struct MeshTls {
    store: Arc<Store>,
    provider: Arc<CryptoProvider>,
    context: ArcSwapOption<Context>,
    epoch: AtomicU64,
    /// Roots that have been retired so far.
    retirements: watch::Sender<usize>,
}

/// One side's part of a handshake, and by which roots it judges the other.
pub struct Configured<C> {
    pub config: Arc<C>,
    roots: Arc<Roots>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Everything that is built from one certificate and one set of roots.
struct Context {
    svid: Arc<Svid>,
    trust: Arc<Vec<Trust>>,
    roots: Arc<Roots>,
    pod: Arc<ServerConfig>,
    shared: Arc<ServerConfig>,
    /// Accepts no peer; the template of every client configuration.
    client: ClientConfig,
    /// For tunnels to shared proxies.
    tunnels: ArcSwapOption<Tunnels>,
}

/// How guards and sidecars call shared proxies. A pod whose sidecar is down opens one tunnel per connection, so these
/// sessions are resumed: a third of the cost. They end with the context that they were authorised in.
struct Tunnels {
    peers: Vec<SpiffeId>,
    config: Arc<ClientConfig>,
}

/// Sessions that a shared proxy remembers.
const REMEMBERED: usize = 4096;
/// Shared proxies whose sessions a guard remembers, a few each.
const REMEMBERED_PEERS: usize = 32;

/// Which protocols a mesh port speaks. A peer that offers none of them is refused by TLS; one that offers no ALPN at
/// all gets a session without a protocol, which the caller must close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerAlpn {
    /// A pod's own port, served by its sidecar or guard: HTTP, opaque TCP, deliveries.
    Pod,
    /// A shared proxy: guards' streams alone.
    Shared,
}

#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("certificate or key: {0}")]
    Tls(#[from] rustls::Error),
    #[error("certificate: {0}")]
    Svid(#[from] SvidError),
    #[error("certificate is of {certificate}, not of {expected}")]
    Identity { certificate: SpiffeId, expected: SpiffeId },
}

/// The identity that the peer of a completed handshake has proved.
pub fn peer_identity(connection: &rustls::CommonState) -> Option<SpiffeId> {
    let certificate = connection.peer_certificates()?.first()?;
    // A resumed session has outlived the verifier's look at the clock.
    still_valid(certificate).then(|| spiffe_id(certificate).ok()).flatten()
}

/// What a client calls its peer. Peers are known by SPIFFE ID, so the address is never checked and no SNI is sent.
pub fn server_name(address: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.into())
}

// === impl MeshTls ===

impl MeshTls {
    /// Built from what `store` holds by now; see [`follow`](Self::follow).
    pub fn new(store: Arc<Store>) -> Arc<Self> {
        let tls = Self {
            store,
            provider: Arc::new(provider()),
            context: ArcSwapOption::empty(),
            epoch: AtomicU64::new(0),
            retirements: watch::Sender::new(0),
        };
        tls.refresh();
        Arc::new(tls)
    }

    /// Keeps the configurations up to date, for as long as its task lives. What is under way with peers of a root that isn't
    /// trusted any more may take so long to end.
    pub async fn follow(self: Arc<Self>, limit: Duration) {
        let mut changes = self.store.changes();
        loop {
            // First, because the store may have changed between `new` and `changes`.
            for root in self.refresh() {
                tokio::spawn(async move {
                    tokio::time::sleep(limit).await;
                    let connections = root.cut();
                    tracing::info!(connections, "closed what was still open of a root that has left");
                });
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// For accepting; `None` while there is no certificate.
    pub fn server(&self, alpn: ServerAlpn) -> Option<Configured<ServerConfig>> {
        let context = self.context.load();
        let context = context.as_ref()?;
        let config = match alpn {
            ServerAlpn::Pod => context.pod.clone(),
            ServerAlpn::Shared => context.shared.clone(),
        };
        Some(self.configured(context, config))
    }

    /// For calling one of `peers`, and nobody else, by one protocol. `None` while there is no certificate.
    ///
    /// Costs a few small allocations, a microsecond or so beside a handshake's 200, so nothing is cached but what makes
    /// tunnels' sessions resumable.
    pub fn client(&self, peers: &[SpiffeId], alpn: &'static [u8]) -> Option<Configured<ClientConfig>> {
        let context = self.context.load();
        let context = context.as_ref()?;
        let config = if alpn == alpn::GUARD {
            context.tunnels(&self.provider, peers)
        } else {
            Arc::new(context.client(&self.provider, peers, alpn))
        };
        Some(self.configured(context, config))
    }

    fn configured<C>(&self, context: &Context, config: Arc<C>) -> Configured<C> {
        let algorithms = self.provider.signature_verification_algorithms;
        Configured { config, roots: context.roots.clone(), algorithms }
    }

    /// Changes whenever a root has been retired.
    pub(crate) fn retirements(&self) -> watch::Receiver<usize> {
        self.retirements.subscribe()
    }

    /// Grows whenever certificate or roots have changed: sessions of an older epoch were authorised by what may no
    /// longer be trusted. 0 while there is no certificate.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Who this proxy is.
    pub fn identity(&self) -> Option<SpiffeId> {
        self.context.load().as_ref().map(|context| context.svid.id.clone())
    }

    /// Rebuilds if the store holds another certificate or other roots. What can't be built leaves the last good
    /// configuration in force. Returns the roots that have been retired by that.
    fn refresh(&self) -> Vec<Arc<Root>> {
        let Some(svid) = self.store.svid() else { return Vec::new() };
        let trust = self.store.load().trust.clone();
        let current = self.context.load_full();
        if let Some(current) = &current
            && Arc::ptr_eq(&current.svid, &svid)
            && current.trust == trust
        {
            return Vec::new();
        }
        let roots = Arc::new(Roots::new(&trust, current.as_ref().map(|it| &*it.roots)));
        match Context::build(&self.provider, svid, trust, roots.clone()) {
            Ok(context) => {
                tracing::info!(identity = %context.svid.id, "TLS configuration rebuilt");
                self.context.store(Some(Arc::new(context)));
                self.epoch.fetch_add(1, Ordering::Release);
            }
            Err(error) => {
                tracing::error!(%error, "new TLS configuration refused; the last good one stays in force");
                return Vec::new();
            }
        }
        let retired = current.map(|before| before.roots.without(&roots)).unwrap_or_default();
        for root in &retired {
            let connections = root.retire();
            tracing::info!(connections, "a root is trusted no more; connections with peers that it vouched for end");
        }
        if !retired.is_empty() {
            self.retirements.send_modify(|all| *all += retired.len());
        }
        retired
    }
}

// === impl Context ===

impl Context {
    fn build(
        provider: &Arc<CryptoProvider>,
        svid: Arc<Svid>,
        trust: Arc<Vec<Trust>>,
        roots: Arc<Roots>,
    ) -> Result<Self, BuildError> {
        let key = Arc::new(SingleCertAndKey::from(certified_key(provider, &svid)?));

        let server = |protocols: &[&[u8]]| -> Result<Arc<ServerConfig>, rustls::Error> {
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(&[&TLS13])?
                .with_client_cert_verifier(Arc::new(Verifier::any(roots.clone(), provider)))
                .with_cert_resolver(key.clone());
            config.session_storage = Arc::new(NoServerSessionStorage {});
            // After the handshake records are made in place.
            config.enable_secret_extraction = true;
            config.send_tls13_tickets = 0;
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Ok(Arc::new(config))
        };
        let pod = server(&[alpn::H2, alpn::TCP, alpn::DELIVER])?;
        let mut shared = ServerConfig::clone(&*server(&[alpn::GUARD])?);
        shared.session_storage = ServerSessionMemoryCache::new(REMEMBERED);
        shared.send_tls13_tickets = 2;

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier::only(roots.clone(), provider, &[])))
            .with_client_cert_resolver(key);
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.enable_secret_extraction = true;

        Ok(Self { svid, trust, roots, pod, shared: Arc::new(shared), client, tunnels: ArcSwapOption::empty() })
    }

    fn client(&self, provider: &CryptoProvider, peers: &[SpiffeId], alpn: &[u8]) -> ClientConfig {
        let mut config = self.client.clone();
        let verifier = Verifier::only(self.roots.clone(), provider, peers);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        config.alpn_protocols = vec![alpn.to_vec()];
        config
    }

    /// A session is resumed without looking at certificates again: only with the same configuration, so only with the
    /// same peers.
    fn tunnels(&self, provider: &CryptoProvider, peers: &[SpiffeId]) -> Arc<ClientConfig> {
        if let Some(tunnels) = self.tunnels.load().as_ref()
            && tunnels.peers == peers
        {
            return tunnels.config.clone();
        }
        let mut config = self.client(provider, peers, alpn::GUARD);
        config.resumption = Resumption::in_memory_sessions(REMEMBERED_PEERS * 8);
        let config = Arc::new(config);
        self.tunnels.store(Some(Arc::new(Tunnels { peers: peers.to_vec(), config: config.clone() })));
        config
    }
}

fn certified_key(provider: &CryptoProvider, svid: &Svid) -> Result<CertifiedKey, BuildError> {
    let chain: Vec<_> = svid.chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect();
    let certificate = spiffe_id(chain.first().ok_or(rustls::Error::NoCertificatesPresented)?)?;
    if certificate != svid.id {
        return Err(BuildError::Identity { certificate, expected: svid.id.clone() });
    }
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.clone()));
    let certified = CertifiedKey::new(chain, provider.key_provider.load_private_key(key)?);
    certified.keys_match()?;
    Ok(certified)
}

/// AWS-LC with what the mesh speaks: AES-GCM, 128 bit first, which has hardware on every machine that we run on, and
/// X25519 first.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let suites = [CipherSuite::TLS13_AES_128_GCM_SHA256, CipherSuite::TLS13_AES_256_GCM_SHA384];
    provider.cipher_suites = suites
        .iter()
        .flat_map(|wanted| aws_lc_rs::ALL_CIPHER_SUITES.iter().find(|s| s.suite() == *wanted))
        .copied()
        .collect();
    let groups = [NamedGroup::X25519, NamedGroup::secp256r1, NamedGroup::secp384r1];
    provider.kx_groups = groups
        .iter()
        .flat_map(|wanted| aws_lc_rs::ALL_KX_GROUPS.iter().find(|g| g.name() == *wanted))
        .copied()
        .collect();
    provider
}

#[cfg(test)]
pub(crate) mod tests;
