//! What was found out, as Markdown.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};

use crate::{api::IN_MEMORY, run::Outcome};

const BEGIN: &str = "<!-- written by ./dev scale: begin -->";
const END: &str = "<!-- written by ./dev scale: end -->";

type Row = (&'static str, fn(&Outcome) -> String);
/// What, how much, and what is measured: whether that is enough.
type Goal = (&'static str, &'static str, fn(&Outcome) -> (String, bool));

/// One row for each number, one column for each size.
const ROWS: &[Row] = &[
    ("**Start**: every object read, the first configuration derived", |o| format!("{:.1} s", o.start.seconds)),
    ("controller CPU", |o| format!("{:.1} s", o.start.controller_cpu_s)),
    ("controller RSS (anonymous), no proxies", |o| memory(o.start.memory.rss_kib, o.start.memory.anon_kib)),
    ("**First sync**: until all have acknowledged everything", |o| format!("{:.1} s", o.first_sync.seconds)),
    ("controller CPU", |o| format!("{:.1} s", o.first_sync.controller_cpu_s)),
    ("simulation CPU, in the same cores", |o| format!("{:.1} s", o.first_sync.simulation_cpu_s)),
    ("configuration of a proxy that calls 20 services", |o| format!("{:.1} KB", o.first_sync.bytes_per_proxy / 1e3)),
    ("**Connected**: controller RSS (anonymous)", |o| memory(o.memory.rss_kib, o.memory.anon_kib)),
    ("more per proxy than without", |o| {
        let more = o.memory.rss_kib.saturating_sub(o.start.memory.rss_kib);
        format!("{:.1} KiB", more as f64 / o.proxies as f64)
    }),
    ("idle CPU, of a core", |o| format!("{:.1} %", o.idle_cpu_percent)),
    ("**Churn**: a service rescaled each second, proxies that call it", |o| o.subscribers_each()),
    ("proxies told; messages to others", |o| {
        format!("{}; {}", share(o.churn.told, o.churn.subscribers), o.churn.strays)
    }),
    ("written to told, p50 / p99 / p99.9", |o| {
        format!("{:.1} / {:.1} / {:.1} ms", o.churn.p50_ms, o.churn.p99_ms, o.churn.p999_ms)
    }),
    ("controller CPU per change", |o| format!("{:.2} ms", o.churn.cpu_us_per_change / 1e3)),
    ("controller CPU per proxy told", |o| format!("{:.0} µs", o.churn.cpu_us_per_told)),
    ("bytes per proxy told", |o| format!("{:.0} B", o.churn.bytes_per_told)),
    ("an AccessPolicy for all each minute meanwhile: all have it", |o| {
        let seconds = |of: &Option<f64>| of.map_or("not all".to_owned(), |seconds| format!("{seconds:.2} s"));
        o.churn.policy_s.iter().map(seconds).collect::<Vec<_>>().join(", ")
    }),
    ("**Mesh-wide AccessPolicy**: half / all have it", |o| wide(&o.access_policy)),
    ("controller CPU; bytes per proxy", |o| wide_cost(&o.access_policy)),
    ("**Mesh-wide TrafficPolicy**: half / all have it", |o| wide(&o.traffic_policy)),
    ("controller CPU; bytes per proxy", |o| wide_cost(&o.traffic_policy)),
    ("**All connections cut**: all acknowledged again", |o| format!("{:.1} s", o.connections_cut.seconds)),
    ("resources sent again", |o| o.connections_cut.resources.to_string()),
    ("controller CPU; peak RSS", |o| again(&o.connections_cut)),
    ("**Controller killed**: all acknowledged at the next", |o| format!("{:.1} s", o.controller_killed.seconds)),
    ("resources sent again", |o| o.controller_killed.resources.to_string()),
    ("controller CPU; peak RSS", |o| again(&o.controller_killed)),
];

/// What is to be held with most services and proxies (the design's numbers), what is measured, and whether that is enough.
const GOALS: &[Goal] = &[
    ("controller's memory, all proxies connected", "≤ 550 MB", |o| {
        let mb = o.memory.rss_kib as f64 * 1.024e-3;
        (format!("{mb:.0} MB"), mb <= 550.0)
    }),
    ("mesh-wide AccessPolicy written, until all proxies have it", "≤ 1 s", |o| within_a_second(&o.access_policy)),
    ("the same, TrafficPolicy", "≤ 1 s", |o| within_a_second(&o.traffic_policy)),
    ("resources sent again when all connections are cut", "0", |o| none(&o.connections_cut)),
    ("resources sent again when another controller takes over", "0", |o| none(&o.controller_killed)),
    ("configuration of a sidecar that calls 20 services", "≤ 64 KB", |o| {
        let kb = o.first_sync.bytes_per_proxy / 1e3;
        (format!("{kb:.1} KB"), kb <= 64.0)
    }),
];

/// What a file keeps; nothing if there is none yet.
pub(crate) fn kept(path: &Path) -> Result<Vec<Outcome>> {
    match fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| path.display().to_string()),
        Err(_) => Ok(Vec::new()),
    }
}

