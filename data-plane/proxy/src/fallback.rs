//! The way to a shared proxy: one mTLS connection per captured connection, with a header that says what it is.
//! Used by the guard, and by the sidecar for destinations that it doesn't know yet. Never carries a byte of the app
//! before a tunnel is open, so that trying the next shared proxy is always safe.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outrigger_core::{Snapshot, Store};
use outrigger_wire::{
    names::{alpn, ports},
    tunnel::GuardHeader,
};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, timeout},
};

use crate::{
    listeners::upstream_socket,
    tls::{MeshTls, TlsStream, connect, server_name},
};

mod choice;

use choice::{Candidate, Seen, rank};

/// Opens tunnels to shared proxies. One per process.
pub struct Fallback {
    store: Arc<Store>,
    tls: Arc<MeshTls>,
    mark: Option<u32>,
    zone: String,
    turn: AtomicUsize,
    seen: Seen,
}

/// Why there is no tunnel. The owner's policy decides what that means for the connection.
#[derive(Debug, thiserror::Error)]
pub enum FallbackError {
    #[error("no configuration yet, so no shared proxy is known")]
    NoConfig,
    #[error("the mesh has no shared proxy")]
    NoSharedProxy,
    #[error("no certificate yet")]
    NoCertificate,
    #[error("none of {tried} shared proxies answered, the last one: {last}")]
    Unreachable { tried: usize, last: io::Error },
}

/// Until a shared proxy's kernel has answered.
const CONNECT: Duration = Duration::from_millis(250);

/// Until a shared proxy has answered, if there is another one to try.
const ATTEMPT: Duration = Duration::from_millis(400);

/// For all attempts together.
const TOTAL: Duration = Duration::from_secs(2);

// === impl Fallback ===

impl Fallback {
    /// `zone` is where this proxy runs, empty: where the control plane says; `mark` is set on every socket.
    pub fn new(store: Arc<Store>, tls: Arc<MeshTls>, mark: Option<u32>, zone: String) -> Self {
        // Proxies that start together don't all begin with the same shared proxy.
        let turn = AtomicUsize::new(usize::from(rand::random::<u16>()));
        Self { store, tls, mark, zone, turn, seen: Seen::new() }
    }

    /// Opens a tunnel to a shared proxy and announces what will follow. Tries others when one doesn't answer, for at
    /// most two seconds in all.
    ///
    /// # Errors
    /// When there is no shared proxy that answers.
    pub async fn open(&self, header: &GuardHeader) -> Result<TlsStream, FallbackError> {
        let candidates = self.candidates()?;
        let frame = header.encode();
        let deadline = Instant::now() + TOTAL;
        let mut tried = 0;
        let mut last = io::Error::from(io::ErrorKind::TimedOut);
        for (at, candidate) in candidates.iter().enumerate() {
            let rest = deadline.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break;
            }
            let limit = if at + 1 < candidates.len() { ATTEMPT.min(rest) } else { rest };
            tried += 1;
            let began = Instant::now();
            match timeout(limit, self.dial(candidate, &frame)).await {
                Ok(Ok(tunnel)) => {
                    self.seen.opened(candidate.address, began.elapsed(), Instant::now());
                    return Ok(tunnel);
                }
                Ok(Err(DialError::NoCertificate)) => return Err(FallbackError::NoCertificate),
                Ok(Err(DialError::Io(error))) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
            tracing::debug!(address = %candidate.address, error = %last, "a shared proxy doesn't answer");
            self.seen.failed(candidate.address, Instant::now());
        }
        Err(FallbackError::Unreachable { tried, last })
    }

    /// Whether there is all that [`open`](Self::open) needs.
    pub fn usable(&self) -> bool {
        self.tls.identity().is_some() && !known(&self.store.load(), &self.zone).is_empty()
    }

    /// Whether `address` is a shared proxy's: what goes there must not be tunnelled again.
    pub fn is_shared_proxy(&self, address: SocketAddr) -> bool {
        known(&self.store.load(), &self.zone).iter().any(|candidate| candidate.address == address)
    }

    fn candidates(&self) -> Result<Vec<Candidate>, FallbackError> {
        let snapshot = self.store.load();
        if snapshot.own.is_none() {
            return Err(FallbackError::NoConfig);
        }
        let mut candidates = known(&snapshot, &self.zone);
        if candidates.is_empty() {
            return Err(FallbackError::NoSharedProxy);
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        rank(&mut candidates, turn, &self.seen.shunned(Instant::now()));
        Ok(candidates)
    }

    async fn dial(&self, candidate: &Candidate, frame: &[u8]) -> Result<TlsStream, DialError> {
        let peers = std::slice::from_ref(&candidate.identity);
        let config = self.tls.client(peers, alpn::GUARD).ok_or(DialError::NoCertificate)?;
        let connecting = upstream_socket(candidate.address, self.mark)?.connect(candidate.address);
        let stream = timeout(CONNECT, connecting).await.map_err(io::Error::from)??;
        let (mut tunnel, agreed) = connect(config, server_name(candidate.address.ip()), stream).await?;
        if agreed.alpn.as_deref() != Some(alpn::GUARD) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it takes no guard's tunnels").into());
        }
        tunnel.write_all(frame).await?;
        tunnel.flush().await?;
        Ok(tunnel)
    }
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no certificate yet")]
    NoCertificate,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The shared proxies that act for this proxy's workload. One that has no identity can't prove that it may.
fn known(snapshot: &Snapshot, zone: &str) -> Vec<Candidate> {
    let zone = if zone.is_empty() { snapshot.zone() } else { zone };
    let Some(destination) = snapshot.shared_proxies() else { return Vec::new() };
    let candidate = |spec: &outrigger_core::config::EndpointSpec| {
        Some(Candidate {
            address: SocketAddr::new(spec.address, spec.target_port(ports::MESH)),
            identity: spec.identity.clone()?,
            draining: spec.draining,
            near: !zone.is_empty() && *spec.zone == *zone,
        })
    };
    destination.endpoints.iter().filter_map(|endpoint| candidate(&endpoint.spec)).collect()
}
