//! The guard: holds the sockets, carries at layer 4 while the sidecar can't.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use outrigger_config::{Bootstrap, Departure as Departed, Role};
use outrigger_dataplane::{
    Limits,
    admin::Departure,
    guard::{self, Authority, GuardConfig, View},
    handover::Names,
    listeners::Ports,
    telemetry::Listener,
};
use outrigger_wire::names::ports;
use tokio::sync::watch;

use crate::{
    runtime::{Base, Face, Levels, Start, limits},
    settings::Settings,
};

/// Connections that a guard carries at once.
const CONNECTIONS: usize = 4096;

pub(crate) async fn run(settings: Settings, levels: Levels, sidecar: bool, captured: bool) -> Result<()> {
    let start = Start::restore(settings.bootstrap(Role::Guard))?;
    let authority = watch::Sender::new(None);
    // Innocent until it is seen: the check takes some seconds to be sure.
    let capture = watch::Sender::new(true);
    tokio::spawn(outrigger_config::tell_uncaptured(settings.bootstrap(Role::Guard), capture.subscribe()));
    let face = face(&start.base, authority.subscribe(), capture.subscribe(), &settings, sidecar);
    let base = start.serve(&settings, levels, face).await?;
    // One thread, and its sockets are those of all the sidecar's workers.
    let limits = limits(Limits { connections: CONNECTIONS, ..Limits::default() }, settings.workers, &base.metrics);
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
        connections: limits.connections,
        pipes: limits.pipes,
        authority,
        captured: captured.then_some(capture),
    };
    guard::run(config, base.ended()).await.context("guarding")?;
    base.drain.send_replace(true);
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

/// For the kubelet, before it tells the app to end.
fn departure(bootstrap: Bootstrap) -> Departure {
    let bootstrap = Arc::new(bootstrap);
    Box::new(move |within| {
        let bootstrap = bootstrap.clone();
        Box::pin(async move {
            let begun = Instant::now();
            let how = outrigger_config::departed(&bootstrap, within).await;
            let took = begun.elapsed();
            match how {
                Departed::Left => {
                    tracing::info!(?took, "all callers know that this pod ends");
                    format!("left after {took:.1?}\n")
                }
                Departed::TimeOver(missing) => {
                    tracing::warn!(?took, missing, "this pod ends before all callers are known to know");
                    format!("not all are known to have left after {took:.1?}: {missing}\n")
                }
                Departed::Unknown => "the controller is of a version that doesn't count\n".to_owned(),
            }
        })
    })
}

/// It shows who accepts, probes the app for the kubelet, and tells it when nobody calls any more.
fn face(
    base: &Base,
    authority: watch::Receiver<Option<Authority>>,
    captured: watch::Receiver<bool>,
    settings: &Settings,
    sidecar: bool,
) -> Face {
    let (store, tls, metrics) = (base.store.clone(), base.tls.clone(), base.metrics.clone());
    let view = View::new(authority, store, tls, metrics, settings.zone.clone(), sidecar, captured);
    tokio::spawn(view.clone().follow());
    let shown = view.clone();
    Face {
        admin: ports::GUARD_ADMIN,
        readiness: Box::new(move || view.readiness()),
        alive: Box::new(|| Box::pin(std::future::ready(()))),
        departure: Some(departure(settings.bootstrap(Role::Guard))),
        more: Box::new(move || [("guard".to_owned(), shown.dump())].into_iter().collect()),
    }
}
