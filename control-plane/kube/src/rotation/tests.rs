use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const NOW: u64 = 1_800_000_000;
/// The last second in which a certificate made at [`NOW`] may still be good.
const END: u64 = NOW + 24 * 3600 + 15 * 60;

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn signed(by: &str, have: &[&str], others: &[&str], silent: &[&str]) -> Option<Signed> {
    let certificates = Certificates { have: set(have), others: set(others), silent: set(silent) };
    Some(Signed { by: by.to_owned(), certificates })
}

#[test]
fn a_change_goes_from_stage_to_stage_and_back_as_the_secret_says() {
    // decided to sign by; the Secret's; more is trusted than the Secret holds
    for (signs, offered, leftover, stage) in [
        ("old", "old", false, Stage::Rest),
        ("old", "new", true, Stage::Distribute),
        // The old one was left in ca.crt.
        ("old", "new", false, Stage::Distribute),
        // Given up before it signed: the new one leaves.
        ("old", "old", true, Stage::Retire),
        ("new", "new", true, Stage::Retire),
        ("new", "new", false, Stage::Rest),
        // Given up after it signed, or after the old one has left: the old one is the new one.
        ("new", "old", true, Stage::Distribute),
        ("new", "old", false, Stage::Distribute),
    ] {
        let progress = Progress { anchor: signs.to_owned(), ..Progress::default() };
        assert_eq!(Stage::of(&progress, offered, leftover), stage, "{signs} {offered} {leftover}");
    }
}

#[test]
fn what_signing_waits_for_besides_proxies() {
    let seconds = Duration::from_secs;
    for (trusted_for, published, waits) in [
        (seconds(0), true, Some("three minutes")),
        (seconds(179), true, Some("three minutes")),
        (seconds(180), false, Some("isn't published")),
        (seconds(180), true, None),
    ] {
        let missing = unsettled(trusted_for, published);
        match waits {
            Some(words) => assert!(missing.is_some_and(|missing| missing.contains(words)), "{trusted_for:?}"),
            None => assert_eq!(missing, None),
        }
    }
}

#[test]
fn a_root_leaves_once_nobody_can_have_a_certificate_of_it() {
    let evidence = |others, unknown, apart| Evidence { others, unknown, apart };
    for (evidence, since, now, waits) in [
        // All are connected and have another.
        (evidence(0, 0, 0), Some(NOW), NOW, None),
        (evidence(0, 0, 0), None, NOW, None),
        // One that doesn't renew is waited for, however long it takes.
        (evidence(1, 0, 0), Some(NOW), NOW, Some("1 connected proxies still have")),
        (evidence(1, 0, 0), Some(NOW), END + 1, Some("1 connected proxies still have")),
        // Nobody hears of two: until theirs must have ended.
        (evidence(0, 2, 0), Some(NOW), NOW, Some("2 proxies aren't connected, or don't say which root their")),
        (evidence(0, 2, 0), Some(NOW), NOW, Some("longer than 25 h")),
        (evidence(0, 2, 0), Some(NOW), END - 1, Some("longer than 1 h")),
        (evidence(0, 2, 0), Some(NOW), END, None),
        // Nobody knows when the other one signed last.
        (evidence(0, 2, 0), None, END, Some("2 proxies aren't connected")),
        // A clock that was set back.
        (evidence(0, 2, 0), Some(NOW), NOW - 7200, Some("longer than 25 h")),
        // A replica may still sign by the other.
        (evidence(0, 0, 1), Some(NOW), END, Some("1 replicas of the controller don't")),
    ] {
        let missing = evidence.missing(since, DAY, now);
        match waits {
            Some(words) => assert!(missing.as_ref().is_some_and(|m| m.contains(words)), "{evidence:?} {missing:?}"),
            None => assert_eq!(missing, None, "{evidence:?} {since:?} {now}"),
        }
    }
}

