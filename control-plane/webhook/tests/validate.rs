//! Verdicts on objects, through the edge.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use outrigger_core::config::Service;
use outrigger_webhook::{Review, Verdict};
use outrigger_wire::proto::config as wire;
use serde_json::{Value, json};

/// Verdict, message and warnings.
fn judge(object: &Value, old: &Value) -> (Verdict, String, Vec<String>) {
    let (group, _) = object["apiVersion"].as_str().unwrap().split_once('/').unwrap_or_default();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let operation = if old.is_null() { "CREATE" } else { "UPDATE" };
    let review = json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "1",
            "kind": { "group": group, "version": "v1", "kind": object["kind"] },
            "name": object["metadata"]["name"],
            "namespace": namespace,
            "operation": operation,
            "object": object,
            "oldObject": old,
        },
    });
    let answer = Review::parse(review.to_string().as_bytes()).unwrap().validate();
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    let warnings = serde_json::from_value(body["response"]["warnings"].clone()).unwrap_or_default();
    (answer.verdict, answer.message, warnings)
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

fn allowed(object: &Value) -> Vec<String> {
    let (verdict, message, warnings) = judge(object, &Value::Null);
    assert_eq!(verdict, Verdict::Allowed, "{message}");
    warnings
}

fn mesh_route(regex: &str) -> Value {
    json!({
        "apiVersion": "outrigger.dev/v1alpha1",
        "kind": "MeshRoute",
        "metadata": { "name": "canary", "namespace": "shop", "managedFields": [{ "manager": "kubectl", "future": 1 }] },
        "spec": {
            "parentRefs": [{ "name": "catalog" }],
            "rules": [{
                "matches": [{ "path": { "type": "RegularExpression", "value": regex } }],
                "backendRefs": [{ "name": "catalog", "port": 80 }],
            }],
        },
    })
}

fn http_route(parent: &str, rule: &str) -> Value {
    yaml(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: a, namespace: shop}}\n\
        spec:\n  parentRefs: [{parent}]\n  rules: [{rule}]\n  futureOfSpec: {{a: 1}}\n"
    ))
}

const SERVICE: &str = "{group: '', kind: Service, name: a}";
const GATEWAY: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: a}";

#[test]
fn problems_name_object_field_and_remedy() {
    let mut object = mesh_route("(");
    object["spec"]["rules"][0]["matches"][0]["callers"] = json!([{ "identity": "x" }]);
    let (verdict, message, _) = judge(&object, &Value::Null);
    assert_eq!(verdict, Verdict::Denied);
    assert_eq!(
        message,
        "MeshRoute/shop/canary: spec.rules[0].matches[0].path.value: not a regular expression: unclosed group; \
        write RE2 syntax: no look-around, no back-references\n\
        MeshRoute/shop/canary: spec.rules[0].matches[0].callers[0].identity: not a SPIFFE ID of a workload: \
        \"x\"; write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
    );
}

#[test]
fn good_objects_are_let_in() {
    assert_eq!(allowed(&mesh_route("/v[0-9]+/.*")), [""; 0]);
    assert_eq!(allowed(&http_route(SERVICE, "{backendRefs: [{name: b, port: 80}], futureOfRule: 1}")), [""; 0]);
    let mut newer = mesh_route("a");
    newer["spec"]["futureOfSpec"] = json!([1]);
    assert_eq!(allowed(&newer), [""; 0]);
    let object = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {outrigger.dev/mode: shared}}";
    assert_eq!(allowed(&yaml(object)), [""; 0]);
    let foreign = "apiVersion: example.org/v1\nkind: MeshRoute\nmetadata: {name: a}\nspec: 1";
    assert_eq!(allowed(&yaml(foreign)), [""; 0]);
}

#[test]
fn a_namespace_with_a_misspelt_mode_is_refused() {
    let object = yaml("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {outrigger.dev/mode: sidcar}}");
    let (verdict, message, _) = judge(&object, &Value::Null);
    let expected =
        "Namespace/shop: metadata.labels[\"outrigger.dev/mode\"]: \"sidcar\" is no mode; did you mean sidecar?";
    assert_eq!((verdict, message.as_str()), (Verdict::Denied, expected));
    // One that is there already isn't held up.
    assert_eq!(judge(&object, &object).0, Verdict::Allowed);
}

#[test]
fn routes_of_gateways_are_not_ours() {
    let rule = "{matches: [{path: {type: RegularExpression, value: '('}}]}";
    assert_eq!(allowed(&http_route(GATEWAY, rule)), [""; 0]);
    let (verdict, message, _) = judge(&http_route(&format!("{GATEWAY}, {SERVICE}"), rule), &Value::Null);
    assert!(verdict == Verdict::Denied && message.contains("spec.rules[0].matches[0].path.value"), "{message}");
}

