//! What is shown of what was gathered.

use serde_json::json;

use super::*;
use crate::{status::render, terminal::Paint};

const SERVICE: &str = "type.googleapis.com/outrigger.config.v1alpha1.Service";
const NOW: i64 = 1_800_000_000;

fn stream(workload: &str, role: &str, version: &str, nack: Option<&str>) -> Value {
    json!({
        "node": format!("{workload}/{role}"),
        "workload": workload,
        "generation": 7,
        "types": { SERVICE: {
            "resources": { "shop/web": version },
            "nack": nack.map(|reason| json!({ "names": ["shop/web"], "reason": reason })),
        } },
    })
}

fn controller(name: &str, leads: bool, streams: &[Value]) -> ControllerFacts {
    let pages = Pages {
        proxies: streams.into(),
        resources: json!({ "generation": 7, "types": { SERVICE: { "shop/web": "v2" } } }),
        leader: json!({ "leader": leads }),
    };
    ControllerFacts { name: name.to_owned(), ready: true, pages: Ok(pages) }
}

fn dump(guard: Option<Value>) -> Value {
    let mut dump =
        json!({ "version": "0.1.0", "certificate": { "not_after": NOW + 40_000 }, "status": { "refusals": [] } });
    if let Some(guard) = guard {
        dump["guard"] = guard;
    }
    dump
}

fn pod(name: &str, sidecar: Result<Value, String>, guard: Value) -> PodFacts {
    PodFacts {
        workload: format!("shop/{name}"),
        mode: Mode::Sidecar,
        version: Some("0.1.0".into()),
        dumps: vec![("sidecar", sidecar), ("guard", Ok(dump(Some(guard))))],
    }
}

fn standby() -> Value {
    json!({ "state": "standby", "reason": null, "since": NOW - 5, "carried": { "now": 0 } })
}

#[test]
fn a_pod_is_as_good_as_its_worst_part() {
    let refused = json!({ "refusals": [{ "type_url": SERVICE, "name": "shop/web", "reason": "no such colour" }] });
    let mut rejecting = dump(None);
    rejecting["status"] = refused;
    let mut shut = dump(None);
    shut["status"]["closed"] = 1.into();
    let streams = |name: &str, version: &str, nack| {
        let workload = format!("shop/{name}");
        [stream(&workload, "sidecar", version, nack), stream(&workload, "guard", "v2", None)]
    };
    let cases = [
        ("good", streams("good", "v2", None).to_vec(), Ok(dump(None)), Sync::Synced, ""),
        ("old", streams("old", "v1", None).to_vec(), Ok(dump(None)), Sync::Stale, "behind in Service shop/web"),
        ("nack", streams("nack", "v1", Some("bad port")).to_vec(), Ok(dump(None)), Sync::Rejected, "bad port"),
        (
            "said",
            streams("said", "v2", None).to_vec(),
            Ok(rejecting),
            Sync::Rejected,
            "Service shop/web: no such colour",
        ),
        (
            "lost",
            streams("lost", "v2", None)[1..].to_vec(),
            Ok(dump(None)),
            Sync::Disconnected,
            "no controller has a stream of its sidecar",
        ),
        (
            "shut",
            streams("shut", "v2", None)[1..].to_vec(),
            Ok(shut),
            Sync::Disconnected,
            "no controller has a stream of its sidecar; it refuses calls meanwhile (onControlPlaneLoss: Closed)",
        ),
        ("mute", streams("mute", "v2", None).to_vec(), Err("timed out".into()), Sync::Synced, ""),
    ];
    for (name, streams, sidecar, sync, reason) in cases {
        let unreachable = sidecar.is_err();
        let facts = Facts {
            now: NOW,
            controllers: vec![controller("a", true, &streams)],
            pods: Some(vec![pod(name, sidecar, standby())]),
        };
        let report = report(&facts);
        let proxy = &report.proxies[0];
        assert_eq!((proxy.sync, proxy.reason.as_deref().unwrap_or_default()), (sync, reason), "{name}");
        assert_eq!(report.has_findings(), sync != Sync::Synced || unreachable, "{name}");
        assert_eq!((proxy.certificate_seconds, &proxy.fallback), (Some(40_000), &None), "{name}");
    }
}

#[test]
fn who_carries_a_pod_is_shown_since_when_and_why() {
    let carrying = json!({ "state": "carrying", "reason": "died", "since": NOW - 75, "carried": { "now": 3 } });
    let streams = [stream("shop/web-1", "guard", "v2", None)];
    let facts = |mode, dumps| Facts {
        now: NOW,
        controllers: vec![controller("a", true, &streams)],
        pods: Some(vec![PodFacts { workload: "shop/web-1".into(), mode, version: None, dumps }]),
    };
    let dead = report(&facts(
        Mode::Sidecar,
        vec![("sidecar", Err("connection refused".into())), ("guard", Ok(dump(Some(carrying.clone()))))],
    ));
    let fallback = dead.proxies[0].fallback.clone().unwrap();
    assert_eq!((fallback.state.as_str(), fallback.seconds, fallback.connections), ("carrying", Some(75), 3));
    assert_eq!((dead.summary.in_fallback, dead.summary.unreachable), (1, 1));
    // What is meant to be without a sidecar is no finding.
    let shared = report(&facts(Mode::Shared, vec![("guard", Ok(dump(Some(carrying))))]));
    assert!(shared.proxies[0].fallback.as_ref().unwrap().intended && !shared.has_findings());
}

#[test]
fn without_pods_there_are_the_streams() {
    let streams = [stream("shop/web-1", "sidecar", "v2", None), stream("shop/web-1", "guard", "v1", None)];
    let facts = Facts { now: NOW, controllers: vec![controller("127.0.0.1:1", false, &streams)], pods: None };
    let report = report(&facts);
    assert_eq!((report.proxies.len(), report.proxies[0].sync), (1, Sync::Stale));
    let text = render::text(&report, Paint::none());
    assert!(text.contains("shop/web-1  sidecar+guard  -        STALE   1/2      7 "), "{text}");
}

#[test]
fn the_text_has_a_row_per_pod_and_a_last_line() {
    let streams = [stream("shop/web-1", "sidecar", "v2", None), stream("shop/web-1", "guard", "v2", None)];
    let gone = ControllerFacts { name: "b".into(), ready: false, pages: Err("no port-forward".into()) };
    let facts = Facts {
        now: NOW,
        controllers: vec![controller("a", true, &streams), gone],
        pods: Some(vec![pod("web-1", Ok(dump(None)), standby())]),
    };
    let text = render::text(&report(&facts), Paint::none());
    assert_eq!(
        text,
        "PROXY       MODE     VERSION  CONFIG  CURRENT  GENERATION  FALLBACK  CERTIFICATE  CONTROLLER\n\
         shop/web-1  sidecar  0.1.0    SYNCED  2/2      7           -         11h06m       a\n\
         \n\
         CONTROLLER  READY  LEADER  GENERATION  STREAMS\n\
         a           yes    yes     7           2\n\
         b           no     -       -           0\n\
         \n\
         b: can't be asked: no port-forward\n\
         \n\
         1 of 1 proxies synced, 1 of 2 controllers ready, leader a.\n"
    );
}
