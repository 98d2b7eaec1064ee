//! Objects of a small cluster in which much meets: few names, few addresses, few labels. What all tests of random events
//! share.

use std::sync::Arc;

use outrigger_model::MeshSnapshot;
use serde_json::{Value, json};

use super::{
    Derived,
    kinds::{Content, Item, KINDS},
};

/// Numbers that look random, the same ones for each seed.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    pub(super) fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    pub(super) fn often(&mut self) -> bool {
        self.below(4) > 0
    }
}

const NAMESPACES: &[&str] = &["shop", "pay", "outrigger-system"];
const SERVICES: &[&str] = &["web", "db", "outrigger-shared"];
const PODS: &[&str] = &["a-1", "a-2", "b-1", "b-2"];
const ADDRESSES: &[&str] = &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"];
const LABELS: &[&str] = &["a", "b"];

fn metadata(namespace: &str, name: &str, labels: &Value) -> Value {
    json!({ "namespace": namespace, "name": name, "labels": labels, "resourceVersion": "1" })
}

fn pod(n: &mut Numbers, namespace: &str, name: &str) -> Value {
    let injected = n.often();
    let mut metadata = metadata(namespace, name, &json!({ "app": n.one(LABELS), "tier": n.one(LABELS) }));
    metadata["uid"] = n.one(&["1", "2"]).into();
    if injected {
        metadata["annotations"] = json!({ "outrigger.dev/injected": "1" });
    }
    if n.below(8) == 0 {
        metadata["deletionTimestamp"] = "2026-11-01T00:00:00Z".into();
    }
    let helpers =
        if injected { json!([{ "name": "outrigger-guard" }, { "name": "outrigger-sidecar" }]) } else { json!([]) };
    let addresses: Vec<Value> = (0..n.below(8).min(2)).map(|_| json!({ "ip": n.one(ADDRESSES) })).collect();
    json!({
        "metadata": metadata,
        "spec": {
            "nodeName": n.one(&["node-1", "node-2"]),
            "serviceAccountName": n.one(&["front", "back", "no account!"]),
            "hostNetwork": n.below(8) == 0,
            "containers": [{ "name": "app", "ports": [{ "name": n.one(&["http", "other"]), "containerPort": 8080 }] }],
            "initContainers": helpers,
        },
        "status": {
            "phase": n.one(&["Running", "Running", "Running", "Running", "Pending", "Succeeded"]),
            "podIPs": addresses,
            "containerStatuses": [{ "name": "app", "ready": n.often() }],
        },
    })
}

fn slice(n: &mut Numbers, namespace: &str, service: &str, name: &str) -> Value {
    let endpoints: Vec<Value> = (0..n.below(4))
        .map(|_| {
            let target = json!({ "kind": "Pod", "namespace": namespace, "name": n.one(PODS) });
            json!({
                "addresses": [n.one(ADDRESSES)],
                "conditions": { "ready": n.often(), "terminating": n.below(6) == 0 },
                "zone": n.one(&["z-1", "z-2"]),
                "targetRef": if n.often() { target } else { Value::Null },
            })
        })
        .collect();
    let labels = json!({ "kubernetes.io/service-name": service });
    let ports = json!([{ "name": "http", "port": if n.often() { 8080 } else { 9090 } }]);
    json!({ "metadata": metadata(namespace, name, &labels), "addressType": "IPv4", "endpoints": endpoints, "ports": ports })
}

fn service(n: &mut Numbers, namespace: &str, name: &str) -> Value {
    let mut selector = json!({ "app": n.one(LABELS) });
    match n.below(4) {
        0 => selector["tier"] = n.one(LABELS).into(),
        1 => selector = Value::Null,
        _ => {}
    }
    let target: Value = if n.often() { 8080.into() } else { "http".into() };
    let port = json!({ "name": "http", "port": if n.often() { 80 } else { 81 }, "targetPort": target, "appProtocol": n.one(&["http", "tcp"]) });
    let address = if n.often() { n.one(&["10.1.0.1", "10.1.0.2", "10.0.0.5"]) } else { "None" };
    let kind = if n.below(8) == 0 { "ExternalName" } else { "ClusterIP" };
    json!({
        "metadata": metadata(namespace, name, &Value::Null),
        "spec": { "type": kind, "selector": selector, "clusterIPs": [address], "ports": [port] },
    })
}