#[test]
fn what_a_newer_api_has_is_let_in_with_a_warning() {
    for rule in [
        "{filters: [{type: ExternalAuth, externalAuth: {protocol: GRPC}}]}",
        "{matches: [{method: QUERY}]}",
        "{matches: [{path: {type: Glob, value: /a}}]}",
    ] {
        let warnings = allowed(&http_route(SERVICE, rule));
        assert!(warnings[0].starts_with("the mesh can't use it: spec.rules[0]."), "{warnings:?}");
    }
}

#[test]
fn what_has_no_effect_is_said() {
    let mut object = http_route(SERVICE, "{filters: [{type: CORS, cors: {}}], sessionPersistence: {}}");
    object["spec"]["hostnames"] = json!(["a.example"]);
    let warnings = allowed(&object);
    assert_eq!(
        warnings,
        [
            "spec.hostnames: they have no effect on routes of Services; remove them",
            "spec.rules[0].sessionPersistence: not supported, no effect; use a MeshRoute's stickiness",
            "spec.rules[0].filters[0]: CORS isn't supported: requests are answered with 500",
        ]
    );
    assert!(warnings.iter().all(|warning| warning.len() <= 120));
}

#[test]
fn what_is_stored_already_is_not_held_up() {
    let bad = mesh_route("(");
    // Its labels, finalizers and the like may change,
    let mut labelled = bad.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    let (verdict, _, warnings) = judge(&labelled, &bad);
    assert!(verdict == Verdict::Allowed && warnings[0].contains("unclosed group"), "{warnings:?}");
    // it may go,
    let mut going = mesh_route("[");
    going["metadata"]["deletionTimestamp"] = "2026-11-24T08:00:00Z".into();
    assert_eq!(judge(&going, &bad).0, Verdict::Allowed);
    // but what is written anew must be good.
    assert_eq!(judge(&mesh_route("["), &bad).0, Verdict::Denied);
}

/// As many patterns as there may be, each as large as it may get, are compiled within the time that an API server waits
/// (10 s at least, here in a debug build on a busy machine).
#[test]
fn patterns_are_bounded() {
    let heavy = |count: usize| {
        let mut object = mesh_route("a");
        let matches = |rule: usize| {
            let of =
                |index| json!({ "path": { "type": "RegularExpression", "value": format!("{index}(a{{200}}){{5}}") } });
            (0..16).map(|index| of(rule * 16 + index)).collect::<Vec<_>>()
        };
        let rule = |rule| json!({ "matches": matches(rule), "backendRefs": [{ "name": "catalog", "port": 80 }] });
        object["spec"]["rules"] = (0..count / 16).map(rule).collect();
        object
    };
    let started = Instant::now();
    allowed(&heavy(256));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());

    let started = Instant::now();
    let mut object = heavy(256);
    object["spec"]["rules"][0]["matches"][0]["headers"] =
        json!([{ "name": "x", "type": "RegularExpression", "value": "a" }]);
    let (verdict, message, _) = judge(&object, &Value::Null);
    assert!(verdict == Verdict::Denied && message.contains("more than 256 regular expressions"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// The verdict on a path is the proxy's: what is let in compiles there, what it can't compile isn't let in.
#[test]
fn proxies_take_what_is_let_in() {
    use wire::path_match::Pattern;
    let compiles = |pattern| {
        let path = wire::PathMatch { pattern: Some(pattern) };
        let request = wire::RouteMatch { path: Some(path), ..wire::RouteMatch::default() };
        let table = wire::RouteTable {
            entries: vec![wire::RouteEntry { r#match: Some(request), ..wire::RouteEntry::default() }],
            rules: vec![wire::RouteRule::default()],
            ..wire::RouteTable::default()
        };
        let service = wire::Service { name: "a".into(), route_tables: vec![table], ..wire::Service::default() };
        Service::compile(service).is_ok()
    };
    let long = "a".repeat(1024);
    let patterns = [
        "a.*",
        "^/v[0-9]+$",
        "",
        "(",
        "(?=a)",
        r"(a)\1",
        "a)|(b",
        "((a{1000}){1000}){1000}",
        "(a{1000}){10}",
        "\\pL{200}",
        "(?i)ß",
        "[[:alpha:]]",
        "\\x{110000}",
        "a{1001}",
        "a**",
        &long,
    ];
    for regex in patterns {
        let denied = judge(&mesh_route(regex), &Value::Null).0 == Verdict::Denied;
        assert_eq!(compiles(Pattern::Regex(regex.into())), !denied, "{regex:?}");
    }
    for path in ["/", "/a", "/a/", "/%C3%A4", "/a%2Fb", "a", "/a?b", "/a b", "/..", "//a", "/%zz", "/a%00", "/a\\b"] {
        let mut object = mesh_route("");
        object["spec"]["rules"][0]["matches"][0]["path"] = json!({ "type": "Exact", "value": path });
        if judge(&object, &Value::Null).0 == Verdict::Allowed {
            assert!(compiles(Pattern::Exact(path.into())), "{path:?}");
        }
    }
}
