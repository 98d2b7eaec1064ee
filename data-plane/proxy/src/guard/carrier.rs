//! Carries one accepted connection: through a shared proxy, directly, or not at all. Also takes what shared proxies
//! deliver to the pod's app.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outrigger_core::{Store, config::Inbound};
use outrigger_wire::{
    SpiffeId,
    names::{alpn, ports},
    tunnel::{GuardHeader, TcpHeader},
};
use tokio::{
    io::AsyncRead,
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use super::{
    GuardConfig, capture,
    policy::{Course, Way, course, without_shared_proxy},
    throttle::Throttle,
};
use crate::{
    fallback::{Fallback, FallbackError},
    listeners::{Ports, connect_app, original_destination, reset_at_end, upstream_socket},
    pump::pump,
    stream::{Io, read_frame},
    telemetry::{Direction, FallbackReason, Listener, Metrics, Side},
    tls::{self, Agreed, MeshTls, ServerAlpn},
};

/// What carrying needs; shared by all connections of a guard.
pub(super) struct Carrier {
    store: Arc<Store>,
    tls: Arc<MeshTls>,
    metrics: Arc<Metrics>,
    fallback: Fallback,
    mark: Option<u32>,
    /// The guard's own.
    ports: Ports,
    connections: usize,
    slots: Arc<Semaphore>,
    /// Config and certificate have been there once; from then on nobody waits for them.
    settled: AtomicBool,
    used: [Throttle; 2],
    failed: [Throttle; 2],
}

/// Why a connection isn't carried.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    #[error("no configuration yet, so the owner's policy isn't known")]
    NoConfig,
    #[error("no certificate yet")]
    NoCertificate,
    #[error("the owner wants connections closed while there is no sidecar")]
    Closed,
    #[error("it would lead back to this mesh's own proxies")]
    Loop,
    #[error("no shared proxy: {0}")]
    Fallback(#[from] FallbackError),
    #[error("{0} isn't a shared proxy and may not deliver")]
    NotActing(SpiffeId),
    #[error("the peer has no identity or speaks no protocol of the mesh")]
    Stranger,
    #[error("timed out")]
    TimedOut(#[from] tokio::time::error::Elapsed),
    /// Its peers' affair.
    #[error("it broke: {0}")]
    Broken(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How long a connection waits for config and certificate after a start.
const SETTLE: Duration = Duration::from_secs(5);
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADER: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_secs(5);

// === impl Carrier ===

impl Carrier {
    pub(super) fn new(config: &GuardConfig, ports: Ports) -> Self {
        let now = Instant::now();
        let (store, tls) = (config.store.clone(), config.tls.clone());
        Self {
            fallback: Fallback::new(store.clone(), tls.clone(), config.mark, config.zone.clone()),
            store,
            tls,
            metrics: config.metrics.clone(),
            mark: config.mark,
            ports,
            connections: config.connections,
            slots: Arc::new(Semaphore::new(config.connections)),
            settled: AtomicBool::new(false),
            used: [Throttle::new(now), Throttle::new(now)],
            failed: [Throttle::new(now), Throttle::new(now)],
        }
    }

    /// The right to carry one more connection.
    pub(super) fn slot(&self) -> Option<OwnedSemaphorePermit> {
        self.slots.clone().try_acquire_owned().ok()
    }

    /// Whether anything is carried.
    pub(super) fn is_busy(&self) -> bool {
        self.slots.available_permits() < self.connections
    }

    /// One connection too many.
    pub(super) fn shed(&self, listener: Listener) {
        let direction = direction(listener);
        self.metrics.connection_shed();
        if let Some(held_back) = self.failed[direction as usize].pass(Instant::now()) {
            tracing::warn!(?listener, held_back, "too many connections at once; reset");
        }
    }

    /// Carries a connection to its end. One that can't be carried, or breaks, is closed with a reset, so that its peer
    /// sees a failure and not a short answer.
    pub(super) async fn carry(&self, listener: Listener, mut stream: TcpStream, reason: FallbackReason) {
        let _open = self.metrics.connections(listener).open();
        reset_at_end(&stream, true);
        let carried = match listener {
            Listener::Outbound => self.captured(&mut stream, Way::Outbound, reason).await,
            Listener::Inbound => self.captured(&mut stream, Way::InboundPlain, reason).await,
            Listener::Mesh => self.meshed(stream, reason).await,
        };
        let Err(error) = carried else { return };
        let direction = direction(listener);
        if let CarryError::Broken(error) = error {
            return tracing::debug!(%error, ?listener, "a carried connection broke");
        }
        if let CarryError::Fallback(_) | CarryError::NoConfig | CarryError::NoCertificate = error {
            self.metrics.fallback_failures(direction).inc();
        }
        if let Some(held_back) = self.failed[direction as usize].pass(Instant::now()) {
            tracing::warn!(%error, ?listener, held_back, "a connection wasn't carried");
        }
    }

    /// Plaintext that the pod's redirection brought here.
    async fn captured(&self, stream: &mut TcpStream, way: Way, reason: FallbackReason) -> Result<(), CarryError> {
        let (source, destination) = (stream.peer_addr()?, original_destination(stream)?);
        if way == Way::Outbound && capture::is_canary(destination) {
            reset_at_end(stream, false);
            capture::answer(stream).await;
            return Ok(());
        }
        if self.leads_back(way, stream.local_addr()?, destination) {
            return Err(CarryError::Loop);
        }
        let own = self.own(way).await?;
        let header = match way {
            Way::Outbound => GuardHeader::Outbound { source, destination },
            _ => GuardHeader::InboundPlain { source, destination },
        };
        if self.tunnel(&own, way, &header, stream, reason).await? == Course::Tunnel {
            reset_at_end(stream, false);
            return Ok(());
        }
        if let Some(held_back) = self.used[way.direction() as usize].pass(Instant::now()) {
            tracing::warn!(?way, %destination, held_back, "connected directly, WITHOUT any policy, as the owner wants");
        }
        let mut upstream = match way {
            Way::Outbound => timeout(CONNECT, upstream_socket(destination, self.mark)?.connect(destination)).await??,
            _ => timeout(CONNECT, connect_app(destination, self.mark)).await??,
        };
        carry_to_end(stream, &mut upstream).await?;
        reset_at_end(stream, false);
        Ok(())
    }

    /// mTLS from another proxy.
    async fn meshed(&self, stream: TcpStream, reason: FallbackReason) -> Result<(), CarryError> {
        let way = Way::InboundMesh;
        let (source, destination) = (stream.peer_addr()?, stream.local_addr()?);
        let own = self.own(way).await?;
        let config = self.tls.server(ServerAlpn::Pod).ok_or(CarryError::NoCertificate)?;
        let metrics = self.metrics.tls(Side::Server);
        metrics.handshakes.inc();
        let accepted = timeout(HANDSHAKE, tls::accept(config, stream)).await;
        let accepted = accepted.map_err(CarryError::from).and_then(|done| Ok(done?));
        let (mut stream, agreed) = accepted.inspect_err(|_| metrics.failures.inc())?;
        let Agreed { peer: Some(peer), alpn: Some(alpn) } = agreed else { return Err(CarryError::Stranger) };
        if alpn == alpn::DELIVER {
            self.deliver(&own, peer, &mut stream, destination).await?;
        } else {
            let header = GuardHeader::InboundMesh { source, destination, peer, alpn };
            // It was tunnelled: there is no direct way from the mesh to an app.
            self.tunnel(&own, way, &header, &mut stream, reason).await?;
        }
        reset_at_end(stream.socket(), false);
        Ok(())
    }

    /// A shared proxy has done what the sidecar would have done, and brings the connection to the app.
    async fn deliver<S: Io>(
        &self,
        own: &Inbound,
        peer: SpiffeId,
        stream: &mut S,
        mut destination: SocketAddr,
    ) -> Result<(), CarryError> {
        if !own.acting_identities.contains(&peer) {
            return Err(CarryError::NotActing(peer));
        }
        destination.set_port(timeout(HEADER, read_header(stream)).await??.port);
        if self.ports.contain(destination.port()) || ports::is_own(destination.port()) {
            return Err(CarryError::Loop);
        }
        let mut app = timeout(CONNECT, connect_app(destination, self.mark)).await??;
        carry_to_end(stream, &mut app).await
    }

    /// Carries `stream` through a shared proxy to its end, if that is what the owner wants and it can be done. Else
    /// says what is left: [`Course::Direct`], or an error for a connection that must be closed.
    async fn tunnel<S: Io>(
        &self,
        own: &Inbound,
        way: Way,
        header: &GuardHeader,
        stream: &mut S,
        reason: FallbackReason,
    ) -> Result<Course, CarryError> {
        match course(own, way) {
            Course::Tunnel => {}
            Course::Direct => return Ok(Course::Direct),
            Course::Close => return Err(CarryError::Closed),
        }
        let direction = way.direction();
        match self.fallback.open(header).await {
            Ok(mut tunnel) => {
                self.metrics.fallback(direction, reason).inc();
                if let Some(held_back) = self.used[direction as usize].pass(Instant::now()) {
                    tracing::info!(reason = reason.as_str(), ?way, held_back, "carried by a shared proxy");
                }
                carry_to_end(stream, &mut tunnel).await?;
                Ok(Course::Tunnel)
            }
            Err(error) if without_shared_proxy(own, way) == Course::Direct => {
                tracing::warn!(%error, ?way, "no shared proxy, and the owner wants a direct connection then");
                self.metrics.fallback_failures(direction).inc();
                Ok(Course::Direct)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The pod's own configuration. After a start it is waited for, together with what tunnelling needs.
    async fn own(&self, way: Way) -> Result<Arc<Inbound>, CarryError> {
        let deadline = Instant::now() + SETTLE;
        let mut changes = self.store.changes();
        loop {
            let own = self.store.load().own.clone();
            if let Some(own) = &own
                && (course(own, way) == Course::Close || self.fallback.usable())
            {
                self.settled.store(true, Ordering::Relaxed);
            }
            if self.settled.load(Ordering::Relaxed) || Instant::now() >= deadline {
                return own.ok_or(CarryError::NoConfig);
            }
            // The TLS configuration follows the store a moment later and doesn't tell.
            let _ = timeout(Duration::from_millis(20), changes.changed()).await;
        }
    }

    /// Whether the connection would come back: to the guard's own ports, or from a shared proxy that carries it on.
    fn leads_back(&self, way: Way, local: SocketAddr, destination: SocketAddr) -> bool {
        let ip = destination.ip();
        let here = way == Way::InboundPlain
            || ip.is_loopback()
            || ip == local.ip()
            || self.store.load().own.as_ref().is_some_and(|own| own.addresses.contains(&ip));
        (here && self.ports.contain(destination.port())) || self.fallback.is_shared_proxy(destination)
    }
}

fn direction(listener: Listener) -> Direction {
    match listener {
        Listener::Outbound => Direction::Outbound,
        Listener::Inbound | Listener::Mesh => Direction::Inbound,
    }
}

async fn carry_to_end<A, B>(first: &mut A, second: &mut B) -> Result<(), CarryError>
where
    A: Io,
    B: Io,
{
    pump(first, second).await.map(drop).map_err(CarryError::Broken)
}

async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<TcpHeader> {
    let frame = read_frame(stream).await?;
    TcpHeader::decode(&frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
