//! What is said (golden files beside those of snapshots), and when it is written (against an API server in memory, with
//! time that only moves when all wait).

use std::{env, fs, path::Path, time::Duration};

use kube::runtime::events::Reporter;
use outrigger_model::{Held, held::Rejection};
use serde_json::{Value, json};

use super::{serving::Serving, *};
use crate::{
    cluster::Store,
    fake::Fake,
    fixtures::{self, Proxies, derived},
    pod::Pod,
};

mod serving;
mod words;

const ROUTE: &str = "apis/outrigger.dev/v1alpha1/namespaces/shop/meshroutes/r";
const HTTP: &str = "apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/h";

const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: front, namespace: shop }
spec: { clusterIP: 10.96.0.1, ports: [{ port: 80 }] }
---
apiVersion: outrigger.dev/v1alpha1
kind: MeshRoute
metadata: { name: r, namespace: shop }
spec:
  parentRefs: [{ name: front }]
  rules: [{ backendRefs: [{ name: front, port: 80 }] }]
"#;

const HTTP_ROUTE: &str = r#"
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: h, namespace: shop }
spec:
  parentRefs: [{ group: "", kind: Service, name: front }]
  rules: [{ backendRefs: [{ name: front, port: 80 }] }]
"#;

/// A leader with its cluster.
struct Stage {
    fake: Fake,
    yaml: String,
    pods: Store<Pod>,
    proxies: Arc<Proxies>,
    views: watch::Sender<Option<Arc<Derived>>>,
    leads: watch::Sender<Leadership>,
}

fn leads(epoch: i64) -> Leadership {
    Leadership::Leader { epoch, valid_until: Instant::now() + Duration::from_secs(3600) }
}

fn held(proxies: u32, current: u32) -> Held {
    Held { proxies, current, ..Held::default() }
}

impl Stage {
    fn new(yaml: &str) -> Self {
        let fake = Fake::default();
        fixtures::create(&fake, yaml);
        let proxies = Arc::new(Proxies::default());
        proxies.set(held(3, 3));
        let (views, view) = watch::channel(None);
        let (leads, leadership) = watch::channel(leads(7));
        let client = fake.client();
        let (_, roots) = watch::channel(Arc::from(""));
        let keeper = Keeper {
            client: client.clone(),
            views: view,
            leadership,
            holdings: proxies.clone(),
            peers: Arc::new(Peers::new(client.clone(), "own".to_owned(), roots, "/none".into())),
            recorder: Recorder::new(client, Reporter { controller: "test".to_owned(), instance: None }),
        };
        tokio::spawn(keeper.run());
        let stage = Self { fake, yaml: yaml.to_owned(), pods: Store::default(), proxies, views, leads };
        stage.observe();
        stage
    }

    /// The watch tells what the cluster has.
    fn observe(&self) {
        let objects = derived(&self.yaml, Some(&self.fake));
        self.views.send_replace(Some(Arc::new(Derived { pods: self.pods.clone(), ..(*objects).clone() })));
    }

    fn becomes(&mut self, yaml: &str) {
        self.yaml = yaml.to_owned();
        fixtures::create(&self.fake, yaml);
        self.observe();
    }

    /// Passes time in which the watch tells of each write, and says how many statuses were written.
    async fn pass(&self, duration: Duration) -> usize {
        let end = Instant::now() + duration;
        let mut writes = 0;
        while Instant::now() < end {
            sleep(Duration::from_millis(10)).await;
            let new = self.fake.writes().iter().filter(|write| write.ends_with("/status")).count();
            if new > 0 {
                self.observe();
            }
            writes += new;
        }
        writes
    }

    /// `TYPE=STATUS/REASON`.
    fn conditions(&self) -> Vec<String> {
        let status = self.fake.get(ROUTE)["status"].clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().map(|c| format!("{}={}/{}", text(&c["type"]), text(&c["status"]), text(&c["reason"]))).collect()
    }

