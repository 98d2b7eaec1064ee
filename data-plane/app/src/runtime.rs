//! What all modes have in common: logs, the control thread's runtime, signals, the configuration client and the
//! admin interface.

use std::{
    future::Future,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use outrigger_config::{Bootstrap, ClientStatus, Restored};
use outrigger_core::Store;
use outrigger_dataplane::{
    Limits,
    admin::{self, Admin, Alive, Departure, Extra, Readiness},
    listeners::bind_address,
    memory::{self, Trimmer},
    pressure::{self, Cgroup, Level},
    telemetry::Metrics,
    tls::MeshTls,
    worker::Workers,
};
use outrigger_wire::names::ports;
use serde_json::{Map, Value, json};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tracing_subscriber::{
    EnvFilter, Registry, filter::ParseError, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

use crate::settings::Settings;

/// Changes the log filter of the running process.
pub(crate) type Levels = reload::Handle<EnvFilter, Registry>;

/// Until start-up is over, after it has seemed so.
const SETTLE: Duration = Duration::from_secs(2);
/// How often free memory is looked for.
const TIDY: Duration = Duration::from_secs(15);

/// The parts that every mode has.
pub(crate) struct Base {
    pub(crate) store: Arc<Store>,
    pub(crate) tls: Arc<MeshTls>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) ready: watch::Receiver<bool>,
    pub(crate) drain: watch::Sender<bool>,
    stopped: watch::Receiver<bool>,
    /// Those whose loops must turn, once there are any.
    workers: Arc<OnceLock<Workers>>,
}

/// A mode that has its last good state and does nothing yet.
pub(crate) struct Start {
    pub(crate) base: Base,
    ready: watch::Sender<bool>,
    bootstrap: Bootstrap,
    restored: Restored,
    asked: mpsc::Receiver<IpAddr>,
}

/// How a mode shows itself.
pub(crate) struct Face {
    /// Where its admin interface is if nobody says otherwise.
    pub(crate) admin: u16,
    pub(crate) readiness: Readiness,
    pub(crate) alive: Alive,
    /// Its health interface answers for the pod's app, too.
    pub(crate) departure: Option<Departure>,
    /// Entries of the dump that others don't have.
    pub(crate) more: Extra,
}

/// Runs one mode on the control thread.
pub(crate) fn run<M, F>(settings: Settings, mode: M) -> Result<()>
where
    M: FnOnce(Settings, Levels) -> F,
    F: Future<Output = Result<()>>,
{
    let filter = filter(&settings.log).with_context(|| format!("log filter {:?}", settings.log))?;
    let (filter, levels) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    raise_descriptor_limit();
    memory::prepare();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(mode(settings, levels))
}

/// What is logged. The h2 crate warns of frames that mean nothing, a line for each that a stranger sends: it is only heard
/// if it is named.
fn filter(levels: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::try_new(format!("h2=error,{levels}"))
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

/// What fits the descriptors that there are; says so if that is less than usual.
pub(crate) fn limits(usual: Limits, workers: usize, metrics: &Metrics) -> Limits {
    let before = usual.connections;
    let limits = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((descriptors, _)) => {
            let limits = usual.within(usize::try_from(descriptors).unwrap_or(usize::MAX), workers);
            if limits.connections < before {
                tracing::warn!(
                    descriptors,
                    connections = limits.connections,
                    usual = before,
                    "fewer connections at once than usual: raise the limit of open files (RLIMIT_NOFILE) of this container"
                );
            }
            limits
        }
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors isn't known");
            usual
        }
    };
    metrics.set_connections_limit(limits.connections);
    limits
}

// === impl Start ===

impl Start {
    /// Restores what was saved. From here on signals are heard: as a container's first process it would miss those
    /// that come before.
    pub(crate) fn restore(bootstrap: Bootstrap) -> Result<Self> {
        let stopped = watch_signals().context("signals")?;
        if let Some(folder) = &bootstrap.state_dir {
            std::fs::create_dir_all(folder).with_context(|| format!("state folder {}", folder.display()))?;
        }
        let (store, asked) = Store::new();
        let restored = outrigger_config::restore(&bootstrap, &store);
        tracing::info!(config = restored.config, certificate = restored.svid, "restored");
        let tls = MeshTls::new(store.clone());
        let ready = watch::Sender::new(missing(&store, &tls).is_none());
        let base = Base {
            store,
            tls,
            metrics: Metrics::new(),
            ready: ready.subscribe(),
            drain: watch::Sender::new(false),
            stopped,
            workers: Arc::default(),
        };
        Ok(Self { base, ready, bootstrap, restored, asked })
    }

