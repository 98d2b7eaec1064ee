//! The whole against an API server in memory.

use outrigger_crds::{Object, parse};
use serde_json::{Value, json};

use super::*;
use crate::{
    fake::Fake,
    fixtures::{self, Proxies},
    pod::{Phase, Pod},
};

const LEASE: &str = "apis/coordination.k8s.io/v1/namespaces/outrigger-system/leases/outrigger-controller";
const CLUSTER: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { outrigger.dev/mode: sidecar } }
---
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

struct Replica {
    derived: watch::Sender<Option<Arc<Derived>>>,
    leadership: watch::Receiver<Leadership>,
    unmeshed: watch::Receiver<Arc<unmeshed::Report>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), LeaderError>>,
    _roots: (watch::Sender<Arc<str>>, watch::Sender<Decided>),
}

fn replica(fake: &Fake, name: &str) -> Replica {
    let (derived, view) = watch::channel(None);
    let (roots, pem) = watch::channel(Arc::from("ROOT"));
    let (out, leadership) = watch::channel(Leadership::Follower { holder: None });
    let (report, unmeshed) = watch::channel(Arc::default());
    let holdings = Arc::new(Proxies::default());
    let (progress, decided) = watch::channel(Decided::default());
    let inputs = Inputs { client: fake.client(), derived: view, roots: pem, decided, holdings };
    let config = Config {
        pod_name: name.to_owned(),
        version: "0.1.0".to_owned(),
        publish_ca_bundle: true,
        token_file: "/none".into(),
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(inputs, config, Reports { leadership: out, unmeshed: report }, stop.clone()));
    Replica { derived, leadership, unmeshed, stop, task, _roots: (roots, progress) }
}

fn cluster() -> Fake {
    let fake = Fake::default();
    fake.put(LEASE, json!({ "metadata": { "name": "outrigger-controller" }, "spec": {} }));
    fixtures::create(&fake, CLUSTER);
    fake
}

/// With a pod that should have proxies.
fn view(fake: &Fake) -> Option<Arc<Derived>> {
    let mut derived = (*fixtures::derived(CLUSTER, Some(fake))).clone();
    let pod = Pod {
        namespace: "shop".to_owned(),
        name: "bare".to_owned(),
        uid: "uid-of-bare".to_owned(),
        owner: "ReplicaSet/bare".to_owned(),
        phase: Phase::Running,
        ..unmeshed::tests::pod("shop")
    };
    derived.pods.insert(Arc::from("shop/bare"), Arc::new(pod));
    Some(Arc::new(derived))
}

fn route() -> Object {
    parse("test.yaml", CLUSTER).0.pop().unwrap().object
}

async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

fn reasons(fake: &Fake, namespace: &str) -> Vec<Value> {
    let events = fake.list(&format!("apis/events.k8s.io/v1/namespaces/{namespace}/events"));
    events.iter().map(|event| json!([event["regarding"]["kind"], event["reason"]])).collect()
}

#[tokio::test(start_paused = true)]
async fn one_replica_does_it_all_and_the_other_goes_on_when_it_ends() {
    let fake = cluster();
    let first = replica(&fake, "first");
    pass(1).await;
    assert_eq!(first.leadership.borrow().epoch(), Some(1));
    let second = replica(&fake, "second");
    for each in [&first, &second] {
        each.derived.send_replace(view(&fake));
    }
    pass(5).await;
    let status = || fake.get(&fixtures::path(&route()))["status"].clone();
    assert_eq!(status()["leaseTransitions"], 1);
    assert_eq!(fake.get("api/v1/namespaces/shop/configmaps/outrigger-trust")["data"]["root.pem"], "ROOT");
    assert_eq!(reasons(&fake, "outrigger-system"), [json!(["Lease", "LeaderElected"])]);
    assert_eq!(reasons(&fake, "shop"), [json!(["Pod", "NotMeshed"])]);
    for each in [&first, &second] {
        assert_eq!(each.unmeshed.borrow().unmeshed[0].pod, "bare", "every replica shows it");
    }

    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    assert_eq!(fake.get(LEASE)["spec"]["holderIdentity"], Value::Null);
    let gone = fake.get(&fixtures::path(&route()));
    fake.put(&fixtures::path(&route()), json!({ "metadata": gone["metadata"], "status": { "leaseTransitions": 30 } }));
    second.derived.send_replace(view(&fake));
    pass(5).await;
    assert_eq!(second.leadership.borrow().epoch(), Some(31), "above what any status has");
    assert_eq!(status()["leaseTransitions"], 31);
    assert_eq!(status()["conditions"][0]["type"], "Accepted");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_ends_it() {
    let fake = cluster();
    let only = replica(&fake, "only");
    pass(1).await;
    drop(only.derived);
    assert!(matches!(only.task.await.unwrap(), Err(LeaderError::Ended)));
    assert_eq!(fake.get(LEASE)["spec"]["holderIdentity"], Value::Null, "the Lease is given back");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_does_not_hold_up_the_end() {
    let fake = cluster();
    let only = replica(&fake, "only");
    only.derived.send_replace(view(&fake));
    pass(5).await;
    fake.delay(Duration::from_secs(600));
    pass(1).await;
    let asked = Instant::now();
    only.stop.cancel();
    only.task.await.unwrap().unwrap();
    assert!(asked.elapsed() <= Duration::from_secs(3), "{:?}", asked.elapsed());
}
