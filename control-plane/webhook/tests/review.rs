//! The JSON edge: what API servers send, and what they would never send.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use outrigger_webhook::{Answer, InjectorConfig, NamespaceView, Outcome, Patch, Review, Verdict, inject};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::{Value, json};

fn namespace() -> NamespaceView {
    NamespaceView {
        name: "shop".to_owned(),
        labels: BTreeMap::from([("outrigger.dev/mode".to_owned(), "sidecar".to_owned())]),
    }
}

fn review(operation: &str, (group, kind): (&str, &str), object: impl Into<Value>, old: impl Into<Value>) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": group, "version": "v1", "kind": kind },
            "resource": { "group": group, "version": "v1", "resource": "things" },
            "requestKind": { "group": group, "version": "v1", "kind": kind },
            "namespace": "shop",
            "operation": operation,
            "userInfo": { "username": "admin", "extra": { "a": ["b"] } },
            "object": object.into(),
            "oldObject": old.into(),
            "dryRun": true,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "generateName": "front-", "creationTimestamp": null },
        "spec": { "containers": [{ "name": "app", "image": "a", "livenessProbe": { "tcpSocket": { "port": 80 } } }] },
        "status": {},
    })
}

fn parse(review: &Value) -> Review {
    Review::parse(&serde_json::to_vec(review).unwrap()).unwrap()
}

fn injected(review: &Value) -> (Answer, Value) {
    read(parse(review).inject(Some(&namespace()), &InjectorConfig::default()))
}

fn validated(review: &Value) -> (Answer, Value) {
    read(parse(review).validate())
}

