//! Fuzz target of what API servers send. `./dev fuzz` runs it by coverage, the test below on its corpus in
//! `fuzz/corpus/`.

use std::{collections::BTreeMap, sync::LazyLock};

use k8s_openapi::ByteString;
use outrigger_wire::names::MODE_LABEL;
use serde_json::Value;

use crate::{Answer, InjectorConfig, NamespaceView, Outcome, Patch, Review, Untouched, Verdict, apply, inject};

static NAMESPACE: LazyLock<NamespaceView> = LazyLock::new(|| NamespaceView {
    name: "shop".to_owned(),
    labels: BTreeMap::from([(MODE_LABEL.to_owned(), "sidecar".to_owned())]),
});

/// Far more than the longest that was ever seen.
const ANSWER: usize = 64 << 10;

/// Both webhooks answer whatever can be read; a patch can be applied, and an injected pod is never changed again.
pub fn review(data: &[u8]) {
    let Ok(review) = Review::parse(data) else { return };
    let config = InjectorConfig::default();
    response(&review.validate(), data);
    let answer = review.inject(Some(&NAMESPACE), &config);
    let response = response(&answer, data);
    assert_eq!(response["patch"].is_string(), answer.verdict == Verdict::Injected);
    if answer.verdict != Verdict::Injected {
        return;
    }
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).expect("it is base64");
    let patch: Patch = serde_json::from_slice(&patch.0).expect("it is a patch");
    let whole: Value = serde_json::from_slice(data).expect("it was read");
    let mut pod = whole["request"]["object"].clone();
    apply(&mut pod, &patch).expect("it fits the pod");
    let again = inject(&pod, &NAMESPACE, &config);
    assert!(
        matches!(again, Ok(Outcome::Untouched { why: Untouched::AlreadyInjected, .. })),
        "{again:?} of an injected pod"
    );
}

/// What is answered, once it was seen to be what every API server takes.
fn response(answer: &Answer, asked: &[u8]) -> Value {
    assert!(answer.body.len() < ANSWER + 16 * asked.len(), "{} bytes", answer.body.len());
    let body: Value = serde_json::from_slice(&answer.body).expect("it is JSON");
    let response = body["response"].clone();
    assert!(response["uid"].as_str().is_some_and(|uid| !uid.is_empty()));
    assert_eq!(response["allowed"].as_bool(), Some(response.get("status").is_none()));
    response
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! { review: 10_000 }
}
