use serde_json::{Value, json};

use super::*;

const NEW: &str = "outrigger:2";

fn pod(change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = json!({
        "metadata": {
            "name": "front", "namespace": "shop", "uid": "1",
            "labels": { "app": "front" }, "annotations": { "outrigger.dev/injected": "1" },
        },
        "spec": {
            "containers": [{ "name": "app", "image": "app:1" }],
            "initContainers": [
                { "name": "outrigger-redirect", "image": "outrigger:1" },
                { "name": "outrigger-guard", "image": "outrigger:1", "restartPolicy": "Always" },
                { "name": "outrigger-sidecar", "image": "outrigger:1", "restartPolicy": "Always" },
            ],
        },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] },
    });
    change(&mut pod);
    serde_json::from_value(pod).unwrap()
}

fn service(change: impl FnOnce(&mut Value)) -> Service {
    let mut service = json!({
        "metadata": { "name": "front", "namespace": "shop" }, "spec": { "selector": { "app": "front" } },
    });
    change(&mut service);
    serde_json::from_value(service).unwrap()
}

/// `sidecar, guard`, with why the guard stays; or why all stays.
fn told(pod: &Pod, around: &Around) -> String {
    match judge(pod, NEW, around) {
        Judged::Current => "current".into(),
        Judged::Left(why) => format!("left: {why}"),
        Judged::Replace { parts, guard_stays } => {
            let parts: Vec<_> = parts.into_iter().map(Part::name).collect();
            let stays = guard_stays.map(|why| format!("; guard stays: {why}")).unwrap_or_default();
            format!("{}{stays}", parts.join(", "))
        }
    }
}

#[test]
fn what_becomes_of_a_pod() {
    type Change = fn(&mut Value);
    let init = |pod: &mut Value, at: usize| pod["spec"]["initContainers"][at]["image"] = NEW.into();
    let table: [(Change, &str); 9] = [
        (|_| {}, "sidecar, guard"),
        (|pod| pod["spec"]["initContainers"][2]["image"] = NEW.into(), "guard"),
        // What only ran once doesn't run another image.
        (
            |pod| {
                for at in [1, 2] {
                    pod["spec"]["initContainers"][at]["image"] = NEW.into();
                }
            },
            "current",
        ),
        (|pod| _ = pod["spec"]["initContainers"].as_array_mut().unwrap().pop(), "left: it has a guard alone"),
        (|pod| pod["status"]["phase"] = "Pending".into(), "left: it is not running"),
        (|pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into(), "left: it is ending"),
        (|pod| pod["status"]["conditions"] = json!([]), "left: it isn't ready"),
        // By name: the guard tries the app's port for the kubelet.
        (
            |pod| {
                pod["spec"]["containers"][0]["livenessProbe"] =
                    json!({ "httpGet": { "path": "/probe/tcp/80", "port": 15023 }, "periodSeconds": 1 });
            },
            "sidecar; guard stays: container app would be restarted",
        ),
        (
            |pod| {
                pod["spec"]["containers"][0]["livenessProbe"] =
                    json!({ "httpGet": { "path": "/probe/tcp/80", "port": 15023 }, "periodSeconds": 10 });
            },
            "sidecar, guard",
        ),
    ];
    for (change, wanted) in table {
        let text = told(&pod(change), &Around::default());
        assert!(text.starts_with(wanted), "{wanted}: {text}");
    }
    let alone = Around { alone: Some("front".into()), ..Around::default() };
    assert!(told(&pod(|_| {}), &alone).starts_with("sidecar; guard stays: while its guard is replaced"));
    let text = told(&pod(|pod| init(pod, 2)), &alone);
    assert!(text.starts_with("left: while its guard is replaced"), "{text}");
    let obstacle = Around { obstacle: Some("outrigger-guard.args is [1]".into()), ..Around::default() };
    assert!(told(&pod(|_| {}), &obstacle).starts_with("left: a running pod's images are all that"));
    for (version, restarts) in [("v1.31.9", false), ("v1.32.0", true), ("v1.34.4+k3s1", true), ("odd", true)] {
        let text = told(&pod(|_| {}), &Around { kubelet: Some(version.into()), ..Around::default() });
        assert_eq!(text == "sidecar, guard", restarts, "{version}: {text}");
    }
}

#[test]
fn only_what_the_injector_made_is_looked_at() {
    assert!(is_injected(&pod(|_| {})));
    assert!(!is_injected(&pod(|pod| pod["metadata"]["annotations"] = json!({}))));
    assert!(!is_injected(&pod(|pod| pod["spec"]["initContainers"] = json!([]))));
}

#[test]
fn a_pod_is_alone_if_a_service_has_no_other_one_that_is_ready() {
    let this = pod(|_| {});
    let ready = pod(|pod| pod["metadata"]["uid"] = "2".into());
    let unready = pod(|pod| {
        pod["metadata"]["uid"] = "3".into();
        pod["status"]["conditions"] = json!([]);
    });
    let elsewhere = pod(|pod| {
        pod["metadata"]["uid"] = "4".into();
        pod["metadata"]["namespace"] = "other".into();
    });
    let front = service(|_| {});
    let others = [
        service(|it| it["spec"]["selector"] = json!({ "app": "back" })),
        service(|it| it["spec"]["selector"] = json!({})),
        service(|it| it["metadata"]["namespace"] = "other".into()),
        service(|it| it["spec"]["publishNotReadyAddresses"] = true.into()),
    ];
    let told = |services: &[Service], pods: &[&Pod]| {
        alone(&this, services, &pods.iter().copied().cloned().collect::<Vec<_>>()).is_some()
    };
    assert!(told(std::slice::from_ref(&front), &[&this, &unready, &elsewhere]));
    assert!(!told(&[front], &[&this, &unready, &ready]));
    assert!(!told(&others, &[&this]));
}
