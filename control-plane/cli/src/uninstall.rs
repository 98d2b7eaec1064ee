//! `outrigger uninstall`: takes Helm's release away and looks whether anything of it is left.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

mod left;

use crate::{
    cluster::{self, Cluster},
    exit,
    helm::{Helm, RELEASE},
    terminal::Progress,
};

/// Shared proxies drain for up to 45 seconds, and the garbage collector takes a moment for what other objects own.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long helm may wait until everything is gone
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    timeout: String,
    /// Print one JSON document; what helm says goes to stderr
    #[arg(long)]
    json: bool,
}

/// What is there afterwards.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Objects that should have gone.
    left: Vec<String>,
    /// Objects that the chart was told to keep.
    kept: Vec<String>,
    /// Pods that go on with their proxies.
    meshed_pods: Vec<String>,
}

pub(crate) fn run(options: &Options, flags: &cluster::Options) -> Result<ExitCode> {
    let helm = Helm::new("uninstall", flags)?.quiet(options.json);
    let report = cluster::block_on(async {
        let cluster = Cluster::connect(flags).await?;
        helm.args([RELEASE, "--wait", "--ignore-not-found", "--timeout", &options.timeout])
            .run("waiting for the mesh to go")
            .await?;
        let _progress = Progress::start("looking for what is left");
        let until = Instant::now() + PATIENCE;
        loop {
            let report = left::look(&cluster).await?;
            if report.left.is_empty() || Instant::now() > until {
                return Ok(report);
            }
            tokio::time::sleep(PAUSE).await;
        }
    })?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    Ok(exit::findings(!report.left.is_empty()))
}

fn text(report: &Report) -> String {
    let mut out = String::new();
    if report.left.is_empty() {
        out.push_str(
            "Nothing of the mesh is left in the cluster but the empty namespace outrigger-system, as Helm leaves it.\n",
        );
    } else {
        out.push_str("Left behind; delete these with kubectl:\n");
    }
    out.extend(report.left.iter().map(|object| format!("  {object}\n")));
    if !report.kept.is_empty() {
        out.push_str("Kept, as the chart was told (crds.keep):\n");
        out.extend(report.kept.iter().map(|object| format!("  {object}\n")));
    }
    if !report.meshed_pods.is_empty() {
        out.push_str(
            "These pods go on with their proxies and what those know. Create them anew to take the proxies out \
             (kubectl rollout restart), once their namespaces have lost the label outrigger.dev/mode:\n",
        );
        out.extend(report.meshed_pods.iter().map(|pod| format!("  {pod}\n")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_left_and_what_to_do() {
        assert!(text(&Report::default()).starts_with("Nothing of the mesh is left"));
        let report = Report {
            left: vec!["ClusterRole outrigger-controller".into()],
            kept: vec!["CustomResourceDefinition workloads.outrigger.dev".into()],
            meshed_pods: vec!["shop/web-1 (Deployment/web)".into()],
        };
        let said = text(&report);
        for part in ["Left behind", "  ClusterRole outrigger-controller\n", "Kept", "rollout restart", "  shop/web-1 "]
        {
            assert!(said.contains(part), "{part:?} in {said}");
        }
        assert!(!said.contains("Nothing of the mesh"));
    }
}
