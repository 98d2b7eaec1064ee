//! Against an API server in memory, with time that only moves when all wait.

use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::Namespace,
    fake::Fake,
    rotation::{Progress, Record},
};

const MUTATING: &str = "apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/outrigger";
const VALIDATING: &str = "apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/outrigger";

struct Stage {
    fake: Fake,
    derived: watch::Sender<Option<Arc<Derived>>>,
    roots: watch::Sender<Arc<str>>,
    decided: watch::Sender<Decided>,
    leads: watch::Sender<Leadership>,
}

fn map(namespace: &str) -> String {
    format!("api/v1/namespaces/{namespace}/configmaps/outrigger-trust")
}

/// Name and mode; one that ends with `!` is being deleted.
fn namespaces(all: &[(&str, &str)]) -> Option<Arc<Derived>> {
    let namespaces = all.iter().map(|(name, mode)| {
        let (name, terminating) = name.strip_suffix('!').map_or((*name, false), |name| (name, true));
        let labels = BTreeMap::from([(MODE_LABEL.to_owned(), (*mode).to_owned())]);
        let namespace = Namespace { name: name.to_owned(), uid: String::new(), labels, terminating };
        (Arc::from(name), Arc::new(namespace))
    });
    Some(Arc::new(Derived { namespaces: namespaces.collect(), ..Derived::default() }))
}

fn webhooks(names: &[&str]) -> Value {
    let webhooks = names.iter().map(|name| {
        json!({ "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": { "service": { "name": "outrigger-controller", "namespace": "outrigger-system" } } })
    });
    json!({ "metadata": { "name": "outrigger" }, "webhooks": webhooks.collect::<Vec<_>>() })
}

impl Stage {
    fn new(ca_bundle: bool) -> Self {
        let fake = Fake::default();
        fake.put(
            "apis/rbac.authorization.k8s.io/v1/clusterroles/outrigger-controller",
            json!({ "metadata": { "name": "outrigger-controller", "uid": "the-role" } }),
        );
        fake.put(MUTATING, webhooks(&["inject.outrigger.dev", "again.outrigger.dev"]));
        fake.put(VALIDATING, webhooks(&["validate.outrigger.dev"]));
        let (derived, view) = watch::channel(None);
        let (roots, pem) = watch::channel(Arc::from("ROOT"));
        let leads = Leadership::Leader { epoch: 1, valid_until: Instant::now() + Duration::from_secs(36_000) };
        let (leads, leadership) = watch::channel(leads);
        let progress = Progress { anchor: "a1".to_owned(), ..Progress::default() };
        let (decided, progress) = watch::channel(Decided { epoch: 1, progress });
        let publisher =
            Publisher { client: fake.client(), derived: view, leadership, roots: pem, decided: progress, ca_bundle };
        tokio::spawn(publisher.run());
        Self { fake, derived, roots, decided, leads }
    }

    fn root(&self, namespace: &str) -> Value {
        self.fake.get(&map(namespace))["data"]["root.pem"].clone()
    }
}

