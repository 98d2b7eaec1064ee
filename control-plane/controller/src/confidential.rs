//! Calls of the API server whose answers hold secrets: the key in a Secret, the token that a TokenReview repeats. kube's own
//! calls log an answer that they can't read, as it is. Nothing of one leaves here but what was asked for, and the API
//! server's reason for saying no.

use std::{error::Error, fmt::Write};

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Limited};
use kube::{
    Client,
    client::Body,
    core::{Status, request},
};
use serde::de::DeserializeOwned;

/// Longest answer in bytes. Secrets have 1 MiB at most.
const MAX_ANSWER: usize = 4 << 20;
/// Longest part of a reason that is shown.
const MAX_REASON: usize = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("the API server can't be asked so: {0}")]
    Request(#[from] request::Error),
    #[error("the API server can't be reached: {}", causes(.0))]
    Unreachable(#[from] kube::Error),
    #[error("the API server answers {code}: {}", shortened(reason))]
    Refused { code: StatusCode, reason: String },
    #[error("the API server's answer can't be read")]
    Unreadable,
}

/// Sends what kube has built, and reads the answer.
pub(crate) async fn call<T: DeserializeOwned>(
    client: &Client,
    request: Result<Request<Vec<u8>>, request::Error>,
) -> Result<T, CallError> {
    let (head, body) = client.send(request?.map(Body::from)).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|_| CallError::Unreadable)?.to_bytes();
    if head.status.is_success() {
        return serde_json::from_slice(&body).map_err(|_| CallError::Unreadable);
    }
    let reason = serde_json::from_slice(&body).map(|status: Status| status.message).unwrap_or_default();
    Err(CallError::Refused { code: head.status, reason })
}

/// The beginning of a reason.
pub(crate) fn shortened(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// In one line.
fn causes(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // What writes to a String doesn't fail.
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::core::{Request, params::GetParams};
    use serde_json::{Value, json};

    use super::*;
    use crate::fake;

    async fn get(code: u16, answer: Value) -> Result<Secret, CallError> {
        let client = fake::client(move |_, _| std::future::ready((code, answer.clone())));
        call(&client, Request::new("/api/v1/secrets").get("it", &GetParams::default())).await
    }

    #[tokio::test]
    async fn what_cant_be_read_isnt_shown() {
        let log = fake::Log::default();
        let _logging = log.begin();
        for (code, answer) in [
            (200, json!({ "data": "hidden" })),
            (200, json!({ "data": { "tls.key": "hidden!" } })),
            (200, json!("hidden")),
            (500, json!("hidden")),
            (403, json!({ "kind": "Status", "message": 5, "reason": "hidden" })),
        ] {
            let error = get(code, answer).await.unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hidden"), "{error:?}");
        }
        assert!(!log.text().contains("hidden"), "{}", log.text());
    }

    #[tokio::test]
    async fn a_refusal_is() {
        let status = json!({ "kind": "Status", "status": "Failure", "code": 403, "message": "not you".repeat(1000) });
        let error = get(403, status).await.unwrap_err().to_string();
        assert!(error.starts_with("the API server answers 403 Forbidden: not you") && error.len() < 300, "{error}");
    }
}
