//! An object that kills every proxy that takes it in: a sidecar dies of it twice and goes on with the version before, a shared
//! proxy has another process die in its place.

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{
    Machine, Mesh, PodSpec, now_us,
    probe::{self, wait_until},
};
use outrigger_wire::names::ports;
use serde_json::Value;

use super::{CALLER, SHARED, TRUST, answered_by, load, mesh_of, route};
use crate::raw::PATIENCE;

const SWITCH: &str = "OUTRIGGER_TEST_POISON";
const POISON: &str = "hemlock";

pub(super) fn poison(machine: &Machine) -> Result<()> {
    let mut caller = PodSpec::new(CALLER);
    caller.env.insert(SWITCH.to_owned(), POISON.to_owned());
    let mut mesh = mesh_of(machine, caller)?;
    mesh.pod_mut(SHARED)?.spec.env.insert(SWITCH.to_owned(), POISON.to_owned());
    mesh.kill_sidecar(SHARED)?;
    mesh.restart_sidecar(SHARED)?;
    let before = pid(&mut mesh)?;
    let from = mesh.write("route.yaml", &route("v1"))?;
    let load = load(&mesh, 200, false, 20)?;
    answered_by(&load, "v1", from)?;
    mesh.proven(CALLER)?;

    mesh.write("route.yaml", &poisonous("v2"))?;
    for death in ["first", "second"] {
        wait_until(&format!("the {death} death"), PATIENCE, || {
            let sidecar = mesh.pod_mut(CALLER).ok().and_then(|pod| pod.sidecar.as_mut());
            sidecar.is_some_and(|process| !process.is_running())
        })?;
        // Meanwhile the shared proxy carries, by the version before: it is as deadly for it.
        let carried = now_us();
        let answered = |version: &str| load.since(carried).ok().filter(|sample| sample.version == version).count();
        wait_until("calls by the shared proxy", PATIENCE, || answered("v1") > 20)?;
        ensure!(answered("v2") == 0, "the shared proxy took in what nobody survives");
        mesh.pod_mut(CALLER)?.start_sidecar()?;
    }
    mesh.pod_mut(CALLER)?.wait_ready()?;
    let refused = |it: Value| it["refusals"].to_string().contains("quarantined");
    for pod in [CALLER, SHARED] {
        wait_until(&format!("a quarantine at {pod}"), PATIENCE, || status(&mesh, pod).is_some_and(refused))?;
    }
    let both = || proxies(&mesh).matches("quarantined").count() == 2;
    wait_until("both quarantines at the controller", PATIENCE, both)?;
    ensure!(pid(&mut mesh)? == before, "the shared proxy died");
    let begin = now_us();
    let by_sidecar = || load.since(begin).ok().any(|sample| sample.version == "v1");
    wait_until("calls by the sidecar, with the version before", TRUST, by_sidecar)?;

    let mended = mesh.write("route.yaml", &route("v3"))?;
    answered_by(&load, "v3", mended)?;
    let none = |it: Value| it["refusals"] == Value::Array(vec![]);
    wait_until("nothing refused", PATIENCE, || {
        [CALLER, SHARED].iter().all(|pod| status(&mesh, pod).is_some_and(none))
    })?;
    ensure!(pid(&mut mesh)? == before, "the shared proxy died");
    let samples = load.finish()?;
    println!("        {} calls: {:?}", samples.len(), samples.by_outcome());
    // What was under way in the two that died.
    ensure!(samples.failed() <= 4, "{:?}", samples.by_outcome());
    Ok(())
}

/// All calls of the service go to this version, with a header that isn't good for everyone.
fn poisonous(version: &str) -> String {
    format!(
        "{}    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-cup, value: {POISON}}}]}}}}]\n",
        route(version)
    )
}

/// Of the shared proxy, which has to be alive.
fn pid(mesh: &mut Mesh) -> Result<u32> {
    let process = mesh.pod_mut(SHARED)?.sidecar.as_mut().context("no shared proxy")?;
    ensure!(process.is_running(), "the shared proxy is dead");
    Ok(process.pid())
}

/// Of its configuration client.
pub(super) fn status(mesh: &Mesh, pod: &str) -> Option<Value> {
    let page = probe::get(&mesh.pod(pod).ok()?.namespace, ports::ADMIN, "/config_dump").ok()?;
    serde_json::from_str::<Value>(&page.body).ok().map(|mut dump| dump["status"].take())
}

/// What the controller says of all of them.
fn proxies(mesh: &Mesh) -> String {
    let page =
        mesh.controller.as_ref().context("no controller").and_then(|it| probe::get_here(it.admin, "/debug/proxies"));
    page.map(|page| page.body).unwrap_or_default()
}
