//! The Kubernetes source: one watch per kind, one index, one derivation at a time. Owns what is watched, when a
//! derivation is made and what is published; a state that is worse than the last one because something couldn't be read
//! is never published.

use std::{sync::Arc, time::Duration};

use kube::Client;
use outrigger_crds::Problem;
use outrigger_model::MeshSnapshot;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinError, JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};

use crate::{Settings, derive};
use concern::Tracker;
use index::{Change, Index, Update};
use kinds::KINDS;
use neighbourhood::Neighbourhood;
use pace::Pace;
use stream::Stream;

mod concern;
mod derived;
#[cfg(test)]
mod events;
mod few;
mod health;
mod index;
mod kinds;
mod neighbourhood;
mod pace;
mod page;
mod relations;
mod retry;
mod stream;
#[cfg(test)]
mod tests;

pub use derived::{Derived, Namespace, Resource, Store};
pub use health::{KindStatus, WatchStatus};

/// Kinds that users write and that are told about in [`Derived::resources`].
pub const RESOURCES: [&str; 9] = [
    "Service",
    "MeshConfig",
    "MeshRoute",
    "TrafficPolicy",
    "AccessPolicy",
    "Workload",
    "HTTPRoute",
    "GRPCRoute",
    "ReferenceGrant",
];

/// Updates that wait for the index; a watch that is ahead waits with them.
const QUEUE: usize = 1024;

/// Who gets what. All of one derivation is sent before the next begins.
#[derive(Debug)]
pub struct Sinks {
    /// Sent only if the content is another, or more has been read.
    pub snapshots: watch::Sender<Arc<MeshSnapshot>>,
    /// All that is wrong at the moment.
    pub problems: watch::Sender<Vec<Problem>>,
    /// `None` until every kind has been listed.
    pub derived: watch::Sender<Option<Arc<Derived>>>,
    /// At once with each change, before anything is derived from it.
    pub namespaces: watch::Sender<Store<Namespace>>,
}

/// Why the cluster is no longer watched. Nothing that an API server does is a reason.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("a watch has ended")]
    Watch(#[source] JoinError),
    #[error("every watch has ended")]
    Ended,
}

/// A derivation that is being made, and when it was begun.
struct Running {
    task: JoinHandle<Derived>,
    begun: Instant,
}

/// The one writer.
struct Source {
    index: Index,
    tracker: Tracker,
    pace: Pace,
    sinks: Sinks,
    last: Option<Arc<Derived>>,
}

/// Watches the cluster and publishes what it says, as long as it is polled. Nothing is published before every kind has
/// been listed once.
///
/// The client should neither retry by itself nor give up reading before 5 minutes: the watches do both as they need it.
///
/// # Errors
/// If a watch panics.
pub async fn watch(
    client: Client,
    mut settings: watch::Receiver<Settings>,
    sinks: Sinks,
    status: WatchStatus,
) -> Result<(), ClusterError> {
    let (updates, mut incoming) = mpsc::channel(QUEUE);
    let mut watches = JoinSet::new();
    for kind in 0..KINDS.len() {
        let (client, updates, status) = (client.clone(), updates.clone(), status.clone());
        watches.spawn(Stream { client, kind, updates, status }.run());
    }
    drop(updates);
    let mut source =
        Source { index: Index::new(), tracker: Tracker::default(), pace: Pace::default(), sinks, last: None };
    let mut running: Option<Running> = None;
    loop {
        let due = source.pace.due().filter(|_| running.is_none() && source.index.is_complete());
        tokio::select! {
            Some(update) = incoming.recv() => {
                source.absorb(update, &status);
                while let Ok(update) = incoming.try_recv() {
                    source.absorb(update, &status);
                }
            }
            Some(ended) = watches.join_next() => {
                ended.map_err(ClusterError::Watch)?;
                return Err(ClusterError::Ended);
            }
            Ok(()) = settings.changed() => {
                source.tracker.everything();
                source.pace.note(Change::Matters, Instant::now());
            }
            derived = finished(&mut running) => {
                running = None;
                source.publish(derived);
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                running = source.begin(&settings.borrow());
            }
        }
    }
}

