//! Short ways to a view of a cluster in tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use outrigger_crds::{Object, parse};
use outrigger_model::{Effects, Held, Holdings, MeshSnapshot, build, held::Certificates};
use serde_json::{Value, json};

use crate::{
    Settings,
    cluster::{Derived, Namespace, Resource, Store},
    convert::{self, Objects},
    fake::Fake,
};

/// Proxies as a test wants them: the same for every object that has an effect, unless it is named.
#[derive(Default)]
pub(crate) struct Proxies(Mutex<Held>);

/// What a cluster with these objects (YAML) is derived to. Without a cluster, every object is of version 1.
pub(crate) fn derived(yaml: &str, fake: Option<&Fake>) -> Arc<Derived> {
    let (loaded, problems) = parse("test.yaml", yaml);
    assert_eq!(problems, []);
    let loaded: Vec<Object> = loaded.into_iter().map(|loaded| loaded.object).collect();
    let mut objects = Objects::default();
    loaded.iter().for_each(|object| objects.push(object));
    let settings =
        Settings { trust_domain: "cluster.local".to_owned(), roots: vec!["a root".into()], ..Settings::default() };
    let (inputs, mut findings) = convert::inputs(&objects, &settings);
    let built = build(&inputs, None);
    findings.extend(built.problems);
    findings.sort();
    let mut resources: BTreeMap<&'static str, BTreeMap<Arc<str>, Arc<Resource>>> = BTreeMap::new();
    let mut namespaces = BTreeMap::new();
    for object in loaded {
        if let Object::Namespace(namespace) = &object {
            let labels = namespace.metadata.labels.clone().unwrap_or_default();
            let namespace = Namespace { name: object.name().to_owned(), labels, ..Namespace::default() };
            namespaces.insert(Arc::from(object.name()), Arc::new(namespace));
        }
        let resource = resource(object, fake);
        let name = resource.metadata.name.clone().unwrap_or_default();
        let key = resource.metadata.namespace.as_ref().map_or(name.clone(), |namespace| format!("{namespace}/{name}"));
        resources.entry(resource.kind).or_default().insert(key.into(), Arc::new(resource));
    }
    let resources = resources.into_iter().map(|(kind, objects)| (kind, Store::from_iter(objects))).collect();
    Arc::new(Derived {
        snapshot: Arc::new(built.snapshot),
        findings: Arc::new(findings),
        affects: Arc::new(built.affects),
        resources,
        namespaces: namespaces.into_iter().collect(),
        ..Derived::default()
    })
}

/// As the cluster has it.
fn resource(object: Object, fake: Option<&Fake>) -> Resource {
    let mut metadata = object.metadata().clone();
    let stored = fake.map(|fake| fake.get(&path(&object))).unwrap_or_default();
    let text = |field: &str| stored["metadata"][field].as_str().map(str::to_owned);
    metadata.uid = text("uid").or(metadata.uid);
    metadata.resource_version = text("resourceVersion").or(Some("1".to_owned()));
    metadata.generation = stored["metadata"]["generation"].as_i64().or(metadata.generation).or(Some(1));
    Resource {
        kind: object.kind(),
        metadata,
        status: stored["status"].clone(),
        object: Some(Arc::new(object)),
        refused: Vec::new(),
    }
}

/// Where an API server has it.
pub(crate) fn path(object: &Object) -> String {
    let (api, plural) = match object.kind() {
        "HTTPRoute" => ("apis/gateway.networking.k8s.io/v1", "httproutes"),
        "MeshRoute" => ("apis/outrigger.dev/v1alpha1", "meshroutes"),
        "TrafficPolicy" => ("apis/outrigger.dev/v1alpha1", "trafficpolicies"),
        "Workload" => ("apis/outrigger.dev/v1alpha1", "workloads"),
        "MeshConfig" => return format!("apis/outrigger.dev/v1alpha1/meshconfigs/{}", object.name()),
        other => ("other", other),
    };
    format!("{api}/namespaces/{}/{plural}/{}", object.namespace(), object.name())
}

/// Puts what can have a status into the cluster, as users would; statuses stay.
pub(crate) fn create(fake: &Fake, yaml: &str) {
    for object in parse("test.yaml", yaml).0.into_iter().map(|loaded| loaded.object) {
        let path = path(&object);
        let (before, generation) = (fake.get(&path), object.metadata().generation.unwrap_or(1));
        let mut stored = json!({
            "apiVersion": "v1",
            "kind": object.kind(),
            "metadata": { "name": object.name(), "namespace": object.namespace(), "generation": generation },
        });
        for kept in ["uid", "resourceVersion"] {
            if before["metadata"][kept] != Value::Null {
                stored["metadata"][kept] = before["metadata"][kept].clone();
            }
        }
        if before["status"] != Value::Null {
            stored["status"] = before["status"].clone();
        }
        fake.put(&path, stored);
    }
}

// === impl Proxies ===

impl Proxies {
    pub(crate) fn set(&self, held: Held) {
        *self.0.lock().unwrap() = held;
    }
}

impl Holdings for Proxies {
    fn held(&self, _: &MeshSnapshot, of: &[&Effects]) -> Vec<Held> {
        of.iter().map(|_| self.0.lock().unwrap().clone()).collect()
    }

    fn certificates(&self, _: &str) -> Certificates {
        Certificates { silent: ["shop/a/?".to_owned()].into(), ..Certificates::default() }
    }
}
