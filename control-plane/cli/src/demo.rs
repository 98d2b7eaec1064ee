//! `outrigger demo`: a shop under the mesh on this machine, and everything that we promise, tried in front of your eyes.
//!
//! Owns the order of events. What is measured, and what it is held to, is in `scenes`; what is drawn is in `view`.

use std::{
    io::{IsTerminal, stdout},
    path::PathBuf,
    process::{self, ExitCode},
    sync::Arc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Args;
use outrigger_testbed::{Load, LoadSpec, Mesh, machine};
use serde_json::json;

mod board;
mod promise;
mod scenes;
mod shop;
mod stage;
mod traffic;
mod view;

use board::Board;
use promise::Promise;
use stage::Stage;

/// Calls per second of the shop's steady traffic.
const STEADY_RATE: u32 = 40;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave everything running after the last scene, until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print one JSON document and nothing else
    #[arg(long)]
    json: bool,
    /// Fewer repetitions and no pauses
    #[arg(long)]
    fast: bool,
    /// Calls per second, each over a new connection, while sidecars are killed
    #[arg(long, default_value_t = 1000, value_name = "CALLS")]
    rate: u32,
    /// Copy all logs there at the end
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let machine = machine::enter()?;
    let live = stdout().is_terminal() && !options.json;
    end_on_signal(live)?;
    let start = Instant::now();
    let board = Arc::new(Board::new(live, options.json));

    board.scene("the shop opens");
    let mesh = Mesh::start(&machine, shop::spec()).context("the mesh didn't start")?;
    let steady =
        Arc::new(Load::start(mesh.pod(shop::VISITOR)?, &LoadSpec::new(shop::target(shop::FRONT_SHOP)?, STEADY_RATE))?);
    board.say(&format!(
        "ready in {:.1} s: controller, 2 shared proxies, {} pods",
        start.elapsed().as_secs_f64(),
        shop::PODS
    ));
    let view = live.then(|| view::start(&board, &mesh, &steady));

    let mut stage = Stage::new(mesh, Arc::clone(&board), steady, live, options);
    scenes::play(&mut stage);
    if options.keep {
        board.scene("all scenes played: Ctrl-C ends the demo");
        let promises = stage.promises();
        if live {
            board.say(&format!("{} of {} promises kept", Promise::kept_of(promises), promises.len()));
        } else {
            print_result(options, promises, start);
        }
        thread::park();
    }
    if let Some(view) = view {
        view.end();
    }
    if let Some(folder) = &options.logs {
        stage.mesh.save_logs(folder)?;
    }
    print_result(options, stage.promises(), start);
    let all_kept = stage.promises().iter().all(|promise| promise.kept);
    Ok(if all_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_result(options: &Options, promises: &[Promise], start: Instant) {
    if options.json {
        let kept = promises.iter().all(|promise| promise.kept);
        let seconds = start.elapsed().as_secs();
        println!("{:#}", json!({ "kept": kept, "seconds": seconds, "promises": promises }));
    } else {
        println!("\n{}", promise::table(promises, view::colour()));
    }
}

/// Everything that we started dies with us, so ending is all there is to do, on a tidy terminal.
fn end_on_signal(live: bool) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        });
        if live {
            view::leave_screen();
        }
        process::exit(code);
    });
    Ok(())
}
