//! Binary `outrigger`: a person's terminal. Arguments only; each subcommand has its own file.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

mod demo;
mod status;
mod validate;

#[derive(Debug, Parser)]
#[command(name = "outrigger", version, about = "A service mesh that keeps its balance when a proxy dies")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the whole mesh with a small shop on this machine, breaks it and shows that nothing broke
    Demo(demo::Options),
    /// Shows every proxy that is connected to a controller
    Status {
        /// Address of the controller's admin interface
        #[arg(long, value_name = "ADDRESS:PORT")]
        controller_admin: SocketAddr,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Checks resource files as the controller would, without one
    Validate {
        /// YAML files; each may hold many documents
        #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    run(Args::parse().command).unwrap_or_else(|error| {
        eprintln!("outrigger: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Status { controller_admin, json } => status::run(controller_admin, json),
        Command::Validate { files } => validate::run(&files),
    }
}
