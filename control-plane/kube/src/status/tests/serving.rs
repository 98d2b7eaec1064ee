//! What is said of pods without their proxies, and how often.

use outrigger_model::inputs::Mode;

use super::{
    super::serving::{Astray, Course},
    *,
};
use crate::{
    pod::{Carrier, Phase},
    unmeshed::tests::pod,
};

/// Workloads as pods would be, and who says what happens to them.
const POLICIES: &str = r#"
apiVersion: outrigger.dev/v1alpha1
kind: MeshConfig
metadata: { name: default }
spec: {}
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: strict, namespace: bank }
spec: { targetRefs: [{ kind: Namespace, name: bank }], onSidecarFailure: Closed }
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: bypass, namespace: blog }
spec: { targetRefs: [{ kind: Namespace, name: blog }], onFallbackFailure: Direct }
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: bypass, namespace: lab }
spec: { targetRefs: [{ kind: Namespace, name: lab }], onSidecarFailure: Direct }
---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: { name: silent, namespace: shop }
spec: { targetRefs: [{ kind: Namespace, name: shop }], requestTimeout: 9s }
"#;

const MESH: &str = "apis/outrigger.dev/v1alpha1/meshconfigs/default";

fn with_workloads(names: &[&str]) -> String {
    let workloads = names.iter().enumerate().map(|(at, name)| {
        let (namespace, name) = name.split_once('/').unwrap();
        format!(
            "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\n\
             metadata: {{ name: {name}, namespace: {namespace} }}\nspec: {{ serviceAccount: {name}, addresses: [10.0.0.{at}] }}\n"
        )
    });
    POLICIES.to_owned() + &workloads.collect::<String>()
}

/// Running pods with a sidecar, unless `has` says otherwise.
fn pods(all: &[(&str, Mode, Carrier)]) -> Store<Pod> {
    let pods = all.iter().map(|(key, has, carrier)| {
        let (namespace, name) = key.split_once('/').unwrap();
        let pod = Pod { name: name.to_owned(), has: *has, carrier: *carrier, ..pod(namespace) };
        (Arc::from(*key), Arc::new(pod))
    });
    pods.collect()
}

fn view(yaml: &str, pods: Store<Pod>) -> Derived {
    Derived { pods, ..(*derived(yaml, None)).clone() }
}

#[test]
fn what_happens_to_a_pod_is_its_owners_choice() {
    use Carrier::{Guard, Nobody, Sidecar};
    let table = [
        ("shop/a", Mode::Sidecar, Sidecar, None),
        ("shop/a", Mode::Sidecar, Guard, Some("Fallback")),
        ("shop/a", Mode::Sidecar, Nobody, Some("Closed")),
        ("bank/a", Mode::Sidecar, Sidecar, None),
        ("bank/a", Mode::Sidecar, Guard, Some("Closed")),
        ("bank/a", Mode::Sidecar, Nobody, Some("Closed")),
        ("blog/a", Mode::Sidecar, Guard, Some("Fallback")),
        ("blog/a", Mode::Sidecar, Nobody, Some("Direct")),
        ("lab/a", Mode::Sidecar, Guard, Some("Direct")),
        ("lab/a", Mode::Sidecar, Nobody, Some("Direct")),
        // Pods that are meant to have no sidecar.
        ("shop/a", Mode::Shared, Guard, None),
        ("shop/a", Mode::Shared, Nobody, Some("Closed")),
        ("lab/a", Mode::Shared, Guard, Some("Direct")),
        ("shop/a", Mode::None, Nobody, None),
    ];
    for (name, has, carrier, expected) in table {
        let view = view(&with_workloads(&["shop/a", "bank/a", "blog/a", "lab/a"]), pods(&[(name, has, carrier)]));
        let mesh = Astray::of(&view).within(view.affects.of("MeshConfig/default"));
        assert_eq!(mesh.worst(), expected, "{name} {has:?} {carrier:?}");
    }
}

#[test]
fn pods_on_their_way_and_strangers_are_not_told_of() {
    let yaml = with_workloads(&["shop/a"]);
    let told = |change: fn(&mut Pod), name| {
        let mut one = Pod { has: Mode::Sidecar, ..pod("shop") };
        change(&mut one);
        let view = view(&yaml, [(Arc::from(name), Arc::new(one))].into_iter().collect());
        Astray::of(&view) != Astray::default()
    };
    assert!(told(|_| {}, "shop/a"));
    assert!(!told(|pod| pod.phase = Phase::Pending, "shop/a"));
    assert!(!told(|pod| pod.phase = Phase::Ended, "shop/a"));
    assert!(!told(|pod| pod.terminating = true, "shop/a"));
    assert!(!told(|_| {}, "shop/unknown"));
}

