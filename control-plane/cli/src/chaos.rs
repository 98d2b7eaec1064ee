//! `outrigger chaos`: breaks each part of a mesh under load of its own, on a cluster, and holds it to what is promised.
//!
//! Owns the order of events. Where it happens is in `ground`, what happens in `scenes`, what it means in `verdict`. It
//! touches nothing but what is marked for it: its own namespace, and the mesh's own pods where somebody has said so.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use tokio::signal;

mod exec;
mod ground;
mod scenes;
mod verdict;

use crate::{
    cluster::{self, Cluster},
    exit,
    terminal::Paint,
};
use ground::Ground;
use verdict::Verdict;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only scenes whose names contain it; may be given several times
    #[arg(long, value_name = "WORDS")]
    only: Vec<String>,
    /// Calls per second, each over a new connection
    #[arg(long, default_value_t = 100, value_name = "CALLS", value_parser = clap::value_parser!(u32).range(1..=2000))]
    rate: u32,
    /// Show the scenes, and play none
    #[arg(long)]
    list: bool,
    /// Leave the namespace with caller and callees there at the end
    #[arg(long)]
    keep: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(options: &Options, flags: &cluster::Options) -> Result<ExitCode> {
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|words| name.contains(words.as_str()));
    let chosen: Vec<_> = scenes::SCENES.iter().filter(|scene| wanted(scene.name)).collect();
    if chosen.is_empty() {
        return Err(exit::usage("--only: no scene's name contains that; `outrigger chaos --list` shows them"));
    }
    if options.list {
        chosen.iter().for_each(|scene| println!("{}", scene.name));
        return Ok(ExitCode::SUCCESS);
    }
    let verdicts = cluster::block_on(async {
        let cluster = Cluster::connect(flags).await?;
        let ground = Ground::prepare(&cluster).await?;
        let played = tokio::select! {
            verdicts = scenes::play(&ground, &chosen, options.rate) => verdicts,
            _ = signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        };
        if options.keep {
            eprintln!("left there: namespace {}", ground::NAMESPACE);
        } else {
            ground.remove().await?;
        }
        played
    })?;
    let kept = verdicts.iter().all(Verdict::kept);
    if options.json {
        println!("{:#}", json!({ "kept": kept, "scenes": verdicts }));
    } else {
        print!("{}", verdict::table(&verdicts, Paint::stdout()));
    }
    Ok(exit::findings(!kept))
}
