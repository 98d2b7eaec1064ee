//! The end-to-end tests: real proxies and a real controller, pods as network namespaces, real redirection.
//! Runs every case in turn, in one isolated machine; a case that can't run here fails.
//!
//! `outrigger-e2e [FILTER]` runs the cases whose names contain FILTER; `outrigger-e2e --long [FILTER]` the long ones, which are
//! no part of the others.

mod capture;
mod cases;
mod clock;
mod raw;

use std::{process::ExitCode, time::Instant};

use outrigger_testbed::machine::{self, Machine};

/// One test. It starts the mesh it needs and leaves nothing behind.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    run: fn(&Machine) -> anyhow::Result<()>,
}

fn main() -> ExitCode {
    let machine = match machine::enter() {
        Ok(machine) => machine,
        Err(error) => {
            eprintln!("{error:#}");
            println!("e2e result: 0 passed, 1 failed, 0 skipped");
            return ExitCode::FAILURE;
        }
    };
    let (options, filters): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word.starts_with("--"));
    let all = match options.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => cases::all(),
        ["--long"] => cases::long(),
        _ => {
            eprintln!("unknown: {}; there is --long", options.join(" "));
            return ExitCode::FAILURE;
        }
    };
    let filter = filters.into_iter().next().unwrap_or_default();
    let chosen: Vec<_> = all.into_iter().filter(|case| case.name.contains(&filter)).collect();
    let mut failed = Vec::new();
    for (index, case) in chosen.iter().enumerate() {
        let started = Instant::now();
        println!("[{}/{}] {} ...", index + 1, chosen.len(), case.name);
        match (case.run)(&machine) {
            Ok(()) => println!("        ok ({:.1} s)", started.elapsed().as_secs_f64()),
            Err(error) => {
                println!("        FAILED: {error:#}");
                failed.push(case.name);
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    println!("e2e result: {} passed, {} failed, 0 skipped", chosen.len() - failed.len(), failed.len());
    if failed.is_empty() && !chosen.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