#[test]
fn an_object_tells_of_those_that_it_has_a_say_in() {
    let names = ["bank/a", "bank/b", "shop/a"];
    let view = view(&with_workloads(&names), pods(&names.map(|name| (name, Mode::Sidecar, Carrier::Guard))));
    let astray = Astray::of(&view);
    let told = |origin| astray.within(view.affects.of(origin)).message();
    assert_eq!(told("TrafficPolicy/bank/strict"), "closed: 2 pods (bank/a, bank/b)");
    assert_eq!(told("TrafficPolicy/lab/bypass"), "all pods are served by their own proxies");
    let all = "closed: 2 pods (bank/a, bank/b); carried by shared proxies: 1 pod (shop/a)";
    assert_eq!(told("MeshConfig/default"), all);
    let subjects: Vec<_> = subjects(&view).filter(subject::Subject::has_failure_policy).map(|it| it.origin()).collect();
    let expected = ["MeshConfig/default", "TrafficPolicy/bank/strict", "TrafficPolicy/blog/bypass"];
    assert_eq!(subjects[..3], expected, "and not the silent one: {subjects:?}");
    assert_eq!(subjects.len(), 4);
}

#[test]
fn courses_in_words() {
    let table: [(&[(Course, usize)], &str); 4] = [
        (&[], "True SidecarsServing all pods are served by their own proxies"),
        (&[(Course::Fallback, 1)], "False Fallback carried by shared proxies: 1 pod (a/0)"),
        (&[(Course::Direct, 3)], "False Direct without any proxy and policy: 3 pods (a/0, a/1, a/2)"),
        (
            &[(Course::Fallback, 2), (Course::Closed, 900), (Course::Direct, 1)],
            "False Closed closed: 900 pods (a/0, a/1, a/2, ...); without any proxy and policy: 1 pod (a/0); \
             carried by shared proxies: 2 pods (a/0, a/1)",
        ),
    ];
    for (counts, expected) in table {
        let mut serving = Serving::default();
        for (course, count) in counts {
            (0..*count).for_each(|at| serving.add(*course, &format!("a/{at}").into()));
        }
        let progress = Progress::default();
        let facts = conditions::Facts {
            findings: &[],
            progress: &progress,
            effective: true,
            serving: Some(&serving),
            generation: Some(4),
            now: Timestamp::UNIX_EPOCH,
        };
        let told = conditions::own(facts, false, &[]).pop().unwrap();
        assert_eq!(format!("{} {} {}", told.status, told.reason, told.message), expected);
        assert_eq!((told.type_.as_str(), told.observed_generation), ("SidecarsServing", Some(4)));
    }
}

impl Stage {
    /// What the MeshConfig says of pods.
    fn serving(&self) -> (String, String) {
        let conditions = self.fake.get(MESH)["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let told = conditions.iter().find(|c| c["type"] == "SidecarsServing").cloned().unwrap_or_default();
        let text = |field: &str| told[field].as_str().unwrap_or_default().to_owned();
        (text("reason"), text("message"))
    }

    fn carried(&mut self, by: &[(&str, Carrier)]) {
        self.pods = pods(&by.iter().map(|(name, carrier)| (*name, Mode::Sidecar, *carrier)).collect::<Vec<_>>());
        self.observe();
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_its_sidecar_is_told_of_within_a_second_and_until_it_is_back() {
    let mut stage = Stage::new(&with_workloads(&["shop/a", "shop/b"]));
    stage.carried(&[("shop/a", Carrier::Sidecar), ("shop/b", Carrier::Sidecar)]);
    stage.pass(20 * SECOND).await;
    assert_eq!(stage.serving().0, "SidecarsServing");
    stage.carried(&[("shop/a", Carrier::Guard), ("shop/b", Carrier::Sidecar)]);
    stage.pass(SECOND).await;
    assert_eq!(stage.serving(), ("Fallback".into(), "carried by shared proxies: 1 pod (shop/a)".into()));
    stage.pass(20 * SECOND).await;
    stage.carried(&[("shop/a", Carrier::Sidecar), ("shop/b", Carrier::Sidecar)]);
    stage.pass(SECOND).await;
    assert_eq!(stage.serving().0, "SidecarsServing");
}

#[tokio::test(start_paused = true)]
async fn pods_that_flap_are_a_few_writes_and_the_last_word_is_true() {
    let mut stage = Stage::new(&with_workloads(&["shop/a"]));
    stage.pass(20 * SECOND).await;
    let mut writes = 0;
    for at in 0..60 {
        let carrier = if at % 2 == 0 { Carrier::Guard } else { Carrier::Nobody };
        stage.carried(&[("shop/a", carrier)]);
        writes += stage.pass(SECOND).await;
    }
    assert!((1..=7).contains(&writes), "{writes}");
    stage.pass(10 * SECOND).await;
    assert_eq!(stage.serving().0, "Closed");
    assert_eq!(stage.pass(60 * SECOND).await, 0);
}
