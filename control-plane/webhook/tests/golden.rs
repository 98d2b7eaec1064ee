//! From pod to injected pod: each folder of `golden/` holds `pod.yaml`, perhaps `namespace.yaml` (else it is `shop`,
//! labelled `outrigger.dev/mode: sidecar`) and `config.yaml`, and what must come of it: `out.yaml`, or `refusal.txt`.
//! `BLESS=1` rewrites them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{env, fs, path::Path};

use outrigger_webhook::{InjectorConfig, NamespaceView, Outcome, Patch, apply, inject};
use serde_json::{Value, json};

struct Case {
    name: String,
    folder: std::path::PathBuf,
    pod: Value,
    namespace: NamespaceView,
    config: InjectorConfig,
}

fn read(folder: &Path, file: &str) -> Option<String> {
    fs::read_to_string(folder.join(file)).ok()
}

fn cases() -> Vec<Case> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders: Vec<_> = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert!(folders.len() >= 20);
    folders.into_iter().map(case).collect()
}

fn case(folder: std::path::PathBuf) -> Case {
    let namespace = read(&folder, "namespace.yaml")
        .unwrap_or_else(|| "metadata: {name: shop, labels: {outrigger.dev/mode: sidecar}}".to_owned());
    let namespace: Value = serde_yaml::from_str(&namespace).unwrap();
    let labels = namespace["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    Case {
        name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
        pod: serde_yaml::from_str(&read(&folder, "pod.yaml").unwrap()).unwrap(),
        namespace: NamespaceView {
            name: namespace["metadata"]["name"].as_str().unwrap().to_owned(),
            labels: labels.into_iter().map(|(key, value)| (key, value.as_str().unwrap().to_owned())).collect(),
        },
        config: InjectorConfig::from_yaml(&read(&folder, "config.yaml").unwrap_or_default()).unwrap(),
        folder,
    }
}

fn injected(pod: &Value, patch: &Patch) -> Value {
    let mut pod = pod.clone();
    apply(&mut pod, patch).unwrap();
    pod
}

/// File and text.
fn out(case: &Case) -> (&'static str, String) {
    let out = match inject(&case.pod, &case.namespace, &case.config) {
        Err(refusal) => return ("refusal.txt", format!("{refusal}\n")),
        Ok(Outcome::Untouched { why, warnings }) => json!({ "untouched": why.to_string(), "warnings": warnings }),
        Ok(Outcome::Patched { patch, warnings }) => {
            let operations: Vec<String> = patch
                .iter()
                .map(|operation| {
                    let operation = serde_json::to_value(operation).unwrap();
                    format!("{} {}", operation["op"].as_str().unwrap(), operation["path"].as_str().unwrap())
                })
                .collect();
            json!({ "operations": operations, "pod": injected(&case.pod, &patch), "warnings": warnings })
        }
    };
    ("out.yaml", serde_yaml::to_string(&out).unwrap())
}

#[test]
fn pods_become_what_lies_beside_them() {
    let mut stale = Vec::new();
    for case in cases() {
        let (file, text) = out(&case);
        let other = if file == "out.yaml" { "refusal.txt" } else { "out.yaml" };
        if env::var_os("BLESS").is_some() {
            fs::write(case.folder.join(file), &text).unwrap();
            let _ = fs::remove_file(case.folder.join(other));
        }
        if read(&case.folder, file).as_deref() != Some(&text) || case.folder.join(other).exists() {
            stale.push(case.name);
        }
    }
    assert!(
        stale.is_empty(),
        "{stale:?}: compare with BLESS=1 cargo test -p outrigger-webhook --test golden; git diff"
    );
}

#[test]
fn injecting_twice_is_injecting_once() {
    for case in cases() {
        let Ok(Outcome::Patched { patch, .. }) = inject(&case.pod, &case.namespace, &case.config) else { continue };
        let mut pod = injected(&case.pod, &patch);
        again(&case, &pod);
        // As other webhooks and the API server change it before it is shown again.
        let user = json!({ "runAsUser": 1000 });
        let spec = pod["spec"].as_object_mut().unwrap();
        let init = spec["initContainers"].as_array_mut().unwrap();
        init.insert(0, json!({ "name": "first", "image": "a", "securityContext": user }));
        for container in init.iter_mut() {
            container["volumeMounts"] = json!([{ "name": "kube-api-access-x", "mountPath": "/var/run/secrets/x" }]);
            container["image"] = "mirror.example/other:1".into();
        }
        let probe = json!({ "tcpSocket": { "port": 80 } });
        spec.entry("containers")
            .or_insert_with(|| json!([]))
            .as_array_mut()
            .unwrap()
            .push(json!({ "name": "added", "image": "b", "livenessProbe": probe, "securityContext": user }));
        spec.insert("hostAliases".into(), json!([]));
        pod["metadata"]["annotations"]["other.example/of"] = "a".into();
        pod["metadata"]["annotations"]["outrigger.dev/injected"] = "0.0.1".into();
        again(&case, &pod);
    }
}

#[track_caller]
fn again(case: &Case, pod: &Value) {
    let again = inject(pod, &case.namespace, &case.config);
    let Ok(Outcome::Untouched { why, .. }) = again else { panic!("{}: {again:?}", case.name) };
    assert_eq!(why.to_string(), "injected already", "{}", case.name);
}

/// Takes away what was added, by the operations' own words: the pod that was there must be left.
#[test]
fn nothing_else_changes() {
    for case in cases() {
        let Ok(Outcome::Patched { patch, .. }) = inject(&case.pod, &case.namespace, &case.config) else { continue };
        let mut pod = injected(&case.pod, &patch);
        let ours = |value: &Value| value["name"].as_str().is_some_and(|name| name.starts_with("outrigger-"));
        for list in ["initContainers", "volumes"] {
            let entries = pod["spec"][list].as_array_mut().unwrap();
            entries.retain(|entry| !ours(entry));
            if entries.is_empty() && case.pod["spec"].get(list).is_none() {
                pod["spec"].as_object_mut().unwrap().remove(list);
            } else if entries.is_empty() {
                pod["spec"][list] = case.pod["spec"][list].clone();
            }
        }
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove("outrigger.dev/injected");
        let mut before = case.pod.clone();
        if let Some(annotations) = before["metadata"]["annotations"].as_object_mut() {
            annotations.remove("outrigger.dev/injected");
        } else if before.get("metadata").is_none_or(Value::is_null) {
            before["metadata"] = json!({ "annotations": {} });
        } else {
            before["metadata"]["annotations"] = json!({});
        }
        for value in [&mut before, &mut pod] {
            forget_handlers(value);
        }
        assert_eq!(pod, before, "{}", case.name);
        for operation in patch.iter() {
            let operation = serde_json::to_value(operation).unwrap();
            let path = operation["path"].as_str().unwrap();
            assert!(path.contains("Probe/") || operation["op"] == "add", "{}: {operation}", case.name);
        }
    }
}

/// What a probe asks is changed on purpose, how often and the like isn't; a hook of ours is a new one.
fn forget_handlers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Object(hooks)) = fields.get_mut("lifecycle") {
                hooks.retain(|_, hook| {
                    let path = hook["httpGet"]["path"].as_str().unwrap_or_default();
                    !hook.is_null() && !path.starts_with("/departure?")
                });
                if hooks.is_empty() {
                    fields.remove("lifecycle");
                }
            }
            for (name, value) in fields.iter_mut() {
                if let (true, Some(probe)) = (name.ends_with("Probe"), value.as_object_mut()) {
                    probe.retain(|name, _| name != "tcpSocket" && name != "httpGet");
                }
                forget_handlers(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(forget_handlers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
