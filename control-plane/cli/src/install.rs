//! `outrigger install` and `outrigger upgrade`: Helm's release of the chart in this binary, once the cluster is fit for it.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE};
use tokio::time::sleep;

use crate::{
    chart, check,
    cluster::{self, Cluster},
    exit,
    helm::{Helm, RELEASE},
    pods,
    terminal::Progress,
};

/// For controllers that end.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Values of the chart; may be given several times, the last one wins
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,
    /// One value of the chart, as helm has it; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Settings for clusters that matter: more replicas, spread, priorities
    #[arg(long)]
    ha: bool,
    /// Show what would be applied, and apply nothing
    #[arg(long)]
    dry_run: bool,
    /// Don't look first whether the cluster is fit for it
    #[arg(long)]
    no_check: bool,
    /// How long helm may wait until everything is ready
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    timeout: String,
    /// Another chart than the one in this program
    #[arg(long, value_name = "DIRECTORY")]
    chart: Option<PathBuf>,
}

/// Whether there is to be a release already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Install,
    Upgrade,
}

pub(crate) fn run(kind: Kind, options: &Options, flags: &cluster::Options) -> Result<ExitCode> {
    // Before the cluster is asked: without it nothing can be done.
    let helm = Helm::new("upgrade", flags)?;
    cluster::block_on(async {
        if !options.no_check {
            let cluster = Cluster::connect(flags).await?;
            let report = {
                let _progress = Progress::start("checking the cluster");
                check::pre(&cluster).await
            };
            if report.has_failures() {
                eprint!("{}", check::shown(&report));
                eprintln!("Nothing was changed. --no-check goes on in spite of it.");
                return Ok(exit::findings(true));
            }
        }
        let unpacked = match &options.chart {
            Some(_) => None,
            None => Some(chart::unpack()?),
        };
        let chart = options.chart.as_deref().or(unpacked.as_ref().map(|dir| dir.path())).context("a chart")?;
        helm.args(args(kind, options, chart)).run("waiting for the mesh to be ready").await?;
        if kind == Kind::Upgrade && !options.dry_run {
            replaced(&Cluster::connect(flags).await?).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Waits until the earlier controllers have gone. Helm doesn't: it is content once there are enough new ones, and those before
/// answer API servers a few seconds longer. They would put their own version's proxies into pods that are made right now.
async fn replaced(cluster: &Cluster) -> Result<()> {
    let _progress = Progress::start("waiting for the earlier controllers to go");
    let until = Instant::now() + PATIENCE;
    loop {
        // In this order: once none of the earlier ones is counted any more, they are seen to end.
        let deployment = cluster::found(cluster.of::<Deployment>(SYSTEM_NAMESPACE).get(CONTROLLER_NAME).await)?;
        let Some(deployment) = deployment else { return Ok(()) };
        let pods = cluster.selected(SYSTEM_NAMESPACE, &deployment).await?;
        let Some(left) = left(&deployment, &pods) else { return Ok(()) };
        if Instant::now() > until {
            eprintln!("still there: {left}. Until they are gone, new pods may get proxies of the version before.");
            return Ok(());
        }
        sleep(PAUSE).await;
    }
}

/// The controllers that were there before this Deployment's template was what it is now.
fn left(deployment: &Deployment, pods: &[Pod]) -> Option<String> {
    let leaving: Vec<_> = pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_some()).map(pods::name).collect();
    let status = deployment.status.clone().unwrap_or_default();
    let unseen = status.observed_generation < deployment.metadata.generation;
    let earlier = status.replicas.unwrap_or_default() - status.updated_replicas.unwrap_or_default();
    match (leaving.is_empty(), unseen || earlier > 0) {
        (true, false) => None,
        (false, _) => Some(leaving.join(", ")),
        (true, true) => Some(format!("{} controllers of the version before", earlier.max(1))),
    }
}

/// What follows `helm upgrade`.
fn args(kind: Kind, options: &Options, chart: &std::path::Path) -> Vec<std::ffi::OsString> {
    let mut args: Vec<std::ffi::OsString> = vec![RELEASE.into(), chart.into()];
    match kind {
        Kind::Install => args.extend(["--install".into(), "--create-namespace".into()]),
        // The chart's new defaults, then what was set before, then what is set now.
        Kind::Upgrade => args.push("--reset-then-reuse-values".into()),
    }
    if options.dry_run {
        args.push("--dry-run=server".into());
    } else {
        args.extend(["--wait".into(), "--timeout".into(), options.timeout.clone().into()]);
    }
    if options.ha {
        args.extend(["--values".into(), chart.join("values-ha.yaml").into()]);
    }
    for file in &options.values {
        args.extend(["--values".into(), file.into()]);
    }
    for value in &options.set {
        args.extend(["--set".into(), value.into()]);
    }
    args
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use k8s_openapi::{
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
        jiff::Timestamp,
    };
    use serde_json::json;

    use super::*;

    fn options() -> Options {
        Options {
            values: vec![],
            set: vec![],
            ha: false,
            dry_run: false,
            no_check: false,
            timeout: "5m".into(),
            chart: None,
        }
    }

    fn joined(kind: Kind, options: &Options) -> String {
        let args = args(kind, options, Path::new("/c"));
        args.iter().map(|arg| arg.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn controllers_of_the_version_before_are_waited_for() {
        let deployment = |generation: i64, replicas: i32, updated: i32| -> Deployment {
            serde_json::from_value(json!({
                "metadata": { "generation": 2 },
                "status": { "observedGeneration": generation, "replicas": replicas, "updatedReplicas": updated },
            }))
            .unwrap()
        };
        let named = |name: &str| Pod {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            ..Pod::default()
        };
        let mut ending = named("old");
        ending.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
        let none = "controllers of the version before";
        for (deployment, pods, wanted) in [
            (deployment(2, 2, 2), vec![named("new")], None),
            (deployment(2, 2, 2), vec![named("new"), ending.clone()], Some("old".to_owned())),
            // Helm is content with this: both new ones are ready.
            (deployment(2, 3, 2), vec![named("new"), named("old")], Some(format!("1 {none}"))),
            (deployment(1, 2, 2), vec![named("old")], Some(format!("1 {none}"))),
            (deployment(2, 3, 2), vec![ending], Some("old".to_owned())),
        ] {
            assert_eq!(left(&deployment, &pods), wanted);
        }
    }

    #[test]
    fn what_helm_is_told() {
        let plain = options();
        assert_eq!(joined(Kind::Install, &plain), "outrigger /c --install --create-namespace --wait --timeout 5m");
        assert_eq!(joined(Kind::Upgrade, &plain), "outrigger /c --reset-then-reuse-values --wait --timeout 5m");
        let all = Options {
            values: vec!["mine.yaml".into()],
            set: vec!["a.b=1".into(), "c=2".into()],
            ha: true,
            dry_run: true,
            ..options()
        };
        assert_eq!(
            joined(Kind::Install, &all),
            "outrigger /c --install --create-namespace --dry-run=server --values /c/values-ha.yaml --values mine.yaml \
             --set a.b=1 --set c=2"
        );
    }
}