async fn pass(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(start_paused = true)]
async fn roots_are_where_pods_need_them() {
    let stage = Stage::new(true);
    pass(20).await;
    assert_eq!(stage.root("outrigger-system"), "ROOT", "before anything is known of the cluster");
    stage.derived.send_replace(namespaces(&[("a", "sidecar"), ("b", "shared"), ("c", "none"), ("d!", "sidecar")]));
    pass(100).await;
    let there = ["a", "b", "c", "d"].map(|namespace| stage.root(namespace) == "ROOT");
    assert_eq!(there, [true, true, false, false]);
    let metadata = stage.fake.get(&map("a"))["metadata"].clone();
    assert_eq!(metadata["labels"], json!({ "app.kubernetes.io/managed-by": "outrigger-controller" }));
    let owner = &metadata["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("ClusterRole"), &json!("the-role")));
    stage.fake.writes();
    pass(300_000).await;
    assert_eq!(stage.fake.writes(), Vec::<String>::new(), "all is well");

    stage.fake.delete(&map("a"));
    stage.fake.edit(&map("b"), "/data/root.pem", json!("of somebody else"));
    pass(31_000).await;
    assert_eq!((stage.root("a"), stage.root("b")), (json!("ROOT"), json!("ROOT")));

    stage.roots.send_replace(Arc::from("ROOT, NEXT ROOT"));
    pass(100).await;
    for namespace in ["outrigger-system", "a", "b"] {
        assert_eq!(stage.root(namespace), "ROOT, NEXT ROOT", "{namespace}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_api_server_trusts_all_webhooks() {
    let stage = Stage::new(true);
    pass(20).await;
    // "ROOT" in base64.
    for (path, at) in [(MUTATING, 0), (MUTATING, 1), (VALIDATING, 0)] {
        let webhook = stage.fake.get(path)["webhooks"][at].clone();
        assert_eq!(webhook["clientConfig"]["caBundle"], "Uk9PVA==");
        assert_eq!(webhook["clientConfig"]["service"]["name"], "outrigger-controller");
        assert_eq!(webhook["sideEffects"], "None");
    }
    // An upgrade writes them anew.
    stage.fake.put(VALIDATING, webhooks(&["validate.outrigger.dev", "more.outrigger.dev"]));
    pass(31_000).await;
    assert_eq!(stage.fake.get(VALIDATING)["webhooks"][1]["clientConfig"]["caBundle"], "Uk9PVA==");
}

#[tokio::test(start_paused = true)]
async fn webhooks_of_another_authority_are_left_alone() {
    let stage = Stage::new(false);
    pass(60_000).await;
    assert!(stage.fake.get(MUTATING)["webhooks"][0]["clientConfig"]["caBundle"].is_null());
    assert_eq!(stage.root("outrigger-system"), "ROOT");
}

#[tokio::test(start_paused = true)]
async fn trouble_in_one_namespace_holds_up_no_other() {
    let stage = Stage::new(true);
    pass(20).await;
    stage.derived.send_replace(namespaces(&[("a", "sidecar"), ("b", "sidecar")]));
    stage.fake.fail("PATCH api/v1/namespaces/a/", 403);
    pass(200).await;
    assert_eq!((stage.root("a").is_null(), stage.root("b")), (true, json!("ROOT")));
    pass(3_000).await;
    assert_eq!(stage.root("a"), "ROOT");
}

#[tokio::test(start_paused = true)]
async fn a_follower_publishes_nothing() {
    let stage = Stage::new(true);
    stage.leads.send_replace(Leadership::Follower { holder: None });
    pass(100_000).await;
    assert_eq!(stage.fake.writes(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_is_published_with_the_roots_in_the_term_it_was_decided_in() {
    let stage = Stage::new(true);
    let published = || {
        let map: ConfigMap = serde_json::from_value(stage.fake.get(&map("outrigger-system"))).unwrap();
        Record::read(&map, "").progress.unwrap_or_default()
    };
    pass(20).await;
    assert_eq!(published().anchor, "a1");
    stage.derived.send_replace(namespaces(&[("a", "sidecar")]));
    pass(100).await;
    assert!(stage.fake.get(&map("a"))["metadata"]["annotations"]["outrigger.dev/root-rotation"].is_null());
    let decide = |epoch, anchor: &str| {
        let progress = Progress { anchor: anchor.to_owned(), since: Some(7), ..Progress::default() };
        stage.decided.send_replace(Decided { epoch, progress });
    };
    decide(1, "b2");
    pass(100).await;
    assert_eq!((published().anchor.as_str(), published().since), ("b2", Some(7)));

    // A new leader may know less than what is there, until it has looked.
    let term = |epoch| Leadership::Leader { epoch, valid_until: Instant::now() + Duration::from_secs(36_000) };
    stage.leads.send_replace(term(2));
    stage.roots.send_replace(Arc::from("ROOT 2"));
    decide(1, "a1");
    pass(100_000).await;
    assert_eq!((stage.root("a"), stage.root("outrigger-system")), (json!("ROOT 2"), json!("ROOT")));
    assert_eq!(published().anchor, "b2");
    decide(2, "c3");
    pass(100).await;
    assert_eq!((published().anchor.as_str(), stage.root("outrigger-system")), ("c3", json!("ROOT 2")));
}
