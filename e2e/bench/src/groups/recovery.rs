//! What callers see of a process's death or hang: 500 requests a second, each on a connection of its own.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::{
    data::{Figures, Table, Tables},
    load::{Ask, Seen},
    measure::Cpus,
    stage::{CALLER, SHARED, Speech, Stage, Subject, Way},
};

const RATE: f64 = 500.0;
const CONNECTIONS: u32 = 64;
const KILLS: usize = 5;
/// Of load before anything happens, so that the longest time without an answer is that of the event.
const LEAD: Duration = Duration::from_millis(700);

/// A load under way.
struct Running {
    ask: Ask,
    url: String,
    child: Child,
}

pub(super) fn recovery(stage: &mut Stage) -> Result<Tables> {
    let mut table = Table::default();
    let pair = stage.subject(Way::SidecarPair, Speech::Http1)?;
    let steady = Running::start(stage, &pair, 2.0)?.seen()?;
    add(&mut table, "nothing happens", &steady);
    for _ in 0..KILLS {
        // Soon one after the other, as they crash: the guard doesn't wait for its sidecar's trust to come back.
        let load = Running::start(stage, &pair, 2.0)?;
        thread::sleep(LEAD);
        stage.mesh.kill_sidecar(CALLER)?;
        stage.mesh.restart_sidecar(CALLER)?;
        add(&mut table, "sidecar killed", &load.seen()?);
    }
    stage.wait_carried_by(&stage.subject(Way::SidecarPair, Speech::Http1)?)?;
    let load = Running::start(stage, &pair, 4.0)?;
    thread::sleep(LEAD);
    stage.pod(CALLER)?.sidecar()?.signal(Signal::SIGSTOP)?;
    let seen = load.seen();
    stage.mesh.kill_sidecar(CALLER)?;
    stage.mesh.restart_sidecar(CALLER)?;
    add(&mut table, "sidecar stopped", &seen?);
    // One of the two carries this pod's traffic.
    for shared in SHARED {
        let load = Running::start(stage, &stage.subject(Way::Guard, Speech::Http1)?, 3.0)?;
        thread::sleep(LEAD);
        stage.mesh.kill_sidecar(shared)?;
        let seen = load.seen();
        stage.mesh.restart_sidecar(shared)?;
        add(&mut table, "shared proxy killed", &seen?);
    }
    stage.wait_carried_by(&stage.subject(Way::SidecarPair, Speech::Http1)?)?;
    let load = Running::start(stage, &pair, 4.0)?;
    thread::sleep(LEAD);
    stage.mesh.kill_controller()?;
    stage.mesh.kill_sidecar(CALLER)?;
    let restarted = stage.mesh.restart_sidecar(CALLER);
    let seen = load.seen();
    stage.mesh.start_controller()?;
    restarted.context("a sidecar's start without a controller")?;
    add(&mut table, "controller killed", &seen?);
    Ok(Tables::from([("recovery".to_owned(), table)]))
}

fn add(table: &mut Table, name: &str, seen: &Seen) {
    let figures = figures(seen);
    eprintln!(
        "{name}: {} answers, longest gap {} us, errors {:?}",
        seen.requests, seen.longest_gap_us, seen.error_kinds
    );
    table.add(name, &figures);
}

fn figures(seen: &Seen) -> Figures {
    let kinds = |names: &[&str]| -> u64 { names.iter().filter_map(|name| seen.error_kinds.get(*name)).sum() };
    let (refused, broken) = (kinds(&["refused"]), kinds(&["reset", "closed"]));
    vec![
        ("answers", seen.requests as f64),
        ("gap", seen.longest_gap_us as f64 / 1000.0),
        ("errors", seen.errors as f64),
        ("refused", refused as f64),
        ("broken", broken as f64),
        ("failed", seen.errors.saturating_sub(refused + broken) as f64),
    ]
}

// === impl Running ===

impl Running {
    fn start(stage: &Stage, subject: &Subject, seconds: f64) -> Result<Self> {
        let ask = Ask { rate: Some(RATE), fresh: true, ..Ask::closed(CONNECTIONS, seconds) };
        let mut command = ask.command(stage.pod(subject.pod)?, Cpus::LOAD, &subject.url)?;
        let child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self { ask, url: subject.url.clone(), child })
    }

    fn seen(self) -> Result<Seen> {
        let output = self.child.wait_with_output().context("load")?;
        ensure!(output.status.success(), "load to {}: {}", self.url, output.status);
        self.ask.read(&self.url, &String::from_utf8_lossy(&output.stdout))
    }
}
