use std::sync::atomic::AtomicUsize;

use outrigger_wire::names::{SHARED_NAME, SYSTEM_NAMESPACE};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{advance, sleep},
};

use super::*;
use crate::{
    authenticate::Authenticator,
    fake::{self, pod_token},
};

fn said(status: Value) -> Result<Caller, ReviewError> {
    verdict(&serde_json::from_value(status).unwrap())
}

#[test]
fn a_pods_token() {
    let caller = said(pod_token("shop", "front", "front-1")).unwrap();
    assert_eq!((&*caller.namespace, &*caller.account, &*caller.pod), ("shop", "front", "front-1"));
}

#[test]
fn anything_less_is_refused() {
    for (path, value) in [
        ("/authenticated", json!(false)),
        ("/authenticated", Value::Null),
        ("/audiences", json!(["https://kubernetes.default.svc"])),
        ("/audiences", json!([])),
        ("/audiences", Value::Null),
        ("/user/username", json!("system:node:node-1")),
        ("/user/username", json!("system:serviceaccount:shop")),
        ("/user/username", json!("system:serviceaccounts:shop:front")),
        ("/user/username", json!("shop:front")),
        ("/user/username", Value::Null),
        ("/user/extra", Value::Null),
        ("/user/extra/authentication.kubernetes.io~1pod-name", json!([])),
        ("/user/extra/authentication.kubernetes.io~1pod-name", json!([""])),
        ("/user/extra/authentication.kubernetes.io~1pod-uid", json!([])),
        ("/user", Value::Null),
    ] {
        let mut status = pod_token("shop", "front", "front-1");
        *status.pointer_mut(path).unwrap() = value.clone();
        assert!(said(status).is_err_and(|error| error.refusal() == Refusal::Denied), "{path} = {value}");
    }
    assert!(said(json!({})).is_err());
}

/// An API server that takes tokens `good-*`, slowly.
#[derive(Clone, Default)]
struct Server {
    asked: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    /// 0 unless something is wrong.
    code: Arc<AtomicUsize>,
    hangs: Arc<AtomicUsize>,
}

// === impl Server ===

impl Server {
    fn reviews(&self) -> TokenReviews {
        let server = self.clone();
        let client = fake::client(move |line, body| {
            let server = server.clone();
            async move { server.answer(&line, &body).await }
        });
        TokenReviews::new(client, watch::channel(Arc::default()).1, "cluster.local".to_owned())
    }

    async fn answer(&self, line: &str, body: &Value) -> (u16, Value) {
        assert_eq!(line, "POST /apis/authentication.k8s.io/v1/tokenreviews");
        assert_eq!(body["spec"]["audiences"], json!([TOKEN_AUDIENCE]));
        self.asked.fetch_add(1, Ordering::SeqCst);
        let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        sleep(Duration::from_millis(if self.hangs.load(Ordering::SeqCst) > 0 { 60_000 } else { 10 })).await;
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        match self.code.load(Ordering::SeqCst) {
            0 => {}
            code => return fake::refusal(code.try_into().unwrap()),
        }
        let token = body["spec"]["token"].as_str().unwrap();
        let status = match token.strip_prefix("good-") {
            Some(pod) => pod_token("shop", "front", pod),
            None => json!({ "authenticated": false, "error": "no such token" }),
        };
        (201, json!({ "metadata": {}, "spec": {}, "status": status }))
    }

    fn asked(&self) -> usize {
        self.asked.swap(0, Ordering::SeqCst)
    }
}

