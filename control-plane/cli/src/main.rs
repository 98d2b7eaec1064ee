//! Binary `outrigger`: a person's terminal. Arguments only; each subcommand has its own file.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

mod check;
mod cluster;
mod controller;
mod demo;
mod exit;
mod explain;
mod pods;
mod status;
mod terminal;
mod validate;
mod web;

#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    about = "A service mesh that keeps its balance when a proxy dies",
    after_help = "Exit codes: 0 ok, 1 findings or failed, 2 usage, 3 cluster not reachable."
)]
struct Args {
    #[command(flatten)]
    cluster: cluster::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks whether the cluster is fit for the mesh, and whether the mesh is well
    Check(check::Options),
    /// Runs the whole mesh with a small shop on this machine, breaks it and shows that nothing broke
    Demo(demo::Options),
    /// Says what happens to a request: route, backends, endpoints, policies, mTLS, and what if a sidecar dies
    Explain(explain::Options),
    /// Shows every proxy: the configuration it holds, who carries its pod, how long its certificate is good
    Status(status::Options),
    /// Checks resource files as the controller would, without one
    Validate {
        /// YAML files; each may hold many documents
        #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let Args { cluster, command } = Args::parse();
    run(command, &cluster).unwrap_or_else(|error| {
        eprintln!("outrigger: {error:#}");
        exit::code(&error)
    })
}

fn run(command: Command, cluster: &cluster::Options) -> Result<ExitCode> {
    match command {
        Command::Check(options) => check::run(&options, cluster),
        Command::Demo(options) => demo::run(&options),
        Command::Explain(options) => explain::run(&options, cluster),
        Command::Status(options) => status::run(&options, cluster),
        Command::Validate { files } => validate::run(&files),
    }
}
