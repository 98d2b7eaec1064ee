//! What was measured, as the part of `docs/benchmarks.md` between its markers.

use std::{fmt::Write as _, fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

use crate::{
    Args, Series,
    measure::{MANY, Memory, Run},
    stage::Starts,
};

const BEGIN: &str = "<!-- written by ./dev bench: begin -->";
const END: &str = "<!-- written by ./dev bench: end -->";

type Memories = [(&'static str, Memory)];

pub(crate) fn text(
    args: &Args,
    busy: &Series,
    serial: &Series,
    idle: &Memories,
    loaded: &Memories,
    starts: &Starts,
) -> Result<String> {
    let mut out = machine(args)?;
    writeln!(out, "\n### {MANY} connections, proxies alone on a CPU\n")?;
    writeln!(out, "| | µs CPU per request | × nginx | requests/s | others' CPU |\n|---|---|---|---|---|")?;
    for (index, subject) in busy.subjects.iter().enumerate() {
        let ratios = busy.ratios(index, |round, it| round[it].cpu);
        let (cpu, rate) = (busy.of(index, |run| run.cpu), busy.of(index, |run| run.rate));
        let others = busy.of(index, |run| run.strangers);
        writeln!(
            out,
            "| {} | {} | {} | {:.0} | {:.2} |",
            subject.name,
            spread(&cpu, 1),
            spread(&ratios, 2),
            median(&rate),
            median(&others)
        )?;
    }
    writeln!(out, "\n### One connection, everything on one CPU\n")?;
    writeln!(
        out,
        "| | p50 µs | added p50 | added p50 × nginx | p99 µs | added p99 | µs CPU per request | others' CPU |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|---|")?;
    for (index, subject) in serial.subjects.iter().enumerate() {
        let added = |of: fn(&Run) -> f64| serial.each(move |round| of(&round[index]) - of(&round[0]));
        let ratio = if index == 0 {
            "–".to_owned()
        } else {
            spread(&serial.each(|round| (round[index].p50 - round[0].p50) / (round[1].p50 - round[0].p50)), 2)
        };
        writeln!(
            out,
            "| {} | {:.0} | {} | {ratio} | {:.0} | {} | {} | {:.2} |",
            subject.name,
            median(&serial.of(index, |run| run.p50)),
            spread(&added(|run| run.p50), 0),
            median(&serial.of(index, |run| run.p99)),
            spread(&added(|run| run.p99), 0),
            spread(&serial.of(index, |run| run.cpu), 1),
            median(&serial.of(index, |run| run.strangers)),
        )?;
    }
    writeln!(out, "\n### Memory, MB\n")?;
    writeln!(
        out,
        "| | RSS idle | PSS idle | anonymous | private dirty | RSS after the load above |\n|---|---|---|---|---|---|"
    )?;
    for ((name, at_rest), (_, after)) in idle.iter().zip(loaded) {
        let mb = |kb: u64| kb as f64 / 1024.0;
        let Memory { rss, pss, anonymous, private_dirty } = *at_rest;
        writeln!(
            out,
            "| {name} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} |",
            mb(rss),
            mb(pss),
            mb(anonymous),
            mb(private_dirty),
            mb(after.rss)
        )?;
    }
    writeln!(out, "\n### Start of a sidecar: process start to ready, ms\n")?;
    writeln!(out, "| | median (min..max) |\n|---|---|")?;
    for (name, all) in [("nothing on disk", &starts.fresh), ("from its last good state", &starts.from_disk)] {
        let ms: Vec<_> = all.iter().map(Duration::as_secs_f64).map(|seconds| seconds * 1000.0).collect();
        writeln!(out, "| {name} | {} |", spread(&ms, 1))?;
    }
    Ok(out)
}

/// Replaces what is between the markers.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let page = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (head, rest) = page.split_once(BEGIN).context("no begin marker")?;
    let (_, tail) = rest.split_once(END).context("no end marker")?;
    fs::write(path, format!("{head}{BEGIN}\n\n{text}\n{END}{tail}")).with_context(|| path.display().to_string())
}

fn machine(args: &Args) -> Result<String> {
    let said = |program: &str, arguments: &[&str]| -> Result<String> {
        let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
        // nginx says its version on its error output.
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).trim().lines().next().unwrap_or_default().trim().to_owned())
    };
    let info = fs::read_to_string("/proc/cpuinfo")?;
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |it| it.1);
    let cpus = info.lines().filter(|line| line.starts_with("processor")).count();
    Ok(format!(
        "Measured {} on {cpus} × {model} (a virtual machine if the model says no more), Linux {}, {}, wrk {}; \
         `./dev bench --rounds {} --seconds {}`.\n",
        said("date", &["--utc", "+%Y-%m-%d %H:%M UTC"])?,
        said("uname", &["-r"])?,
        said("/usr/sbin/nginx", &["-v"])?.trim_start_matches("nginx version: "),
        said("wrk", &["-v"])?.split_whitespace().nth(1).unwrap_or_default(),
        args.rounds,
        args.seconds,
    ))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        even if even % 2 == 0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
        _ => sorted[middle],
    }
}

/// Median and, in brackets, least and most.
fn spread(values: &[f64], digits: usize) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    format!("{:.digits$} ({least:.digits$}..{most:.digits$})", median(values))
}

impl Series {
    fn each(&self, of: impl Fn(&[Run]) -> f64) -> Vec<f64> {
        self.runs.iter().map(|round| of(round)).collect()
    }

    fn of(&self, index: usize, of: fn(&Run) -> f64) -> Vec<f64> {
        self.each(|round| of(&round[index]))
    }

    /// To the first subject, in the same round.
    fn ratios(&self, index: usize, of: fn(&[Run], usize) -> f64) -> Vec<f64> {
        self.each(|round| of(round, index) / of(round, 0))
    }
}
