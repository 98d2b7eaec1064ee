//! All that one replica does for the whole mesh: it is elected, writes statuses and events, and publishes the roots. What
//! every replica shows of it (who leads, which pods aren't meshed) is reported from here too. Serves no proxy: those
//! are every replica's.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client,
    runtime::events::{EventType, Recorder, Reporter},
};
use outrigger_model::{Holdings, inputs::Mode};
use outrigger_wire::names::{CONTROLLER_ID, CONTROLLER_NAME, MODE_LABEL, SYSTEM_NAMESPACE};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::Derived,
    lease::{self, Leadership},
    peers::Peers,
    pod_events,
    publish::Publisher,
    rotation::Decided,
    status::{self, Keeper, bucket::Bucket, events},
    unmeshed,
};

#[cfg(test)]
mod tests;

/// Changes of pods are gathered for as long before it is said who isn't meshed.
const PAUSE: Duration = Duration::from_secs(1);
/// Events on pods per second, and at once after a pause.
const RATE: (u32, u32) = (1, 20);

/// Who this replica is, and its ways.
#[derive(Debug, Clone)]
pub struct Config {
    pub pod_name: String,
    /// Version of the proxies that this controller injects.
    pub version: String,
    /// Whether the API server is to trust webhooks by the mesh's roots; not if somebody else sees to it.
    pub publish_ca_bundle: bool,
    /// A token by which other replicas know this one.
    pub token_file: PathBuf,
}

/// What the work is made from.
pub struct Inputs {
    /// Without retries of its own: a leader must not outlive its term in one.
    pub client: Client,
    /// `None` until all kinds are synced.
    pub derived: watch::Receiver<Option<Arc<Derived>>>,
    /// PEM.
    pub roots: watch::Receiver<Arc<str>>,
    /// Of a change of the roots.
    pub decided: watch::Receiver<Decided>,
    pub holdings: Arc<dyn Holdings>,
}

/// What is to be shown.
pub struct Reports {
    pub leadership: watch::Sender<Leadership>,
    pub unmeshed: watch::Sender<Arc<unmeshed::Report>>,
}

/// Why the work has ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    #[error("a part of the leader's work has failed")]
    Failed(#[source] JoinError),
    #[error("a source of the leader's work has ended")]
    Ended,
}

/// Takes part in the election, and works while it leads. When `stop` is cancelled, the Lease is given back: within two
/// seconds, however the API server does.
///
/// # Errors
/// If a part of the work has ended; the process should, too.
pub async fn run(inputs: Inputs, config: Config, reports: Reports, stop: CancellationToken) -> Result<(), LeaderError> {
    let Inputs { client, derived, roots, decided, holdings } = inputs;
    let Reports { leadership: out, unmeshed } = reports;
    let leadership = out.subscribe();
    let floor = Arc::new(AtomicI64::new(0));
    let reporter = Reporter { controller: CONTROLLER_ID.to_owned(), instance: Some(config.pod_name.clone()) };
    let recorder = Recorder::new(client.clone(), reporter);
    let peers = Arc::new(Peers::new(client.clone(), config.pod_name.clone(), roots.clone(), config.token_file.clone()));

    let resign = CancellationToken::new();
    let leases = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let lease = tokio::spawn(lease::run(leases, config.pod_name.clone(), Arc::clone(&floor), out, resign.clone()));
    let mut work = JoinSet::new();
    work.spawn(status::watch_epochs(derived.clone(), floor));
    work.spawn(
        Keeper {
            client: client.clone(),
            views: derived.clone(),
            leadership: leadership.clone(),
            holdings,
            peers,
            recorder: recorder.clone(),
        }
        .run(),
    );
    work.spawn(
        Publisher {
            client,
            derived: derived.clone(),
            leadership: leadership.clone(),
            roots,
            decided,
            ca_bundle: config.publish_ca_bundle,
        }
        .run(),
    );
    work.spawn(Teller { derived, leadership, recorder, out: unmeshed, config }.run());

    let ended = tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = work.join_next() => Err(match ended {
            Some(Err(error)) => LeaderError::Failed(error),
            Some(Ok(())) | None => LeaderError::Ended,
        }),
    };
    // First the work, then the Lease: whoever gets it must be alone.
    work.shutdown().await;
    resign.cancel();
    lease.await.map_err(LeaderError::Failed)?;
    ended
}

/// Tells of what is no object's status.
struct Teller {
    derived: watch::Receiver<Option<Arc<Derived>>>,
    leadership: watch::Receiver<Leadership>,
    recorder: Recorder,
    out: watch::Sender<Arc<unmeshed::Report>>,
    config: Config,
}

// === impl Teller ===

impl Teller {
    async fn run(mut self) {
        let mut bucket = Bucket::new(RATE.0, RATE.1, Instant::now());
        let mut announced = None;
        // UIDs of pods whose owners know.
        let mut told = HashSet::new();
        loop {
            let report = self.report();
            let epoch = self.leadership.borrow_and_update().epoch();
            if let Some(epoch) = epoch {
                if announced != Some(epoch) {
                    self.announce(epoch).await;
                    announced = Some(epoch);
                }
                self.tell(&report, &mut told, &mut bucket).await;
            }
            let waiting = epoch.is_some() && report.unmeshed.iter().any(|pod| !told.contains(&pod.uid));
            tokio::select! {
                changed = self.derived.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    sleep(PAUSE).await;
                }
                changed = self.leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep(PAUSE), if waiting => {}
            }
        }
    }

    fn report(&mut self) -> Arc<unmeshed::Report> {
        let derived = self.derived.borrow_and_update().clone().unwrap_or_default();
        let modes = derived.namespaces.values().filter_map(|namespace| {
            let mode = match namespace.labels.get(MODE_LABEL)?.as_str() {
                "sidecar" => Mode::Sidecar,
                "shared" => Mode::Shared,
                _ => Mode::None,
            };
            Some((namespace.name.clone(), mode))
        });
        let modes: BTreeMap<String, Mode> = modes.collect();
        let pods = derived.pods.values().map(AsRef::as_ref);
        let report = Arc::new(unmeshed::report(pods, &modes, &self.config.version));
        self.out.send_if_modified(|before| {
            let modified = *before != report;
            *before = Arc::clone(&report);
            modified
        });
        report
    }

    async fn announce(&self, epoch: i64) {
        let note = format!("{} leads, epoch {epoch}", self.config.pod_name);
        let lease = ObjectReference {
            api_version: Some("coordination.k8s.io/v1".to_owned()),
            kind: Some("Lease".to_owned()),
            name: Some(CONTROLLER_NAME.to_owned()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            ..ObjectReference::default()
        };
        let event = events::event(EventType::Normal, "LeaderElected", &note, "Elect");
        status::publish(&self.recorder, &event, &lease).await;
    }

    async fn tell(&self, report: &unmeshed::Report, told: &mut HashSet<String>, bucket: &mut Bucket) {
        told.retain(|uid| report.unmeshed.iter().any(|pod| pod.uid == *uid));
        for pod in &report.unmeshed {
            if told.contains(&pod.uid) {
                continue;
            }
            if bucket.take(Instant::now()).is_err() || self.leadership.borrow().epoch().is_none() {
                return;
            }
            let reference = pod_events::reference(&pod.namespace, &pod.pod, &pod.uid);
            let note = format!("the pod is to be in the mesh and has no proxies: {}; {}", pod.why, pod.remedy);
            status::publish(&self.recorder, &events::warning("NotMeshed", &note), &reference).await;
            told.insert(pod.uid.clone());
        }
    }
}
