//! Pods that are about to end and wait for their callers to leave: one count at a time for all of them.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use outrigger_kube::acknowledged::Acknowledgements;
use outrigger_wire::proto::departure::{
    AwaitRequest, AwaitResponse,
    departures_server::{Departures as Service, DeparturesServer},
};
use outrigger_xds::Principal;
use tokio::{
    sync::{Notify, watch},
    time,
};
use tonic::{Request, Response, Status};

/// Between two counts.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest wait; the kubelet has given up long before.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Longest message in bytes.
const MAX_REQUEST: usize = 64;

/// What a pod still waits for; `None`: nothing.
type Missing = Option<String>;

/// The service, and the one who counts.
#[derive(Clone)]
pub(crate) struct Departures {
    acknowledged: Arc<Acknowledgements>,
    waiting: Arc<Waiting>,
}

/// Who waits, by workload.
#[derive(Default)]
struct Waiting {
    pods: Mutex<BTreeMap<Arc<str>, watch::Sender<Missing>>>,
    /// Rings when there is somebody.
    bell: Notify,
}

// === impl Departures ===

impl Departures {
    pub(crate) fn new(acknowledged: Arc<Acknowledgements>) -> Self {
        Self { acknowledged, waiting: Arc::default() }
    }

    /// To be added to a router.
    pub(crate) fn into_service(self) -> DeparturesServer<Self> {
        DeparturesServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// Counts for ever, while anybody waits.
    pub(crate) async fn run(self) {
        let acknowledged = &self.acknowledged;
        self.waiting.run(|pods| async move { acknowledged.departures(&pods).await }).await;
    }
}

#[tonic::async_trait]
impl Service for Departures {
    async fn r#await(&self, request: Request<AwaitRequest>) -> Result<Response<AwaitResponse>, Status> {
        let workload = request.extensions().get::<Principal>().map(|principal| Arc::clone(&principal.workload));
        let workload =
            workload.ok_or_else(|| Status::unauthenticated("the caller has not proven which workload it is"))?;
        let within = Duration::from_millis(request.get_ref().within_ms.into()).min(MAX_WAIT);
        let missing = self.waiting.wait(&workload, within).await;
        tracing::info!(%workload, missing, "a pod that ends has waited for its callers");
        Ok(Response::new(AwaitResponse { left: missing.is_none(), missing: missing.unwrap_or_default() }))
    }
}

// === impl Waiting ===

impl Waiting {
    /// What is still missing when that is nothing, or after `within`.
    async fn wait(&self, workload: &Arc<str>, within: Duration) -> Missing {
        let mut missing = {
            let mut pods = self.pods();
            let start = || watch::Sender::new(Some("it hasn't been counted yet".to_owned()));
            pods.entry(Arc::clone(workload)).or_insert_with(start).subscribe()
        };
        self.bell.notify_one();
        let _ = time::timeout(within, missing.wait_for(Option::is_none)).await;
        missing.borrow().clone()
    }

    async fn run<C, F>(&self, count: C)
    where
        C: Fn(Vec<Arc<str>>) -> F,
        F: Future<Output = Vec<Missing>>,
    {
        loop {
            let pods = self.leaving();
            if pods.is_empty() {
                self.bell.notified().await;
                continue;
            }
            let missing = count(pods.clone()).await;
            self.tell(pods.into_iter().zip(missing));
            time::sleep(PAUSE).await;
        }
    }

    /// Those that somebody still waits for.
    fn leaving(&self) -> Vec<Arc<str>> {
        let mut pods = self.pods();
        pods.retain(|_, told| told.receiver_count() > 0);
        pods.keys().cloned().collect()
    }

    fn tell(&self, counted: impl Iterator<Item = (Arc<str>, Missing)>) {
        let pods = self.pods();
        for (pod, missing) in counted {
            if let Some(told) = pods.get(&pod) {
                told.send_replace(missing);
            }
        }
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, watch::Sender<Missing>>> {
        // Each change leaves it whole.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn all_that_wait_are_counted_together_and_each_is_told_when_its_own_have_left() {
        let (waiting, counts) = (Arc::new(Waiting::default()), Arc::new(AtomicUsize::new(0)));
        let counter = {
            let (waiting, counts) = (Arc::clone(&waiting), Arc::clone(&counts));
            tokio::spawn(async move {
                let missing = |pods: Vec<Arc<str>>| {
                    let round = counts.fetch_add(1, Relaxed);
                    let of = |pod: &Arc<str>| match &**pod {
                        "a/soon" => (round < 5).then(|| "1 of 2".to_owned()),
                        _ => Some("2 of 2".to_owned()),
                    };
                    std::future::ready(pods.iter().map(of).collect::<Vec<_>>())
                };
                waiting.run(missing).await;
            })
        };
        time::sleep(LONG).await;
        assert_eq!(counts.load(Relaxed), 0, "nobody waits");

        let wait = |pod: &'static str| {
            let waiting = Arc::clone(&waiting);
            async move {
                let begun = time::Instant::now();
                (waiting.wait(&pod.into(), LONG).await, begun.elapsed())
            }
        };
        let (soon, never) = tokio::join!(wait("a/soon"), wait("a/never"));
        assert_eq!(soon.0, None);
        assert!(soon.1 < Duration::from_secs(1), "{:?}", soon.1);
        assert_eq!(never, (Some("2 of 2".to_owned()), LONG));

        // It costs nothing from here on.
        time::sleep(PAUSE).await;
        let before = counts.load(Relaxed);
        time::sleep(LONG).await;
        assert_eq!(counts.load(Relaxed), before);
        assert!(waiting.pods().is_empty());
        counter.abort();
    }
}
