//! An object that kills every sidecar that takes it in: each dies of it twice, and goes on with the version before.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{
    Machine, Mesh, PodSpec, now_us,
    probe::{self, wait_until},
};
use outrigger_wire::names::ports;
use serde_json::Value;

use super::{CALLER, answered_by, load, mesh_of, route};
use crate::raw::PATIENCE;

const POISON: &str = "hemlock";
/// A trial takes ten seconds.
const TRIAL: Duration = Duration::from_secs(30);
/// A guard doesn't trust a sidecar at once that has died twice.
const TRUST: Duration = Duration::from_secs(60);

pub(super) fn poison(machine: &Machine) -> Result<()> {
    let mut caller = PodSpec::new(CALLER);
    caller.env.insert("OUTRIGGER_TEST_POISON".to_owned(), POISON.to_owned());
    let mut mesh = mesh_of(machine, caller)?;
    let from = mesh.write("route.yaml", &route("v1"))?;
    let load = load(&mesh, 200, false, 20)?;
    answered_by(&load, "v1", from)?;
    wait_until("the end of the first trial", TRIAL, || status(&mesh).is_some_and(|it| it["on_trial"] == 0))?;

    mesh.write("route.yaml", &poisonous("v2"))?;
    for death in ["first", "second"] {
        wait_until(&format!("the {death} death"), PATIENCE, || {
            let sidecar = mesh.pod_mut(CALLER).ok().and_then(|pod| pod.sidecar.as_mut());
            sidecar.is_some_and(|process| !process.is_running())
        })?;
        mesh.pod_mut(CALLER)?.start_sidecar()?;
    }
    mesh.pod_mut(CALLER)?.wait_ready()?;
    let refused = |it: Value| it["refusals"].to_string().contains("quarantined");
    wait_until("a quarantine", PATIENCE, || status(&mesh).is_some_and(refused))?;
    wait_until("the quarantine at the controller", PATIENCE, || proxies(&mesh).contains("quarantined"))?;
    // Its own configuration is the one before; the shared proxy, which nothing has killed, had the newer one.
    let begin = now_us();
    let by_sidecar = || load.since(begin).ok().any(|sample| sample.version == "v1");
    wait_until("calls by the sidecar, with the version before", TRUST, by_sidecar)?;

    let mended = mesh.write("route.yaml", &route("v3"))?;
    answered_by(&load, "v3", mended)?;
    wait_until("nothing refused", PATIENCE, || status(&mesh).is_some_and(|it| it["refusals"] == Value::Array(vec![])))?;
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

fn status(mesh: &Mesh) -> Option<Value> {
    let page = probe::get(&mesh.pod(CALLER).ok()?.namespace, ports::ADMIN, "/config_dump").ok()?;
    serde_json::from_str::<Value>(&page.body).ok().map(|mut dump| dump["status"].take())
}

/// What the controller says of all of them.
fn proxies(mesh: &Mesh) -> String {
    let page =
        mesh.controller.as_ref().context("no controller").and_then(|it| probe::get_here(it.admin, "/debug/proxies"));
    page.map(|page| page.body).unwrap_or_default()
}
