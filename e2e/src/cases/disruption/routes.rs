//! How soon a changed route shows, and that nothing else does.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use outrigger_testbed::{Machine, Mesh, now_us, probe::wait_until, samples::quantile_of};

use super::{Seen, answered_by, flawless, load, mesh, probe_until, route};
use crate::raw::PATIENCE;

const TURNS: usize = 200;
/// The limit of a test; how fast it is, is printed, and the demo promises it.
const SANE: Duration = Duration::from_secs(1);

struct Turn {
    version: &'static str,
    written: u64,
    /// When the next one was written.
    end: u64,
}

/// The effect of a change is the first answer of the new version, as a prober beside the app sees it, less the instant
/// of the file's writing. Thereafter no old version may answer.
pub(super) fn changes(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    mesh.write("route.yaml", &route("v1"))?;
    let ended = AtomicBool::new(false);
    let last = Mutex::new(String::new());
    let (turns, seen) = thread::scope(|scope| {
        let prober = scope
            .spawn(|| probe_until(&mesh, || ended.load(Relaxed), |version| version.clone_into(&mut locked(&last))));
        let turns = turn(&mesh, &last);
        ended.store(true, Relaxed);
        let seen = prober.join().map_err(|_| anyhow!("the prober panicked"))?;
        anyhow::Ok((turns?, seen.context("the prober")?))
    })?;
    let mut effects = Vec::new();
    let mut wrong = Vec::new();
    // The first turn shows that the route is there at all.
    for turn in &turns[1..] {
        // A probe that was on its way when the next one was written may be answered by either.
        let within: Vec<_> = seen.iter().filter(|seen| seen.sent >= turn.written && seen.done < turn.end).collect();
        let first = within.iter().position(|seen| seen.version == turn.version);
        let Some(first) = first else {
            wrong.push(format!("no answer of {} in {} µs", turn.version, turn.end - turn.written));
            continue;
        };
        effects.push(within[first].done - turn.written);
        wrong.extend(stale(&within[first..], turn));
    }
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|at| quantile_of(effects.iter().copied(), at).unwrap_or_default());
    println!(
        "        {} changes, {} probes: in effect after p50 {p50:?}, p99 {p99:?}, max {max:?}",
        effects.len(),
        seen.len()
    );
    ensure!(wrong.is_empty(), "{} wrong answers, such as {:?}", wrong.len(), wrong[0]);
    ensure!(effects.len() == TURNS && max < SANE, "{} effects, the last after {max:?}", effects.len());
    Ok(())
}

/// Turns the route, and turns it again a little after the prober has seen it.
fn turn(mesh: &Mesh, last: &Mutex<String>) -> Result<Vec<Turn>> {
    let mut turns: Vec<Turn> = Vec::new();
    for number in 0..=TURNS {
        let version = if number % 2 == 0 { "v2" } else { "v1" };
        let written = mesh.write("route.yaml", &route(version))?;
        if let Some(before) = turns.last_mut() {
            before.end = written;
        }
        turns.push(Turn { version, written, end: u64::MAX });
        wait_until(&format!("an answer of {version}"), PATIENCE, || *locked(last) == version)?;
        // What follows is watched too: an old answer after a new one would be wrong.
        thread::sleep(Duration::from_millis(15));
    }
    if let Some(before) = turns.last_mut() {
        before.end = now_us();
    }
    Ok(turns)
}

fn locked(last: &Mutex<String>) -> MutexGuard<'_, String> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stale(after: &[&Seen], turn: &Turn) -> Vec<String> {
    let old = after.iter().filter(|seen| seen.version != turn.version);
    old.map(|seen| {
        format!("{} answered {} µs after the change to {}", seen.version, seen.sent - turn.written, turn.version)
    })
    .collect()
}

/// 200 moves from one service to another under load.
pub(super) fn moves(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    mesh.write("route.yaml", &route("v1"))?;
    let (kept, new) = (load(&mesh, 300, true, 5)?, load(&mesh, 200, false, 5)?);
    for number in 0..TURNS {
        let version = if number % 2 == 0 { "v2" } else { "v1" };
        let written = mesh.write("route.yaml", &route(version))?;
        answered_by(&kept, version, written)?;
    }
    flawless(&kept.finish()?).context("kept connections")?;
    flawless(&new.finish()?).context("new connections")
}
