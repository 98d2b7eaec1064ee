//! Who a caller is, in Kubernetes: the API server says whose service-account token it is (TokenReview).
//!
//! A token is bound to our audience and to a pod, so it proves the workload as well as the identity. Verdicts are kept for
//! a moment, by the token's hash: all proxies that come back at once must not cost a review each, twice. No token is ever
//! logged, kept or answered.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use outrigger_model::MeshSnapshot;
use outrigger_wire::{
    SpiffeId,
    names::{SHARED_NAME, SYSTEM_NAMESPACE, TOKEN_AUDIENCE, type_url},
};
use outrigger_xds::Principal;
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use crate::authenticate::Refusal;

/// Longest token in bytes.
const MAX_TOKEN: usize = 16 * 1024;
/// How long a good verdict is kept: a token of a pod that was deleted is good for as long at most.
const GOOD: Duration = Duration::from_secs(60);
/// As [`GOOD`], of a bad one.
const BAD: Duration = Duration::from_secs(1);
/// Verdicts kept.
const KEPT: usize = 16_384;
/// Reviews at once.
const AT_ONCE: usize = 64;
/// For a review, waiting for its turn included.
const PATIENCE: Duration = Duration::from_secs(5);

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

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

/// A verdict, and until when it is good.
type Kept = (Instant, Result<Caller, ReviewError>);

/// Asks the API server, and remembers.
pub(crate) struct TokenReviews {
    api: Api<TokenReview>,
    turns: Semaphore,
    /// By the token's hash.
    kept: Mutex<HashMap<[u8; 32], Kept>>,
    snapshots: watch::Receiver<Arc<MeshSnapshot>>,
    /// Until a snapshot says otherwise.
    trust_domain: String,
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
        let (api, turns) = (Api::all(client), Semaphore::new(AT_ONCE));
        Self { api, turns, kept: Mutex::default(), snapshots, trust_domain }
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
        let shared = (caller.namespace == SYSTEM_NAMESPACE && caller.account == SHARED_NAME)
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
        if let Some(verdict) = self.remembered(&key) {
            return verdict;
        }
        let verdict = match timeout(PATIENCE, self.review(token)).await {
            Ok(verdict) => verdict,
            Err(_) => Err(ReviewError::Unavailable("it doesn't answer in time".to_owned())),
        };
        self.remember(key, &verdict);
        verdict
    }

    async fn review(&self, token: &str) -> Result<Caller, ReviewError> {
        // Never closed, so there is always a turn to wait for.
        let _turn = self.turns.acquire().await;
        let spec = TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.api.create(&PostParams::default(), &review).await;
        let answer = answer.map_err(|error| ReviewError::Unavailable(error.to_string()))?;
        verdict(&answer.status.unwrap_or_default())
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Result<Caller, ReviewError>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, verdict)| verdict.clone())
    }

    fn remember(&self, key: [u8; 32], verdict: &Result<Caller, ReviewError>) {
        let time = match verdict {
            Ok(_) => GOOD,
            Err(ReviewError::Denied(_) | ReviewError::NotAPod) => BAD,
            Err(ReviewError::Unavailable(_)) => return,
        };
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT {
            kept.retain(|_, (until, _)| now < *until);
        }
        if kept.len() < KEPT {
            kept.insert(key, (now + time, verdict.clone()));
        }
    }
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
    let pod = user.extra.as_ref().and_then(|extra| extra.get(POD_NAME)?.first()).ok_or(ReviewError::NotAPod)?;
    Ok(Caller { namespace: namespace.to_owned(), account: account.to_owned(), pod: pod.clone() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn said(status: Value) -> Result<Caller, ReviewError> {
        verdict(&serde_json::from_value(status).unwrap())
    }

    fn good() -> Value {
        json!({
            "authenticated": true,
            "audiences": [TOKEN_AUDIENCE],
            "user": {
                "username": "system:serviceaccount:shop:front",
                "extra": { POD_NAME: ["front-1"] },
            },
        })
    }

    #[test]
    fn a_pods_token() {
        let caller = said(good()).unwrap();
        assert_eq!((&*caller.namespace, &*caller.account, &*caller.pod), ("shop", "front", "front-1"));
    }

    #[test]
    fn anything_less_is_refused() {
        for (path, value) in [
            ("/authenticated", json!(false)),
            ("/authenticated", Value::Null),
            ("/audiences", json!(["https://kubernetes.default.svc"])),
            ("/audiences", Value::Null),
            ("/user/username", json!("system:node:node-1")),
            ("/user/username", json!("system:serviceaccount:shop")),
            ("/user/extra", Value::Null),
            ("/user", Value::Null),
        ] {
            let mut status = good();
            *status.pointer_mut(path).unwrap() = value.clone();
            assert!(said(status).is_err_and(|error| error.refusal() == Refusal::Denied), "{path} = {value}");
        }
    }
}
