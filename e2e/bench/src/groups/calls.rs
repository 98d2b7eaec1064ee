//! System calls and context switches per request, as the kernel counts them.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use outrigger_testbed::{Process, probe::wait_until};

use crate::{
    data::{Table, Tables},
    load::{Ask, Seen},
    measure::{Cpus, Plan, tasks},
    stage::Stage,
    subject::{Speech, Subject, Way},
};

const TRACEFS: &str = "/sys/kernel/tracing";
const EVENT: &str = "raw_syscalls:sys_enter";

pub(super) fn calls(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let ways = [Way::Nginx, Way::Haproxy, Way::Envoy, Way::Sidecar, Way::EnvoyPair, Way::SidecarPair];
    let perf = has_perf();
    if !perf {
        eprintln!("perf can't count {EVENT} here; strace does, which slows down whom it counts");
    }
    let mut tables = Tables::new();
    for (name, connections, cpus) in [("c32", 32, Cpus::Apart), ("c1", 1, Cpus::Together)] {
        stage.pin(cpus)?;
        let ask = Ask::closed(connections, plan.seconds());
        let mut table = Table::default();
        for subject in stage.subjects(&ways, Speech::Http1)? {
            stage.wait_carried_by(&subject)?;
            let before = switches(&subject.pids)?;
            let (seen, calls) = if perf { by_perf(stage, &subject, &ask)? } else { by_strace(stage, &subject, &ask)? };
            let switched = switches(&subject.pids)? - before;
            let requests = seen.without_errors(&subject.name)?.requests as f64;
            let figures = [("calls", calls / requests), ("switches", switched / requests)];
            eprintln!(
                "{name}: {:20} {:.2} calls, {:.3} switches per request",
                subject.name, figures[0].1, figures[1].1
            );
            table.add(&subject.name, &figures);
        }
        tables.insert(name.to_owned(), table);
    }
    Ok(tables)
}

/// Mounts what perf reads its events from, if that is all it lacks; the mount is the machine's own.
fn has_perf() -> bool {
    if !Path::new(TRACEFS).join("events/raw_syscalls").exists() {
        // An error shows as a perf that counts nothing.
        let _ = Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]).status();
    }
    let tried = Command::new("perf").args(["stat", "-x,", "-e", EVENT, "--", "true"]).output();
    tried.is_ok_and(|output| output.status.success() && count(&String::from_utf8_lossy(&output.stderr)).is_some())
}

/// perf counts in those processes for as long as the load runs.
fn by_perf(stage: &Stage, subject: &Subject, ask: &Ask) -> Result<(Seen, f64)> {
    let load = ask.command(stage.pod(subject.pod)?, Cpus::LOAD, &subject.url)?;
    let file = stage.dir.join("perf.csv");
    let mut perf = Command::new("perf");
    perf.args(["stat", "-x,", "-e", EVENT, "-p", &list(&subject.pids), "-o"]).arg(&file).arg("--");
    let output = perf.arg(load.get_program()).args(load.get_args()).output().context("perf")?;
    ensure!(output.status.success(), "perf: {}", String::from_utf8_lossy(&output.stderr));
    let seen = ask.read(&subject.url, &String::from_utf8_lossy(&output.stdout))?;
    let text = fs::read_to_string(&file).context("perf's output")?;
    Ok((seen, count(&text).with_context(|| format!("perf counted nothing: {text}"))?))
}

fn count(csv: &str) -> Option<f64> {
    csv.lines().find(|line| line.contains(EVENT))?.split(',').next()?.parse().ok()
}

fn by_strace(stage: &Stage, subject: &Subject, ask: &Ask) -> Result<(Seen, f64)> {
    let file = stage.dir.join("strace.txt");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-f", "-o"]).arg(&file).stdout(Stdio::null());
    for pid in &subject.pids {
        strace.args(["-p", &pid.to_string()]);
    }
    let mut strace = Process::spawn("strace", strace, &stage.dir.join("strace.log"))?;
    // It says so for each thread.
    strace.wait_log("attached")?;
    let seen = ask.run(stage.pod(subject.pod)?, Cpus::LOAD, &subject.url)?;
    strace.signal(Signal::SIGINT)?;
    wait_until("strace's end", std::time::Duration::from_secs(10), || !strace.is_running())?;
    let text = fs::read_to_string(&file).context("strace's output")?;
    // `100.00 0.123456 5 24680 12 total`, without errors if there were none.
    let total = text.lines().find(|line| line.trim_end().ends_with("total")).context("strace's total")?;
    Ok((seen, total.split_whitespace().nth(3).and_then(|n| n.parse().ok()).context("strace's total")?))
}

fn list(pids: &[u32]) -> String {
    pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

fn switches(pids: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for status in tasks(pids, "status")? {
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        sum += counts.filter_map(|(_, count)| count.trim().parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}
