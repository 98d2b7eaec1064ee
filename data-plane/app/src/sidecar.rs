//! The sidecar: sockets from the guard, workers on them, and a drain at the end.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use outrigger_config::Role as ClientRole;
use outrigger_dataplane::{
    Engine, Limits, Role,
    fallback::Fallback,
    handover::{self, Names},
    listeners::Ports,
    telemetry::AccessLog,
    worker::Workers,
};
use tokio::sync::watch;

use crate::{
    runtime::{Base, Levels, Start, limits},
    settings::Settings,
};

pub(crate) async fn run(settings: Settings, levels: Levels) -> Result<()> {
    let start = Start::restore(settings.bootstrap(ClientRole::Sidecar))?;
    let face = start.base.face();
    let base = start.serve(&settings, levels, face).await?;
    let session = tokio::select! {
        session = handover::join(Names::default(), Ports::default(), settings.workers) => session.context("listening")?,
        () = base.ended() => return Ok(()),
    };
    tracing::info!(guarded = session.guarded(), "listening sockets are here");
    let engine = engine(&base, &settings, Role::Sidecar)?;
    let accept = watch::Sender::new(false);
    let listeners = (0..settings.workers)
        .map(|worker| session.listeners.for_worker(worker, settings.workers))
        .collect::<std::io::Result<Vec<_>>>()?;
    let workers = Workers::start(&engine, listeners, &accept.subscribe(), &base.drain.subscribe(), &base.memory())?;

    base.lives_by(&workers);
    let heartbeat = move || {
        let workers = workers.clone();
        async move { workers.beat().await }
    };
    let session = tokio::spawn(session.run(base.ready.clone(), accept, base.drain.clone(), heartbeat));
    base.ended().await;
    drain(&base, &engine, settings.drain_limit()).await;
    // It ends by itself once it has told the guard.
    session.await.context("hand-over")
}

/// Everything that the workers share.
pub(crate) fn engine(base: &Base, settings: &Settings, role: Role) -> Result<Arc<Engine>> {
    let log = AccessLog::stdout(settings.access_log, base.metrics.access_log_dropped())?;
    let usual = Limits { per_identity: settings.connections_per_identity, ..Limits::default() };
    let fallback = Fallback::new(base.store.clone(), base.tls.clone(), settings.mark, settings.zone.clone());
    Ok(Arc::new(Engine {
        metrics: base.metrics.clone(),
        log,
        fallback: Arc::new(fallback),
        limits: limits(usual, settings.workers, &base.metrics),
        zone: settings.zone.clone(),
        mark: settings.mark,
        ..Engine::new(role, base.store.clone(), base.tls.clone())
    }))
}

/// Lets what is open end, for so long at most.
pub(crate) async fn drain(base: &Base, engine: &Engine, limit: Duration) {
    base.drain.send_replace(true);
    tracing::info!(connections = engine.active.count(), "draining");
    let emptied = async {
        while engine.active.count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(limit, emptied).await.is_err() {
        tracing::warn!(connections = engine.active.count(), "drain limit reached");
    }
}