/// The answer and its `response`, once it was seen to be what every API server takes.
fn read(answer: Answer) -> (Answer, Value) {
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(body["kind"], "AdmissionReview");
    let response = body["response"].clone();
    assert_eq!(response["uid"], "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!(response["allowed"].as_bool().unwrap(), response.get("status").is_none());
    assert_eq!(response.get("patch").is_some(), response["patchType"] == "JSONPatch");
    (answer, response)
}

#[test]
fn a_pod_gets_its_patch() {
    let (answer, response) = injected(&review("CREATE", ("", "Pod"), pod(), Value::Null));
    assert_eq!((answer.verdict, answer.message.as_str()), (Verdict::Injected, ""));
    assert_eq!(response["allowed"], true);
    let patch: ByteString = serde_json::from_value(response["patch"].clone()).unwrap();
    let patch: Patch = serde_json::from_slice(&patch.0).unwrap();
    let Ok(Outcome::Patched { patch: expected, .. }) = inject(&pod(), &namespace(), &InjectorConfig::default()) else {
        panic!("refused");
    };
    assert_eq!(patch, expected);
}

#[test]
fn what_is_no_creation_of_a_pod_is_let_through() {
    let mut status = review("CREATE", ("", "Pod"), pod(), Value::Null);
    status["request"]["subResource"] = "ephemeralcontainers".into();
    let others = [
        review("UPDATE", ("", "Pod"), pod(), pod()),
        review("DELETE", ("", "Pod"), Value::Null, pod()),
        review("CONNECT", ("", "Pod"), Value::Null, Value::Null),
        review("CREATE", ("example.org", "Pod"), pod(), Value::Null),
        review("CREATE", ("apps", "Deployment"), pod(), Value::Null),
        status,
    ];
    for other in others {
        let (answer, response) = injected(&other);
        assert_eq!(answer.verdict, Verdict::Untouched, "{other}");
        assert!(response["allowed"] == true && response.get("patch").is_none(), "{response}");
    }
}

#[test]
fn refusals_and_warnings() {
    let mut object = pod();
    object["spec"]["hostNetwork"] = true.into();
    let (answer, response) = injected(&review("CREATE", ("", "Pod"), object.clone(), Value::Null));
    assert_eq!(answer.verdict, Verdict::Untouched);
    assert!(response["warnings"][0].as_str().unwrap().starts_with("not injected: spec.hostNetwork"), "{response}");

    object["metadata"]["labels"] = json!({ "outrigger.dev/mode": "sidecar" });
    let (answer, response) = injected(&review("CREATE", ("", "Pod"), object, Value::Null));
    assert_eq!(answer.verdict, Verdict::Refused);
    assert_eq!(response["status"]["code"], 422);
    let message = response["status"]["message"].as_str().unwrap();
    assert!(message.starts_with("Pod/shop/front-: spec.hostNetwork: the pod uses its node's network"), "{message}");
    assert_eq!(message, answer.message);

    let unknown = parse(&review("CREATE", ("", "Pod"), pod(), Value::Null)).inject(None, &InjectorConfig::default());
    let (answer, response) = read(unknown);
    assert_eq!((answer.verdict, &response["status"]["code"]), (Verdict::Unknown, &json!(503)));
}

#[test]
fn a_message_of_any_length_is_cut() {
    let mut object = pod();
    let annotations = (0..2000).map(|index| (format!("outrigger.dev/ä{index}"), json!("x"))).collect();
    object["metadata"]["annotations"] = Value::Object(annotations);
    let (answer, _) = injected(&review("CREATE", ("", "Pod"), object, Value::Null));
    assert!(answer.message.len() < 10_000 && answer.message.ends_with('…'));
}

#[test]
fn not_reviews() {
    let whole = review("CREATE", ("", "Pod"), pod(), Value::Null);
    let with = |path: &str, value: Value| {
        let mut changed = whole.clone();
        *changed.pointer_mut(path).unwrap() = value;
        changed.to_string()
    };
    let table = [
        (String::new(), "EOF"),
        ("null".to_owned(), "invalid type"),
        ("[]".to_owned(), "invalid length"),
        ("{}".to_owned(), "missing field"),
        (with("/apiVersion", json!("admission.k8s.io/v1beta1")), "it is a AdmissionReview of admission.k8s.io/v1beta1"),
        (with("/kind", json!("Pod")), "it is a Pod of"),
        (with("/request", Value::Null), "there is none"),
        (with("/request", json!({})), "missing field `uid`"),
        (with("/request/uid", json!("")), "its uid is empty"),
        (with("/request/uid", json!(1)), "invalid type"),
        (with("/request/kind", json!("Pod")), "invalid type"),
        (with("/request/operation", json!(["CREATE"])), "invalid type"),
        (whole.to_string() + "{}", "trailing characters"),
        (with("/request/object", json!("DEEP")).replace("\"DEEP\"", &"[".repeat(100_000)), "recursion limit"),
    ];
    for (body, expected) in table {
        let error = Review::parse(body.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}: {:.80}", body);
    }
    Review::parse(b"\xff\xfe").unwrap_err();
    Review::parse(&whole.to_string().into_bytes()[..300]).unwrap_err();
}

/// Nothing that an object may be makes a panic, in either webhook.
#[test]
fn objects_of_any_shape_are_answered() {
    let shapes = [json!(null), json!(1), json!("x"), json!([]), json!([1, null]), json!({}), json!({ "a": {} })];
    let paths = [
        "/metadata",
        "/metadata/labels",
        "/metadata/annotations",
        "/metadata/annotations/outrigger.dev~1workers",
        "/spec",
        "/spec/containers",
        "/spec/containers/0",
        "/spec/containers/0/name",
        "/spec/containers/0/ports",
        "/spec/containers/0/livenessProbe",
        "/spec/containers/0/livenessProbe/tcpSocket",
        "/spec/containers/0/livenessProbe/tcpSocket/port",
        "/spec/containers/0/securityContext",
        "/spec/initContainers",
        "/spec/volumes",
        "/spec/securityContext",
        "/spec/os",
        "/spec/rules",
        "/spec/parentRefs",
    ];
    let mut whole = pod();
    whole["metadata"]["labels"] = json!({ "outrigger.dev/mode": "shared" });
    whole["metadata"]["annotations"] = json!({ "outrigger.dev/workers": "1" });
    whole["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 1 }]);
    whole["spec"]["containers"][0]["securityContext"] = json!({ "runAsUser": 1 });
    for member in ["initContainers", "volumes", "securityContext", "os", "rules", "parentRefs"] {
        whole["spec"][member] = json!([]);
    }
    for path in paths {
        for shape in &shapes {
            let mut object = whole.clone();
            *object.pointer_mut(path).unwrap() = shape.clone();
            injected(&review("CREATE", ("", "Pod"), object.clone(), Value::Null));
            for kind in [("outrigger.dev", "MeshRoute"), ("gateway.networking.k8s.io", "HTTPRoute"), ("", "Namespace")]
            {
                validated(&review("UPDATE", kind, object.clone(), whole.clone()));
            }
        }
    }
    for shape in shapes {
        injected(&review("CREATE", ("", "Pod"), shape.clone(), Value::Null));
        validated(&review("CREATE", ("outrigger.dev", "MeshRoute"), shape, Value::Null));
    }
}

/// Bytes changed at random are answered or refused, whatever they say.
#[test]
fn damaged_bodies_are_survived() {
    let body = review("CREATE", ("", "Pod"), pod(), Value::Null).to_string().into_bytes();
    let mut random = SmallRng::seed_from_u64(7);
    let mut read = 0;
    for _ in 0..3000 {
        let mut damaged = body.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..damaged.len().max(1));
            match random.random_range(0..3) {
                0 if at < damaged.len() => damaged[at] = *b"{}[]\",:0\\n\xc3 ".choose(&mut random).unwrap(),
                1 if at < damaged.len() => drop(damaged.remove(at)),
                _ => damaged.truncate(damaged.len() - damaged.len() / 50 * usize::from(at % 8 == 0)),
            }
        }
        if let Ok(review) = Review::parse(&damaged) {
            read += 1;
            let answer = review.inject(Some(&namespace()), &InjectorConfig::default());
            serde_json::from_slice::<Value>(&answer.body).unwrap();
            review.validate();
        }
    }
    assert!(read > 100, "{read}");
}
