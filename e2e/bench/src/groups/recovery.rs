//! What callers see of a process's death or hang: 500 requests a second, each on a connection of its own.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    data::{Figures, Table, Tables},
    load::{Ask, Seen},
    measure::Cpus,
    stage::{CALLER, SHARED, Stage},
    subject::{Speech, Subject, Way},
};

const RATE: f64 = 500.0;
const CONNECTIONS: u32 = 64;
const KILLS: usize = 5;
/// For a sidecar to end after SIGTERM.
const RESTART: Duration = Duration::from_secs(30);
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
    let light = stage.subject(Way::Guard, Speech::Http1)?;
    add(&mut table, "nothing happens", &during(stage, &pair, 2.0, |_| Ok(()))?);
    for _ in 0..KILLS {
        // Soon one after the other, as they crash. The first carries the traffic; the guard is slow to trust the others.
        add(&mut table, "sidecar killed", &during(stage, &pair, 2.0, crash)?);
    }
    trusted_again(stage, &pair)?;
    add(&mut table, "sidecar killed, trusted again before", &during(stage, &pair, 2.0, crash)?);
    trusted_again(stage, &pair)?;
    let stop = |stage: &mut Stage| stage.pod(CALLER)?.sidecar()?.signal(Signal::SIGSTOP);
    add(&mut table, "sidecar stopped", &during(stage, &pair, 4.0, stop)?);
    crash(stage)?;
    shared_proxies(stage, &light, &mut table)?;
    trusted_again(stage, &pair)?;
    controller(stage, &pair, &mut table)?;
    Ok(Tables::from([("recovery".to_owned(), table)]))
}

/// One of the two carries this pod's traffic, so each is killed and stopped.
fn shared_proxies(stage: &mut Stage, light: &Subject, table: &mut Table) -> Result<()> {
    for shared in SHARED.iter().cycle().take(KILLS) {
        let kill = |stage: &mut Stage| stage.mesh.kill_sidecar(shared).map(|_| ());
        add(table, "shared proxy killed", &during(stage, light, 3.0, kill)?);
        stage.mesh.restart_sidecar(shared)?;
    }
    for shared in SHARED {
        let signal = |stage: &mut Stage, signal| stage.pod(shared)?.sidecar()?.signal(signal);
        let seen = during(stage, light, 6.0, |stage| signal(stage, Signal::SIGSTOP));
        signal(stage, Signal::SIGCONT)?;
        add(table, "shared proxy stopped", &seen?);
    }
    Ok(())
}

fn controller(stage: &mut Stage, pair: &Subject, table: &mut Table) -> Result<()> {
    for _ in 0..KILLS {
        let kill = |stage: &mut Stage| {
            stage.mesh.kill_controller()?;
            stage.mesh.start_controller()
        };
        add(table, "controller killed", &during(stage, pair, 2.0, kill)?);
    }
    let seen = during(stage, pair, 4.0, |stage| signal_controller(stage, Signal::SIGSTOP));
    signal_controller(stage, Signal::SIGCONT)?;
    add(table, "controller stopped", &seen?);
    let away = |stage: &mut Stage| {
        stage.mesh.kill_controller()?;
        stage.mesh.pod_mut(CALLER)?.terminate_sidecar(RESTART)?;
        stage.mesh.restart_sidecar(CALLER).map(|_| ())
    };
    let seen = during(stage, pair, 4.0, away);
    stage.mesh.start_controller()?;
    add(table, "controller away, sidecar restarted", &seen?);
    Ok(())
}

fn signal_controller(stage: &Stage, signal: Signal) -> Result<()> {
    let controller = stage.mesh.controller.as_ref().context("no controller")?;
    kill(Pid::from_raw(i32::try_from(controller.pid())?), signal).with_context(|| format!("{signal} to the controller"))
}

/// What the load sees while that happens, some time after its beginning.
fn during(
    stage: &mut Stage,
    subject: &Subject,
    seconds: f64,
    event: impl FnOnce(&mut Stage) -> Result<()>,
) -> Result<Seen> {
    let load = Running::start(stage, subject, seconds)?;
    thread::sleep(LEAD);
    let happened = event(stage);
    let seen = load.seen();
    happened?;
    seen
}

/// Kills the caller's sidecar and starts it as soon as it is gone.
fn crash(stage: &mut Stage) -> Result<()> {
    stage.mesh.kill_sidecar(CALLER)?;
    stage.mesh.restart_sidecar(CALLER)?;
    Ok(())
}

fn trusted_again(stage: &Stage, pair: &Subject) -> Result<()> {
    eprintln!("until the guard trusts its sidecar again");
    stage.wait_carried_by(pair)
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