/// What the running derivation gave and how long it took; never, if none is running.
async fn finished(running: &mut Option<Running>) -> (Result<Derived, JoinError>, Duration) {
    match running {
        Some(Running { task, begun }) => (task.await, begun.elapsed()),
        None => std::future::pending().await,
    }
}

// === impl Source ===

impl Source {
    fn absorb(&mut self, (kind, update): (usize, Update), status: &WatchStatus) {
        let change = self.index.absorb(kind, update, &mut self.tracker);
        let objects = self.index.len(kind);
        if status.objects(kind) != objects {
            status.update(kind, |status| status.objects = objects);
        }
        if KINDS[kind].name == "Namespace" && change > Change::Nothing {
            self.sinks.namespaces.send_replace(self.index.namespaces.clone());
        }
        self.pace.note(change, Instant::now());
    }

    /// A derivation, unless nothing has changed that one looks at.
    fn begin(&mut self, settings: &Settings) -> Option<Running> {
        let begun = Instant::now();
        if self.pace.begin() < Change::Matters
            && let Some(last) = &self.last
        {
            let derived = last.as_ref().clone().with(&self.index);
            self.publish((Ok(derived), Duration::ZERO));
            return None;
        }
        let (index, settings, last) = (self.index.clone(), settings.clone(), self.last.clone());
        let concern = self.tracker.take();
        let task = match last {
            Some(last) if !concern.is_everything(&self.index) => {
                let neighbourhood = Neighbourhood::of(concern, &self.index, &self.tracker.relations);
                spawn_blocking(move || Derived::new(&index, neighbourhood.derive(&settings, &last)))
            }
            last => spawn_blocking(move || {
                let last = last.as_ref().map(|last| &*last.snapshot);
                Derived::new(&index, derive::outcome(&index.objects(), &settings, last))
            }),
        };
        Some(Running { task, begun })
    }

    fn publish(&mut self, (derived, took): (Result<Derived, JoinError>, Duration)) {
        self.pace.ended(took, Instant::now());
        let mut derived = match derived {
            Ok(derived) => derived,
            // A bug; what is served stays, and the next change may be one that doesn't meet it.
            Err(error) => {
                tracing::error!(%error, "nothing can be derived from what the cluster says; what is served stays");
                self.tracker.everything();
                return;
            }
        };
        match &self.last {
            Some(last)
                if last.snapshot.generation == derived.snapshot.generation
                    && last.snapshot.progress == derived.snapshot.progress =>
            {
                derived.snapshot = last.snapshot.clone();
            }
            Some(_) | None => {
                self.sinks.snapshots.send_replace(derived.snapshot.clone());
            }
        }
        self.sinks.problems.send_if_modified(|now| {
            let modified = *now != *derived.problems;
            if modified {
                now.clone_from(&derived.problems);
            }
            modified
        });
        let derived = Arc::new(derived);
        self.last = Some(derived.clone());
        self.sinks.derived.send_replace(Some(derived));
    }
}

// === impl Derived ===

impl Derived {
    fn new(index: &Index, mut outcome: derive::Outcome) -> Self {
        outcome.findings.sort();
        outcome.findings.dedup();
        let mut problems = index.problems();
        problems.extend(outcome.findings.iter().cloned().map(|finding| derive::problem(None, finding)));
        let derived = Self {
            snapshot: Arc::new(MeshSnapshot { progress: Arc::new(index.progress.clone()), ..outcome.snapshot }),
            findings: Arc::new(outcome.findings),
            affects: Arc::new(outcome.affects),
            problems: Arc::new(problems),
            ..Self::default()
        };
        derived.with(index)
    }

    /// With the objects of the index.
    fn with(self, index: &Index) -> Self {
        Self {
            resources: index.resources.clone(),
            namespaces: index.namespaces.clone(),
            pods: index.pods.clone(),
            ..self
        }
    }
}
