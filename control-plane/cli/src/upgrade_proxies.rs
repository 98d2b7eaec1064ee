//! `outrigger upgrade-proxies`: another version of the proxies in pods that go on running, one pod after the other. The
//! guard holds the pod's sockets while the sidecar is replaced, and then the other way round.
//!
//! What is done with whom is decided in `plan`, what a look means in `step`, whether errors have risen in `errors`.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::{Api, api::ListParams};
use outrigger_webhook::{InjectorConfig, NamespaceView, in_place};

mod callers;
mod errors;
mod plan;
mod report;
mod step;
mod work;

use callers::Asked;
use plan::{Around, Judged};
use report::{Ended, Entry, Outcome, Report};
use step::Terms;
use work::Work;

use crate::{
    check::duration,
    cluster::{self, Cluster},
    controller, exit, inject, pods,
    terminal::{Paint, Progress},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Pods of all namespaces, not of one
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only pods with these labels, as kubectl has it
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// The image to run; else the one that the injector gives new pods
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// How long each new process is watched before the next one's turn
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration)]
    watch: Duration,
    /// How long a new process may take to be well
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration)]
    timeout: Duration,
    /// Failures while a process is watched, beyond the usual ones, that don't mean anything
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    max_errors: u64,
    /// Replace guards also where a Service has no ready pod meanwhile
    #[arg(long)]
    allow_unready: bool,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What was gathered, to plan by.
struct Facts {
    /// All of the namespaces in question.
    pods: Vec<Pod>,
    /// UIDs of those that are meant.
    meant: BTreeSet<String>,
    services: Vec<Service>,
    namespaces: BTreeMap<String, NamespaceView>,
    /// By node.
    kubelets: BTreeMap<String, String>,
}

pub(crate) fn run(options: &Options, flags: &cluster::Options) -> Result<ExitCode> {
    if options.all_namespaces && flags.namespace.is_some() {
        return Err(exit::usage("--all-namespaces and --namespace exclude each other"));
    }
    let report = cluster::block_on(async {
        let cluster = Cluster::connect(flags).await?;
        let text = inject::settings(&cluster).await?.ok_or_else(controller::none)?;
        let settings = inject::in_force(&text)?;
        let mut facts = {
            let _progress = Progress::start("looking at the pods");
            gather(&cluster, options).await?
        };
        carry_out(&cluster, options, &settings, &mut facts).await
    })?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.text(Paint::stdout()));
    }
    Ok(exit::findings(report.has_findings()))
}

async fn gather(cluster: &Cluster, options: &Options) -> Result<Facts> {
    let all = ListParams::default();
    let selected = match &options.selector {
        Some(selector) => all.clone().labels(selector),
        None => all.clone(),
    };
    let (pods, meant, services) = if options.all_namespaces {
        let pods: Vec<Pod> = cluster.all(all.clone()).await?;
        (pods, cluster.all::<Pod>(selected).await?, cluster.all(all).await?)
    } else {
        let (pods, services) = (cluster.of::<Pod>(&cluster.namespace), cluster.of::<Service>(&cluster.namespace));
        let meant = cluster::list(&pods, selected).await?;
        (cluster::list(&pods, all.clone()).await?, meant, cluster::list(&services, all).await?)
    };
    let meant = meant.iter().filter(|pod| plan::is_injected(pod));
    let meant: BTreeSet<String> = meant.filter_map(|pod| pod.metadata.uid.clone()).collect();
    let mut facts = Facts { pods, meant, services, namespaces: BTreeMap::new(), kubelets: BTreeMap::new() };
    for pod in facts.pods.iter().filter(|pod| is_meant(pod, &facts.meant)) {
        let namespace = pods::namespace(pod);
        if !facts.namespaces.contains_key(namespace) {
            let api: Api<Namespace> = Api::all(cluster.client.clone());
            let found = cluster::found(api.get(namespace).await).with_context(|| format!("namespace {namespace}"))?;
            let labels = found.and_then(|found| found.metadata.labels).unwrap_or_default();
            let view = NamespaceView { name: namespace.to_owned(), labels };
            facts.namespaces.insert(namespace.to_owned(), view);
        }
        let node = node(pod);
        if !facts.kubelets.contains_key(node) {
            let api: Api<Node> = Api::all(cluster.client.clone());
            // Who may not look at nodes learns it from a pod that isn't restarted in time.
            let found = api.get(node).await.ok();
            let info = found.and_then(|found| found.status?.node_info);
            facts.kubelets.insert(node.to_owned(), info.map(|info| info.kubelet_version).unwrap_or_default());
        }
    }
    Ok(facts)
}

