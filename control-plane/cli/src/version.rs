//! `outrigger version`: of this program, and of what runs in the cluster if there is one.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use outrigger_wire::names::{CONTROLLER_NAME, INJECTED_ANNOTATION, SYSTEM_NAMESPACE, containers};
use serde::Serialize;

use crate::{
    cluster::{self, Cluster},
    pods,
    terminal::Progress,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this program's, without asking a cluster
    #[arg(long)]
    client: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Numbers of pods by version.
type Counted = BTreeMap<String, usize>;

#[derive(Debug, Serialize)]
struct Report {
    client: &'static str,
    /// None if no cluster was asked, or none answered.
    cluster: Option<InCluster>,
    /// Why there is none.
    error: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct InCluster {
    kubernetes: String,
    controllers: Counted,
    shared_proxies: Counted,
    /// Pods with injected proxies.
    pods: Counted,
}

pub(crate) fn run(options: &Options, flags: &cluster::Options) -> Result<ExitCode> {
    let asked = (!options.client).then(|| cluster::block_on(ask(flags)));
    let (cluster, error) = match asked {
        None => (None, None),
        Some(Ok(found)) => (Some(found), None),
        Some(Err(error)) => (None, Some(format!("{error:#}"))),
    };
    let report = Report { client: VERSION, cluster, error };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", text(&report));
    }
    // A cluster that can't be reached is no fault of this program's version.
    Ok(ExitCode::SUCCESS)
}

async fn ask(flags: &cluster::Options) -> Result<InCluster> {
    let _progress = Progress::start("asking the cluster");
    let cluster = Cluster::connect(flags).await?;
    let own = |pods: &[Pod]| counted(pods, |pod| pods::label(pod, "app.kubernetes.io/version"));
    let controllers = cluster.pods_of(SYSTEM_NAMESPACE, CONTROLLER_NAME).await?.unwrap_or_default();
    let all = cluster.all::<Pod>(ListParams::default()).await?;
    let (shared, others): (Vec<_>, Vec<_>) = all.into_iter().partition(pods::is_shared_proxy);
    let meshed: Vec<_> = others.into_iter().filter(|pod| pods::has(pod, containers::GUARD)).collect();
    Ok(InCluster {
        controllers: own(&controllers),
        shared_proxies: own(&shared),
        pods: counted(&meshed, |pod| pods::annotation(pod, INJECTED_ANNOTATION)),
        kubernetes: cluster.version,
    })
}

fn counted(pods: &[Pod], version: impl Fn(&Pod) -> Option<&str>) -> Counted {
    let mut counted = Counted::new();
    for pod in pods.iter().filter(|pod| pods::is_running(pod)) {
        *counted.entry(version(pod).unwrap_or("unknown").to_owned()).or_default() += 1;
    }
    counted
}

fn text(report: &Report) -> String {
    let mut out = format!("client: {}\n", report.client);
    if let Some(error) = &report.error {
        out.push_str(&format!("cluster: {error}\n"));
    }
    if let Some(cluster) = &report.cluster {
        out.push_str(&format!("kubernetes: {}\n", cluster.kubernetes));
        let parts = [
            ("controllers", &cluster.controllers),
            ("shared proxies", &cluster.shared_proxies),
            ("pods", &cluster.pods),
        ];
        for (name, versions) in parts {
            let said: Vec<_> = versions.iter().map(|(version, count)| format!("{version} ({count})")).collect();
            out.push_str(&format!("{name}: {}\n", if said.is_empty() { "none".to_owned() } else { said.join(", ") }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_how_many_run_them() {
        let of = |versions: &[(&str, usize)]| {
            versions.iter().map(|(version, count)| ((*version).to_owned(), *count)).collect()
        };
        let cluster = InCluster {
            kubernetes: "v1.34.4".into(),
            controllers: of(&[("0.1.0", 2)]),
            shared_proxies: of(&[]),
            pods: of(&[("0.0.9", 1), ("0.1.0", 12)]),
        };
        let report = Report { client: "0.1.0", cluster: Some(cluster), error: None };
        assert_eq!(
            text(&report),
            "client: 0.1.0\nkubernetes: v1.34.4\ncontrollers: 0.1.0 (2)\nshared proxies: none\npods: 0.0.9 (1), 0.1.0 (12)\n"
        );
    }
}
