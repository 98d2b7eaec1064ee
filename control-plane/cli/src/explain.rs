//! `outrigger explain`: what happens to a request, said by the code that the proxies run, on what the controller serves.
//!
//! Resolves names and prints; what happens is found in `decide`.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use k8s_openapi::api::core::v1::{Pod, Service};

mod decide;
mod failure;
mod gather;
mod render;
mod report;
mod request;
mod routing;
mod summary;
mod target;
#[cfg(test)]
mod tests;
mod verdict;

use decide::{Call, decide};
use gather::Served;
use target::{From, Host, To};

use crate::{
    cluster::{self, Cluster},
    controller::Controller,
    exit,
    terminal::{Paint, Progress},
};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Who calls: pod/NAME, deploy/NAME, NAMESPACE/POD or TYPE/NAMESPACE/NAME
    #[arg(value_name = "FROM")]
    from: String,
    /// What is called: svc/NAME[:PORT], pod/NAME[:PORT], HOST:PORT or ADDRESS:PORT
    #[arg(value_name = "TO")]
    to: String,
    /// Method of the request
    #[arg(value_name = "METHOD", requires = "path")]
    method: Option<Method>,
    /// Path of the request, with its query if it has one
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// A header of the request
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Ask the embedded controller whose admin interface is here, and no cluster
    #[arg(long, value_name = "ADDRESS:PORT")]
    controller_admin: Option<SocketAddr>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A workload that calls, as the cluster or the person names it.
struct Resolved {
    workload: String,
    address: Option<IpAddr>,
    note: Option<String>,
}

pub(crate) fn run(options: &Options, cluster: &cluster::Options) -> Result<ExitCode> {
    let told = cluster::block_on(explain(options, cluster))?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        print!("{}", render::text(&told, Paint::stdout()));
    }
    Ok(exit::findings(!told.allowed))
}

async fn explain(options: &Options, flags: &cluster::Options) -> Result<report::Explanation> {
    let _progress = Progress::start("asking the controller");
    let cluster = match options.controller_admin {
        Some(_) => None,
        None => Some(Cluster::connect(flags).await?),
    };
    let default = match &cluster {
        Some(cluster) => cluster.namespace.clone(),
        None => flags.namespace.clone().unwrap_or_else(|| "default".to_owned()),
    };
    let from = From::parse(&options.from, &default).map_err(exit::usage)?;
    let to = To::parse(&options.to, &default).map_err(exit::usage)?;
    let mut controller = match (options.controller_admin, &cluster) {
        (Some(admin), _) => Controller::embedded(admin).await?,
        (None, Some(cluster)) => Controller::of_cluster(cluster).await?,
        (None, None) => unreachable!("one of them is there"),
    };
    let caller = resolve(&from, cluster.as_ref()).await?;
    let mut served = Served::default();
    if served.take_inbound(&mut controller, &caller.workload).await? {
        served.snapshot.set_own(&caller.workload);
    } else if cluster.is_none() {
        return Err(exit::usage(format!("the controller knows no workload {}", caller.workload)));
    }
    let call = call(options, to, caller, &mut served, &mut controller, cluster.as_ref()).await?;
    Ok(decide(&served, &call))
}

/// Finds what is called, and takes in all that it leads to.
async fn call(
    options: &Options,
    to: To,
    caller: Resolved,
    served: &mut Served,
    controller: &mut Controller,
    cluster: Option<&Cluster>,
) -> Result<Call> {
    let mut notes: Vec<String> = caller.note.into_iter().collect();
    let host = alias(&to.host, cluster, &mut notes).await?;
    let (mut service, what) = match &host {
        Host::Service { namespace, name } => {
            let name = format!("{namespace}/{name}");
            let found = served.take_service(controller, &name).await?;
            if found.is_none() {
                return Err(exit::usage(format!("the controller knows no service {name}")));
            }
            (found, name)
        }
        Host::Pod { namespace, name } => {
            let workload = format!("{namespace}/{name}");
            let address = address_of(&workload, served, controller, cluster).await?;
            (served.take_address(controller, address).await?, workload)
        }
        Host::Address(address) => (served.take_address(controller, *address).await?, address.to_string()),
        Host::Outside(name) => (None, name.clone()),
    };
    if let Some(headless) = service.clone().filter(|name| is_headless(served, name)) {
        // Apps call pods' own addresses then, and so do routes not apply.
        let first = served.snapshot.services[&headless].endpoints.iter().next().map(|endpoint| endpoint.spec.address);
        if let Some(first) = first {
            notes.push(format!("{headless} is headless: apps call its pods' own addresses, here {first}"));
            service = served.take_address(controller, first).await?;
        }
    }
    let port = match (to.port, service.as_ref().map(|name| &served.snapshot.services[name].service)) {
        (Some(port), _) => port,
        (None, Some(service)) if service.ports.len() == 1 => service.ports[0].port,
        (None, _) => return Err(exit::usage(format!("{what}: say which port, as in {}:80", options.to))),
    };
    let target = options.path.clone().unwrap_or_else(|| "/".to_owned());
    if options.method.is_none() {
        notes.push("asked as GET /; say METHOD and PATH for another request".to_owned());
    }
    Ok(Call {
        workload: caller.workload,
        address: caller.address,
        service,
        port,
        authority: to.authority,
        method: options.method.clone(),
        target,
        headers: options.headers.iter().cloned().collect::<HeaderMap>(),
        notes,
    })
}

