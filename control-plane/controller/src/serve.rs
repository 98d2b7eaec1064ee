//! What both modes have in common: the proxies' port, the admin interface, and how the process ends.

use std::{
    io::{Write, stdout},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use outrigger_ca::Certificates;
use outrigger_xds::Ads;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    admin::{Admin, Pages},
    authenticate::Authenticator,
    certificate::OwnCertificate,
    grpc::Server,
    metrics::Observed,
};

/// Lifetime of workload certificates.
const WORKLOAD_TTL: Duration = Duration::from_secs(24 * 3600);

/// Where proxies and people connect.
pub(crate) struct Listeners {
    pub(crate) grpc: TcpListener,
    pub(crate) admin: TcpListener,
}

// === impl Listeners ===

impl Listeners {
    pub(crate) async fn bind(grpc: SocketAddr, admin: SocketAddr) -> Result<Self> {
        Ok(Self { grpc: bind(grpc, "--listen").await?, admin: bind(admin, "--admin").await? })
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

/// Serves until a signal, or until `source` or `work` end, which they never should. Connections of proxies wait in the
/// listener's queue until the first configuration has been read.
pub(crate) async fn run(
    listeners: Listeners,
    observed: Observed,
    certificate: Arc<OwnCertificate>,
    authenticator: Arc<Authenticator>,
    source: impl Future<Output = anyhow::Error> + Send + 'static,
    work: impl Future<Output = anyhow::Error>,
    stop: CancellationToken,
) -> Result<()> {
    let Listeners { grpc: listener, admin: admin_listener } = listeners;
    let mut snapshots = observed.snapshots.clone();
    let routes = Routes::new(Ads::new(snapshots.clone(), Arc::clone(&observed.acks)).into_service())
        .add_service(Certificates::new(Arc::clone(&observed.authority), WORKLOAD_TTL).into_service())
        .prepare();
    let admin = tokio::spawn(Admin::new(observed).run(admin_listener, Pages::All, stop.clone()));
    let renewal = tokio::spawn(Arc::clone(&certificate).keep_fresh());
    let server = Server::new(certificate, authenticator, routes)?;
    let grpc = tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                // An error means that the source has ended, and the process with it.
                first = snapshots.wait_for(|snapshot| snapshot.generation > 0) => drop(first),
                () = stop.cancelled() => {}
            }
            server.run(listener, stop).await;
        }
    });
    let mut source = tokio::spawn(source);
    let ended = tokio::select! {
        ended = &mut source => Err(ended.unwrap_or_else(|error| anyhow!("the source of configuration: {error}"))),
        ended = work => Err(ended),
        signal = stop_signal() => signal.map(|name| tracing::info!(signal = name, "draining")),
    };
    stop.cancel();
    renewal.abort();
    // Ends every stream of configuration: their source is gone.
    source.abort();
    let (grpc, admin) = (grpc.await, admin.await);
    ended.and(grpc.context("gRPC")).and(admin.context("admin"))
}

async fn stop_signal() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}
