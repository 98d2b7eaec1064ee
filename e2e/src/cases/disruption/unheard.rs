//! Its owner wants a workload not to be called under policies that may be out of date: without a controller calls are refused
//! after a while, and only those; with one again, they are answered.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, probe::wait_until};

use super::{CALLER, SHOP, mesh_of, poison, service};
use crate::raw::{PATIENCE, Wire};

/// Of the caller itself, whose owner has said nothing.
const OTHER: &str = "10.96.3.20";

pub(super) fn closed(machine: &Machine) -> Result<()> {
    let mut mesh = mesh_of(machine, PodSpec::new(CALLER).app("outrigger-testapp http"))?;
    mesh.write("other.yaml", &service("caller", OTHER, "app: caller"))?;
    mesh.write(
        "closed.yaml",
        "apiVersion: outrigger.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {namespace: shop, name: fresh}\nspec:\n\
         \x20 targetRefs: [{kind: Service, name: app}]\n  onControlPlaneLoss: Closed\n  controlPlaneLossGrace: 2s\n",
    )?;
    for of in [SHOP, OTHER] {
        wait_until("an answer", PATIENCE, || status(&mesh, of) == Some(200))?;
    }
    mesh.kill_controller()?;
    wait_until("a refusal", PATIENCE, || status(&mesh, SHOP) == Some(403))?;
    wait_until("its proxy says so", PATIENCE, || closed_there(&mesh) == Some(1))?;
    // A proxy that starts meanwhile knows of no controller either.
    for version in ["v1", "v2", "v3"] {
        let pod = format!("shop/app-{version}");
        mesh.kill_sidecar(&pod)?;
        mesh.restart_sidecar(&pod)?;
    }
    wait_until("a refusal after a restart", PATIENCE, || status(&mesh, SHOP) == Some(403))?;
    ensure!(status(&mesh, OTHER) == Some(200), "another owner's workload is refused");
    mesh.start_controller()?;
    wait_until("an answer again", PATIENCE, || status(&mesh, SHOP) == Some(200))?;
    wait_until("its proxy says so", PATIENCE, || closed_there(&mesh) == Some(0))?;
    Ok(())
}

/// Workloads that one of the shop's proxies says it closes.
fn closed_there(mesh: &Mesh) -> Option<u64> {
    poison::status(mesh, "shop/app-v1")?["closed"].as_u64()
}

/// Of the caller's call.
fn status(mesh: &Mesh, ip: &str) -> Option<u16> {
    let address = SocketAddr::new(ip.parse().ok()?, 80);
    let answer = Wire::open(mesh.pod(CALLER).ok()?, address).ok()?.ask("GET /", "").ok()?;
    answer.status()
}
