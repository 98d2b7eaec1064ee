//! The kernel's table of connections is full: it drops every packet that would begin another. How much fits is a setting of the
//! whole machine, so rules of a pod's own do to it what a full table would. What is open goes on; what isn't waits, and comes
//! as soon as there is room.

use std::{net::SocketAddr, thread, time::Instant};

use anyhow::{Context, Result, anyhow, ensure};
use outrigger_testbed::{Machine, PodSpec, probe::wait_until};

use super::{CALLER, all_accept, mesh_of};
use crate::raw::{PATIENCE, Wire};

/// Behind the hook that fills the table, and before all that looks at it.
const FULL: &str = "table inet full {
    chain out { type filter hook output priority -150; ct state new drop; }
    chain in { type filter hook prerouting priority -150; ct state new drop; }
}";
const V1: &str = "10.96.3.11";
const V2: &str = "10.96.3.12";

pub(super) fn full(machine: &Machine) -> Result<()> {
    let mut mesh = mesh_of(machine, PodSpec::new(CALLER))?;
    all_accept(&mesh, &[CALLER])?;
    let pod = mesh.pod(CALLER)?;
    let open = |service: &str| Wire::open(pod, SocketAddr::new(service.parse()?, 80));
    let (mut warm, mut cold) = (open(V1)?, open(V2)?);
    warm.ask("GET /", "")?.expect(200)?;
    pod.exec("nft", &[FULL])?;
    for _ in 0..20 {
        warm.ask("GET /", "")?.expect(200).context("by kept connections")?;
    }
    let start = Instant::now();
    let answer = cold.ask("GET /", "")?.expect(503).context("an endpoint that nobody has called before")?;
    println!("        refused after {:?}", start.elapsed());
    ensure!(answer.text().contains("connect"), "{:?}", answer.text());
    thread::scope(|scope| -> Result<()> {
        // The kernel repeats what was dropped, as it would anywhere else.
        let waiting = scope.spawn(|| open(V1)?.ask("GET /", ""));
        warm.ask("GET /", "")?.expect(200)?;
        pod.exec("nft", &["delete table inet full"])?;
        let room = Instant::now();
        wait_until("an answer of the endpoint", PATIENCE, || {
            cold.ask("GET /", "").is_ok_and(|answer| answer.status() == Some(200))
        })?;
        println!("        answered {:?} after there was room", room.elapsed());
        waiting.join().map_err(|_| anyhow!("a caller panicked"))??.expect(200).context("one that had to wait")?;
        Ok(())
    })?;
    warm.ask("GET /", "")?.expect(200)?;
    let sidecar = mesh.pod_mut(CALLER)?.sidecar.as_mut().context("no sidecar")?;
    ensure!(sidecar.is_running(), "the sidecar has ended");
    all_accept(&mesh, &[CALLER])
}
