//! What all modes have in common: logs, the control thread's runtime, signals, the configuration client and the
//! admin interface.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use outrigger_config::{Bootstrap, ClientStatus};
use outrigger_core::Store;
use outrigger_dataplane::{
    admin::{self, Admin},
    telemetry::Metrics,
    tls::MeshTls,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing_subscriber::{EnvFilter, Registry, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::settings::Settings;

/// Changes the log filter of the running process.
pub(crate) type Levels = reload::Handle<EnvFilter, Registry>;

/// The parts that every mode has.
pub(crate) struct Base {
    pub(crate) store: Arc<Store>,
    pub(crate) tls: Arc<MeshTls>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) drain: watch::Sender<bool>,
}

/// Runs one mode on the control thread.
pub(crate) fn run<M, F>(settings: Settings, mode: M) -> Result<()>
where
    M: FnOnce(Settings, Levels) -> F,
    F: Future<Output = Result<()>>,
{
    let filter = EnvFilter::try_new(&settings.log).with_context(|| format!("log filter {:?}", settings.log))?;
    let (filter, levels) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    raise_descriptor_limit();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(mode(settings, levels))
}

/// Shells and container engines often allow 1,024 descriptors, a proxy needs two per connection; what the hard limit
/// allows may be had by asking.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of file descriptors stays as it is");
    }
}

impl Base {
    /// Restores what was saved and starts what keeps it current.
    pub(crate) async fn start(bootstrap: Bootstrap, levels: Levels, admin: SocketAddr) -> Result<Self> {
        if let Some(folder) = &bootstrap.state_dir {
            std::fs::create_dir_all(folder).with_context(|| format!("state folder {}", folder.display()))?;
        }
        let (store, asked) = Store::new();
        let restored = outrigger_config::restore(&bootstrap, &store);
        tracing::info!(config = restored.config, certificate = restored.svid, "restored");
        let tls = MeshTls::new(store.clone());
        let metrics = Metrics::new();
        let status = ClientStatus::new();
        let drain = watch::Sender::new(false);
        let ready = watch::Sender::new(is_ready(&store, &tls));
        let base =
            Self { ready: ready.subscribe(), drain: drain.clone(), store: store.clone(), tls: tls.clone(), metrics };

        let flag = Arc::new(AtomicBool::new(*ready.borrow()));
        let admin_status = status.clone();
        let admin_parts = Arc::new(Admin {
            store: store.clone(),
            metrics: base.metrics.clone(),
            ready: flag.clone(),
            drain,
            extra: Box::new(move || client_status(&admin_status)),
            set_level: Box::new(move |level| {
                let filter = EnvFilter::try_new(level).map_err(|error| error.to_string())?;
                levels.reload(filter).map_err(|error| error.to_string())
            }),
        });
        let listener = TcpListener::bind(admin).await.with_context(|| format!("admin address {admin}"))?;
        tokio::spawn(admin::serve(listener, admin_parts));
        tokio::spawn(tls.clone().follow());
        tokio::spawn(watch_readiness(store.clone(), tls, ready, flag, base.metrics.clone()));
        tokio::spawn(outrigger_config::run(bootstrap, store, asked, status));
        Ok(base)
    }
}

/// Ready is: own certificate, roots, and what the workload accepts.
fn is_ready(store: &Store, tls: &MeshTls) -> bool {
    let snapshot = store.load();
    snapshot.own.is_some() && !snapshot.trust.is_empty() && tls.identity().is_some()
}

async fn watch_readiness(
    store: Arc<Store>,
    tls: Arc<MeshTls>,
    ready: watch::Sender<bool>,
    flag: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
) {
    let mut changes = store.changes();
    loop {
        // The certificate becomes usable a moment after it was published.
        let settled = is_ready(&store, &tls);
        flag.store(settled, Ordering::Relaxed);
        ready.send_if_modified(|was| std::mem::replace(was, settled) != settled);
        metrics.set_config_generation(store.load().generation);
        if let Some(svid) = store.svid() {
            metrics.set_certificate_expiry(svid.not_after);
        }
        let building = store.svid().is_some() && tls.identity().is_none();
        let pause = Duration::from_millis(if building { 1 } else { 3_600_000 });
        if let Ok(Err(_)) = tokio::time::timeout(pause, changes.changed()).await {
            return;
        }
    }
}

fn client_status(status: &ClientStatus) -> serde_json::Value {
    let status = status.get();
    let refusals: Vec<_> = status
        .refusals
        .iter()
        .map(|it| serde_json::json!({ "typeUrl": it.type_url, "name": it.name, "reason": it.reason }))
        .collect();
    serde_json::json!({
        "connected": status.connected,
        "streams": status.streams,
        "updates": status.updates,
        "refusals": refusals,
        "lastError": status.last_error,
    })
}

/// Resolves at SIGTERM or SIGINT.
pub(crate) async fn stopped() {
    let (Ok(mut term), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
}
