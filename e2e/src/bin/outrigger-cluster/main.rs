//! The mesh on a real cluster, as its users meet it: Helm, kubectl, injected pods. Runs every case in turn; the first
//! installs, the last removes. A case that can't run here is shown as skipped, with its reason.
//!
//! `outrigger-cluster --dir DIR [FILTER]` runs the cases whose names contain FILTER on the cluster that the node harness
//! made in DIR; `--kubeconfig FILE` on any other.

mod cases;
mod changes;
mod cluster;

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;

use crate::cluster::Cluster;

#[derive(Debug, Parser)]
struct Args {
    /// Folder of a cluster that the node harness has made.
    #[arg(long, required_unless_present_any = ["kubeconfig", "make_changes"])]
    dir: Option<PathBuf>,
    /// Any other cluster. What needs access to its nodes is skipped.
    #[arg(long, conflicts_with = "dir")]
    kubeconfig: Option<PathBuf>,
    /// Only cases whose names contain it.
    filter: Option<String>,
    /// Not those whose names contain it.
    #[arg(long)]
    skip: Option<String>,
    /// Long cases, too.
    #[arg(long)]
    long: bool,
    /// Run by a case, within the cluster's network.
    #[arg(long, hide = true)]
    make_changes: Option<usize>,
}

/// One test of the cluster.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    /// It looks at nodes from outside Kubernetes.
    needs_nodes: bool,
    /// It waits for minutes; there is a shorter case of what it is about, or one without a cluster.
    long: bool,
    run: fn(&Cluster) -> Result<()>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(count) = args.make_changes {
        return match changes::make(count) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let cluster = match Cluster::open(args.dir, args.kubeconfig) {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("{error:#}");
            println!("cluster result: 0 passed, 1 failed, 0 skipped");
            return ExitCode::FAILURE;
        }
    };
    let filter = args.filter.unwrap_or_default();
    let unwanted = |case: &Case| args.skip.as_ref().is_some_and(|skip| case.name.contains(skip));
    let chosen: Vec<_> =
        cases::all().into_iter().filter(|case| case.name.contains(&filter) && !unwanted(case)).collect();
    let (mut failed, mut skipped) = (Vec::new(), 0);
    for (index, case) in chosen.iter().enumerate() {
        let started = Instant::now();
        println!("[{}/{}] {} ...", index + 1, chosen.len(), case.name);
        let unfit = [
            (case.needs_nodes && !cluster.has_nodes()).then_some("it needs access to the nodes"),
            (case.long && !args.long).then_some("a long one, for --long"),
        ];
        if let Some(why) = unfit.into_iter().flatten().next() {
            println!("        skipped: {why}");
            skipped += 1;
            continue;
        }
        match (case.run)(&cluster) {
            Ok(()) => println!("        ok ({:.1} s)", started.elapsed().as_secs_f64()),
            Err(error) => {
                println!("        FAILED ({:.1} s): {error:#}", started.elapsed().as_secs_f64());
                failed.push(case.name);
            }
        }
    }
    for name in &failed {
        println!("failed: {name}");
    }
    let passed = chosen.len() - failed.len() - skipped;
    println!("cluster result: {passed} passed, {} failed, {skipped} skipped", failed.len());
    if failed.is_empty() && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
