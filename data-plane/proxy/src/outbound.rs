//! Connections that an app opens: where to, what do they speak, and on to [`http`](crate::http) or
//! [`tcp`](crate::tcp).

use std::{net::SocketAddr, rc::Rc};

use outrigger_core::{
    Destination, Lookup,
    config::{OnFallbackFailure, Protocol},
    detect::Detected,
};
use outrigger_wire::tunnel::GuardHeader;
use tokio::net::TcpStream;

use crate::{
    drain::Drain,
    engine::Role,
    guard::capture,
    http::{Caller, Departure, RequestError, forward, serve_http1, serve_http2, turned_away},
    listeners::original_destination,
    pump::pump,
    stream::{Io, Prefixed},
    tcp::{self, Opening},
    telemetry::{Direction, FallbackReason},
    worker::Worker,
};

/// A connection that was redirected to us on its way out.
pub(crate) async fn accept(worker: &Rc<Worker>, mut stream: TcpStream) {
    let (Ok(original), Ok(source), Ok(here)) = (original_destination(&stream), stream.peer_addr(), stream.local_addr())
    else {
        return;
    };
    // Nobody redirected this one: it called our own port, and would call it again and again.
    if original == here {
        return tracing::debug!(%source, "refused a direct connection to the outbound port");
    }
    if capture::is_canary(original) {
        return capture::answer(&mut stream).await;
    }
    let caller = Caller { identity: worker.engine.tls.identity(), address: source.ip(), acting: false };
    let drain = worker.drain_with(None);
    if worker.is_tight() {
        let Some(_told) = worker.admit_told() else { return };
        return turn_away(worker, &drain, stream, caller, original, || RequestError::NoMemory).await;
    }
    serve(worker, &drain, stream, caller, source, original).await;
}

/// Carries one outbound connection on behalf of `caller`, until `drain`.
pub(crate) async fn serve<S: Io>(
    worker: &Rc<Worker>,
    drain: &Drain,
    mut stream: S,
    caller: Caller,
    source: SocketAddr,
    original: SocketAddr,
) {
    let engine = &worker.engine;
    let found = match engine.role {
        Role::Sidecar => engine.store.lookup_within(original.ip(), engine.limits.lookup).await,
        // A shared proxy knows the whole mesh: what it doesn't know isn't in it.
        Role::Shared => match engine.store.load().addresses.get(&original.ip()) {
            Some(Some(destination)) => Lookup::Known(destination.clone()),
            _ => Lookup::NotMeshed,
        },
    };
    let from = Rc::new(Departure { worker: worker.clone(), caller, original, quiet: Rc::default() });
    let destination = match found {
        Lookup::Known(destination) => Some(destination),
        Lookup::NotMeshed => None,
        Lookup::Unknown => return through_shared(&from, stream, source).await,
    };
    let Some(destination) = destination else {
        return tcp::outbound(&from, &mut stream, None).await;
    };
    let idle = engine.limits.idle;
    let declared = protocol(&destination, original.port());
    if declared == Protocol::Tcp {
        return tcp::outbound(&from, &mut stream, Some(&destination)).await;
    }
    let opening =
        tcp::detect(worker, &mut stream, original, declared, idle, || tcp::dial_out(&from, Some(&destination))).await;
    let handle_from = from.clone();
    match opening {
        Ok(Opening::Http(Detected::Http2, read)) => {
            let stream = Prefixed::new(read, stream);
            serve_http2(worker, drain, stream, idle, move |request| forward(handle_from.clone(), request)).await;
        }
        Ok(Opening::Http(_, read)) => {
            serve_http1(worker, drain, Prefixed::new(read, stream), idle, &from.quiet, |request| {
                forward(handle_from.clone(), request)
            })
            .await;
        }
        Ok(Opening::Opaque(read)) => {
            tcp::outbound(&from, &mut Prefixed::new(read, stream), Some(&destination)).await;
        }
        Ok(Opening::ServerFirst { read, dialled }) => {
            tcp::carry(&from, &mut Prefixed::new(read, stream), dialled).await;
        }
        Err(error) => tracing::debug!(%error, %original, "connection ended before it said what it speaks"),
    }
}

/// Answers every request of a connection that there is no room for. What isn't HTTP, or waits for the server to speak
/// first, is closed.
pub(crate) async fn turn_away<S: Io>(
    worker: &Rc<Worker>,
    drain: &Drain,
    mut stream: S,
    caller: Caller,
    original: SocketAddr,
    why: fn() -> RequestError,
) {
    // Who is shed keeps nothing open for long.
    let limit = worker.engine.limits.request_head;
    let nobody = || std::future::pending::<Result<_, std::io::Error>>();
    let opening = tcp::detect(worker, &mut stream, original, Protocol::Http, limit, nobody).await;
    let from = Rc::new(Departure { worker: worker.clone(), caller, original, quiet: Rc::default() });
    let handle_from = from.clone();
    match opening {
        Ok(Opening::Http(Detected::Http2, read)) => {
            let stream = Prefixed::new(read, stream);
            serve_http2(worker, drain, stream, limit, move |request| turned_away(handle_from.clone(), request, why()))
                .await;
        }
        Ok(Opening::Http(_, read)) => {
            serve_http1(worker, drain, Prefixed::new(read, stream), limit, &from.quiet, |request| {
                turned_away(handle_from.clone(), request, why())
            })
            .await;
        }
        _ => {}
    }
}

fn protocol(destination: &Destination, port: u16) -> Protocol {
    destination.service.port(port).map_or(Protocol::Auto, |port| port.protocol)
}

/// The destination isn't known yet, or can't be asked for: a shared proxy knows it.
async fn through_shared<S: Io>(from: &Departure, mut stream: S, source: SocketAddr) {
    let (engine, original) = (&from.worker.engine, from.original);
    if engine.fallback.is_shared_proxy(original) {
        return tracing::debug!(%original, "refused: a loop through the shared proxy");
    }
    match engine.fallback.open(&GuardHeader::Outbound { source, destination: original }).await {
        Ok(mut tunnel) => {
            engine.metrics.fallback(Direction::Outbound, FallbackReason::UnknownDestination).inc();
            tracing::info!(%original, reason = "unknown_destination", "through the shared proxy");
            let _ = pump(&mut stream, &mut tunnel).await;
        }
        Err(error) => {
            engine.metrics.fallback_failures(Direction::Outbound).inc();
            let own = engine.store.load().own.clone();
            if own.is_some_and(|own| own.fallback.on_fallback_failure == OnFallbackFailure::Direct) {
                tracing::warn!(%error, %original, "no shared proxy; directly, WITHOUT any policy, as the owner wants");
                return tcp::outbound(from, &mut stream, None).await;
            }
            tracing::warn!(%error, %original, "no shared proxy; connection closed");
        }
    }
}
