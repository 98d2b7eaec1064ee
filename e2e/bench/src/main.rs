//! Measures the proxies beside their peers, all in one run on one machine: `docs/benchmarks.json`, and the page and charts
//! made of it.
//!
//! Owns the order of groups and what becomes of their figures. Judges nothing: no number here fails.

mod ask;
mod charts;
mod data;
mod goals;
mod groups;
mod load;
mod measure;
mod peers;
mod report;
mod sheet;
mod stage;
mod subject;
mod svg;

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use outrigger_testbed::machine;

use crate::{data::Results, groups::Group, measure::Plan, stage::Stage};

#[derive(Debug, Parser)]
#[command(about = "Measures the proxies beside their peers")]
struct Args {
    /// These groups alone; what was measured of others stays as it is
    #[arg(long, value_enum)]
    only: Vec<Group>,
    /// Counts instructions as well, which takes minutes
    #[arg(long)]
    callgrind: bool,
    #[command(flatten)]
    plan: Plan,
    /// Its part between the markers is written anew; the data is beside it, charts in the folder of its name
    #[arg(long, default_value = "docs/benchmarks.md")]
    out: PathBuf,
    /// Measures nothing, makes the page of the data that there is
    #[arg(long)]
    report_only: bool,
    /// Ends the run when everything is up and prints PIDs, for a profiler, until standard input ends
    #[arg(long)]
    hold: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let data = args.out.with_extension("json");
    if args.report_only {
        return report::write(&args.out, &Results::load(&data)?);
    }
    let machine = machine::enter()?;
    let begin = Instant::now();
    eprintln!("starting the mesh and its peers");
    let mut stage = Stage::start(&machine)?;
    if args.hold {
        return stage.hold();
    }
    let mut failed = Vec::new();
    for group in Group::value_variants().iter().filter(|group| args.wants(**group)) {
        eprintln!("=== {} ({} s so far)", group.title(), begin.elapsed().as_secs());
        match group.measure(&mut stage, &args.plan) {
            Ok(tables) => {
                // At once, so that a later failure loses nothing.
                let mut results = Results::load(&data)?;
                results.0.insert(group.name().to_owned(), report::measured(tables, &args.plan)?);
                results.save(&data)?;
                report::write(&args.out, &results)?;
            }
            Err(error) => {
                eprintln!("{}\n{}: {error:#}", stage.mesh.tails(), group.name());
                failed.push(group.name());
            }
        }
    }
    eprintln!("{} s; {}", begin.elapsed().as_secs(), args.out.display());
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    Ok(())
}

// === impl Args ===

impl Args {
    fn wants(&self, group: Group) -> bool {
        let usual = self.only.is_empty() && group != Group::Instructions;
        usual || self.only.contains(&group) || (self.callgrind && group == Group::Instructions)
    }
}
