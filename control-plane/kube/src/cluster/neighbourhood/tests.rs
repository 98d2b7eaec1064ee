//! Whatever happens to a cluster, deriving what it concerns comes to the same as deriving everything.

use outrigger_model::MeshSnapshot;
use serde_json::{Value, json};

use super::*;
use crate::cluster::{
    concern::Tracker,
    index::Update,
    kinds::{Item, KINDS},
};

/// Numbers that look random, the same ones each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn often(&mut self) -> bool {
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
    let address = n.one(ADDRESSES);
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
            "phase": if n.often() { "Running" } else { "Pending" },
            "podIPs": if n.often() { json!([{ "ip": address }]) } else { json!([]) },
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

/// Something that happens to one object of a kind.
fn event(n: &mut Numbers) -> (&'static str, Value) {
    let namespace = n.one(NAMESPACES);
    let kind = match n.below(40) {
        0..16 => "Pod",
        16..25 => "EndpointSlice",
        25..31 => "Service",
        31..33 => "HTTPRoute",
        33 => "GRPCRoute",
        34 => "MeshRoute",
        35 => "Workload",
        36 => "TrafficPolicy",
        37 => "AccessPolicy",
        38 => "ReferenceGrant",
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
            json!({ "metadata": { "name": n.one(&["node-1", "node-2"]), "labels": { "topology.kubernetes.io/zone": n.one(&["z-1", "z-3"]) } } })
        }
        _ => route(n, kind, namespace),
    };
    (kind, value)
}

fn item(kind: usize, value: Value) -> Item {
    let kind = &KINDS[kind];
    kind.read(kind.versions[0], value)
}

/// The types that are served, and who is enrolled; not how often that has changed.
fn content(snapshot: &MeshSnapshot) -> String {
    format!("{:#?}", MeshSnapshot { generation: 0, ..snapshot.clone() })
}

#[test]
fn whatever_happens() {
    let settings = Settings { trust_domain: "cluster.local".to_owned(), roots: vec!["a root".into()] };
    let mut partly = 0;
    for seed in 0..150 {
        let mut numbers = Numbers(seed);
        let (mut index, mut tracker) = (Index::new(), Tracker::default());
        let mut last: Option<Derived> = None;
        for step in 0..60 {
            for _ in 0..=numbers.below(2) {
                let (name, value) = event(&mut numbers);
                let kind = KINDS.iter().position(|kind| kind.name == name).unwrap();
                let item = item(kind, value);
                let gone = numbers.below(5) == 0;
                let update = if gone { Update::Deleted(item) } else { Update::Applied(item) };
                index.absorb(kind, update, &mut tracker);
            }
            let whole = Derived::new(&index, derive::outcome(&index.objects(), &settings, None));
            let concern = tracker.take();
            let derived = match &last {
                Some(last) if !concern.is_everything(&index) => {
                    partly += 1;
                    let neighbourhood = Neighbourhood::of(concern, &index, &tracker.relations);
                    Derived::new(&index, neighbourhood.derive(&settings, last))
                }
                _ => whole.clone(),
            };
            let context = format!("seed {seed}, step {step}");
            let (part, all) = (content(&derived.snapshot), content(&whole.snapshot));
            let different = part.lines().zip(all.lines()).find(|(part, all)| part != all);
            assert!(part == all, "{context}: {different:?}");
            assert_eq!(derived.findings, whole.findings, "{context}");
            assert_eq!(derived.affects, whole.affects, "{context}");
            last = Some(derived);
        }
    }
    assert!(partly > 2_000, "only {partly} parts were derived");
}
