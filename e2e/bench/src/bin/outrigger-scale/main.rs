//! The control plane at scale: the real controller, fed by as much of an API server as it needs, and thousands of xDS
//! clients that connect, parse and acknowledge as sidecars do. Judges nothing: no number here fails.

mod api;
mod fleet;
mod ledger;
mod process;
mod proxy;
mod report;
mod run;
mod server;
mod stream;
mod world;

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use clap::Parser;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    run::Ways,
    world::{Network, Size},
};

#[derive(Debug, Parser)]
#[command(about = "Measures the controller with thousands of simulated proxies")]
struct Args {
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Simulated; each is one of the pods
    #[arg(long, default_value_t = 1_000)]
    proxies: usize,
    #[arg(long, default_value_t = 10)]
    endpoints_per_service: usize,
    /// Services that each proxy's app calls
    #[arg(long, default_value_t = 20)]
    calls: usize,
    /// Of churn: one service is rescaled in each, and a policy for all comes or goes every minute
    #[arg(long, default_value_t = 130)]
    seconds: usize,
    /// Connections that are being made at a time
    #[arg(long, default_value_t = 256)]
    at_once: usize,
    /// Threads that run proxies
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// All sizes of docs/scale.md, instead of one
    #[arg(long, conflicts_with_all = ["services", "proxies", "endpoints_per_service"])]
    all: bool,
    /// A real API server that has nothing in it yet and nobody at work. It is filled, and left so
    #[arg(long, value_name = "FILE", conflicts_with = "all")]
    kubeconfig: Option<PathBuf>,
    /// Where all that was found out is kept: what was measured again is put in place of what was there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Its part between the markers is written anew, from all that is kept
    #[arg(long, requires = "json")]
    out: Option<PathBuf>,
    /// Waits before churn, and prints PIDs, for a profiler
    #[arg(long)]
    hold: bool,
}

/// Descriptors beside those of the proxies' connections.
const SPARE: u64 = 1_000;

fn main() -> Result<()> {
    let args = Args::parse();
    rustls::crypto::aws_lc_rs::default_provider().install_default().map_err(|_| anyhow!("two TLS providers"))?;
    let size = Size {
        services: args.services,
        proxies: args.proxies,
        endpoints_per_service: args.endpoints_per_service,
        calls: args.calls,
        network: Network::default(),
    };
    let ways = Ways { seconds: args.seconds, threads: args.threads.max(1), at_once: args.at_once, hold: args.hold };
    let sizes = if args.all {
        let all = [(1_000, 1_000), (1_000, 10_000), (10_000, 1_000), (10_000, 10_000)];
        all.map(|(services, proxies)| Size { services, proxies, ..size }).to_vec()
    } else {
        vec![size]
    };
    sizes.iter().try_for_each(Size::check)?;
    raise_limit(sizes.iter().map(|size| size.proxies).max().unwrap_or(0) as u64 + SPARE)?;
    // What can't be read is said before minutes have been spent, not after.
    let kept = args.json.as_deref().map(report::kept).transpose()?.unwrap_or_default();
    let run = |size| run::run(size, ways, args.kubeconfig.as_deref());
    let outcomes = sizes.into_iter().map(run).collect::<Result<Vec<_>>>()?;
    println!("{}", report::text(&outcomes));
    let Some(path) = &args.json else { return Ok(()) };
    let kept = report::keep(path, kept, outcomes)?;
    args.out.map_or(Ok(()), |path| report::write(&path, &report::text(&kept)))
}

/// Of open files, here and in the controller.
fn raise_limit(wanted: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if hard < wanted {
        bail!("{wanted} open files are needed and {hard} are allowed: raise the limit (ulimit -Hn) or lower --proxies");
    }
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard).context("the limit of open files")
}
