//! SIGKILL under load: what was in flight in the dead process is lost, and nothing else.

use std::time::Duration;

use anyhow::Result;

use crate::{
    demo::{
        promise::Promise,
        shop,
        stage::{Stage, failures, until},
    },
    terminal::time,
};

const FIRST_ANSWER: Duration = Duration::from_millis(40);

/// The caller's sidecar dies.
pub(crate) fn outbound(stage: &mut Stage) -> Result<()> {
    five_times(stage, "outbound", shop::FRONT, shop::FRONT, shop::CATALOG)
}

/// The callee's sidecar dies.
pub(crate) fn inbound(stage: &mut Stage) -> Result<()> {
    five_times(stage, "inbound", shop::CATALOG_V1, shop::VISITOR, shop::CATALOG_V1_ONLY)
}

fn five_times(stage: &mut Stage, side: &str, victim: &str, caller: &str, target: &str) -> Result<()> {
    let load = stage.load(caller, target, stage.rate)?;
    stage.observe(Duration::from_secs(1));
    // Two deaths are the configuration's fault as long as that is new.
    stage.mesh.proven(victim)?;
    let count = stage.times(5, 3);
    let mut kills = Vec::with_capacity(count);
    while kills.len() < count {
        let kill = stage.mesh.kill_sidecar(victim)?;
        kills.push(kill);
        until("an answer after the kill", || load.since(kill.gone).first_answer(kill.gone).is_some())?;
        stage.observe(Duration::from_millis(800));
        let ready = stage.mesh.restart_sidecar(victim)?;
        // The next one has to hit a sidecar that carries the traffic again.
        let held = stage.handed_back(victim, &load)?;
        stage.say(&format!("SIGKILL; a new sidecar is ready after {}, trusted after {}", time(ready), time(held)));
        stage.observe(Duration::from_millis(500));
    }
    let samples = load.finish()?;
    let deaths = samples.deaths(&kills);
    let name = |what: &str| format!("{what}: {count} × SIGKILL, {side}");
    stage.say(&format!(
        "{} calls: {}; {} were in flight in a killed process; longest gap {}",
        deaths.calls,
        failures(&samples),
        deaths.in_flight,
        time(samples.longest_gap())
    ));
    stage.promise(Promise::none(&name("connections refused"), deaths.refused));
    stage.promise(Promise::none(&name("failed new connections"), deaths.failed_new));
    stage.promise(Promise::within(&name("first answer"), FIRST_ANSWER, deaths.slowest_first_answer()));
    Ok(())
}