#[test]
fn evidence_is_what_all_replicas_know_together() {
    let expected = || set(&["a/1/guard", "a/1/sidecar", "a/2/guard"]);
    let evidence = |others, unknown, apart| Evidence { others, unknown, apart };
    for (replicas, silent, found) in [
        // A pod's proxies are at different replicas.
        (
            vec![signed("new", &["a/1/guard"], &[], &[]), signed("new", &["a/1/sidecar", "a/2/guard"], &[], &[])],
            0,
            (0, 0, 0),
        ),
        (vec![signed("new", &["a/1/guard", "a/1/sidecar", "a/2/guard"], &[], &[])], 1, (0, 0, 1)),
        // One isn't connected anywhere.
        (vec![signed("new", &["a/1/guard", "a/1/sidecar"], &[], &[])], 0, (0, 1, 0)),
        // One has an old certificate; one, of an earlier version, doesn't say; and so does one of no pod that is known.
        (vec![signed("new", &["a/1/guard"], &["a/1/sidecar"], &["a/2/guard", "b/9/?"])], 0, (1, 2, 0)),
        // It has just come back, with another certificate, and its old stream isn't over yet.
        (vec![signed("new", &["a/1/guard", "a/1/sidecar", "a/2/guard"], &["a/2/guard"], &[])], 0, (1, 0, 0)),
        // Another replica signs by the old one, or nothing, or is of an earlier version.
        (
            vec![signed("new", &["a/1/guard", "a/1/sidecar", "a/2/guard"], &[], &[]), signed("old", &[], &[], &[])],
            0,
            (0, 0, 1),
        ),
        (
            vec![signed("new", &["a/1/guard", "a/1/sidecar", "a/2/guard"], &[], &[]), signed("", &[], &[], &[]), None],
            0,
            (0, 0, 2),
        ),
    ] {
        let (others, unknown, apart) = found;
        assert_eq!(
            Evidence::of("new", expected(), &replicas, silent),
            evidence(others, unknown, apart),
            "{replicas:?}"
        );
    }
}

#[test]
fn every_pod_that_may_hold_a_certificate_is_expected() {
    let pod = |name: &str, has: Mode, phase: Phase, node: &str| {
        let (name, node) = (name.to_owned(), node.to_owned());
        Pod { name, has, phase, node, ..crate::unmeshed::tests::pod("shop") }
    };
    let shared = |namespace: &str, account: &str| {
        let mut pod = pod("proxy", Mode::None, Phase::Running, "n");
        (pod.namespace, pod.service_account) = (namespace.to_owned(), account.to_owned());
        pod
    };
    let pods = [
        pod("a", Mode::Sidecar, Phase::Running, "n"),
        pod("b", Mode::Shared, Phase::Unknown, "n"),
        // Its guard may run already.
        pod("c", Mode::Shared, Phase::Pending, "n"),
        pod("unscheduled", Mode::Sidecar, Phase::Pending, ""),
        pod("ended", Mode::Sidecar, Phase::Ended, "n"),
        pod("unmeshed", Mode::None, Phase::Running, "n"),
        shared("outrigger-system", "outrigger-shared"),
        shared("shop", "outrigger-shared"),
    ];
    let expected = expected(pods.iter());
    let names = ["outrigger-system/proxy/shared", "shop/a/guard", "shop/a/sidecar", "shop/b/guard", "shop/c/guard"];
    assert_eq!(expected, set(&names));
}

const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

fn map(pem: &str, annotation: Option<String>) -> ConfigMap {
    let annotations = annotation.map(|text| BTreeMap::from([(ROTATION_ANNOTATION.to_owned(), text)]));
    ConfigMap {
        data: Some(BTreeMap::from([(ROOT_FILE.to_owned(), pem.to_owned())])),
        metadata: ObjectMeta { annotations, ..ObjectMeta::default() },
        ..ConfigMap::default()
    }
}

#[test]
fn what_is_published_is_read_back_unless_somebody_has_changed_it() {
    let progress = Progress { anchor: "a1".into(), since: Some(NOW), secret: "uid".into(), waits: Some("it".into()) };
    let roots = BTreeSet::from([Bytes::from_static(&[0, 0, 0])]);
    let of = |progress| Record { roots: roots.clone(), progress };
    let good = annotation(&progress, PEM);
    for (what, map, secret, record) in [
        ("as it was", map(PEM, Some(good.clone())), "uid", of(Some(progress.clone()))),
        ("of an earlier version", map(PEM, None), "uid", of(None)),
        ("roots were changed", map(&format!("{PEM}\n"), Some(good.clone())), "uid", of(None)),
        ("no annotation of ours", map(PEM, Some("{}".to_owned())), "uid", of(None)),
        ("of another installation", map(PEM, Some(good)), "another", Record::default()),
        ("nothing", ConfigMap::default(), "uid", Record::default()),
    ] {
        assert_eq!(Record::read(&map, secret), record, "{what}");
    }
}
