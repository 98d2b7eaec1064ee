//! Who a caller is, in Kubernetes: the API server says whose service-account token it is (TokenReview).
//!
//! A token is bound to our audience and to a pod, so it proves the workload as well as the identity. Verdicts are kept for
//! a moment, by the token's hash, and calls with the same token share one review: all proxies that come back at once, each
//! with several calls, cost one each. No token is ever logged, kept or answered.

mod verdicts;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{
    Client, Resource,
    api::PostParams,
    core::{Request, request},
};
use outrigger_model::{MeshSnapshot, is_shared_proxy};
use outrigger_wire::{
    SpiffeId,
    names::{TOKEN_AUDIENCE, type_url},
};
use outrigger_xds::Principal;
use tokio::{
    sync::{Mutex as Turn, Semaphore, watch},
    time::{Instant, timeout},
};

use crate::{
    authenticate::Refusal,
    confidential::{self, CallError, shortened},
};
use verdicts::{Key, Verdicts};

/// Longest token in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// How long a good verdict is kept: a token of a pod that was deleted is good for as long at most.
const GOOD: Duration = Duration::from_secs(60);
/// As [`GOOD`], of a bad one.
const BAD: Duration = Duration::from_secs(1);
/// Half of the verdicts that are kept. Bad ones have a place of their own: guesses push no proxy out.
const KEPT_GOOD: usize = 8192;
const KEPT_BAD: usize = 1024;
/// Reviews at once.
const AT_ONCE: usize = 64;
/// For a review, waiting for its turn included.
const PATIENCE: Duration = Duration::from_secs(5);

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Whose token it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) namespace: String,
    pub(crate) account: String,
    /// Name of the pod that the token is bound to.
    pub(crate) pod: String,
}

/// Why a token wasn't taken. For our log.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ReviewError {
    #[error("the API server doesn't take the token: {0}")]
    Denied(String),
    #[error("the token isn't of a pod's service account, for the audience {TOKEN_AUDIENCE}")]
    NotAPod,
    #[error("the API server can't be asked about the token: {0}")]
    Unavailable(String),
}

/// Asks the API server, and remembers.
pub(crate) struct TokenReviews {
    client: Client,
    turns: Semaphore,
    memory: Mutex<Memory>,
    counts: Counts,
    snapshots: watch::Receiver<Arc<MeshSnapshot>>,
    /// Until a snapshot says otherwise.
    trust_domain: String,
}

struct Memory {
    good: Verdicts<Caller>,
    bad: Verdicts<ReviewError>,
    /// Tokens that are being asked about; whoever comes second waits for the first.
    asking: HashMap<Key, Arc<Turn<()>>>,
}

/// What came of calls.
#[derive(Default)]
struct Counts {
    remembered: AtomicU64,
    accepted: AtomicU64,
    denied: AtomicU64,
    unavailable: AtomicU64,
}

/// A call's part in [`Memory::asking`].
struct Asking<'a> {
    reviews: &'a TokenReviews,
    key: Key,
}

// === impl ReviewError ===

impl ReviewError {
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Denied(_) | Self::NotAPod => Refusal::Denied,
            Self::Unavailable(_) => Refusal::Unavailable,
        }
    }
}

// === impl TokenReviews ===

impl TokenReviews {
    pub(crate) fn new(client: Client, snapshots: watch::Receiver<Arc<MeshSnapshot>>, trust_domain: String) -> Self {
        let memory =
            Memory { good: Verdicts::new(GOOD, KEPT_GOOD), bad: Verdicts::new(BAD, KEPT_BAD), asking: HashMap::new() };
        Self {
            client,
            turns: Semaphore::new(AT_ONCE),
            memory: Mutex::new(memory),
            counts: Counts::default(),
            snapshots,
            trust_domain,
        }
    }

