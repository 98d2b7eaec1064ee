//! The guard: holds the sockets, carries at layer 4 while the sidecar can't.

use std::time::Duration;

use anyhow::{Context, Result};
use outrigger_config::Role;
use outrigger_dataplane::{
    guard::{self, GuardConfig},
    handover::Names,
    listeners::Ports,
    telemetry::Listener,
};
use outrigger_wire::names::ports;
use tokio::sync::watch;

use crate::{
    runtime::{Base, Levels, stopped},
    settings::Settings,
};

/// Connections that a guard carries at once.
const CONNECTIONS: usize = 4096;

pub(crate) async fn run(settings: Settings, levels: Levels, sidecar: bool) -> Result<()> {
    let admin = settings.admin.unwrap_or(([127, 0, 0, 1], ports::GUARD_ADMIN).into());
    let base = Base::start(settings.bootstrap(Role::Guard), levels, admin).await?;
    let authority = watch::Sender::new(None);
    let config = GuardConfig {
        ports: Ports::default(),
        workers: settings.workers,
        store: base.store.clone(),
        tls: base.tls.clone(),
        metrics: base.metrics.clone(),
        mark: settings.mark,
        zone: settings.zone.clone(),
        names: Names::default(),
        patience: Default::default(),
        sidecar,
        connections: CONNECTIONS,
        authority,
    };
    guard::run(config, stopped()).await.context("guarding")?;
    let carried = || {
        [Listener::Outbound, Listener::Inbound, Listener::Mesh]
            .iter()
            .map(|listener| base.metrics.connections(*listener).active())
            .sum::<i64>()
    };
    tracing::info!(connections = carried(), "draining");
    let emptied = async {
        while carried() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(settings.drain_limit(), emptied).await.is_err() {
        tracing::warn!(connections = carried(), "drain limit reached");
    }
    Ok(())
}
