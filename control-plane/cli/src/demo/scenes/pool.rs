//! One shared proxy dies while it carries a pod: the other takes over.

use std::time::Duration;

use anyhow::Result;

use crate::{
    demo::{
        promise::Promise,
        shop,
        stage::{Stage, failures},
    },
    terminal::time,
};

const RATE: u32 = 200;

pub(crate) fn one_killed(stage: &mut Stage) -> Result<()> {
    let load = stage.load(shop::FRONT, shop::CATALOG, RATE)?;
    stage.mesh.proven(shop::FRONT)?;
    let sidecar = stage.mesh.kill_sidecar(shop::FRONT)?;
    stage.observe(Duration::from_secs(1));
    let shared = stage.mesh.kill_sidecar(shop::SHARED)?;
    stage.say("SIGKILL to one shared proxy of two, while the front has no sidecar");
    stage.observe(Duration::from_secs(2));
    let alone = load.samples();
    stage.mesh.restart_sidecar(shop::SHARED)?;
    let back = stage.mesh.restart_sidecar(shop::FRONT)?;
    stage.say(&format!("both are back, the sidecar after {}", time(back)));
    stage.observe(Duration::from_secs(2));

    let samples = load.finish()?;
    let deaths = samples.deaths(&[sidecar, shared]);
    stage.say(&format!("{} calls: {}; {} in flight at a kill", deaths.calls, failures(&samples), deaths.in_flight));
    stage.promise(Promise::none("failed new connections as a shared proxy dies", deaths.refused + deaths.failed_new));
    let first = alone.first_answer(shared.gone).map(|first| Duration::from_micros(first - shared.sent));
    stage.promise(Promise::within("first answer by the other shared proxy", Duration::from_secs(1), first));
    Ok(())
}
