//! The gate: counts instructions and allocations per request of our own code on fixed inputs, and compares them with
//! a recorded baseline. Nothing here looks at a clock, so that a busy machine says the same as a quiet one.
//!
//! `check` starts this program again under valgrind, once per case and number of requests; `run` is that child.

mod baseline;
mod callgrind;
mod cases;
mod count;
mod judge;
mod run;
mod table;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use outrigger_testbed::machine;

use crate::{
    baseline::Baseline,
    count::{Counter, Selection},
};

/// Counts what a [`run::Run`] allocates. The system's allocator is what the proxies use.
#[global_allocator]
static ALLOCATOR: &stats_alloc::StatsAlloc<std::alloc::System> = &stats_alloc::INSTRUMENTED_SYSTEM;

#[derive(Debug, Parser)]
#[command(name = "outrigger-gate", about = "Counts instructions and allocations per request against a baseline")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Counts all cases and fails if one of them does more than the baseline says
    Check(Which),
    /// Counts all cases and writes the baseline
    Bless(Which),
    /// Names the cases
    List,
    /// Executes one case and prints what it allocated; started by the others, under valgrind
    Run(run::Run),
}

#[derive(Debug, Args)]
struct Which {
    /// Only cases whose name contains this
    filter: Option<String>,
    #[arg(long, default_value = "e2e/bench/gate.json")]
    baseline: PathBuf,
    /// Shows the functions of every case, not only of those that fail
    #[arg(long)]
    functions: bool,
}

fn main() -> ExitCode {
    match go(Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("outrigger-gate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn go(command: Command) -> Result<bool> {
    match command {
        Command::Run(run) => run.execute().map(|()| true),
        Command::List => {
            for case in cases::all() {
                println!("{:<28} {}", case.name, case.about);
            }
            Ok(true)
        }
        Command::Check(which) => match check(&which) {
            Ok((passed, failed)) => {
                println!("gate result: {passed} passed, {failed} failed, 0 skipped");
                Ok(failed == 0 && passed > 0)
            }
            Err(error) => {
                println!("gate result: 0 passed, 1 failed, 0 skipped");
                Err(error)
            }
        },
        Command::Bless(which) => {
            let counter = Counter::new(machine::enter()?)?;
            let counted = counter.all(&Selection::of(which.filter.as_deref()))?;
            Baseline::of(counter.tools()?, &counted).save(&which.baseline, which.filter.is_some())?;
            Ok(true)
        }
    }
}

/// How many cases pass and how many fail. The last one plants a regression and passes if that is found.
fn check(which: &Which) -> Result<(usize, usize)> {
    let counter = Counter::new(machine::enter()?)?;
    let baseline = Baseline::load(&which.baseline)?;
    let selection = Selection::of(which.filter.as_deref());
    let counted = counter.all(&selection)?;
    let mut verdicts = judge::all(&baseline, &counted, which.filter.is_none());
    print!("{}", table::of(&verdicts, which.functions));
    let failing = verdicts.iter().any(judge::Verdict::fails);
    if failing {
        print!("{}", baseline.other_tools(&counter.tools()?));
    }
    verdicts.push(judge::planted(&counter, &counted)?);
    print!("{}", table::last(&verdicts));
    let failed = verdicts.iter().filter(|verdict| verdict.fails()).count();
    Ok((verdicts.len() - failed, failed))
}
