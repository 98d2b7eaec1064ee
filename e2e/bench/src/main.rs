//! Measures the proxy beside nginx, in one run on one machine, and writes what it found into `docs/benchmarks.md`.
//!
//! Owns the order of runs: mirrored rounds, each with nginx twice as a control. Judges nothing: no number here fails.

mod measure;
mod report;
mod stage;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use outrigger_testbed::machine;

use crate::{
    measure::{Cpus, Run},
    stage::{Stage, Subject},
};

#[derive(Debug, Parser)]
#[command(about = "Measures the proxy beside nginx")]
struct Args {
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Of one run
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Its part between the markers is written anew
    #[arg(long, default_value = "docs/benchmarks.md")]
    out: PathBuf,
    /// Ends the run when the mesh is up and prints PIDs, for a profiler, until standard input ends
    #[arg(long)]
    hold: bool,
}

/// All rounds of one load: `runs[round][subject]`.
struct Series {
    subjects: Vec<Subject>,
    runs: Vec<Vec<Run>>,
}

fn main() -> Result<()> {
    let machine = machine::enter()?;
    let args = Args::parse();
    let mut stage = Stage::start(&machine)?;
    if args.hold {
        return stage.hold();
    }
    let idle = stage.memory()?;
    eprintln!("{} connections, proxies alone on a CPU", measure::MANY);
    let busy = rounds(&args, &stage, stage.busy_subjects()?, Cpus::Apart)?;
    let loaded = stage.memory()?;
    eprintln!("one connection, everything on one CPU");
    let serial = rounds(&args, &stage, stage.serial_subjects()?, Cpus::Together)?;
    let starts = stage.starts(args.rounds)?;
    let text = report::text(&args, &busy, &serial, &idle, &loaded, &starts)?;
    println!("{text}");
    report::write(&args.out, &text)
}

fn rounds(args: &Args, stage: &Stage, subjects: Vec<Subject>, cpus: Cpus) -> Result<Series> {
    stage.pin(cpus)?;
    let mut runs = Vec::new();
    for round in 0..args.rounds {
        let mut order: Vec<_> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        let mut done = vec![Run::default(); subjects.len()];
        for index in order {
            done[index] = measure::steady(stage, &subjects[index], cpus, args.seconds)?;
            eprintln!("round {} {:24} {}", round + 1, subjects[index].name, done[index]);
        }
        runs.push(done);
    }
    Ok(Series { subjects, runs })
}
