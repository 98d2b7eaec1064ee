//! `outrigger check`: whether the cluster is fit for the mesh, and the mesh fit for its work. Each finding has a remedy.
//!
//! Gathers thinly; what facts mean is found in `evaluate`.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

mod after;
mod before;
mod evaluate;
mod facts;
mod gather;
mod probe;
mod render;
#[cfg(test)]
mod tests;

use evaluate::Report;

use crate::{
    cluster::{self, Cluster},
    exit,
    terminal::{Paint, Progress},
};

/// Between two looks of `--wait`.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only what must hold before the mesh is installed
    #[arg(long)]
    pre: bool,
    /// Look again until nothing fails, for at most this long, such as 90s or 5m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options, cluster: &cluster::Options) -> Result<ExitCode> {
    let report = cluster::block_on(async {
        let cluster = Cluster::connect(cluster).await?;
        let _progress = Progress::start(if options.wait.is_some() { "waiting for the mesh" } else { "checking" });
        let until = Instant::now() + options.wait.unwrap_or_default();
        loop {
            let report = look(&cluster, options.pre).await;
            if !report.has_failures() || Instant::now() >= until {
                return Ok(report);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render::text(&report, Paint::stdout()));
    }
    Ok(exit::findings(report.has_failures()))
}

/// What `install` asks before it begins.
pub(crate) async fn pre(cluster: &Cluster) -> Report {
    look(cluster, true).await
}

/// The report for people.
pub(crate) fn shown(report: &Report) -> String {
    render::text(report, Paint::stdout())
}

async fn look(cluster: &Cluster, pre: bool) -> Report {
    if pre {
        let facts = gather::before(cluster).await;
        Report::of(before::checks(&facts))
    } else {
        let facts = gather::after(cluster).await;
        Report::of(after::checks(&facts))
    }
}

/// `90s`, `5m`, `1h` or seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("{text:?}: write 90s, 5m or 1h"))?;
    let seconds = match unit {
        "" | "s" => number,
        "m" => number * 60,
        "h" => number * 3600,
        _ => return Err(format!("{text:?}: write 90s, 5m or 1h")),
    };
    Ok(Duration::from_secs(seconds))
}
