//! No controller: what is known goes on, restarts included, and what isn't known goes through the pool.

use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_testbed::Samples;

use crate::{
    demo::{
        promise::Promise,
        shop,
        stage::{Stage, failures, until},
    },
    terminal::time,
};

const RATE: u32 = 200;

pub(crate) fn gone(stage: &mut Stage) -> Result<()> {
    stage.mesh.kill_controller()?;
    stage.say("SIGKILL to the controller");

    let idle = calls(stage, shop::VISITOR, shop::CATALOG)?;
    stage.promise(Promise::none("errors to an idle destination without controller", idle.failed()));
    let unknown = calls(stage, shop::VISITOR, shop::STORE_DATA)?;
    stage.promise(Promise::none("errors to a destination never called before", unknown.failed()));

    let load = stage.load(shop::VISITOR, shop::CATALOG, RATE)?;
    let kill = stage.mesh.kill_sidecar(shop::VISITOR)?;
    stage.observe(Duration::from_millis(500));
    let ready = stage.mesh.restart_sidecar(shop::VISITOR)?;
    let served = stage.handed_back(shop::VISITOR, &load);
    let measured = match &served {
        Ok(held) => format!("ready after {}, trusted after {}", time(ready), time(*held)),
        Err(_) => "it never does".to_owned(),
    };
    stage.promise(Promise::holds(
        "a sidecar restarted without controller serves from disk",
        "it does",
        measured,
        served.is_ok(),
    ));
    stage.observe(Duration::from_secs(1));
    let samples = load.finish()?;
    let deaths = samples.deaths(&[kill]);
    stage.say(&format!("{} calls: {}; {} in flight at the kill", deaths.calls, failures(&samples), deaths.in_flight));
    stage.promise(Promise::none("failed new connections around that restart", deaths.refused + deaths.failed_new));

    stage.mesh.start_controller()?;
    back_in_charge(stage)
}

/// The next change has to arrive, whatever the proxies did in the meantime.
fn back_in_charge(stage: &mut Stage) -> Result<()> {
    let load = stage.load(shop::FRONT, shop::CATALOG, RATE)?;
    stage.mesh.write(shop::ROUTE.0, &shop::split(0, 100))?;
    let all_new = || {
        let recent = load.since(outrigger_testbed::now_us().saturating_sub(300_000));
        let versions = recent.by_version();
        versions.contains_key("v2") && !versions.contains_key("v1")
    };
    let took = until("the first change after the controller's return", all_new);
    stage.mesh.write(shop::ROUTE.0, shop::ROUTE.1)?;
    stage.promise(Promise::within("controller back: next change in effect", Duration::from_secs(15), took.ok()));
    stage.promise(Promise::none("errors when the controller comes back", load.finish()?.failed()));
    Ok(())
}

fn calls(stage: &Stage, pod: &str, target: &str) -> Result<Samples> {
    let load = stage.load(pod, target, RATE)?;
    stage.observe(Duration::from_secs(1));
    let samples = load.finish()?;
    stage.say(&format!("{pod} → {target}: {} calls, {}", samples.len(), failures(&samples)));
    ensure!(!samples.is_empty(), "no calls");
    Ok(samples)
}
