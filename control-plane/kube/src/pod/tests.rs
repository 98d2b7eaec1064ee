use serde_json::json;

use super::*;

/// An injected pod that runs; `change` is merged into it.
fn pod(change: &Value) -> Pod {
    let container =
        |name: &str, stays: bool| json!({ "name": name, "restartPolicy": if stays { "Always" } else { "" } });
    let mut value = json!({
        "metadata": { "name": "p", "namespace": "a", "annotations": { "outrigger.dev/injected": "1" } },
        "spec": {
            "containers": [container("app", false)],
            "initContainers": [
                container("outrigger-redirect", false), container("outrigger-guard", true),
                container("outrigger-sidecar", true), container("migrate", false), container("cache", true),
            ],
        },
        "status": {
            "phase": "Running",
            "containerStatuses": [{ "name": "app", "ready": true }],
            "initContainerStatuses": [
                { "name": "outrigger-redirect", "ready": false }, { "name": "outrigger-guard", "ready": true },
                { "name": "outrigger-sidecar", "ready": false }, { "name": "migrate", "ready": false },
                { "name": "cache", "ready": true },
            ],
        },
    });
    json_patch::merge(&mut value, change);
    Pod::read(value).unwrap()
}

#[test]
fn what_a_pod_has_and_wishes() {
    let init = |names: &[&str]| -> Vec<Value> { names.iter().map(|name| json!({ "name": name })).collect() };
    let table = [
        (json!({}), Mode::Sidecar, None),
        (json!({ "spec": { "initContainers": init(&["outrigger-guard"]) } }), Mode::Shared, None),
        (json!({ "spec": { "initContainers": init(&["outrigger-sidecar"]) } }), Mode::None, None),
        (json!({ "metadata": { "annotations": null } }), Mode::None, None),
        (json!({ "metadata": { "labels": { "outrigger.dev/mode": "shared" } } }), Mode::Sidecar, Some(Mode::Shared)),
        (json!({ "metadata": { "annotations": { "outrigger.dev/mode": "none" } } }), Mode::Sidecar, Some(Mode::None)),
        (
            json!({ "metadata": { "labels": { "outrigger.dev/mode": "sidecar" }, "annotations": { "outrigger.dev/mode": "none" } } }),
            Mode::Sidecar,
            Some(Mode::Sidecar),
        ),
        (json!({ "metadata": { "labels": { "outrigger.dev/mode": "yes" } } }), Mode::Sidecar, None),
    ];
    for (change, has, wish) in table {
        let pod = pod(&change);
        assert_eq!((pod.has, pod.wish), (has, wish), "{change}");
    }
}

#[test]
fn fit_is_ready_but_for_the_sidecar() {
    let statuses = |guard: bool, cache: bool| {
        json!({ "status": { "initContainerStatuses": [
            { "name": "outrigger-guard", "ready": guard }, { "name": "cache", "ready": cache },
        ] } })
    };
    let gate = |status: &str| {
        json!({
            "spec": { "readinessGates": [{ "conditionType": "x/y" }] },
            "status": { "conditions": [{ "type": "x/y", "status": status }] },
        })
    };
    let table = [
        (json!({}), true),
        (statuses(true, true), true),
        (statuses(false, true), false),
        (statuses(true, false), false),
        (json!({ "status": { "containerStatuses": [{ "name": "app", "ready": false }] } }), false),
        (json!({ "status": { "containerStatuses": [] } }), false),
        (json!({ "status": { "phase": "Pending" } }), false),
        (gate("True"), true),
        (gate("False"), false),
    ];
    for (change, fit) in table {
        assert_eq!(pod(&change).fit, fit, "{change}");
    }
}

#[test]
fn who_has_a_pods_connections_is_what_its_containers_say() {
    let statuses = |all: &[(&str, bool)]| {
        let all: Vec<Value> = all.iter().map(|(name, ready)| json!({ "name": name, "ready": ready })).collect();
        json!({ "status": { "initContainerStatuses": all } })
    };
    let (guard, sidecar) = ("outrigger-guard", "outrigger-sidecar");
    for (change, carrier) in [
        (statuses(&[(guard, true), (sidecar, true)]), Carrier::Sidecar),
        (statuses(&[(guard, false), (sidecar, true)]), Carrier::Sidecar),
        (statuses(&[(guard, true), (sidecar, false)]), Carrier::Guard),
        (statuses(&[(guard, true)]), Carrier::Guard),
        (statuses(&[(guard, false), (sidecar, false)]), Carrier::Nobody),
        (statuses(&[]), Carrier::Nobody),
    ] {
        assert_eq!(pod(&change).carrier, carrier, "{change}");
    }
}

