//! `outrigger-controller`: settings and wiring, no logic.
//!
//! Prints one JSON line with the addresses it has bound (`{"grpc":"IP:PORT","admin":"IP:PORT"}`) to stdout, and logs to
//! stderr. Connections of proxies wait in the listener's queue until the first configuration has been read.

mod admin;
mod args;
mod certificate;
mod grpc;
mod listener;
mod metrics;
mod tokens;

use std::{
    io::{Write, stderr, stdout},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use outrigger_ca::{Authority, Certificates};
use outrigger_kube::{Settings, folder};
use outrigger_model::MeshSnapshot;
use outrigger_xds::{Acks, Ads};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tracing_subscriber::EnvFilter;

use crate::{
    admin::Admin, args::Args, certificate::OwnCertificate, grpc::Server, metrics::Observed, tokens::TokenFiles,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Lifetime of workload certificates.
const WORKLOAD_TTL: Duration = Duration::from_secs(24 * 3600);

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::try_new(&args.log).context("--log")?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).init();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    if !args.config_dir.is_dir() {
        bail!("--config-dir {}: no such folder", args.config_dir.display());
    }
    let authority = Arc::new(Authority::load_or_create(&args.state, &args.trust_domain).context("--state")?);
    let (snapshot_sender, mut snapshots) = watch::channel(Arc::<MeshSnapshot>::default());
    let (problem_sender, problems) = watch::channel(Vec::new());
    let acks = Arc::new(Acks::default());
    let stop = CancellationToken::new();

    let listener = bind(args.listen, "--listen").await?;
    let admin_listener = bind(args.admin, "--admin").await?;
    announce(&listener, &admin_listener)?;

    let observed =
        Observed { snapshots: snapshots.clone(), problems, acks: Arc::clone(&acks), authority: Arc::clone(&authority) };
    let admin = tokio::spawn(Admin::new(observed).run(admin_listener, stop.clone()));
    let settings = Settings { trust_domain: args.trust_domain, roots: authority.roots() };
    let mut source = tokio::spawn(folder::watch(args.config_dir, settings, snapshot_sender, problem_sender));

    let certificate = OwnCertificate::new(Arc::clone(&authority))?;
    let renewal = tokio::spawn(Arc::clone(&certificate).keep_fresh());
    let routes = Routes::new(Ads::new(snapshots.clone(), acks).into_service())
        .add_service(Certificates::new(authority, WORKLOAD_TTL).into_service())
        .prepare();
    let tokens = TokenFiles::new(args.tokens, snapshots.clone());
    let server = Server::new(certificate, tokens, routes)?;
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

    let ended = tokio::select! {
        ended = &mut source => Err(anyhow!("the folder is no longer watched: {ended:?}")),
        signal = stop_signal() => signal.map(|name| tracing::info!(signal = name, "draining")),
    };
    stop.cancel();
    renewal.abort();
    // Ends every stream of configuration: their source is gone.
    source.abort();
    let (grpc, admin) = (grpc.await, admin.await);
    ended.and(grpc.context("gRPC")).and(admin.context("admin"))
}

async fn bind(address: std::net::SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag} {address}"))
}

fn announce(grpc: &TcpListener, admin: &TcpListener) -> anyhow::Result<()> {
    let addresses = serde_json::json!({
        "grpc": grpc.local_addr()?.to_string(),
        "admin": admin.local_addr()?.to_string(),
    });
    tracing::info!(%addresses, "listening");
    let mut out = stdout().lock();
    writeln!(out, "{addresses}").and_then(|()| out.flush()).context("stdout")
}

async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}
