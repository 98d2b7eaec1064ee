//! SIGSTOP: a process that is there and does nothing. The guard notices, and gives back once it's over.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;
use outrigger_testbed::{Kill, now_us};

use crate::{
    demo::{
        promise::Promise,
        shop,
        stage::{Stage, failures, until},
    },
    terminal::time,
};

const FLOWS_AGAIN: Duration = Duration::from_secs(1);

pub(crate) fn stopped(stage: &mut Stage) -> Result<()> {
    let load = stage.load(shop::VISITOR, shop::CATALOG, 300)?;
    stage.observe(Duration::from_secs(1));

    let stopped = now_us();
    stage.mesh.pod(shop::VISITOR)?.sidecar()?.signal(Signal::SIGSTOP)?;
    stage.say("SIGSTOP to the visitor's sidecar");
    until("an answer past the hung sidecar", || load.since(stopped).first_answer(stopped).is_some())?;
    stage.observe(Duration::from_millis(1500));
    let continued = now_us();
    stage.mesh.pod(shop::VISITOR)?.sidecar()?.signal(Signal::SIGCONT)?;
    let held = stage.handed_back(shop::VISITOR, &load)?;
    stage.say(&format!("SIGCONT: it has the sockets again after {}", time(held)));
    stage.observe(Duration::from_secs(1));

    let samples = load.finish()?;
    let first = samples.first_answer(stopped).map(|first| Duration::from_micros(first - stopped));
    stage.promise(Promise::within("traffic flows again after SIGSTOP", FLOWS_AGAIN, first));
    // What was in the hung process when it stopped may have run out of time there.
    let deaths = samples.deaths(&[Kill { sent: stopped, gone: stopped }]);
    stage.say(&format!(
        "{} calls: {}; {} were held by the hung process",
        deaths.calls,
        failures(&samples),
        deaths.in_flight
    ));
    stage.promise(Promise::none("new connections lost to the hang", deaths.refused + deaths.failed_new));
    let back = samples.between(continued, u64::MAX);
    stage.promise(Promise::none("errors of the hand-back after SIGCONT", back.failed()));
    Ok(())
}
