//! Events on pods, of what only their own guards can see. Whoever calls has proven which pod it is; it chooses neither words
//! nor how often.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{EventType, Recorder, Reporter},
};
use outrigger_model::inputs::Mode;
use outrigger_wire::names::CONTROLLER_ID;
use tokio::{sync::watch, time::Instant};

use crate::{
    cluster::Derived,
    status::{self, bucket::Bucket, events},
};

/// Events per second, and at once after a pause.
const RATE: (u32, u32) = (1, 20);
/// A pod that says the same again isn't told of again before.
const AGAIN: Duration = Duration::from_secs(10 * 60);

const NOT_CAPTURED: &str = "nothing captures the pod's traffic: the nftables table inet outrigger isn't in force in its network \
    namespace. Its apps go past their policies, so the pod is unready. Somebody has flushed the rules; delete the pod to have \
    them back";

/// Writes them. Every replica does, of those who tell it: a guard is connected to any.
pub struct PodEvents {
    recorder: Recorder,
    derived: watch::Receiver<Option<Arc<Derived>>>,
    limits: Mutex<Limits>,
}

/// How often something is written, for all pods and for each.
struct Limits {
    bucket: Bucket,
    /// By UID.
    told: HashMap<String, Instant>,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PodEventError {
    #[error("{0} is no pod with proxies, or not known yet")]
    Unknown(String),
    #[error("too many events at once, or the API server doesn't take one; say it again later")]
    Later,
}

pub(crate) fn reference(namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

// === impl PodEvents ===

impl PodEvents {
    /// `own` is the name of this replica's pod.
    pub fn new(client: Client, own: String, derived: watch::Receiver<Option<Arc<Derived>>>) -> Self {
        let reporter = Reporter { controller: CONTROLLER_ID.to_owned(), instance: Some(own) };
        let bucket = Bucket::new(RATE.0, RATE.1, Instant::now());
        let limits = Mutex::new(Limits { bucket, told: HashMap::new() });
        Self { recorder: Recorder::new(client, reporter), derived, limits }
    }

    /// The pod's own guard (`NAMESPACE/NAME`) says that its rules are gone.
    ///
    /// # Errors
    /// If its owners haven't been told, and weren't lately either.
    pub async fn not_captured(&self, workload: &str) -> Result<(), PodEventError> {
        let pod = self.derived.borrow().as_ref().and_then(|derived| derived.pods.get(workload).cloned());
        let pod = pod.filter(|pod| pod.has != Mode::None);
        let pod = pod.ok_or_else(|| PodEventError::Unknown(workload.to_owned()))?;
        if !self.limited(|limits| limits.begin(&pod.uid, Instant::now()))? {
            return Ok(());
        }
        let event = events::event(EventType::Warning, "NotCaptured", NOT_CAPTURED, "Capture");
        if status::publish(&self.recorder, &event, &reference(&pod.namespace, &pod.name, &pod.uid)).await {
            return Ok(());
        }
        self.limited(|limits| limits.told.remove(&pod.uid));
        Err(PodEventError::Later)
    }

    fn limited<T>(&self, change: impl FnOnce(&mut Limits) -> T) -> T {
        // Each change leaves them whole.
        change(&mut self.limits.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl Limits ===

impl Limits {
    /// Whether it is to be told; if so, it counts as told.
    fn begin(&mut self, uid: &str, now: Instant) -> Result<bool, PodEventError> {
        self.told.retain(|_, told| now < *told + AGAIN);
        if self.told.contains_key(uid) {
            return Ok(false);
        }
        self.bucket.take(now).map_err(|_| PodEventError::Later)?;
        self.told.insert(uid.to_owned(), now);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::{fake::Fake, pod::Pod, unmeshed::tests::pod};

    /// Pods `shop/0`, `shop/1`, ... with proxies, and one without.
    fn cluster(pods: usize) -> (Fake, PodEvents) {
        let all = (0..pods).map(|at| Pod {
            name: at.to_string(),
            uid: format!("uid-{at}"),
            has: Mode::Sidecar,
            ..pod("shop")
        });
        let all = all.chain([Pod { name: "plain".to_owned(), ..pod("shop") }]);
        let pods = all.map(|pod| (Arc::from(format!("shop/{}", pod.name)), Arc::new(pod))).collect();
        let (_, derived) = watch::channel(Some(Arc::new(Derived { pods, ..Derived::default() })));
        let fake = Fake::default();
        let events = PodEvents::new(fake.client(), "own".to_owned(), derived);
        (fake, events)
    }

    fn told(fake: &Fake) -> usize {
        fake.list("apis/events.k8s.io/v1/namespaces/shop/events").len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pods_owners_are_told_why_and_what_to_do_and_not_all_the_time() {
        let (fake, events) = cluster(1);
        for _ in 0..3 {
            events.not_captured("shop/0").await.unwrap();
            advance(AGAIN / 4).await;
        }
        let all = fake.list("apis/events.k8s.io/v1/namespaces/shop/events");
        assert_eq!(all.len(), 1);
        let text = |field: &str| all[0][field].as_str().unwrap();
        assert_eq!((text("type"), text("reason")), ("Warning", "NotCaptured"));
        assert!(text("note").contains("inet outrigger") && text("note").contains("delete the pod"), "{}", all[0]);
        assert_eq!((&all[0]["regarding"]["name"], &all[0]["regarding"]["uid"]), (&"0".into(), &"uid-0".into()));
        advance(AGAIN).await;
        fake.writes();
        events.not_captured("shop/0").await.unwrap();
        assert_eq!(fake.writes().len(), 1, "it lasts");
    }

    #[tokio::test(start_paused = true)]
    async fn only_pods_with_proxies_have_something_to_say() {
        let (fake, events) = cluster(1);
        for name in ["shop/plain", "shop/none", "other/0"] {
            assert_eq!(events.not_captured(name).await, Err(PodEventError::Unknown(name.to_owned())));
        }
        assert_eq!(told(&fake), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_told_of_at_a_bounded_rate_and_what_was_not_written_is_said_again() {
        let (fake, events) = cluster(30);
        let mut refused = Vec::new();
        for at in 0..30 {
            let name = format!("shop/{at}");
            if events.not_captured(&name).await.is_err() {
                refused.push(name);
            }
        }
        assert_eq!((told(&fake), refused.len()), (20, 10));
        advance(Duration::from_secs(1)).await;
        fake.fail("POST", 500);
        assert_eq!(events.not_captured(&refused[0]).await, Err(PodEventError::Later));
        advance(Duration::from_secs(1)).await;
        assert_eq!(events.not_captured(&refused[0]).await, Ok(()));
        assert_eq!(told(&fake), 21);
    }
}
