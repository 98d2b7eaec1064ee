//! `outrigger status`: every proxy, what it holds, who carries its pod, until when its certificate is good.
//!
//! Gathers thinly; what it means is found in `evaluate`.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

mod evaluate;
mod gather;
mod render;
mod report;

#[cfg(test)]
pub(crate) use report::{Fallback, Mode, Part as ProxyPart};
pub(crate) use report::{Proxy, Sync};

use crate::{
    cluster::{self, Cluster},
    controller::Controller,
    exit,
    terminal::{Paint, Progress},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Ask the embedded controller whose admin interface is here, and no cluster
    #[arg(long, value_name = "ADDRESS:PORT")]
    controller_admin: Option<SocketAddr>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// One pod's row, and its proxies' own dumps.
pub(crate) struct OfPod {
    pub(crate) proxy: Proxy,
    pub(crate) dumps: Vec<(&'static str, Result<Value, String>)>,
}

/// What there is to say of one pod; `None` if it has no proxies.
pub(crate) async fn of_pod(cluster: &Cluster, pod: &Pod) -> Result<Option<OfPod>> {
    let mut facts = gather::pod(cluster, pod).await?;
    let proxy = evaluate::report(&facts).proxies.pop();
    let dumps = facts.pods.as_mut().and_then(Vec::pop).map(|pod| pod.dumps);
    Ok(proxy.zip(dumps).map(|(proxy, dumps)| OfPod { proxy, dumps }))
}

pub(crate) fn run(options: &Options, cluster: &cluster::Options) -> Result<ExitCode> {
    let report = cluster::block_on(async {
        let _progress = Progress::start("asking the proxies");
        match options.controller_admin {
            Some(admin) => Ok(evaluate::report(&gather::embedded(&mut Controller::embedded(admin).await?).await?)),
            // Everywhere, unless a namespace is asked for.
            None => report(&Cluster::connect(cluster).await?, cluster.namespace.as_deref()).await,
        }
    })?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render::text(&report, Paint::stdout()));
    }
    Ok(exit::findings(report.has_findings()))
}

/// Of a cluster's proxies; `namespace` limits whose pods are asked.
pub(crate) async fn report(cluster: &Cluster, namespace: Option<&str>) -> Result<report::Report> {
    Ok(evaluate::report(&gather::cluster(cluster, namespace).await?))
}