fn backend(n: &mut Numbers) -> Value {
    json!({ "namespace": n.one(NAMESPACES), "name": n.one(SERVICES), "port": 80 })
}

fn route(n: &mut Numbers, kind: &str, namespace: &str) -> Value {
    let mut parent = json!({ "group": "", "kind": "Service", "namespace": n.one(NAMESPACES), "name": n.one(SERVICES) });
    if kind == "MeshRoute" {
        parent = json!({ "kind": "Service", "namespace": n.one(NAMESPACES), "name": n.one(SERVICES) });
    } else if n.below(3) == 0 {
        parent["sectionName"] = "http".into();
    }
    let mirror = json!({ "type": "RequestMirror", "requestMirror": { "backendRef": backend(n) } });
    let filters = if n.below(3) == 0 { json!([mirror]) } else { json!([]) };
    let rules = json!([{ "backendRefs": [backend(n), backend(n)], "filters": filters }]);
    json!({ "metadata": metadata(namespace, "r", &Value::Null), "spec": { "parentRefs": [parent], "rules": rules } })
}

fn written(n: &mut Numbers, namespace: &str) -> Value {
    let spec = json!({ "addresses": [n.one(ADDRESSES)], "serviceAccount": "front" });
    let name = n.one(&["w-1", "a-1"]);
    json!({ "metadata": metadata(namespace, name, &json!({ "app": n.one(LABELS), "tier": n.one(LABELS) })), "spec": spec })
}

fn policy(n: &mut Numbers, kind: &str, namespace: &str) -> Value {
    let access = kind == "AccessPolicy";
    let targets = match n.below(3) {
        0 => json!([{ "kind": "Service", "name": n.one(SERVICES) }]),
        1 if access => json!([]),
        1 => json!([{ "kind": "Namespace", "name": namespace }]),
        _ if access => Value::Null,
        _ => json!([{ "kind": "Mesh", "name": "default" }]),
    };
    let mut spec = json!({ "targetRefs": targets });
    if access && spec["targetRefs"].is_null() {
        spec = json!({ "selector": { "matchLabels": { "app": n.one(LABELS) } } });
    }
    if access {
        spec["action"] = "Deny".into();
        spec["rules"] = json!([{}]);
    } else {
        spec["requestTimeout"] = n.one(&["1s", "2s"]).into();
        spec["onSidecarFailure"] = "Closed".into();
    }
    json!({ "metadata": metadata(namespace, n.one(&["p", "q"]), &Value::Null), "spec": spec })
}

fn mesh_config(n: &mut Numbers) -> Value {
    let shared = json!({ "namespace": n.one(NAMESPACES), "service": n.one(SERVICES) });
    let mut spec =
        json!({ "mtls": { "mode": n.one(&["Strict", "Permissive"]) }, "accessDefault": n.one(&["Allow", "Deny"]) });
    if n.often() {
        spec["fallback"] = json!({ "sharedProxy": shared });
    }
    if n.often() {
        let pool = json!({ "namespace": n.one(NAMESPACES), "service": n.one(SERVICES) });
        spec["fallback"]["pools"] = json!([{ "namespaces": [n.one(NAMESPACES)], "sharedProxy": pool }]);
    }
    if n.below(3) == 0 {
        spec["trustDomain"] = "elsewhere.example".into();
    }
    json!({ "metadata": { "name": "default" }, "spec": spec })
}