/// A Service that is but another name (ExternalName) is followed.
async fn alias(host: &Host, cluster: Option<&Cluster>, notes: &mut Vec<String>) -> Result<Host> {
    let (Host::Service { namespace, name }, Some(cluster)) = (host, cluster) else { return Ok(host.clone()) };
    let service = cluster::found(cluster.of::<Service>(namespace).get(name).await)?;
    let Some(other) = service.and_then(|service| service.spec?.external_name) else { return Ok(host.clone()) };
    notes.push(format!("{namespace}/{name} is another name for {other}"));
    Ok(target::external(&other))
}

fn is_headless(served: &Served, name: &str) -> bool {
    let destination = &served.snapshot.services[name];
    destination.service.addresses.is_empty() && destination.service.direct.is_none()
}

/// The workload that a person means.
async fn resolve(from: &From, cluster: Option<&Cluster>) -> Result<Resolved> {
    match (from, cluster) {
        (From::Pod { namespace, name }, None) => {
            Ok(Resolved { workload: format!("{namespace}/{name}"), address: None, note: None })
        }
        (From::Pod { namespace, name }, Some(cluster)) => {
            let pod = cluster::found(cluster.of::<Pod>(namespace).get(name).await)?;
            let pod = pod.ok_or_else(|| exit::usage(format!("there is no pod {namespace}/{name}")))?;
            Ok(Resolved { workload: format!("{namespace}/{name}"), address: address(&pod), note: None })
        }
        (From::Deployment { namespace, name }, Some(cluster)) => {
            let pods = cluster.pods_of(namespace, name).await?;
            let pods = pods.ok_or_else(|| exit::usage(format!("there is no deployment {namespace}/{name}")))?;
            let running = |pod: &&Pod| {
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                phase == Some("Running") && pod.metadata.deletion_timestamp.is_none()
            };
            let pod = pods
                .iter()
                .find(running)
                .with_context(|| format!("deployment {namespace}/{name} has no running pod"))?;
            let pod_name = pod.metadata.name.clone().unwrap_or_default();
            let note = format!("as called from pod {namespace}/{pod_name}, one of deployment {name}");
            Ok(Resolved { workload: format!("{namespace}/{pod_name}"), address: address(pod), note: Some(note) })
        }
        (From::Deployment { .. }, None) => {
            Err(exit::usage("an embedded controller knows no deployments: name a workload, as in NAMESPACE/NAME"))
        }
    }
}

/// Where a pod that is called is.
async fn address_of(
    workload: &str,
    served: &mut Served,
    controller: &mut Controller,
    cluster: Option<&Cluster>,
) -> Result<IpAddr> {
    served.take_inbound(controller, workload).await?;
    let own = served.snapshot.inbounds.get(workload).and_then(|inbound| inbound.addresses.first().copied());
    let of_cluster = match (own, cluster, workload.split_once('/')) {
        (None, Some(cluster), Some((namespace, name))) => {
            cluster::found(cluster.of::<Pod>(namespace).get(name).await)?.as_ref().and_then(address)
        }
        _ => None,
    };
    own.or(of_cluster).ok_or_else(|| exit::usage(format!("{workload}: no such pod, or it has no address")))
}

fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write 'NAME: VALUE'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is no header name"))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| format!("{value:?} is no header value"))?;
    Ok((name, value))
}
