//! One of two shared proxies hardly gets a processor: guards, who are told so by nobody, ask the other one.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec, fault, probe::wait_until};

use super::{CALLER, SHARED, SHOP, service};
use crate::raw::{PATIENCE, Wire};

const OTHER: &str = "outrigger-system/shared-1";
const CALLS: usize = 100;

pub(super) fn avoided(machine: &Machine) -> Result<()> {
    let mesh = start(machine)?;
    wait_until("answers by turns", PATIENCE, || calls(&mesh, 2).is_ok_and(|by| by == [1, 1]))?;
    ensure!(calls(&mesh, CALLS)? == [CALLS / 2; 2], "equals don't take turns");
    let (starved, over) = (mesh.pod(SHARED)?.sidecar()?.pid(), AtomicBool::new(false));
    let by = thread::scope(|scope| {
        let starving =
            scope.spawn(|| fault::starve(Pid::from_raw(starved.cast_signed()), || !over.load(Ordering::Relaxed)));
        let by = calls(&mesh, CALLS);
        over.store(true, Ordering::Relaxed);
        starving.join().expect("no panic").and(by)
    })?;
    println!("        {CALLS} connections, one shared proxy starved: {} by it, {} by the other", by[0], by[1]);
    ensure!(by[0] + by[1] == CALLS && by[0] <= CALLS / 4, "{by:?}");
    wait_until("turns again", PATIENCE, || calls(&mesh, 2).is_ok_and(|by| by == [1, 1])).map(drop)
}

/// Calls that all are answered, each over a connection of its own: how many of those each shared proxy took.
fn calls(mesh: &Mesh, count: usize) -> Result<[usize; 2]> {
    let before = taken(mesh)?;
    for _ in 0..count {
        Wire::open(mesh.pod(CALLER)?, address()?)?.ask("GET /", "")?.expect(200)?;
    }
    let after = taken(mesh)?;
    Ok([after[0] - before[0], after[1] - before[1]])
}

fn taken(mesh: &Mesh) -> Result<[usize; 2]> {
    let of = |pod: &str| -> Result<usize> {
        let metrics = mesh.pod(pod)?.metrics();
        let mut opened = metrics.iter().filter(|metric| metric.name == "outrigger_connections_opened_total").peekable();
        opened.peek().context("no metrics")?;
        Ok(opened.map(|metric| metric.value as usize).sum())
    };
    Ok([of(SHARED)?, of(OTHER)?])
}

/// The caller is enrolled as `shared`: whatever it calls goes through a shared proxy. The app has no proxy.
fn start(machine: &Machine) -> Result<Mesh> {
    let caller = PodSpec::new(CALLER).proxies(Proxies::Guard);
    let app = PodSpec::new("shop/app").proxies(Proxies::None).app("outrigger-testapp http");
    let config = vec![("services.yaml".to_owned(), service("app", SHOP, "app: app"))];
    Mesh::start(machine, Spec { pods: vec![caller, app], config, shared: 2 })
}

fn address() -> Result<SocketAddr> {
    Ok(SocketAddr::new(SHOP.parse()?, 80))
}