/// A version of some object that can be read; its kind by its index in [`KINDS`].
pub(super) fn object(n: &mut Numbers) -> (usize, Value) {
    loop {
        let (kind, value) = draft(n);
        let readable = match item(kind, value.clone()).content {
            Content::Resource(resource) => resource.refused.is_empty(),
            Content::Unreadable(_) => false,
            Content::Namespace(_) | Content::Zone(_) | Content::Pod(_) | Content::Slice(_) => true,
        };
        if readable {
            return (kind, value);
        }
    }
}

fn draft(n: &mut Numbers) -> (usize, Value) {
    let namespace = n.one(NAMESPACES);
    let kind = match n.below(80) {
        0..32 => "Pod",
        32..49 => "EndpointSlice",
        49..60 => "Service",
        60..64 => "HTTPRoute",
        64..66 => "GRPCRoute",
        66..69 => "MeshRoute",
        69..71 => "Workload",
        71..73 => "TrafficPolicy",
        73..75 => "AccessPolicy",
        75..77 => "ReferenceGrant",
        77 => "Namespace",
        78 => "MeshConfig",
        _ => "Node",
    };
    let value = match kind {
        "Pod" => {
            let name = n.one(PODS);
            pod(n, namespace, name)
        }
        "EndpointSlice" => {
            let (service, name) = (n.one(SERVICES), n.one(&["s-1", "s-2", "s-3"]));
            slice(n, namespace, service, name)
        }
        "Service" => {
            let name = n.one(SERVICES);
            service(n, namespace, name)
        }
        "Workload" => written(n, namespace),
        "TrafficPolicy" | "AccessPolicy" => policy(n, kind, namespace),
        "ReferenceGrant" => json!({
            "metadata": metadata(namespace, "g", &Value::Null),
            "spec": {
                "from": [{ "group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": n.one(NAMESPACES) }],
                "to": [{ "group": "", "kind": "Service" }],
            },
        }),
        "Node" => {
            let labels = json!({ "topology.kubernetes.io/zone": n.one(&["z-1", "z-3"]) });
            json!({ "metadata": { "name": n.one(&["node-1", "node-2"]), "labels": labels } })
        }
        "Namespace" => {
            let labels = json!({ "outrigger.dev/mode": n.one(&["sidecar", "shared", "none", "both"]) });
            json!({ "metadata": { "name": namespace, "labels": labels } })
        }
        "MeshConfig" => mesh_config(n),
        _ => route(n, kind, namespace),
    };
    (position(kind), value)
}

/// Index into [`KINDS`].
pub(super) fn position(name: &str) -> usize {
    KINDS.iter().position(|kind| kind.name == name).unwrap()
}

/// As an API server sends it.
pub(super) fn item(kind: usize, value: Value) -> Item {
    let kind = &KINDS[kind];
    kind.read(kind.versions[0], value)
}

/// Of another shape than its kind: the last good version of the object stays in force.
pub(super) fn spoil(n: &mut Numbers, kind: usize, value: &mut Value) {
    match KINDS[kind].name {
        "Pod" => value["spec"]["containers"] = 7.into(),
        "EndpointSlice" => value["endpoints"] = 7.into(),
        "Namespace" | "Node" => value["metadata"]["labels"] = 7.into(),
        // All of it, or what only its own rules refuse.
        _ if n.often() => value["spec"] = 7.into(),
        _ => value["metadata"]["labels"] = 7.into(),
    }
}

/// The types that are served, and who is enrolled; not how often that has changed.
pub(super) fn content(snapshot: &MeshSnapshot) -> String {
    format!("{:#?}", MeshSnapshot { generation: 0, progress: Arc::default(), ..snapshot.clone() })
}

/// Both derive the same.
#[track_caller]
pub(super) fn assert_same(derived: &Derived, whole: &Derived, context: &str) {
    let (part, all) = (content(&derived.snapshot), content(&whole.snapshot));
    let different = part.lines().zip(all.lines()).find(|(part, all)| part != all);
    assert!(part == all, "{context}: {different:?}");
    assert_eq!(derived.findings, whole.findings, "{context}");
    assert_eq!(derived.affects, whole.affects, "{context}");
    assert_eq!(derived.problems, whole.problems, "{context}");
}
