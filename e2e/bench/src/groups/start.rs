//! From the start of a process to its being ready, and to the first answer through it and its pair.

use std::{
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use outrigger_testbed::{net::Namespace, probe};

use crate::{
    ask,
    data::{Table, Tables},
    measure::Plan,
    stage::{ALONE, ENVOY_CALLER, Stage},
    subject::{Speech, Way},
};

/// Between two looks. Short beside what is measured, and leaves most of the CPU to who starts.
const PAUSE: Duration = Duration::from_micros(200);
const LIMIT: Duration = Duration::from_secs(15);

pub(super) fn start(stage: &mut Stage, plan: &Plan) -> Result<Tables> {
    let mut table = Table::default();
    for round in 0..plan.rounds.max(1) {
        for (name, fresh) in [("sidecar, nothing on disk", true), ("sidecar, from its last good state", false)] {
            let ready = sidecar(stage, fresh, |namespace, _| {
                let page = probe::get(namespace, outrigger_wire::names::ports::ADMIN, "/readyz");
                page.is_ok_and(|page| page.status == 200)
            })?;
            let answer = sidecar(stage, fresh, ask::answers)?;
            eprintln!("round {}: {name}: ready {ready:.1} ms, answer {answer:.1} ms", round + 1);
            table.add(name, &[("ready", ready), ("answer", answer)]);
        }
        let answer = envoy(stage)?;
        eprintln!("round {}: Envoy: answer {answer:.1} ms", round + 1);
        table.add("Envoy", &[("answer", answer)]);
    }
    Ok(Tables::from([("start".to_owned(), table)]))
}

/// A sidecar that has no guard to answer in its place. It calls the other pod over mutual TLS.
fn sidecar(stage: &mut Stage, fresh: bool, so: impl Fn(&Namespace, SocketAddr) -> bool) -> Result<f64> {
    stage.mesh.kill_sidecar(ALONE)?;
    if fresh {
        let state = stage.dir.join("pods").join(ALONE.replace('/', ".")).join("sidecar");
        for file in fs::read_dir(&state).context("the sidecar's state")?.flatten() {
            fs::remove_file(file.path())?;
        }
    }
    let to = stage.subject(Way::SidecarPair, Speech::Http1)?.address()?;
    let begin = Instant::now();
    stage.mesh.pod_mut(ALONE)?.start_sidecar()?;
    let namespace = &stage.pod(ALONE)?.namespace;
    let ms = until(begin, || so(namespace, to)).context("a sidecar's start")?;
    // Whatever was looked at, the next start begins with one that is ready.
    stage.mesh.pod_mut(ALONE)?.wait_ready()?;
    Ok(ms)
}

fn envoy(stage: &mut Stage) -> Result<f64> {
    let mut old = stage.mesh.pod_mut(ENVOY_CALLER)?.apps.pop().context("no Envoy")?;
    old.kill()?;
    let begin = Instant::now();
    stage.start_envoy(ENVOY_CALLER)?;
    let subject = stage.subject(Way::EnvoyPair, Speech::Http1)?;
    until(begin, || stage.answers(&subject)).context("Envoy's start")
}

fn until(begin: Instant, mut so: impl FnMut() -> bool) -> Result<f64> {
    while !so() {
        if begin.elapsed() > LIMIT {
            bail!("not within {LIMIT:?}");
        }
        thread::sleep(PAUSE);
    }
    Ok(begin.elapsed().as_secs_f64() * 1000.0)
}
