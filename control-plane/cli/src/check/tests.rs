//! What is said of facts.

use serde_json::json;

use super::{
    after, before,
    evaluate::{Report, Status},
    facts::*,
    render,
};
use crate::terminal::Paint;

const ROOTS: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What it is, the findings, and how the facts differ from good ones.
type Case<F> = (&'static str, &'static [&'static str], fn(&mut F));

fn fit() -> Before {
    Before {
        server_version: "v1.34.4".into(),
        permissions: Ok(vec![Permission { what: "create namespaces".into(), allowed: true }]),
        gateway_api: Ok(Some(GatewayApi { version: Some("v1.4.1".into()), missing: vec![] })),
        namespaces: Ok(vec![Namespace { name: "shop".into(), mode: Some("sidecar".into()), ..Default::default() }]),
        other_meshes: Ok(vec![]),
        unowned: Ok(vec![]),
    }
}

fn well() -> After {
    let webhook = Webhook { name: "inject".into(), ca_bundle: ROOTS.into(), by_cert_manager: false };
    let replica = |name: &str| Replica {
        name: name.into(),
        version: Some(VERSION.into()),
        pages: Ok(Pages { proxies: json!([]), problems: json!([]), unmeshed: json!({ "unmeshed": [] }) }),
        serving: Some(Ok(())),
    };
    let pod = Pod {
        namespace: "shop".into(),
        name: "web-1".into(),
        meshed: true,
        injected: Some(VERSION.into()),
        ..Default::default()
    };
    After {
        server_version: "v1.34.4".into(),
        controller: Ok(Some(Deployment { wanted: 2, ready: 2, updated: 2 })),
        shared: Ok(Some(Deployment { wanted: 2, ready: 2, updated: 2 })),
        pools: Ok(vec![("outrigger-shared-pay".into(), Deployment { wanted: 2, ready: 2, updated: 2 })]),
        replicas: vec![replica("outrigger-controller-a"), replica("outrigger-controller-b")],
        leader: Ok(Some("outrigger-controller-a".into())),
        injector: Ok(Some(vec![webhook.clone()])),
        validator: Ok(Some(vec![webhook])),
        roots: Ok(Some(ROOTS.into())),
        rotation: None,
        crds: Ok(vec![Crd { name: "meshroutes.outrigger.dev".into(), established: Some(true) }]),
        gateway_api: Ok(Some(GatewayApi { version: Some("v1.4.1".into()), missing: vec![] })),
        namespaces: fit().namespaces,
        trust: Ok(vec![("shop".into(), ROOTS.into())]),
        pods: Ok(vec![pod]),
    }
}

/// The findings, as `name status`.
fn findings(report: &Report) -> Vec<String> {
    let bad = report.checks.iter().filter(|check| check.status != Status::Ok);
    bad.map(|check| {
        assert!(check.remedy.as_ref().is_some_and(|remedy| !remedy.is_empty()), "{check:?} needs a remedy");
        let (file, anchor) = check.doc.as_ref().unwrap().split_once('#').unwrap();
        let text = std::fs::read_to_string(format!("{}/../../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(text.contains(&format!("\n### {anchor}\n")), "{check:?}: {file} has no such heading");
        format!("{} {}", check.name, if check.status == Status::Failure { "failure" } else { "warning" })
    })
    .collect()
}

#[test]
fn before_the_mesh() {
    let cases: [Case<Before>; 11] = [
        ("fit", &[], |_| {}),
        ("odd version", &[], |it| it.server_version = "v1.29+k3s1".into()),
        ("old", &["kubernetes-version failure"], |it| it.server_version = "v1.28.15".into()),
        ("unreadable", &["kubernetes-version warning"], |it| it.server_version = "main".into()),
        ("no rights", &["permissions failure"], |it| {
            it.permissions = Ok(vec![Permission { what: "create secrets".into(), allowed: false }]);
        }),
        ("no Gateway API", &["gateway-api warning"], |it| it.gateway_api = Ok(None)),
        ("old Gateway API", &["gateway-api warning"], |it| {
            it.gateway_api = Ok(Some(GatewayApi { version: Some("v1.0.0".into()), missing: vec!["grpcroutes"] }));
        }),
        ("restricted", &["pod-security warning"], |it| {
            it.namespaces.as_mut().unwrap()[0].pod_security = Some("restricted".into());
        }),
        ("somebody's objects", &["foreign-objects failure"], |it| it.unowned = Ok(vec!["ClusterRole x".into()])),
        ("a neighbour", &["other-meshes warning"], |it| it.other_meshes = Ok(vec!["istio-sidecar-injector".into()])),
        ("two masters", &["other-meshes failure"], |it| {
            it.other_meshes = Ok(vec!["istio-sidecar-injector".into()]);
            it.namespaces.as_mut().unwrap()[0].other_mesh = Some("istio-injection".into());
        }),
    ];
    for (what, want, change) in cases {
        let mut facts = fit();
        change(&mut facts);
        assert_eq!(findings(&Report::of(before::checks(&facts))), want, "{what}");
    }
}

#[test]
fn with_the_mesh() {
    let cases: [Case<After>; 25] = [
        ("well", &[], |_| {}),
        ("not installed", &["controller failure"], |it| it.controller = Ok(None)),
        ("none ready", &["controller failure"], |it| it.controller.as_mut().unwrap().as_mut().unwrap().ready = 0),
        ("one alone", &["controller warning"], |it| {
            it.controller = Ok(Some(Deployment { wanted: 1, ready: 1, updated: 1 }));
        }),
        ("shared proxies", &["shared-proxies failure"], |it| it.shared = Ok(None)),
        ("a pool", &["shared-proxies failure"], |it| it.pools.as_mut().unwrap()[0].1.ready = 0),
        ("another version", &["version warning"], |it| {
            it.replicas.iter_mut().for_each(|r| r.version = Some("9".into()))
        }),
        ("mute", &["admin failure"], |it| it.replicas[1].pages = Err("timed out".into())),
        ("nobody leads", &["leader failure"], |it| it.leader = Ok(None)),
        ("a ghost leads", &["leader warning"], |it| it.leader = Ok(Some("gone".into()))),
        ("no kind", &["crds failure"], |it| it.crds.as_mut().unwrap()[0].established = None),
        ("no roots", &["roots failure", "trust failure"], |it| it.roots = Ok(None)),
        ("another root", &["roots warning"], |it| it.rotation = Some("3 of 415 connected proxies".into())),
        ("no bundle", &["injector failure"], |it| {
            it.injector.as_mut().unwrap().as_mut().unwrap()[0].ca_bundle.clear();
        }),
        ("another bundle", &["validator warning"], |it| {
            it.validator.as_mut().unwrap().as_mut().unwrap()[0].ca_bundle = ROOTS.replace("AAAA", "BBBB");
        }),
        ("cert-manager's bundle", &[], |it| {
            let webhook = &mut it.validator.as_mut().unwrap().as_mut().unwrap()[0];
            webhook.ca_bundle = ROOTS.replace("AAAA", "BBBB");
            webhook.by_cert_manager = true;
        }),
        ("a bad certificate", &["webhook-certificate failure"], |it| {
            it.replicas[0].serving = Some(Err("expired".into()));
        }),
        ("no trust", &["trust failure"], |it| it.trust = Ok(vec![])),
        ("restricted", &["pod-security failure"], |it| {
            it.namespaces.as_mut().unwrap()[0].pod_security = Some("baseline".into());
        }),
        ("slipped by", &["unmeshed-pods warning"], |it| it.pods.as_mut().unwrap()[0].meshed = false),
        ("opted out", &[], |it| {
            let pod = &mut it.pods.as_mut().unwrap()[0];
            (pod.meshed, pod.mode) = (false, Some("none".into()));
        }),
        ("old proxies", &["proxy-version warning"], |it| it.pods.as_mut().unwrap()[0].injected = Some("0.0.1".into())),
        ("crashing", &["proxies warning"], |it| {
            it.pods.as_mut().unwrap()[0].unready = Some("outrigger-sidecar: CrashLoopBackOff".into());
        }),
        ("a problem", &["problems warning"], |it| {
            let problem =
                json!({ "object": "MeshRoute/shop/x", "field": "spec", "problem": "bad", "remedy": "mend it" });
            it.replicas[0].pages.as_mut().unwrap().problems = json!([problem]);
        }),
        ("a rejection", &["rejections failure"], |it| {
            let stream = json!({ "workload": "shop/web-1", "types": { "x": { "nack": { "reason": "bad" } } } });
            it.replicas[1].pages.as_mut().unwrap().proxies = json!([stream]);
        }),
    ];
    for (what, want, change) in cases {
        let mut facts = well();
        change(&mut facts);
        assert_eq!(findings(&Report::of(after::checks(&facts))), want, "{what}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_no_success() {
    let facts = After { pods: Err("forbidden".into()), ..well() };
    assert_eq!(findings(&Report::of(after::checks(&facts))), ["unmeshed-pods failure"]);
}

#[test]
fn the_text_has_a_remedy_and_a_place_to_read_on() {
    let mut facts = fit();
    facts.server_version = "v1.28.15".into();
    let text = render::text(&Report::of(before::checks(&facts)), Paint::none());
    let part = "kubernetes\n\
                ✓ api-server: the API server answers\n\
                ✗ kubernetes-version: v1.28.15 is too old: proxies are native sidecars\n    \
                → upgrade the cluster to 1.29 or later\n    \
                see docs/troubleshooting.md#kubernetes-version\n";
    assert!(text.starts_with(part), "{text}");
    assert!(text.ends_with(" ok, 0 warnings, 1 failures\n"), "{text}");
}

#[test]
fn durations() {
    use std::time::Duration;
    for (text, seconds) in [("90s", 90), ("5m", 300), ("1h", 3600), ("7", 7)] {
        assert_eq!(super::duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    for text in ["", "s", "5 minutes", "-1s"] {
        assert!(super::duration(text).is_err(), "{text}");
    }
}
