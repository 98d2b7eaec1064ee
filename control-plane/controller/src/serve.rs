//! What both modes have in common: listening, the proxies' port, and how the process ends.

use std::{
    io::{Write, stdout},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use outrigger_ca::{Authority, Certificates};
use outrigger_xds::Ads;
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tonic::service::Routes;

use crate::{
    authenticate::Authenticator, certificate::OwnCertificate, departures::Departures, grpc::Server, listener::Room,
    metrics::Observed, troubles::Troubles,
};

/// Lifetime of workload certificates.
pub(crate) const WORKLOAD_TTL: Duration = Duration::from_secs(24 * 3600);

/// What orders the process to end. Once this exists, a signal is waited for, not obeyed.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// What proxies are served by.
pub(crate) struct Proxies {
    pub(crate) listener: TcpListener,
    pub(crate) room: Room,
    pub(crate) authority: Arc<Authority>,
    pub(crate) certificate: Arc<OwnCertificate>,
    pub(crate) authenticator: Arc<Authenticator>,
    /// Only where pods end.
    pub(crate) departures: Option<Departures>,
    /// Only where pods have owners to be told.
    pub(crate) troubles: Option<Troubles>,
}

// === impl Signals ===

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one's name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Listens; "all addresses" are the IPv4 ones where there is no IPv6.
pub(crate) async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    let bound = match bound {
        Err(_) if address.ip().is_unspecified() && address.is_ipv6() => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("{flag} {address}"))
}

/// One line of JSON on standard output: what is bound to which address.
pub(crate) fn announce(listeners: &[(&str, &TcpListener)]) -> Result<()> {
    let mut addresses = serde_json::Map::new();
    for (name, listener) in listeners {
        addresses.insert((*name).to_owned(), listener.local_addr()?.to_string().into());
    }
    let addresses = serde_json::Value::Object(addresses);
    tracing::info!(%addresses, "listening");
    let mut out = stdout().lock();
    writeln!(out, "{addresses}").and_then(|()| out.flush()).context("stdout")
}

/// Serves proxies until a signal, or until `source` or `work` end, which they never should. Then drains: whoever else
/// serves is told by [`Observed::stop`]. Connections of proxies wait in the listener's queue until the first configuration
/// has been read.
pub(crate) async fn run(
    proxies: Proxies,
    observed: &Observed,
    source: impl Future<Output = anyhow::Error> + Send + 'static,
    work: impl Future<Output = anyhow::Error>,
    signals: &mut Signals,
) -> Result<()> {
    let Proxies { listener, room, authority, certificate, authenticator, departures, troubles } = proxies;
    let mut snapshots = observed.snapshots.clone();
    let mut routes = Routes::new(Ads::new(snapshots.clone(), Arc::clone(&observed.acks)))
        .add_service(Certificates::new(authority, WORKLOAD_TTL).into_service());
    if let Some(departures) = departures {
        routes = routes.add_service(departures.into_service());
    }
    if let Some(troubles) = troubles {
        routes = routes.add_service(troubles.into_service());
    }
    let renewal = tokio::spawn(Arc::clone(&certificate).keep_fresh());
    let server = Server::new(certificate, authenticator, routes.prepare())?;
    let mut grpc = tokio::spawn({
        let stop = observed.stop.clone();
        async move {
            tokio::select! {
                // An error means that the source has ended, and the process with it.
                first = snapshots.wait_for(|snapshot| snapshot.generation > 0) => drop(first),
                () = stop.cancelled() => {}
            }
            server.run(listener, room, stop).await;
        }
    });
    let mut source = tokio::spawn(source);
    let ended = tokio::select! {
        ended = &mut source => Err(ended.unwrap_or_else(|error| anyhow!("the source of configuration: {error}"))),
        ended = &mut grpc => Err(anyhow!("proxies are no longer served: {ended:?}")),
        ended = work => Err(ended),
        signal = signals.next() => {
            tracing::info!(signal, "draining");
            Ok(())
        }
    };
    if let Err(error) = &ended {
        let error = format!("{error:#}");
        tracing::error!(error, "this process can't go on");
        // The first reason is the one to be shown.
        let _ = observed.failure.set(error);
    }
    observed.stop.cancel();
    renewal.abort();
    // Ends every stream of configuration: their source is gone.
    source.abort();
    if grpc.is_finished() {
        return ended;
    }
    ended.and(grpc.await.context("gRPC"))
}