    /// Calls by what came of them: `remembered` without a review, the others after one.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 4] {
        let Counts { remembered, accepted, denied, unavailable } = &self.counts;
        [("remembered", remembered), ("accepted", accepted), ("denied", denied), ("unavailable", unavailable)]
            .map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }

    /// The proxy whose token this is. Its pod needn't be known yet: the token proves who it is.
    pub(crate) async fn principal(&self, token: &str) -> Result<Principal, ReviewError> {
        let caller = self.caller(token).await?;
        let snapshot = self.snapshots.borrow();
        let trust_domain =
            snapshot.types.get(type_url::TRUST).and_then(|set| set.resources.keys().next()).map(AsRef::as_ref);
        let trust_domain = trust_domain.unwrap_or(&self.trust_domain);
        let identity = SpiffeId::new(trust_domain, &caller.namespace, &caller.account)
            .map_err(|error| ReviewError::Denied(error.to_string()))?;
        let shared = is_shared_proxy(&caller.namespace, &caller.account)
            || snapshot.shared_identities.iter().any(|shared| **shared == *identity.as_str());
        Ok(Principal { workload: format!("{}/{}", caller.namespace, caller.pod).into(), identity, shared })
    }

    /// Whose token it is.
    pub(crate) async fn caller(&self, token: &str) -> Result<Caller, ReviewError> {
        if token.is_empty() || token.len() > MAX_TOKEN {
            return Err(ReviewError::Denied("its length".to_owned()));
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        match timeout(PATIENCE, self.remember_or_ask(key, token)).await {
            Ok(verdict) => verdict,
            Err(_) => {
                self.counts.unavailable.fetch_add(1, Ordering::Relaxed);
                Err(ReviewError::Unavailable("it doesn't answer in time".to_owned()))
            }
        }
    }

    async fn remember_or_ask(&self, key: Key, token: &str) -> Result<Caller, ReviewError> {
        let turn = {
            let mut memory = self.memory();
            if let Some(verdict) = memory.verdict(&key) {
                self.counts.remembered.fetch_add(1, Ordering::Relaxed);
                return verdict;
            }
            Arc::clone(memory.asking.entry(key).or_default())
        };
        // Dropped after the turn, so that its share of it is gone by then.
        let _asking = Asking { reviews: self, key };
        let _turn = turn.lock_owned().await;
        // Whoever was first has the answer, if there is one.
        if let Some(verdict) = self.memory().verdict(&key) {
            self.counts.remembered.fetch_add(1, Ordering::Relaxed);
            return verdict;
        }
        let verdict = self.review(token).await;
        let count = match &verdict {
            Ok(_) => &self.counts.accepted,
            Err(ReviewError::Denied(_) | ReviewError::NotAPod) => &self.counts.denied,
            Err(ReviewError::Unavailable(_)) => &self.counts.unavailable,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.memory().keep(key, &verdict);
        verdict
    }

    async fn review(&self, token: &str) -> Result<Caller, ReviewError> {
        // Never closed, so there is always a turn to wait for.
        let _turn = self.turns.acquire().await;
        let answer: Result<TokenReview, CallError> = confidential::call(&self.client, request(token)).await;
        // A reason may repeat what was asked, and is cut after that is out of it.
        let hide = |reason: String| reason.replace(token, "TOKEN");
        // Also if it says that we may not ask: that is our fault, not the caller's.
        let unavailable = |error: CallError| ReviewError::Unavailable(error.to_string());
        match answer {
            Ok(review) => verdict(&review.status.unwrap_or_default()).map_err(|error| match error {
                ReviewError::Denied(reason) => ReviewError::Denied(shortened(&hide(reason))),
                error => error,
            }),
            Err(CallError::Refused { code, reason }) => {
                Err(unavailable(CallError::Refused { code, reason: hide(reason) }))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Memory ===

impl Memory {
    fn verdict(&self, key: &Key) -> Option<Result<Caller, ReviewError>> {
        let now = Instant::now();
        self.good.get(key, now).map(Ok).or_else(|| self.bad.get(key, now).map(Err))
    }

    fn keep(&mut self, key: Key, verdict: &Result<Caller, ReviewError>) {
        match verdict {
            Ok(caller) => self.good.insert(key, caller.clone(), Instant::now()),
            Err(ReviewError::Unavailable(_)) => {}
            Err(error) => self.bad.insert(key, error.clone(), Instant::now()),
        }
    }
}

// === impl Asking ===

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut memory = self.reviews.memory();
        // Others get theirs under the same lock, so only the map's own is left if nobody waits.
        if memory.asking.get(&self.key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            memory.asking.remove(&self.key);
        }
    }
}

fn request(token: &str) -> Result<http::Request<Vec<u8>>, request::Error> {
    let spec = TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let body = serde_json::to_vec(&review).map_err(request::Error::SerializeBody)?;
    Request::new(TokenReview::url_path(&(), None)).create(&PostParams::default(), body)
}

/// What a review's status says: good only if everything that we need is there.
fn verdict(status: &TokenReviewStatus) -> Result<Caller, ReviewError> {
    if status.authenticated != Some(true) {
        return Err(ReviewError::Denied(status.error.clone().unwrap_or_default()));
    }
    // An API server that knows nothing of audiences leaves them out, and would take a token for anybody.
    let audience = status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE);
    let user = status.user.as_ref().filter(|_| audience).ok_or(ReviewError::NotAPod)?;
    let name = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
    let (namespace, account) = name.and_then(|name| name.split_once(':')).ok_or(ReviewError::NotAPod)?;
    // A token that is bound to a pod has both; it is void once the pod of that uid is gone.
    let extra = |key| user.extra.as_ref().and_then(|extra| extra.get(key)?.first()).filter(|value| !value.is_empty());
    let (Some(pod), Some(_)) = (extra(POD_NAME), extra(POD_UID)) else { return Err(ReviewError::NotAPod) };
    Ok(Caller { namespace: namespace.to_owned(), account: account.to_owned(), pod: pod.clone() })
}
