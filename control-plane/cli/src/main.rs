//! Binary `outrigger`: a person's terminal. Arguments only; each subcommand has its own file.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use outrigger_testbed::command::{self, App};

mod chaos;
mod chart;
mod check;
mod cluster;
mod completion;
mod controller;
mod demo;
mod exit;
mod explain;
mod helm;
mod inject;
mod install;
mod pods;
mod status;
mod terminal;
mod uninstall;
mod upgrade_proxies;
mod validate;
mod version;
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
    /// Installs the mesh as a release of Helm's
    Install(install::Options),
    /// Upgrades the mesh to this program's version, or changes its settings
    Upgrade(install::Options),
    /// Gives running pods the proxies of the mesh's version, without restarting their apps
    UpgradeProxies(upgrade_proxies::Options),
    /// Takes the mesh away, and looks whether anything of it is left
    Uninstall(uninstall::Options),
    /// Checks whether the cluster is fit for the mesh, and whether the mesh is well
    Check(check::Options),
    /// Gives pods in YAML by hand their proxies, as the webhook does
    Inject(inject::Options),
    /// Shows every proxy: the configuration it holds, who carries its pod, how long its certificate is good
    Status(status::Options),
    /// Says what happens to a request: route, backends, endpoints, policies, mTLS, and what if a sidecar dies
    Explain(explain::Options),
    /// Checks resource files as the controller would, without one
    Validate {
        /// YAML files; each may hold many documents
        #[arg(short, long = "file", required = true, num_args = 1.., value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Runs the whole mesh with a small shop on this machine, breaks it and shows that nothing broke
    Demo(demo::Options),
    /// Breaks each part of the mesh on the cluster, under load of its own, and holds it to what is promised
    Chaos(chaos::Options),
    /// The apps, load and faults of `chaos`, run in its pods
    #[command(subcommand, hide = true)]
    App(App),
    /// Prints a script that completes arguments: source <(outrigger completion bash)
    Completion { shell: Shell },
    /// Says the version of this program, and of what runs in the cluster
    Version(version::Options),
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
        Command::Install(options) => install::run(install::Kind::Install, &options, cluster),
        Command::Upgrade(options) => install::run(install::Kind::Upgrade, &options, cluster),
        Command::UpgradeProxies(options) => upgrade_proxies::run(&options, cluster),
        Command::Uninstall(options) => uninstall::run(&options, cluster),
        Command::Check(options) => check::run(&options, cluster),
        Command::Inject(options) => inject::run(&options, cluster),
        Command::Status(options) => status::run(&options, cluster),
        Command::Explain(options) => explain::run(&options, cluster),
        Command::Validate { files } => validate::run(&files),
        Command::Demo(options) => demo::run(&options),
        Command::Chaos(options) => chaos::run(&options, cluster),
        Command::App(app) => cluster::block_on(command::run(app)).map(|()| ExitCode::SUCCESS),
        Command::Completion { shell } => Ok(completion::run(shell, Args::command())),
        Command::Version(options) => version::run(&options, cluster),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_make_sense() {
        Args::command().debug_assert();
    }
}