/// Puts outcomes to those that were kept, in place of those of the same size and API server, and keeps all.
pub(crate) fn keep(path: &Path, kept: Vec<Outcome>, outcomes: Vec<Outcome>) -> Result<Vec<Outcome>> {
    let key = |o: &Outcome| (o.api_server.clone(), o.services, o.proxies);
    let all: BTreeMap<_, _> = kept.into_iter().chain(outcomes).map(|outcome| (key(&outcome), outcome)).collect();
    let all: Vec<Outcome> = all.into_values().collect();
    fs::write(path, serde_json::to_string_pretty(&all)?).with_context(|| path.display().to_string())?;
    Ok(all)
}

/// The goals, and a table of all sizes.
pub(crate) fn text(outcomes: &[Outcome]) -> String {
    let largest = outcomes.iter().max_by_key(|o| (o.services, o.proxies, o.api_server == IN_MEMORY));
    let goals = largest.map(|largest| {
        let rows = GOALS.iter().map(|(what, goal, measure)| {
            let (measured, met) = measure(largest);
            format!("| {what} | {goal} | {measured} | {} |\n", if met { "yes" } else { "**no**" })
        });
        let (services, proxies) = (count(largest.services), count(largest.proxies));
        let size = format!("{services} services × {proxies} proxies, API server {}", largest.api_server);
        format!("| {size} | goal | measured | met |\n|---|---|---|---|\n{}\n", rows.collect::<String>())
    });
    format!("{}{}", goals.unwrap_or_default(), sizes(outcomes))
}

fn sizes(outcomes: &[Outcome]) -> String {
    let row = |name: &str, value: &dyn Fn(&Outcome) -> String| {
        let values: Vec<String> = outcomes.iter().map(value).collect();
        format!("| {name} | {} |\n", values.join(" | "))
    };
    let sizes = row("services × proxies", &|o| format!("{} × {}", count(o.services), count(o.proxies)));
    let api_server = row("API server", &|o| o.api_server.clone());
    let endpoints = row("endpoints", &|o| count(o.endpoints));
    let rows = ROWS.iter().map(|(name, value)| row(name, value));
    format!("{sizes}|---|{}\n{api_server}{endpoints}{}", "---:|".repeat(outcomes.len()), rows.collect::<String>())
}

/// Puts the text between the markers of a page.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let page = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{}: no {BEGIN}", path.display()))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{}: no {END}", path.display()))?;
    fs::write(path, format!("{before}{BEGIN}\n{text}{END}{after}")).with_context(|| path.display().to_string())
}

fn count(number: usize) -> String {
    if number.is_multiple_of(1_000) { format!("{}k", number / 1_000) } else { number.to_string() }
}

fn memory(rss_kib: u64, anon_kib: u64) -> String {
    format!("{} ({}) MiB", rss_kib / 1024, anon_kib / 1024)
}

fn share(part: usize, whole: usize) -> String {
    if part == whole { "all".to_owned() } else { format!("{part} of {whole}") }
}

fn wide(of: &crate::run::MeshWide) -> String {
    format!("{:.2} / {:.2} s", of.half_s[0], of.seconds[0])
}

fn within_a_second(of: &crate::run::MeshWide) -> (String, bool) {
    (format!("{:.2} s", of.seconds[0]), of.seconds[0] <= 1.0)
}

fn none(of: &crate::run::Sync) -> (String, bool) {
    (of.resources.to_string(), of.resources == 0)
}

fn wide_cost(of: &crate::run::MeshWide) -> String {
    format!("{:.2} s; {:.0} B", of.controller_cpu_s[0], of.bytes_per_proxy)
}

fn again(of: &crate::run::Sync) -> String {
    format!("{:.1} s; {} MiB", of.controller_cpu_s, of.peak_rss_kib / 1024)
}

// === impl Outcome ===

impl Outcome {
    fn subscribers_each(&self) -> String {
        format!("{:.0}", self.churn.subscribers as f64 / self.churn.changes as f64)
    }
}
