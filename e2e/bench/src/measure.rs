//! What a run of load cost those who carried it. Reads `/proc`; knows nothing of who they are.

use std::{fs, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};

use crate::{
    data::{Figures, Table},
    load::{Ask, Seen, field},
    stage::Stage,
    subject::Subject,
};

/// A run beside which others used more than this share of a CPU is made again.
const STRANGERS: f64 = 0.10;
/// A guard that takes more than this share of what its sidecar does carries traffic.
const IDLE_GUARD: f64 = 0.05;

/// How often, and for how long.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Plan {
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Of one run
    #[arg(long, default_value_t = 2)]
    pub(crate) seconds: u32,
    /// Of one run beside which others used a tenth of a CPU
    #[arg(long, default_value_t = 4)]
    pub(crate) tries: usize,
    /// Between the end of idle connections and the second look at memory
    #[arg(long, default_value_t = 60)]
    pub(crate) settle: u32,
}

/// Who runs where.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cpus {
    /// The proxies have one to themselves; load and backend share the other.
    Apart,
    /// One for everything.
    Together,
}

/// Kilobytes, from `smaps_rollup`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) anonymous: u64,
    pub(crate) private_dirty: u64,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn seconds(&self) -> f64 {
        f64::from(self.seconds)
    }

    /// For what no goal hangs on.
    pub(crate) fn fewer(&self) -> Self {
        Self { rounds: (self.rounds * 3).div_ceil(5), ..*self }
    }

    /// All subjects in every round, A B C and then C B A, so that what changes with time falls on all of them.
    pub(crate) fn mirrored(
        &self,
        what: &str,
        subjects: &[Subject],
        mut run: impl FnMut(&Subject) -> Result<Figures>,
    ) -> Result<Table> {
        let mut table = Table::default();
        for round in 0..self.rounds.max(1) {
            let mut order: Vec<_> = (0..subjects.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut done = vec![Figures::new(); subjects.len()];
            for index in order {
                let figures = run(&subjects[index]).with_context(|| format!("{what}: {}", subjects[index].name))?;
                eprintln!("{what}, round {}: {:26} {}", round + 1, subjects[index].name, shown(&figures));
                done[index] = figures;
            }
            for (subject, figures) in subjects.iter().zip(&done) {
                table.add(&subject.name, figures);
            }
        }
        Ok(table)
    }

    /// A run under load, the least disturbed of a few; the first one that wasn't disturbed ends them.
    pub(crate) fn steady(&self, stage: &Stage, subject: &Subject, ask: &Ask) -> Result<Figures> {
        let mut best: Option<(f64, Figures)> = None;
        let mut reason = String::new();
        let mut discarded = 0.0;
        for _ in 0..self.tries.max(1) {
            match counted(stage, subject, ask)? {
                Ok((others, figures)) => {
                    if best.as_ref().is_none_or(|(least, _)| others < *least) {
                        best = Some((others, figures));
                    }
                    if others <= STRANGERS {
                        break;
                    }
                }
                Err(why) => {
                    eprintln!("a run of {} counts for nothing: {why}", subject.name);
                    reason = why;
                    discarded += 1.0;
                }
            }
        }
        let (_, mut figures) = best.with_context(|| format!("no run of {} counts: {reason}", subject.name))?;
        figures.push(("discarded", discarded));
        Ok(figures)
    }
}

fn shown(figures: &Figures) -> String {
    let texts: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {value:.1}")).collect();
    texts.join("  ")
}

impl Cpus {
    pub(crate) const LOAD: usize = 0;

    pub(crate) fn proxies(self) -> usize {
        match self {
            Self::Apart => 1,
            Self::Together => Self::LOAD,
        }
    }
}

/// What others used meanwhile, in CPUs, and the figures; or why the run counts for nothing.
fn counted(stage: &Stage, subject: &Subject, ask: &Ask) -> Result<Result<(f64, Figures), String>> {
    stage.wait_carried_by(subject)?;
    let backends = stage.backends()?;
    let guard_before = cpu_ns(&subject.guards)?;
    let ours = || -> Result<u64> { Ok(cpu_ns(&subject.pids)? + cpu_ns(&backends)? + children_ns()?) };
    let (before, ours_before, busy_before, start) = (cpu_ns(&subject.pids)?, ours()?, busy_ns()?, Instant::now());
    let seen = ask.run(stage.pod(subject.pod)?, Cpus::LOAD, &subject.url)?;
    let (after, ours_after, busy_after) = (cpu_ns(&subject.pids)?, ours()?, busy_ns()?);
    let elapsed = start.elapsed().as_nanos() as f64;
    let others = busy_after.saturating_sub(busy_before).saturating_sub(ours_after - ours_before) as f64 / elapsed;
    let cpu = (after - before) as f64;
    // A sidecar that answers its guard too late, as on a busy machine, is taken for hung.
    if (cpu_ns(&subject.guards)? - guard_before) as f64 > IDLE_GUARD * cpu {
        return Ok(Err("the guard took over from the sidecar, which got too little CPU time".to_owned()));
    }
    if seen.errors > 0 || seen.requests == 0 {
        return Ok(Err(format!("{} answers, errors {:?}", seen.requests, seen.error_kinds)));
    }
    Ok(Ok((others, figures(&seen, cpu, others))))
}

fn figures(seen: &Seen, cpu_ns: f64, others: f64) -> Figures {
    let mut figures = vec![
        ("cpu", cpu_ns / (seen.requests + seen.warmup_requests) as f64 / 1000.0),
        ("rate", seen.rate),
        ("p50", seen.latency_us.p50),
        ("p99", seen.latency_us.p99),
        ("others", others),
    ];
    figures.extend(seen.latency_us.p999.is_finite().then_some(("p999", seen.latency_us.p999)));
    // Of a run without a proxy there is none.
    let gb_per_cpu_second = seen.bytes as f64 / cpu_ns;
    figures.extend((seen.bytes > 0 && cpu_ns > 0.0).then_some(("gb", gb_per_cpu_second)));
    figures
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
    let first = |stat: &String| stat.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok());
    Ok(tasks(pids, "schedstat")?.iter().filter_map(first).sum())
}

/// That file of every thread of these processes.
pub(crate) fn tasks(pids: &[u32], file: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).context("a measured process has ended")?.flatten() {
            all.push(fs::read_to_string(task.path().join(file)).unwrap_or_default());
        }
    }
    Ok(all)
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