#[tokio::test(start_paused = true)]
async fn verdicts_are_kept_for_a_while() {
    let server = Server::default();
    let reviews = server.reviews();
    for _ in 0..3 {
        assert_eq!(reviews.caller("good-1").await.unwrap().pod, "1");
    }
    assert_eq!(server.asked(), 1);
    advance(Duration::from_secs(59)).await;
    reviews.caller("good-1").await.unwrap();
    assert_eq!(server.asked(), 0);
    advance(Duration::from_secs(2)).await;
    reviews.caller("good-1").await.unwrap();
    assert_eq!(server.asked(), 1);

    for _ in 0..3 {
        assert!(matches!(reviews.caller("bad").await, Err(ReviewError::Denied(reason)) if reason == "no such token"));
    }
    assert_eq!(server.asked(), 1);
    advance(Duration::from_millis(1001)).await;
    reviews.caller("bad").await.unwrap_err();
    assert_eq!(server.asked(), 1);
    assert_eq!(reviews.counts(), [("remembered", 5), ("accepted", 2), ("denied", 2), ("unavailable", 0)]);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_proxies_with_two_calls_each_cost_ten_thousand_reviews() {
    let server = Server::default();
    let reviews = Arc::new(server.reviews());
    let mut calls = JoinSet::new();
    for call in 0..20_000 {
        let reviews = Arc::clone(&reviews);
        calls.spawn(async move { reviews.caller(&format!("good-{}", call / 2)).await.map(|caller| caller.pod) });
    }
    let mut answered = 0;
    while let Some(call) = calls.join_next().await {
        answered += usize::from(call.unwrap().is_ok());
    }
    assert_eq!((answered, server.asked()), (20_000, 10_000));
    assert_eq!(server.most_at_once.load(Ordering::SeqCst), 64);
    assert!(reviews.memory().asking.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_thousand_calls_with_one_token_cost_one_review() {
    let server = Server::default();
    let reviews = Arc::new(server.reviews());
    for (token, good) in [("good-1", true), ("bad", false)] {
        let mut calls = JoinSet::new();
        for _ in 0..1000 {
            let reviews = Arc::clone(&reviews);
            calls.spawn(async move { reviews.caller(token).await.is_ok() });
        }
        assert!(calls.join_all().await.into_iter().all(|ok| ok == good), "{token}");
        assert_eq!(server.asked(), 1, "{token}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_longer_than_others_for_an_api_server_that_hangs() {
    let server = Server::default();
    server.hangs.store(1, Ordering::SeqCst);
    let reviews = Arc::new(server.reviews());
    let mut calls = JoinSet::new();
    let begun = Instant::now();
    // Of one pod, and of more pods than are asked about at once.
    for token in (0..50).map(|_| "good-1".to_owned()).chain((0..200).map(|pod| format!("good-{pod}"))) {
        let reviews = Arc::clone(&reviews);
        calls.spawn(async move { (reviews.caller(&token).await.map_err(|error| error.refusal()), Instant::now()) });
    }
    for (verdict, at) in calls.join_all().await {
        assert_eq!((verdict, at - begun), (Err(Refusal::Unavailable), Duration::from_secs(5)));
    }
    assert_eq!((server.asked(), reviews.memory().asking.len()), (64, 0));
}

#[tokio::test(start_paused = true)]
async fn no_token_is_shown_whatever_the_api_server_says_of_it() {
    let token = format!("eyJhbGciOiJSUzI1NiJ9.{}.c2lnbmF0dXJl", "cGF5bG9hZA".repeat(80));
    let said = format!("{}: {token} {token}", "a long reason".repeat(10));
    let log = fake::Log::default();
    let _logging = log.begin();
    for (code, answer) in [
        (201, json!({ "spec": { "token": token }, "status": { "authenticated": false, "error": said } })),
        (201, json!({ "spec": { "token": token }, "status": token })),
        (201, json!(token)),
        (422, json!({ "kind": "Status", "status": "Failure", "code": 422, "message": said })),
        (500, json!(token)),
    ] {
        let client = fake::client(move |_, _| std::future::ready((code, answer.clone())));
        let reviews = TokenReviews::new(client, watch::channel(Arc::default()).1, "cluster.local".to_owned());
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let authenticator = Authenticator::Reviews(Arc::new(reviews));
        authenticator.authenticate(&headers, ([127, 0, 0, 1], 1).into()).await.unwrap_err();
        let Authenticator::Reviews(reviews) = authenticator else { unreachable!() };
        let error = reviews.caller(&token).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("eyJ"), "{error:?}");
    }
    let log = log.text();
    assert!(log.contains("a call was refused") && log.contains("TOKEN") && !log.contains("eyJ"), "{log}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_refuses_nobody_for_good() {
    let server = Server::default();
    let reviews = server.reviews();
    reviews.caller("good-known").await.unwrap();
    for code in [500, 503, 429, 403, 401, 404] {
        server.code.store(code, Ordering::SeqCst);
        let error = reviews.caller("good-new").await.unwrap_err();
        assert_eq!(error.refusal(), Refusal::Unavailable, "{code}");
        assert!(!format!("{error} {error:?}").contains("good-new"), "{error:?}");
        reviews.caller("good-known").await.unwrap();
    }
    server.code.store(0, Ordering::SeqCst);
    server.hangs.store(1, Ordering::SeqCst);
    let begun = Instant::now();
    let error = reviews.caller("good-new").await.unwrap_err();
    assert_eq!((error.refusal(), begun.elapsed()), (Refusal::Unavailable, PATIENCE));
    server.hangs.store(0, Ordering::SeqCst);
    reviews.caller("good-new").await.unwrap();
    assert!(reviews.memory().asking.is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_hangs_up_leaves_its_turn_to_the_next() {
    let server = Server::default();
    let reviews = Arc::new(server.reviews());
    let ask = |reviews: &Arc<TokenReviews>| {
        let reviews = Arc::clone(reviews);
        tokio::spawn(async move { reviews.caller("good-1").await })
    };
    let (first, second) = (ask(&reviews), ask(&reviews));
    sleep(Duration::from_millis(5)).await;
    first.abort();
    second.await.unwrap().unwrap();
    assert!(reviews.memory().asking.is_empty());
}

#[tokio::test]
async fn what_can_be_no_token_costs_no_review() {
    let server = Server::default();
    let reviews = server.reviews();
    for token in ["", &"x".repeat(MAX_TOKEN + 1)] {
        assert_eq!(reviews.caller(token).await.unwrap_err().refusal(), Refusal::Denied);
    }
    assert_eq!(server.asked(), 0);
}

#[tokio::test]
async fn a_token_proves_a_workload_that_nobody_knows_yet() {
    let (snapshots, receiver) = watch::channel(Arc::<MeshSnapshot>::default());
    let client = fake::client(|_, body| {
        let (namespace, account) = match body["spec"]["token"].as_str().unwrap() {
            "shared" => (SYSTEM_NAMESPACE, SHARED_NAME),
            "namesake" => ("shop", SHARED_NAME),
            _ => ("shop", "front"),
        };
        let status = pod_token(namespace, account, "pod-1");
        std::future::ready((201, json!({ "metadata": {}, "spec": {}, "status": status })))
    });
    let reviews = TokenReviews::new(client, receiver, "cluster.local".to_owned());
    for (token, workload, identity, shared) in [
        ("front", "shop/pod-1", "spiffe://cluster.local/ns/shop/sa/front", false),
        ("shared", "outrigger-system/pod-1", "spiffe://cluster.local/ns/outrigger-system/sa/outrigger-shared", true),
        ("namesake", "shop/pod-1", "spiffe://cluster.local/ns/shop/sa/outrigger-shared", false),
    ] {
        let principal = reviews.principal(token).await.unwrap();
        assert_eq!((&*principal.workload, principal.identity.as_str(), principal.shared), (workload, identity, shared));
    }
    // A MeshConfig may name other shared proxies.
    let mut snapshot = MeshSnapshot { generation: 1, ..MeshSnapshot::default() };
    snapshot.shared_identities.push("spiffe://cluster.local/ns/shop/sa/front".into());
    snapshots.send_replace(Arc::new(snapshot));
    assert!(reviews.principal("front").await.unwrap().shared);
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let mut verdicts = Verdicts::new(Duration::from_secs(60), 8);
    let key = |number: usize| {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    };
    for number in 0..1000 {
        verdicts.insert(key(number), number, Instant::now());
        assert!(verdicts.len() <= 16);
        assert_eq!(verdicts.get(&key(number), Instant::now()), Some(number));
    }
    // The last half of the limit is there in any case.
    for number in 992..1000 {
        assert_eq!(verdicts.get(&key(number), Instant::now()), Some(number));
    }
    assert_eq!(verdicts.get(&key(0), Instant::now()), None);
    advance(Duration::from_secs(61)).await;
    assert_eq!(verdicts.get(&key(999), Instant::now()), None);
}
