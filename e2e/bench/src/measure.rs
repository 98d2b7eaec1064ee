//! One run of load and what it cost. Reads `/proc`; knows nothing of what is measured.

use std::{fmt, fs, process::Command, time::Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::stage::{Stage, Subject, pinned};

/// Connections of the load that CPU time is measured under.
pub(crate) const MANY: u32 = 32;
/// A run beside which others used more than this share of a CPU is made again, so many times at most.
const STRANGERS: f64 = 0.10;
const TRIES: usize = 4;

#[derive(Debug, Clone, Copy)]
pub(crate) enum Cpus {
    /// The proxies have one to themselves; load and backend share the other.
    Apart,
    /// One for everything, and one connection.
    Together,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Run {
    /// Microseconds of the proxies' CPU time per request.
    pub(crate) cpu: f64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    /// What everybody else on the machine used meanwhile, in CPUs.
    pub(crate) strangers: f64,
}

/// Kilobytes, from `smaps_rollup`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) anonymous: u64,
    pub(crate) private_dirty: u64,
}

impl Cpus {
    pub(crate) const LOAD: usize = 0;

    pub(crate) fn proxies(self) -> usize {
        match self {
            Self::Apart => 1,
            Self::Together => Self::LOAD,
        }
    }

    fn connections(self) -> u32 {
        match self {
            Self::Apart => MANY,
            Self::Together => 1,
        }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, rate, p50, p99, strangers } = self;
        write!(f, "{cpu:6.1} us CPU/request {rate:7.0}/s p50 {p50:.0} p99 {p99:.0} us, others {strangers:.2} CPU")
    }
}

/// The least disturbed of a few runs; the first one that wasn't disturbed ends them.
pub(crate) fn steady(stage: &Stage, subject: &Subject, cpus: Cpus, seconds: u64) -> Result<Run> {
    let mut best = run(stage, subject, cpus, seconds)?;
    for _ in 1..TRIES {
        if best.strangers <= STRANGERS {
            break;
        }
        let again = run(stage, subject, cpus, seconds)?;
        if again.strangers < best.strangers {
            best = again;
        }
    }
    Ok(best)
}

fn run(stage: &Stage, subject: &Subject, cpus: Cpus, seconds: u64) -> Result<Run> {
    let backends = stage.backends()?;
    let ours = || -> Result<u64> { Ok(cpu_ns(&subject.pids)? + cpu_ns(&backends)? + children_ns()?) };
    let mut wrk = pinned(stage.pod(subject.pod)?, Cpus::LOAD, "wrk");
    let (connections, duration) = (cpus.connections().to_string(), format!("{seconds}s"));
    wrk.args(["--latency", "-t1", "-c", &connections, "-d", &duration, &subject.url]);
    let (before, ours_before, busy_before, start) = (cpu_ns(&subject.pids)?, ours()?, busy_ns()?, Instant::now());
    let output = wrk.output().context("wrk (Debian package wrk)")?;
    let (after, ours_after, busy_after) = (cpu_ns(&subject.pids)?, ours()?, busy_ns()?);
    let elapsed = start.elapsed().as_nanos() as f64;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("{}: {text}", subject.name);
    }
    let requests: f64 = before_word(&text, "requests in").and_then(|n| n.parse().ok()).context("wrk's count")?;
    let others = busy_after.saturating_sub(busy_before).saturating_sub(ours_after - ours_before);
    Ok(Run {
        cpu: (after - before) as f64 / requests / 1000.0,
        rate: field(&text, "Requests/sec:").and_then(|rate| rate.parse().ok()).context("wrk's rate")?,
        p50: field(&text, "50%").and_then(micros).context("wrk's p50")?,
        p99: field(&text, "99%").and_then(micros).context("wrk's p99")?,
        strangers: others as f64 / elapsed,
    })
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim)
}

fn before_word<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.split(words).next().filter(|before| before.len() < text.len())?.split_whitespace().last()
}

/// wrk writes `12.00us`, `1.20ms`, `2.00s`.
fn micros(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let factor = match &text[digits.len()..] {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * factor)
}

/// The process and its children.
pub(crate) fn tree(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    std::iter::once(pid).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}

pub(crate) fn pin(pid: u32, cpu: usize) -> Result<()> {
    let done = Command::new("taskset").args(["-a", "-c", "-p", &cpu.to_string(), &pid.to_string()]).output()?;
    ensure!(done.status.success(), "taskset: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// Run time of all threads of these processes, by the scheduler's own clock.
fn cpu_ns(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("a measured process has ended")?.flatten() {
            let stat = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            sum += stat.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or_default();
        }
    }
    Ok(sum)
}

/// Children that we have waited for: the load generators. In clock ticks of 10 ms.
fn children_ns() -> Result<u64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<u64> =
        stat.rsplit(") ").next().unwrap_or_default().split(' ').filter_map(|it| it.parse().ok()).collect();
    // Numbers after the state: cutime and cstime are the 13th and the 14th of them (proc_pid_stat(5)).
    Ok(fields.iter().skip(12).take(2).sum::<u64>() * 10_000_000)
}

/// Whatever any CPU did, for anyone, stolen time included.
fn busy_ns() -> Result<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = all.filter_map(|it| it.parse().ok()).collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((ticks.iter().take(8).sum::<u64>() - idle) * 10_000_000)
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("smaps_rollup")?;
        let get = |name| field(&text, name).and_then(|value| value.trim_end_matches(" kB").parse().ok()).context(name);
        Ok(Self {
            rss: get("Rss:")?,
            pss: get("Pss:")?,
            anonymous: get("Anonymous:")?,
            private_dirty: get("Private_Dirty:")?,
        })
    }
}