    fn message(&self) -> String {
        let status = self.fake.get(ROUTE)["status"].clone();
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        let programmed = all.iter().find(|c| c["type"] == "Programmed").cloned().unwrap_or_default();
        programmed["message"].as_str().unwrap_or_default().to_owned()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_new_object_is_told_once_and_soon() {
    let stage = Stage::new(SHOP);
    assert_eq!(stage.pass(SECOND / 2).await, 1);
    assert_eq!(
        stage.conditions(),
        ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "Programmed=True/Programmed"]
    );
    assert_eq!(stage.message(), "programmed on 3 of 3 proxies");
    let status = stage.fake.get(ROUTE)["status"].clone();
    assert_eq!((&status["leaseTransitions"], &status["conditions"][0]["observedGeneration"]), (&json!(7), &json!(1)));
    assert_eq!(stage.pass(60 * SECOND).await, 0, "nothing has changed");
    // Somebody else changes what is ours.
    stage.fake.edit(ROUTE, "/status/conditions/0/message", json!("nonsense"));
    stage.observe();
    assert_eq!(stage.pass(SECOND).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_rollout_to_many_proxies_is_a_few_writes() {
    let stage = Stage::new(SHOP);
    stage.proxies.set(held(10_000, 0));
    let mut writes = 0;
    for done in 0..=100 {
        stage.proxies.set(held(10_000, done * 100));
        writes += stage.pass(SECOND / 20).await;
    }
    writes += stage.pass(2 * SECOND).await;
    assert_eq!(stage.message(), "programmed on 10000 of 10000 proxies");
    assert!(writes <= 8, "{writes} writes in five seconds");
    // One more proxy isn't news until everything is looked at again.
    stage.proxies.set(held(10_001, 10_001));
    assert_eq!(stage.pass(5 * SECOND).await, 0);
    assert_eq!(stage.pass(30 * SECOND).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_starts_changes_nothing_for_a_moment() {
    let stage = Stage::new(SHOP);
    stage.pass(5 * SECOND).await;
    // When all is looked at again, one has just started.
    stage.proxies.set(held(4, 3));
    stage.pass(27 * SECOND).await;
    assert_eq!(stage.conditions()[2], "Programmed=True/Programmed");
    stage.proxies.set(held(4, 4));
    stage.pass(5 * SECOND).await;
    assert_eq!(stage.message(), "programmed on 4 of 4 proxies");
    // This one really doesn't take it.
    stage.proxies.set(held(5, 4));
    stage.pass(40 * SECOND).await;
    assert_eq!(
        (stage.conditions()[2].as_str(), stage.message().as_str()),
        ("Programmed=False/Pending", "programmed on 4 of 5 proxies")
    );
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_waits_for_proxies_to_come_back() {
    let stage = Stage::new(SHOP);
    stage.pass(SECOND).await;
    stage.proxies.set(held(0, 0));
    stage.leads.send_replace(leads(8));
    assert_eq!(stage.pass(10 * SECOND).await, 0);
    stage.proxies.set(held(3, 3));
    assert_eq!(stage.pass(60 * SECOND).await, 0);
    assert_eq!(stage.message(), "programmed on 3 of 3 proxies");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_told_with_its_reason_and_an_event() {
    let mut stage = Stage::new(SHOP);
    stage.pass(SECOND).await;
    let mut rejected = Held { rejected: 1, ..held(3, 2) };
    rejected.reject(Rejection { workload: "shop/front-1".to_owned(), reason: "a regex is too long".to_owned() });
    stage.proxies.set(rejected);
    stage.becomes(&SHOP.replace("name: r, namespace: shop", "name: r, namespace: shop, generation: 2"));
    stage.pass(SECOND).await;
    assert_eq!(stage.conditions()[2], "Programmed=False/Rejected");
    let message = "programmed on 2 of 3 proxies, rejected by 1; shop/front-1 says: a regex is too long";
    assert_eq!(stage.message(), message);
    let events = stage.fake.list("apis/events.k8s.io/v1/namespaces/shop/events");
    let told: Vec<_> = events.iter().map(|e| (e["reason"].as_str().unwrap(), e["note"].as_str().unwrap())).collect();
    assert_eq!(told, [("Rejected", message)]);
    assert_eq!(events[0]["regarding"]["kind"], "MeshRoute");
}

#[tokio::test(start_paused = true)]
async fn a_change_keeps_times_of_what_stays() {
    let mut stage = Stage::new(SHOP);
    stage.pass(SECOND).await;
    stage.fake.edit(ROUTE, "/status/conditions/1/lastTransitionTime", json!("2001-01-01T00:00:00Z"));
    stage.fake.edit(ROUTE, "/status/conditions/0/lastTransitionTime", json!("2001-01-01T00:00:00Z"));
    stage.observe();
    assert_eq!(stage.pass(SECOND).await, 0, "a time alone is nothing to be put right");
    stage.becomes(&SHOP.replace("backendRefs: [{ name: front", "backendRefs: [{ name: none"));
    assert_eq!(stage.pass(SECOND).await, 1);
    assert_eq!(stage.conditions()[1], "ResolvedRefs=False/BackendNotFound");
    let conditions = stage.fake.get(ROUTE)["status"]["conditions"].clone();
    assert_eq!(conditions[0]["lastTransitionTime"], "2001-01-01T00:00:00Z");
    assert_ne!(conditions[1]["lastTransitionTime"], "2001-01-01T00:00:00Z");
    let events = stage.fake.list("apis/events.k8s.io/v1/namespaces/shop/events");
    assert_eq!(events.iter().map(|e| e["reason"].clone()).collect::<Vec<_>>(), [json!("RefsNotResolved")]);
}

#[tokio::test(start_paused = true)]
async fn a_late_leader_can_not_write() {
    let stage = Stage::new(SHOP);
    stage.fake.put(
        ROUTE,
        json!({
            "apiVersion": "v1", "kind": "MeshRoute", "metadata": { "name": "r", "namespace": "shop", "generation": 1 },
            "status": { "leaseTransitions": 8, "conditions": [] },
        }),
    );
    // Its view is older than that.
    stage.pass(SECOND).await;
    assert_eq!(stage.fake.get(ROUTE)["status"], json!({ "leaseTransitions": 8, "conditions": [] }));
    // Elected again, it knows a higher epoch.
    stage.leads.send_replace(leads(9));
    stage.observe();
    stage.pass(5 * SECOND).await;
    assert_eq!(stage.fake.get(ROUTE)["status"]["leaseTransitions"], 9);
}

#[tokio::test(start_paused = true)]
async fn a_follower_writes_nothing() {
    let stage = Stage::new(SHOP);
    stage.leads.send_replace(Leadership::Follower { holder: None });
    assert_eq!(stage.pass(60 * SECOND).await, 0);
    // A term that is over before anybody has said so.
    stage.leads.send_replace(Leadership::Leader { epoch: 8, valid_until: Instant::now() });
    assert_eq!(stage.pass(60 * SECOND).await, 0);
    stage.leads.send_replace(leads(9));
    assert_eq!(stage.pass(SECOND).await, 1);
}

#[tokio::test(start_paused = true)]
async fn entries_of_others_stay_and_ours_go_with_their_parents() {
    let yaml = format!("{SHOP}{HTTP_ROUTE}");
    let foreign = json!({
        "parentRef": { "name": "edge" }, "controllerName": "example.com/gateway",
        "conditions": [{ "type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
            "lastTransitionTime": "2001-01-01T00:00:00Z" }],
    });
    let mut stage = Stage::new(&yaml);
    stage.fake.put(
        HTTP,
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": { "name": "h", "namespace": "shop", "generation": 1 }, "status": { "parents": [foreign] },
        }),
    );
    stage.observe();
    stage.pass(SECOND).await;
    let parents = || stage.fake.get(HTTP)["status"]["parents"].as_array().cloned().unwrap();
    assert_eq!(parents()[0], foreign);
    assert_eq!(parents()[1]["controllerName"], "outrigger.dev/controller");
    assert_eq!(parents()[1]["parentRef"], json!({ "group": "", "kind": "Service", "name": "front" }));
    let types: Vec<_> = parents()[1]["conditions"].as_array().unwrap().iter().map(|c| c["type"].clone()).collect();
    assert_eq!(types, ["Accepted", "ResolvedRefs", "outrigger.dev/Programmed"]);
    let gone =
        yaml.replace(r#"parentRefs: [{ group: "", kind: Service, name: front }]"#, "parentRefs: [{ name: edge }]");
    stage.becomes(&gone);
    stage.pass(SECOND).await;
    assert_eq!(stage.fake.get(HTTP)["status"]["parents"], json!([foreign]));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_reads_again_and_keeps_what_the_other_wrote() {
    let yaml = format!("{SHOP}{HTTP_ROUTE}");
    let stage = Stage::new(&yaml);
    // Another controller writes after our view was made.
    let foreign = json!({ "parentRef": { "name": "edge" }, "controllerName": "example.com/gateway", "conditions": [] });
    let mut object = stage.fake.get(HTTP);
    object["status"] = json!({ "parents": [foreign] });
    stage.fake.put(HTTP, object);
    sleep(SECOND).await;
    let parents = stage.fake.get(HTTP)["status"]["parents"].clone();
    assert_eq!(parents[0]["controllerName"], "example.com/gateway");
    assert_eq!(parents[1]["controllerName"], "outrigger.dev/controller");
}

#[tokio::test(start_paused = true)]
async fn a_failing_write_is_tried_again_less_and_less_often() {
    let stage = Stage::new(SHOP);
    for _ in 0..6 {
        stage.fake.fail("PATCH", 500);
    }
    let tries = stage.pass(20 * SECOND).await;
    assert!((4..=6).contains(&tries), "{tries} tries");
    assert_eq!(stage.conditions(), Vec::<String>::new());
    stage.pass(60 * SECOND).await;
    assert_eq!(stage.conditions().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn many_objects_are_written_at_a_bounded_rate() {
    let mut yaml = SHOP.to_owned();
    for at in 0..200 {
        yaml += &format!(
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: MeshRoute\nmetadata: {{ name: r{at}, namespace: shop }}\n\
            spec: {{ parentRefs: [{{ name: front }}], rules: [{{ backendRefs: [{{ name: front, port: 80 }}] }}] }}\n"
        );
    }
    let stage = Stage::new(&yaml);
    let first = stage.pass(SECOND).await;
    assert!((50..=70).contains(&first), "{first}");
    let second = stage.pass(SECOND).await;
    assert!((15..=25).contains(&second), "{second}");
    assert_eq!(first + second + stage.pass(20 * SECOND).await, 201);
}

#[test]
fn manifests_give_the_conditions_beside_them() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut stale = Vec::new();
    let mut cases: Vec<_> = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    for case in cases {
        // Those with pods are about what is derived from them.
        if case.join("in/platform.json").exists() {
            continue;
        }
        let mut files: Vec<_> = fs::read_dir(case.join("in")).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let texts: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
        let out = format!("{}\n", serde_json::to_string_pretty(&all_conditions(&texts.join("\n---\n"))).unwrap());
        let file = case.join("conditions.json");
        if env::var_os("BLESS").is_some() {
            fs::write(&file, &out).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != out {
            stale.push(case.file_name().unwrap().to_owned());
        }
    }
    assert!(stale.is_empty(), "{stale:?}: compare with BLESS=1 cargo test -p outrigger-kube --lib; git diff");
}

/// By object, and for routes by parent; every proxy has all.
fn all_conditions(yaml: &str) -> Value {
    let (view, serving) = (derived(yaml, None), Serving::default());
    let mut all = serde_json::Map::new();
    for subject in subjects(&view) {
        let origin = subject.origin();
        let findings: Vec<_> = view.findings.iter().filter(|finding| finding.object == origin).collect();
        let effective = !view.affects.of(&origin).is_empty();
        let progress = Progress { held: if effective { held(2, 2) } else { Held::default() }, unreachable: 0 };
        let facts = conditions::Facts {
            findings: &findings,
            progress: &progress,
            effective,
            serving: subject.has_failure_policy().then_some(&serving),
            generation: Some(1),
            now: Timestamp::UNIX_EPOCH,
        };
        let told = subject.tell(facts, &subject.told());
        let plain = |conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]| -> Value {
            conditions.iter().map(|c| format!("{}: {} {}: {}", c.type_, c.status, c.reason, c.message)).collect()
        };
        match told {
            subject::Told::Conditions(conditions) => all.insert(origin, plain(&conditions)),
            subject::Told::Parents(entries) => {
                let entries = entries.iter().map(|entry| {
                    let reference = serde_json::to_string(&entry.parent_ref).unwrap();
                    (reference, plain(&entry.conditions))
                });
                all.insert(origin, Value::Object(entries.collect()))
            }
        };
    }
    Value::Object(all)
}
