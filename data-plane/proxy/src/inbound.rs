//! Connections that reach a pod: who calls, what do they speak, and on to [`http`](crate::http) or
//! [`tcp`](crate::tcp).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use outrigger_core::{config::Protocol, detect::Detected};
use outrigger_wire::{SpiffeId, names::ports, tunnel::TcpHeader};
use tokio::{io::AsyncRead, net::TcpStream};

use crate::{
    drain::Drain,
    http::{App, Arrival, deliver, serve_http1, serve_http2, unauthenticated},
    listeners::original_destination,
    pump::pump,
    stream::{self, Io, Prefixed},
    tcp::{self, Opening},
    telemetry::Side,
    tls::{Agreed, ServerAlpn, TlsStream, accept},
    worker::{MeshProtocol, Worker},
};

/// From the end of the handshake to the end of the small header.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// Plaintext that was redirected to us on its way in.
pub(crate) async fn accept_plain(worker: &Rc<Worker>, stream: TcpStream) {
    let (Ok(original), Ok(source), Ok(here)) = (original_destination(&stream), stream.peer_addr(), stream.local_addr())
    else {
        return;
    };
    if original == here {
        return tracing::debug!(%source, "refused a direct connection to the inbound port");
    }
    let Some(_stranger) = worker.engine.admit_stranger() else {
        worker.engine.metrics.connection_shed();
        return tracing::debug!(%source, "too many connections of plaintext: closed");
    };
    let drain = worker.drain_with(None);
    serve_plain(worker, &drain, stream, App::Here(original.ip()), source.ip(), original).await;
}

/// Serves plaintext, here or for a pod whose guard passed it on, until `drain`.
pub(crate) async fn serve_plain<S: Io>(
    worker: &Rc<Worker>,
    drain: &Drain,
    mut stream: S,
    app: App,
    source: IpAddr,
    original: SocketAddr,
) {
    let port = original.port();
    let at = Rc::new(Arrival {
        worker: worker.clone(),
        app,
        peer: None,
        peer_name: unauthenticated(),
        source,
        captured: Some(port),
        quiet: Rc::default(),
    });
    let Some(inbound) = at.inbound() else {
        return tracing::warn!(%original, "no configuration yet; connection closed");
    };
    // Where the platform asks about health, a request is looked at before it is refused.
    let probed = inbound.is_probed(port);
    if inbound.strict && !probed {
        return tracing::info!(%source, %original, "plaintext refused: mTLS is strict");
    }
    let declared = inbound.port(port).map_or(Protocol::Auto, |port| port.protocol);
    let unseen = || tcp::judge_opaque(&inbound, &at.stranger(), port).allowed;
    if declared == Protocol::Tcp && (!probed || unseen()) {
        return tcp::inbound(&at, &mut stream, port, None).await;
    }
    // An app is dialled before its caller speaks only if the caller may talk to it unseen.
    let may_dial = declared == Protocol::Auto && unseen();
    let ask = if may_dial { Protocol::Auto } else { Protocol::Http };
    let limits = &worker.engine.limits;
    // Who may do no more than ask about health asks at once.
    let idle = if inbound.strict { limits.request_head } else { limits.idle_stranger };
    let opening = tcp::detect(worker, &mut stream, original, ask, idle, || tcp::dial_app(&at, port)).await;
    let handle_at = at.clone();
    match opening {
        Ok(Opening::Http(Detected::Http2, read)) => {
            let stream = Prefixed::new(read, stream);
            serve_http2(worker, drain, stream, idle, move |request| deliver(handle_at.clone(), request)).await;
        }
        Ok(Opening::Http(_, read)) => {
            serve_http1(worker, drain, Prefixed::new(read, stream), idle, &at.quiet, |request| {
                deliver(handle_at.clone(), request)
            })
            .await;
        }
        Ok(Opening::Opaque(read)) => tcp::inbound(&at, &mut Prefixed::new(read, stream), port, None).await,
        Ok(Opening::ServerFirst { read, dialled }) => {
            tcp::carry_in(&at, &inbound, &mut Prefixed::new(read, stream), dialled).await;
        }
        Err(error) => tracing::debug!(%error, %original, "connection ended before it said what it speaks"),
    }
}

