//! The shared proxy's port: guards bring connections of pods whose sidecar can't carry them. Whom it acts for is
//! what the guard's certificate says, never what its header says.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use outrigger_core::{Snapshot, config::Inbound};
use outrigger_wire::{SpiffeId, tunnel::GuardHeader};
use tokio::net::TcpStream;

use crate::{
    drain::Drain,
    http::{App, Caller, RequestError},
    inbound, outbound,
    tls::{ServerAlpn, TlsStream},
    worker::{MeshProtocol, Worker},
};

/// Connections beyond its share over which an identity is told so, before they are closed unread.
const LEAST_TOLD: usize = 16;

/// mTLS on the mesh port of a shared proxy.
pub(crate) async fn accept(worker: &Rc<Worker>, stream: TcpStream) {
    let Ok(source) = stream.peer_addr() else { return };
    let Some((mut stream, guard, protocol)) = inbound::handshake(worker, stream, ServerAlpn::Shared).await else {
        return;
    };
    if protocol != MeshProtocol::Guard {
        return tracing::debug!(%guard, "refused: only guards call a shared proxy");
    }
    let header = match inbound::read_frame(&mut stream).await {
        Ok(frame) => GuardHeader::decode(&frame),
        Err(error) => return tracing::debug!(%guard, %error, "no guard header"),
    };
    match header {
        Ok(header) => serve(worker, stream, guard, source, header).await,
        Err(error) => tracing::warn!(%guard, %error, "bad guard header"),
    }
}

async fn serve(worker: &Rc<Worker>, stream: TlsStream, guard: SpiffeId, source: SocketAddr, header: GuardHeader) {
    let destination = header.destination();
    // The pod whose guard this is, as TLS over TCP shows it; the header's addresses are the guard's word alone.
    let pod = source.ip().to_canonical();
    let drain = &worker.drain_with(stream.root());
    let Some(_share) = worker.engine.shares.admit(&guard, worker.engine.limits.per_identity) else {
        return shed(worker, drain, stream, guard, pod, header).await;
    };
    match header {
        GuardHeader::Outbound { .. } => {
            if leads_back(worker, destination.ip()) {
                return tracing::warn!(%guard, %destination, "refused: it leads to a shared proxy");
            }
            let caller = Caller { identity: Some(guard), address: pod, acting: true };
            outbound::serve(worker, drain, stream, caller, source, destination).await;
        }
        GuardHeader::InboundMesh { source, peer, alpn, .. } => {
            let Some(app) = app_of(worker, guard, pod, destination) else { return };
            let protocol = match MeshProtocol::of(Some(&alpn)) {
                Some(protocol @ (MeshProtocol::Http2 | MeshProtocol::Tcp)) => protocol,
                _ => return,
            };
            inbound::serve_mesh(worker, drain, stream, app, peer, source.ip(), protocol).await;
        }
        GuardHeader::InboundPlain { source, .. } => {
            let Some(app) = app_of(worker, guard, pod, destination) else { return };
            inbound::serve_plain(worker, drain, stream, app, source.ip(), destination).await;
        }
    }
}

/// An identity is over its share. It is told so, as long as that doesn't take too much either.
async fn shed(
    worker: &Rc<Worker>,
    drain: &Drain,
    stream: TlsStream,
    guard: SpiffeId,
    pod: IpAddr,
    header: GuardHeader,
) {
    let limit = worker.engine.limits.per_identity;
    worker.engine.metrics.connection_shed();
    tracing::debug!(%guard, limit, "too many connections of one identity");
    // A meshed caller takes a closed connection for what it is, and goes elsewhere.
    let GuardHeader::Outbound { destination, .. } = header else { return };
    let Some(_told) = worker.engine.shares.admit(&guard, limit + (limit / 8).max(LEAST_TOLD)) else { return };
    let caller = Caller { identity: Some(guard), address: pod, acting: true };
    outbound::turn_away(worker, drain, stream, caller, destination, || RequestError::Shed).await;
}

/// The pod that the guard speaks for: its own, by identity and by the address that it connects from. Pods must
/// therefore reach shared proxies without address translation, as Kubernetes' network model has it.
fn app_of(worker: &Worker, guard: SpiffeId, pod: IpAddr, destination: SocketAddr) -> Option<App> {
    let snapshot = worker.engine.store.load();
    let inbound: &Inbound = snapshot.inbound_addresses.get(&destination.ip())?;
    if inbound.identity != guard || !inbound.addresses.contains(&pod) {
        tracing::warn!(%guard, %destination, owner = %inbound.identity, "refused: not the guard's own pod");
        return None;
    }
    Some(App::Through { workload: inbound.workload.clone(), identity: guard, address: destination.ip() })
}

fn leads_back(worker: &Worker, address: IpAddr) -> bool {
    let (snapshot, own) = (worker.engine.store.load(), worker.engine.tls.identity());
    leads_here(&snapshot, address) || leads_to_shared_proxies(&snapshot, own.as_ref(), address)
}

/// Addresses that mean this very pod: nobody's app calls those through a shared proxy.
fn leads_here(snapshot: &Snapshot, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let own = |own: &Arc<Inbound>| own.addresses.contains(&address);
    address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || link_local
        || snapshot.own.as_ref().is_some_and(own)
}

/// Whether a service or pod of shared proxies has the address, of whichever pool: each knows all that may act for others.
fn leads_to_shared_proxies(snapshot: &Snapshot, own: Option<&SpiffeId>, address: IpAddr) -> bool {
    let Some(Some(known)) = snapshot.addresses.get(&address) else { return false };
    let acting = snapshot.own.as_ref().map_or(&[][..], |own| &own.acting_identities[..]);
    let acts = |identity: &SpiffeId| own == Some(identity) || acting.contains(identity);
    known.endpoints.iter().any(|endpoint| endpoint.spec.identity.as_ref().is_some_and(acts))
}

#[cfg(test)]
mod tests;