#[test]
fn ports_are_those_of_the_app() {
    let port = |name: &str, number: i64, protocol: &str| json!({ "name": name, "containerPort": number, "protocol": protocol });
    let found = pod(&json!({ "spec": {
        "containers": [
            { "name": "app", "ports": [port("web", 80, "TCP"), port("dns", 53, "UDP"), { "containerPort": 81 }] },
            { "name": "other", "ports": [port("again", 80, "TCP"), port("odd", 70_000, "TCP")] },
        ],
        "initContainers": [
            { "name": "outrigger-guard", "restartPolicy": "Always", "ports": [port("x", 15023, "TCP")] },
            { "name": "cache", "restartPolicy": "Always", "ports": [port("cache", 6379, "TCP")] },
            { "name": "migrate", "ports": [port("never", 1, "TCP")] },
        ],
    } }));
    let ports: Vec<_> = found.ports.iter().map(|port| (port.port, port.name.as_str())).collect();
    assert_eq!(ports, [(80, "web"), (81, ""), (6379, "cache")]);
}

#[test]
fn probes_that_come_in_plaintext() {
    let http = |path: &str, port: Value| json!({ "httpGet": { "path": path, "port": port, "scheme": "HTTP" } });
    // Each as a container's field.
    let table = [
        (json!({ "livenessProbe": http("/live", json!(8080)) }), vec![(8080, "/live", false)]),
        (json!({ "readinessProbe": http("/ready?deep=1#x", json!("web")) }), vec![(80, "/ready", false)]),
        (json!({ "startupProbe": http("", json!(8080)) }), vec![(8080, "/", false)]),
        (json!({ "startupProbe": http("started", json!(8080)) }), vec![(8080, "/started", false)]),
        (json!({ "livenessProbe": http("/x", json!("unknown")) }), vec![]),
        (json!({ "livenessProbe": http("/x", json!(0)) }), vec![]),
        (json!({ "livenessProbe": { "httpGet": { "path": "/", "port": 443, "scheme": "HTTPS" } } }), vec![]),
        (json!({ "livenessProbe": { "httpGet": { "path": "/", "port": 80, "host": "192.0.2.1" } } }), vec![]),
        // Rewritten by the injector, and never captured.
        (json!({ "livenessProbe": http("/probe/tcp/80", json!(15023)) }), vec![]),
        (json!({ "livenessProbe": { "tcpSocket": { "port": 80 } } }), vec![]),
        (json!({ "readinessProbe": { "exec": { "command": ["true"] } } }), vec![]),
        (json!({ "livenessProbe": { "grpc": { "port": 9000, "service": "x" } } }), vec![(9000, "", true)]),
        (
            json!({ "lifecycle": { "preStop": http("/stop", json!(80)), "postStart": { "sleep": { "seconds": 1 } } } }),
            vec![(80, "/stop", false)],
        ),
        (
            json!({ "livenessProbe": http("/a", json!(80)), "readinessProbe": http("/a", json!(80)), "startupProbe": http("/b", json!(80)) }),
            vec![(80, "/b", false), (80, "/a", false)],
        ),
    ];
    for (mut container, expected) in table {
        container["name"] = "app".into();
        container["ports"] = json!([{ "name": "web", "containerPort": 80 }]);
        let found = pod(&json!({ "spec": { "containers": [container.clone()] } }));
        let probes: Vec<_> = found.probes.iter().map(|probe| (probe.port, probe.path.as_str(), probe.grpc)).collect();
        assert_eq!(probes, expected, "{container}");
    }
}

#[test]
fn the_rest_of_a_pod() {
    let found = pod(&json!({
        "metadata": {
            "uid": "u", "creationTimestamp": "1970-01-01T00:01:00Z", "deletionTimestamp": "1970-01-01T00:02:00Z",
            "ownerReferences": [{ "kind": "X", "name": "x" }, { "kind": "ReplicaSet", "name": "r", "controller": true }],
        },
        "spec": { "nodeName": "n", "hostNetwork": true, "aFieldOfLater": [{}] },
        "status": { "podIP": "10.0.0.1", "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "fd00::1" }, { "ip": "no" }] },
    }));
    let addresses: Vec<_> = found.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.1", "fd00::1"]);
    assert_eq!((found.created, found.terminating, found.host_network), (Some(60), true, true));
    assert_eq!(
        (found.owner.as_str(), found.node.as_str(), found.service_account.as_str()),
        ("ReplicaSet/r", "n", "default")
    );
    for (phase, expected) in
        [("Pending", Phase::Pending), ("Failed", Phase::Ended), ("Succeeded", Phase::Ended), ("", Phase::Unknown)]
    {
        assert_eq!(pod(&json!({ "status": { "phase": phase } })).phase, expected);
    }
    assert!(Pod::read(json!({ "metadata": { "name": 1 } })).is_err());
}