/// mTLS on the mesh port.
pub(crate) async fn accept_mesh(worker: &Rc<Worker>, stream: TcpStream) {
    let (Ok(source), Ok(here)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let Some((stream, peer, protocol)) = handshake(worker, stream, ServerAlpn::Pod).await else { return };
    let drain = worker.drain_with(stream.root());
    serve_mesh(worker, &drain, stream, App::Here(here.ip()), peer, source.ip(), protocol).await;
}

/// Ends TLS. `None`: it failed, which is counted.
pub(crate) async fn handshake(
    worker: &Worker,
    stream: TcpStream,
    alpn: ServerAlpn,
) -> Option<(TlsStream, SpiffeId, MeshProtocol)> {
    let engine = &worker.engine;
    let config = engine.tls.server(alpn)?;
    let Some(_unproven) = engine.admit_handshake() else {
        engine.metrics.connection_shed();
        tracing::debug!("too many TLS handshakes at once: closed");
        return None;
    };
    let accepted = tokio::time::timeout(engine.limits.handshake, Box::pin(accept(config, stream))).await;
    let accepted = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let series = engine.metrics.tls(Side::Server);
    if accepted.is_ok() {
        series.handshakes.inc()
    } else {
        series.failures.inc()
    }
    let (stream, Agreed { peer, alpn }) =
        accepted.inspect_err(|error| tracing::debug!(%error, "TLS handshake failed")).ok()?;
    Some((stream, peer?, MeshProtocol::of(alpn.as_deref())?))
}

/// Serves what came through mTLS, here or for a pod whose guard passed it on, until `drain`.
pub(crate) async fn serve_mesh<S: Io>(
    worker: &Rc<Worker>,
    drain: &Drain,
    mut stream: S,
    app: App,
    peer: SpiffeId,
    source: IpAddr,
    protocol: MeshProtocol,
) {
    let at = Rc::new(Arrival {
        worker: worker.clone(),
        app,
        peer_name: worker.series.name(peer.as_str()),
        peer: Some(peer),
        source,
        captured: None,
        quiet: Rc::default(),
    });
    match protocol {
        MeshProtocol::Http2 => {
            let idle = worker.engine.limits.idle;
            serve_http2(worker, drain, stream, idle, move |request| deliver(at.clone(), request)).await;
        }
        MeshProtocol::Tcp => {
            if let Some(header) = tcp_header(&mut stream).await {
                tcp::inbound(&at, &mut stream, header.port, Some(header)).await;
            }
        }
        MeshProtocol::Deliver => hand_over(&at, stream).await,
        MeshProtocol::Guard => {}
    }
}

/// What a shared proxy has decided already: straight to the app.
async fn hand_over<S: Io>(at: &Arrival, mut stream: S) {
    let acting = at
        .inbound()
        .is_some_and(|inbound| at.peer.as_ref().is_some_and(|peer| inbound.acting_identities.contains(peer)));
    if !acting {
        return tracing::warn!(peer = &*at.peer_name, "refused a delivery: only shared proxies may deliver");
    }
    let Some(TcpHeader { port, .. }) = tcp_header(&mut stream).await else { return };
    if ports::is_own(port) {
        return tracing::warn!(peer = &*at.peer_name, port, "refused a delivery to a proxy's own port");
    }
    match tcp::dial_app(at, port).await {
        Ok(mut dialled) => {
            let _ = pump(&mut stream, &mut dialled.link).await;
        }
        Err(error) => tracing::debug!(%error, port, "delivery failed"),
    }
}

async fn tcp_header<S: AsyncRead + Unpin>(stream: &mut S) -> Option<TcpHeader> {
    let frame = read_frame(stream).await.inspect_err(|error| tracing::debug!(%error, "no tunnel header")).ok()?;
    TcpHeader::decode(&frame).inspect_err(|error| tracing::debug!(%error, "bad tunnel header")).ok()
}

/// Reads one frame of a tunnel, within the limit.
pub(crate) async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let read = tokio::time::timeout(HEADER_LIMIT, stream::read_frame(stream)).await;
    read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
