//! Injection of files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use outrigger_webhook::{InjectorConfig, Manifest, ManifestError, NamespaceView, Untouched, inject_yaml};
use serde_json::Value;

fn run(text: &str) -> Result<Manifest, ManifestError> {
    let labels = BTreeMap::from([("outrigger.dev/mode".to_owned(), "sidecar".to_owned())]);
    let namespace = NamespaceView { name: "shop".to_owned(), labels };
    inject_yaml(text, &InjectorConfig::default(), &namespace)
}

fn documents(text: &str) -> Vec<Value> {
    let read = |document| serde::Deserialize::deserialize(document).unwrap();
    serde_yaml::Deserializer::from_str(text).map(read).collect()
}

fn workload(kind: &str, api: &str) -> String {
    format!(
        "apiVersion: {api}\nkind: {kind}\nmetadata:\n  name: front\nspec:\n  template:\n    metadata:\n      labels:\n        \
        app: front\n    spec:\n      containers:\n      - name: app\n        image: a\n"
    )
}

#[test]
fn every_kind_with_pods_is_injected() {
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"] {
        let out = run(&workload(kind, "apps/v1")).unwrap();
        assert_eq!(out.injected, [format!("{kind}/shop/front")]);
        let document = &documents(&out.text)[0];
        assert_eq!(document["spec"]["template"]["spec"]["initContainers"][0]["name"], "outrigger-redirect");
        assert!(document["metadata"].get("annotations").is_none());
    }
    assert_eq!(run(&workload("Job", "batch/v1")).unwrap().injected.len(), 1);
    let cron =
        "kind: CronJob\nmetadata: {name: nightly}\nspec: {jobTemplate: {spec: {template: {spec: {containers: []}}}}}";
    assert_eq!(run(cron).unwrap().injected, ["CronJob/shop/nightly"]);
    let pod = "kind: Pod\nmetadata: {name: a, namespace: other}\nspec: {containers: []}";
    assert_eq!(run(pod).unwrap().injected, ["Pod/other/a"]);
    let list = "kind: List\nitems: [{kind: Pod, metadata: {name: a}, spec: {containers: []}}, {kind: Service}]";
    assert_eq!(run(list).unwrap().injected, ["Pod/shop/a"]);
}

#[test]
fn the_rest_is_passed_through_to_the_letter() {
    let service = "# The shop's face.\napiVersion: v1\nkind: Service # really\nmetadata:   {name: front}\n";
    let out =
        run(&format!("{service}---\n{}---\n# nothing\n---\n{service}", workload("Deployment", "apps/v1"))).unwrap();
    assert!(out.text.starts_with(&format!("{service}---\napiVersion: apps/v1\n")), "{}", out.text);
    assert!(out.text.ends_with(&format!("---\n# nothing\n---\n{service}")), "{}", out.text);
    assert_eq!(documents(&out.text).len(), 4);

    for text in ["", "\n", "# nothing\n", "a: 1\n", "- 1\n", "kind: Deployment\nspec: 1\n", "kind: 1\n"] {
        let out = run(text).unwrap();
        assert_eq!((out.text.as_str(), out.injected.len()), (text, 0));
    }
}

#[test]
fn twice_is_once() {
    let once = run(&format!("{}---\nkind: Service\n", workload("Deployment", "apps/v1"))).unwrap();
    let twice = run(&once.text).unwrap();
    assert_eq!(once.text, twice.text);
    assert_eq!(twice.untouched, [("Deployment/shop/front".to_owned(), Untouched::AlreadyInjected)]);
}

#[test]
fn what_kubectl_reads_otherwise_stays_what_it_was() {
    let text = "kind: Pod\nmetadata: {name: a, annotations: {on: 'yes', x: \"0644\"}}\nspec:\n  automountServiceAccountToken: no\n  \
        containers:\n  - &app\n    name: app\n    image: a\n    env: [{name: A, value: 'on'}, {name: B, value: '1e3'}]\n  \
        - <<: *app\n    name: other\n  volumes:\n  - {name: c, configMap: {name: c, defaultMode: 0644}}\n";
    let out = run(text).unwrap().text;
    for line in [
        "\"on\": \"yes\"",
        "x: \"0644\"",
        "automountServiceAccountToken: false",
        "value: \"on\"",
        "value: \"1e3\"",
        "defaultMode: 420",
        "name: other",
    ] {
        assert!(out.contains(line), "{line}: {out}");
    }
    assert!(!out.contains("<<"));
    // A network of the node's is seen, however it is written.
    let host = "kind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: yes, containers: []}";
    assert_eq!(run(host).unwrap().untouched, [("Pod/shop/a".to_owned(), Untouched::HostNetwork)]);
}

#[test]
fn json_stays_json() {
    let text = r#"{"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": []}}"#;
    let out = run(text).unwrap();
    let value: Value = serde_json::from_str(&out.text).unwrap();
    assert_eq!(value["spec"]["initContainers"][1]["name"], "outrigger-guard");
}

#[test]
fn all_problems_are_told() {
    let bad = "kind: Pod\nmetadata: {name: a}\nspec: {containers: [], securityContext: {runAsUser: 1337}, volumes: [{name: outrigger-state}]}";
    let error =
        run(&format!("{bad}\n---\na: [\n---\nkind: Pod\nmetadata: {{name: b}}\nspec: 1\n")).unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(
        lines[0],
        "Pod/shop/a: spec.volumes[0].name: the mesh's own volume is called outrigger-state; rename it"
    );
    assert!(lines[1].starts_with("line 6: ") && lines[1].ends_with("; correct the YAML"), "{error}");
    assert_eq!(lines[2], "Pod/shop/b: spec: it is no pod's; compare it with the Kubernetes reference");
    assert_eq!(lines.len(), 3);
}