    /// Starts what keeps the state current and shows it.
    pub(crate) async fn serve(self, settings: &Settings, levels: Levels, face: Face) -> Result<Base> {
        let Self { base, ready, bootstrap, restored, asked } = self;
        let status = ClientStatus::new();
        let about = about(&bootstrap);
        let client = status.clone();
        let admin_parts = Arc::new(Admin {
            store: base.store.clone(),
            metrics: base.metrics.clone(),
            alive: face.alive,
            readiness: face.readiness,
            drain: base.drain.clone(),
            extra: Box::new(move || {
                let mut entries = about.clone();
                entries.insert("status".to_owned(), client_status(&client));
                entries.extend((face.more)());
                entries
            }),
            set_level: Box::new(move |level| {
                let filter = filter(level).map_err(|error| error.to_string())?;
                levels.reload(filter).map_err(|error| error.to_string())
            }),
        });
        let address = settings.admin.unwrap_or(([127, 0, 0, 1], face.admin).into());
        let listener = TcpListener::bind(address).await.with_context(|| format!("admin address {address}"))?;
        tokio::spawn(admin::serve(listener, admin_parts.clone()));
        if let Some(address) = settings.health {
            let listener = bind_address(address).and_then(TcpListener::from_std);
            let listener = listener.with_context(|| format!("health address {address}"))?;
            tokio::spawn(admin::serve_health(listener, admin_parts, face.departure));
        }
        tokio::spawn(base.tls.clone().follow(settings.drain_limit()));
        tokio::spawn(watch_readiness(base.store.clone(), base.tls.clone(), ready, base.metrics.clone()));
        tokio::spawn(tidy(base.ready.clone()));
        let ended = base.ended();
        tokio::spawn(outrigger_config::run(bootstrap, restored, base.store.clone(), asked, status, ended));
        Ok(base)
    }
}

// === impl Base ===

impl Base {
    /// A proxy that is ready once it has its certificate and configuration.
    pub(crate) fn face(&self) -> Face {
        let (store, tls, workers) = (self.store.clone(), self.tls.clone(), self.workers.clone());
        Face {
            admin: ports::ADMIN,
            readiness: Box::new(move || missing(&store, &tls).map_or(Ok(()), Err)),
            alive: Box::new(move || {
                let workers = workers.get().cloned();
                Box::pin(async move {
                    if let Some(workers) = workers {
                        workers.beat().await;
                    }
                })
            }),
            departure: None,
            more: Box::new(Default::default),
        }
    }

    /// How much memory there is, from now on.
    pub(crate) fn memory(&self) -> watch::Receiver<Level> {
        let level = watch::Sender::new(Level::Calm);
        let seen = level.subscribe();
        if let Some(cgroup) = Cgroup::own() {
            tokio::spawn(pressure::follow(cgroup, level, self.metrics.clone()));
        }
        seen
    }

    /// From now on it is alive only if these are.
    pub(crate) fn lives_by(&self, workers: &Workers) {
        let _ = self.workers.set(workers.clone());
    }

    /// Resolves once this process was told to end, by signal or by the admin interface.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + use<> {
        let (mut stopped, mut draining) = (self.stopped.clone(), self.drain.subscribe());
        async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                _ = draining.wait_for(|draining| *draining) => {}
            }
        }
    }
}

/// What a proxy lacks of: own certificate, roots, and what the workload accepts.
fn missing(store: &Store, tls: &MeshTls) -> Option<&'static str> {
    let snapshot = store.load();
    match () {
        () if tls.identity().is_none() => Some("no certificate"),
        () if snapshot.trust.is_empty() => Some("no root certificates"),
        () if snapshot.own.is_none() => Some("no configuration of its workload"),
        () => None,
    }
}

async fn watch_readiness(store: Arc<Store>, tls: Arc<MeshTls>, ready: watch::Sender<bool>, metrics: Arc<Metrics>) {
    let mut changes = store.changes();
    loop {
        // The certificate becomes usable a moment after it was published.
        let settled = missing(&store, &tls).is_none();
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

/// Gives back memory that isn't needed any more: once of start-up, then of load that is over.
async fn tidy(mut ready: watch::Receiver<bool>) {
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    // The second time for what the last steps of start-up touch.
    for _ in 0..2 {
        tokio::time::sleep(SETTLE).await;
        match memory::forget_program_pages() {
            Ok(kilobytes) => tracing::debug!(kilobytes, "start-up's pages forgotten"),
            Err(error) => tracing::debug!(%error, "start-up's pages stay"),
        }
    }
    let (mut ticks, mut trimmer) = (tokio::time::interval(TIDY), Trimmer::default());
    loop {
        ticks.tick().await;
        if let Err(error) = trimmer.trim() {
            return tracing::debug!(%error, "free memory stays");
        }
    }
}

/// Entries of the dump that never change.
fn about(bootstrap: &Bootstrap) -> Map<String, Value> {
    let entries = [
        ("mode", bootstrap.role.as_str()),
        ("version", env!("CARGO_PKG_VERSION")),
        ("workload", &bootstrap.workload),
        ("controller", &bootstrap.controller),
    ];
    entries.into_iter().map(|(name, entry)| (name.to_owned(), entry.into())).collect()
}

fn client_status(status: &ClientStatus) -> Value {
    let status = status.get();
    let refusals: Vec<_> = status
        .refusals
        .iter()
        .map(|it| json!({ "type_url": it.type_url, "name": it.name, "reason": it.reason }))
        .collect();
    let resources: Map<_, _> =
        status.resources.iter().map(|(url, held)| (short_name(url).to_owned(), (*held).into())).collect();
    let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    json!({
        "connected": status.connected,
        "streams": status.streams,
        "updates": status.updates,
        "last_update": status.last_update.map(seconds),
        "resources": resources,
        "refusals": refusals,
        "on_trial": status.on_trial,
        "closed": status.closed,
        "last_error": status.last_error,
        "certificates_issued": status.certificate.issued,
        "last_certificate_error": status.certificate.last_error,
    })
}

/// `Service` of `type.googleapis.com/outrigger.config.v1alpha1.Service`.
fn short_name(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

/// Becomes true at SIGTERM or SIGINT.
fn watch_signals() -> std::io::Result<watch::Receiver<bool>> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (tell, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        tell.send_replace(true);
        // Who asks later must hear it too.
        tell.closed().await;
    });
    Ok(stopped)
}