fn is_meant(pod: &Pod, meant: &BTreeSet<String>) -> bool {
    pod.metadata.uid.as_ref().is_some_and(|uid| meant.contains(uid))
}

fn node(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// What was found at the beginning may be hours old when a pod's turn comes, so it is looked at again then.
async fn carry_out(
    cluster: &Cluster,
    options: &Options,
    settings: &InjectorConfig,
    facts: &mut Facts,
) -> Result<Report> {
    let image = options.image.as_deref().unwrap_or(&settings.image);
    if settings.version != VERSION {
        eprintln!(
            "note: the mesh is of version {}, this program of {VERSION}, by whose injector it is judged what can be changed in place",
            settings.version
        );
    }
    let mut meant: Vec<Pod> = facts.pods.iter().filter(|pod| is_meant(pod, &facts.meant)).cloned().collect();
    meant.sort_by_cached_key(|pod| (pods::namespace(pod).to_owned(), pods::owner(pod), pods::name(pod).to_owned()));
    let terms = Terms { patience: options.timeout, watch: options.watch, allowed: options.max_errors };
    let mut report = Report { image: image.to_owned(), dry_run: options.dry_run, pods: Vec::new() };
    let (mut stop, mut over) = (pin!(stopped()?), options.dry_run);
    for pod in meant {
        let name = pods::workload(&pod);
        let mut judged = plan::judge(&pod, image, &around(&pod, options, settings, facts)?);
        let mut now = Some(pod.clone());
        if matches!(judged, Judged::Replace { .. }) && !over {
            now = again(cluster, &pod, facts).await?;
            if let Some(now) = &now {
                judged = plan::judge(now, image, &around(now, options, settings, facts)?);
            }
        }
        let outcome = match (judged, &now) {
            (_, None) => Outcome::of(Ended::Gone, "it has gone meanwhile"),
            (Judged::Current, _) => Outcome::of(Ended::Current, ""),
            (Judged::Left(why), _) => Outcome::of(Ended::Left, why),
            (Judged::Replace { parts, guard_stays }, _) if over => {
                let parts: Vec<_> = parts.into_iter().map(plan::Part::name).collect();
                let stays = guard_stays.map(|why| format!("; its guard stays: {why}")).unwrap_or_default();
                Outcome::of(Ended::Planned, format!("{}{stays}", parts.join(", then ")))
            }
            (Judged::Replace { parts, guard_stays }, Some(pod)) => {
                let _progress = Progress::start(format!("{name}: replacing its proxies"));
                let say = |text: &str| eprintln!("{name}: {text}");
                let (parts, guard_stays) = (parts.as_slice(), guard_stays.as_deref());
                let patched = Default::default();
                let callers = Asked::of(cluster, pod, &facts.services).await;
                let work = Work { cluster, terms, pod, callers, parts, guard_stays, image, say: &say, patched };
                tokio::select! {
                    biased;
                    () = stop.as_mut() => work.broken_off().await,
                    outcome = work.run() => outcome,
                }
            }
        };
        over |= outcome.result.is_last();
        report.pods.push(Entry { pod: name, owner: pods::owner(&pod), outcome });
    }
    Ok(report)
}

/// Resolves when whoever runs the command wants it to end.
fn stopped() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// The pod as it is now, and those beside it.
async fn again(cluster: &Cluster, pod: &Pod, facts: &mut Facts) -> Result<Option<Pod>> {
    let namespace = pods::namespace(pod);
    let now = cluster::list(&cluster.of::<Pod>(namespace), ListParams::default()).await?;
    facts.pods.retain(|pod| pods::namespace(pod) != namespace);
    facts.pods.extend(now);
    Ok(facts.pods.iter().find(|now| now.metadata.uid == pod.metadata.uid).cloned())
}

fn around(pod: &Pod, options: &Options, settings: &InjectorConfig, facts: &Facts) -> Result<Around> {
    let namespace = facts.namespaces.get(pods::namespace(pod)).cloned().unwrap_or_default();
    let obstacle = in_place(&serde_json::to_value(pod)?, &namespace, settings).err();
    let alone = || plan::alone(pod, &facts.services, &facts.pods);
    Ok(Around {
        kubelet: facts.kubelets.get(node(pod)).cloned(),
        obstacle: obstacle.map(|obstacle| obstacle.to_string()),
        alone: if options.allow_unready { None } else { alone() },
    })
}
