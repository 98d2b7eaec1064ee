//! `outrigger-controller`: settings and wiring, no logic.
//!
//! Prints one JSON line with the addresses it has bound (`{"grpc":"IP:PORT","admin":"IP:PORT"}`) to stdout, and logs to
//! stderr.

mod admin;
mod args;
mod authenticate;
mod certificate;
mod confidential;
mod departures;
mod descriptors;
mod embedded;
#[cfg(test)]
mod fake;
mod grpc;
mod injector;
mod kubernetes;
mod listener;
mod metrics;
mod root_secret;
mod rotation;
mod serve;
mod tls;
mod token_review;
mod tokens;
mod troubles;
mod webhook;
mod webhook_certificate;

use std::io::{IsTerminal, stderr};

use anyhow::{Context, anyhow};
use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::args::Args;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    // What thousands of idle connections have is small and here and there: huge pages would be mostly empty.
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        eprintln!("huge pages can't be turned off, more memory will be used: {error}");
    }
    let args = Args::parse();
    // The h2 crate warns of each frame that means nothing, whoever sends it.
    let filter = EnvFilter::try_new(format!("h2=error,{}", args.log)).context("--log")?;
    let colours = stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(stderr).init();
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider is installed already"))?;
    let rooms = descriptors::rooms();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if args.kubernetes { kubernetes::run(args, rooms).await } else { embedded::run(args, rooms).await }
    })
}
