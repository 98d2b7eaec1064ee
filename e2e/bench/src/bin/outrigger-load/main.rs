//! Load for the measurements, and the backends it is sent to.
//!
//! Knows no mesh: it makes requests on one thread, as cheaply as it can since it may share a CPU with the proxy that is
//! measured, and prints what came of them as one JSON object. Whether that is good or bad is the caller's affair.

mod chunked;
mod client;
mod echo;
mod failure;
mod grpc;
mod http1;
mod http2;
mod idle;
mod pace;
mod pattern;
mod run;
mod serve;
mod tally;
mod target;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};

use crate::{serve::Kind, target::To};

#[derive(Debug, Parser)]
#[command(about = "Makes load and says what came of it", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes requests for a while and prints one JSON object
    Run(run::Plan),
    /// Opens connections, makes one request on each, and holds them until standard input ends
    Idle {
        #[command(flatten)]
        to: To,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        /// Says what happens anyway
        #[arg(long, hide = true)]
        hold: bool,
    },
    /// A backend
    Serve {
        /// Port 0 takes a free one
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        kind: Kind,
        /// Bytes of an answer's body
        #[arg(long, default_value_t = 1024)]
        size: usize,
    },
}

fn main() -> Result<()> {
    raise_descriptor_limit();
    match Args::parse().command {
        Command::Run(plan) => {
            let report = run::run(&plan)?;
            println!("{}", serde_json::to_string(&report)?);
            ensure!(report.requests > 0, "{}: no request succeeded: {:?}", plan.to.to, report.error_kinds);
            Ok(())
        }
        Command::Idle { to, connections, hold: _ } => runtime()?.block_on(idle::hold(&to, connections)),
        Command::Serve { listen, kind, size } => runtime()?.block_on(async {
            let listener =
                tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
            println!("listening on {}", listener.local_addr()?);
            serve::serve(&listener, kind, size).await
        }),
    }
}

/// One thread, and tasks that needn't be sent to another.
fn runtime() -> Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).context("event loop")
}

/// A connection takes a descriptor or two; shells often allow 1,024.
fn raise_descriptor_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        eprintln!("the limit of file descriptors stays as it is: {error}");
    }
}
