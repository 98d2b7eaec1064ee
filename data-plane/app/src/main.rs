//! `outrigger-proxy`: one binary, one wiring per mode. No logic of its own.

mod guard;
mod redirect;
mod runtime;
mod settings;
mod shared;
mod sidecar;
mod taste;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings::Settings;

/// Outrigger's data-plane proxy.
#[derive(Debug, Parser)]
#[command(name = "outrigger-proxy", version, about)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Takes a pod's traffic in and out.
    Sidecar(Box<Settings>),
    /// Owns a pod's listening sockets; carries its traffic through a shared proxy while the sidecar can't.
    Guard(Box<GuardArgs>),
    /// Acts for pods whose sidecar is down.
    Shared(Box<Settings>),
    /// Captures a pod's traffic by nftables rules, then ends.
    Redirect(redirect::Args),
    /// Takes configuration in for a shared proxy, to see whether one survives that
    #[command(hide = true)]
    Taste,
}

#[derive(Debug, clap::Args)]
struct GuardArgs {
    #[command(flatten)]
    settings: Settings,
    /// The pod has no sidecar: the shared proxies carry it always.
    #[arg(long, env = "OUTRIGGER_NO_SIDECAR")]
    no_sidecar: bool,
    /// Traffic is captured here, by the rules of `redirect`: not ready once it isn't any more.
    #[arg(long, env = "OUTRIGGER_CAPTURED")]
    captured: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // The one provider of the whole process; nothing has used TLS before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let ended = match cli.mode {
        Mode::Sidecar(settings) => runtime::run(*settings, sidecar::run),
        Mode::Guard(args) => {
            let (sidecar, captured) = (!args.no_sidecar, args.captured);
            runtime::run(args.settings, move |settings, levels| guard::run(settings, levels, sidecar, captured))
        }
        Mode::Shared(settings) => runtime::run(*settings, shared::run),
        Mode::Redirect(args) => redirect::run(&args),
        Mode::Taste => taste::run(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("outrigger-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
