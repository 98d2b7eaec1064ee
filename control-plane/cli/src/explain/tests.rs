//! What is said of calls, from tables of what a controller would serve.

use std::collections::BTreeMap;

use outrigger_wire::proto::config::{
    self as wire, access_policy::Action, endpoint::State, filter::Kind, inbound::Mtls, principal, string_match,
};
use prost::Message as _;

use super::{
    decide::{Call, decide},
    gather::{Served, Source},
    render,
    report::Explanation,
};
use crate::terminal::Paint;

/// Encoded resources by type and name.
#[derive(Default)]
struct Table(BTreeMap<(&'static str, String), Vec<u8>>);

impl Source for Table {
    async fn resource(&mut self, kind: &str, name: &str) -> anyhow::Result<Option<hyper::body::Bytes>> {
        let found = self.0.iter().find(|((of, at), _)| *of == kind && at == name);
        Ok(found.map(|(_, body)| body.clone().into()))
    }

    async fn names(&mut self, kind: &str) -> anyhow::Result<Vec<String>> {
        Ok(self.0.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect())
    }
}

fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

impl Table {
    fn inbound(&mut self, name: &str, address: &str, change: impl FnOnce(&mut wire::Inbound)) {
        let mut inbound = wire::Inbound {
            workload: format!("shop/{name}"),
            identity: identity(name.rsplit_once('-').map_or(name, |(account, _)| account)),
            addresses: vec![address.to_owned()],
            fallback: Some(wire::Fallback {
                shared_service: "outrigger-system/outrigger-shared".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        change(&mut inbound);
        self.0.insert(("Inbound", inbound.workload.clone()), inbound.encode_to_vec());
    }

    fn service(&mut self, name: &str, change: impl FnOnce(&mut wire::Service)) {
        let mut service = wire::Service {
            name: format!("shop/{name}"),
            addresses: vec!["10.96.0.1".to_owned()],
            ports: vec![wire::ServicePort { port: 80, name: "http".into(), ..Default::default() }],
            ..Default::default()
        };
        change(&mut service);
        self.0.insert(("Service", service.name.clone()), service.encode_to_vec());
    }

    fn endpoint(&mut self, service: &str, name: &str, address: &str, change: impl FnOnce(&mut wire::Endpoint)) {
        let mut endpoint = wire::Endpoint {
            service: format!("shop/{service}"),
            workload: format!("shop/{name}"),
            address: address.to_owned(),
            ports: vec![wire::EndpointPort { port: 80, target: 8080 }],
            identity: identity(name.rsplit_once('-').map_or(name, |(account, _)| account)),
            meshed: true,
            ..Default::default()
        };
        change(&mut endpoint);
        self.0.insert(("Endpoint", format!("shop/{service}/{name}")), endpoint.encode_to_vec());
    }

    /// A caller, a service of one meshed pod, and `table` as its routes.
    fn shop(table: Option<wire::RouteTable>) -> Self {
        let mut all = Self::default();
        all.inbound("front-1", "10.0.0.1", |_| {});
        all.inbound("web-1", "10.0.0.2", |_| {});
        all.endpoint("web", "web-1", "10.0.0.2", |_| {});
        all.service("web", |web| web.route_tables.extend(table));
        all
    }

    fn ask(&mut self, from: &str, method: &str, target: &str) -> Explanation {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut served = Served::default();
            let workload = format!("shop/{from}");
            if served.take_inbound(self, &workload).await.unwrap() {
                served.snapshot.set_own(&workload);
            }
            let service = served.take_service(self, "shop/web").await.unwrap();
            let call = Call {
                workload,
                address: Some("10.9.9.9".parse().unwrap()),
                service,
                port: 80,
                authority: "web".into(),
                method: Some(method.parse().unwrap()),
                target: target.to_owned(),
                headers: Default::default(),
                notes: Vec::new(),
            };
            decide(&served, &call)
        })
    }
}

fn exact_path(path: &str) -> Option<wire::PathMatch> {
    Some(wire::PathMatch { pattern: Some(wire::path_match::Pattern::Prefix(path.into())) })
}

fn to_web(weight: u32) -> wire::Backend {
    wire::Backend { service: "shop/web".into(), port: 80, weight, ..Default::default() }
}

fn rule(name: &str, filters: Vec<Kind>, backends: Vec<wire::Backend>) -> wire::RouteRule {
    let filters = filters.into_iter().map(|kind| wire::Filter { kind: Some(kind) }).collect();
    wire::RouteRule { name: format!("HTTPRoute/shop/{name}#0"), filters, backends, ..Default::default() }
}

fn table(rules: Vec<(Option<wire::RouteMatch>, wire::RouteRule)>) -> Option<wire::RouteTable> {
    let (matches, rules): (Vec<_>, Vec<_>) = rules.into_iter().unzip();
    let entry = |(rule, r#match): (usize, Option<wire::RouteMatch>)| wire::RouteEntry { r#match, rule: rule as u32 };
    let entries = matches.into_iter().enumerate().map(entry).collect();
    Some(wire::RouteTable { entries, rules, ..Default::default() })
}

fn policy(action: Action, rule: wire::AccessRule) -> wire::AccessPolicy {
    let name = format!("AccessPolicy/shop/{}", action.as_str_name().to_lowercase());
    wire::AccessPolicy { name, action: action.into(), rules: vec![rule] }
}

fn from_account(account: &str) -> wire::AccessRule {
    let kind = Some(principal::Kind::Identity(identity(account)));
    wire::AccessRule { from: vec![wire::Principal { kind }], ..Default::default() }
}

#[test]
fn without_routes_and_policies_it_is_allowed_over_mtls() {
    let told = Table::shop(None).ask("front-1", "GET", "/a//b/../c");
    assert!(told.allowed, "{}", told.summary);
    assert_eq!(told.summary, "Allowed: shop/web answers, over mTLS.");
    assert_eq!(told.request.path.as_deref(), Some("/a/c"), "normalised as in the proxy");
    let endpoint = &told.backends[0].endpoints[0];
    assert_eq!((endpoint.workload.as_str(), endpoint.port, endpoint.percent), ("shop/web-1", 8080, 100.0));
    assert_eq!((endpoint.transport, endpoint.verdict.mtls), ("mtls", Some("permissive")));
    assert_eq!(told.on_sidecar_failure.len(), 2);
    assert!(told.on_sidecar_failure[0].effect.contains("outrigger-system/outrigger-shared"));
}

#[test]
fn a_path_that_can_be_read_twice_is_refused() {
    let told = Table::shop(None).ask("front-1", "GET", "/a/..%2Fadmin");
    assert_eq!(told.answer.map(|answer| answer.status), Some(400));
    assert!(!told.allowed);
}

#[test]
fn the_rule_that_matches_is_named_and_what_matches_none_is_404() {
    let only_a = wire::RouteMatch { path: exact_path("/a"), ..Default::default() };
    let mut shop = Table::shop(table(vec![(Some(only_a), rule("web", vec![], vec![to_web(1)]))]));
    let told = shop.ask("front-1", "GET", "/a/b");
    let route = told.route.unwrap();
    assert_eq!((route.rule.as_str(), route.matched.as_str()), ("HTTPRoute/shop/web#0", "path prefix /a"));
    let told = shop.ask("front-1", "GET", "/b");
    assert_eq!(told.answer.map(|answer| answer.status), Some(404));
    assert!(!told.allowed && told.route.is_none());
}

#[test]
fn shares_and_weights_are_told_as_they_are() {
    let tenth = wire::RouteMatch { share_ppm: 100_000, ..Default::default() };
    let mut shop = Table::shop(table(vec![
        (Some(tenth), rule("canary", vec![], vec![to_web(1)])),
        (None, rule("main", vec![], vec![to_web(3), wire::Backend { invalid: true, weight: 1, ..Default::default() }])),
    ]));
    let told = shop.ask("front-1", "GET", "/");
    let route = told.route.as_ref().unwrap();
    assert_eq!((route.rule.as_str(), route.percent), ("HTTPRoute/shop/main#0", 90.0));
    let other = &told.alternatives[0];
    assert_eq!((other.rule.as_deref(), other.percent), (Some("HTTPRoute/shop/canary#0"), 10.0));
    let backends: Vec<_> = told.backends.iter().map(|it| (it.percent, it.problem.is_some())).collect();
    assert_eq!(backends, [(75.0, false), (25.0, true)]);
    assert!(!told.allowed && told.summary.contains("25% fails with 500"), "{}", told.summary);
}

#[test]
fn a_policy_judges_the_rewritten_path() {
    let rewrite = Kind::Rewrite(wire::Rewrite {
        path: Some(wire::PathChange { kind: Some(wire::path_change::Kind::Prefix("/inner".into())) }),
        ..Default::default()
    });
    let only_a = wire::RouteMatch { path: exact_path("/a"), ..Default::default() };
    let mut shop = Table::shop(table(vec![(Some(only_a), rule("web", vec![rewrite], vec![to_web(1)]))]));
    shop.inbound("web-1", "10.0.0.2", |web| {
        let rule = wire::AccessRule { paths: exact_path("/inner/secret").into_iter().collect(), ..Default::default() };
        web.policies = vec![policy(Action::Deny, rule)];
    });
    let told = shop.ask("front-1", "GET", "/a/secret");
    assert_eq!(told.summary, "Denied at shop/web-1: denied by AccessPolicy/shop/action_deny.");
    assert_eq!(told.backends[0].endpoints[0].verdict.policies[0].matching_rules, [0]);
    assert!(shop.ask("front-1", "GET", "/a/other").allowed);
}

#[test]
fn an_answer_of_the_route_is_no_finding() {
    let redirect = Kind::Redirect(wire::Redirect { hostname: "example.com".into(), status: 301, ..Default::default() });
    let told = Table::shop(table(vec![(None, rule("web", vec![redirect], vec![]))])).ask("front-1", "GET", "/x?y=1");
    let answer = told.answer.unwrap();
    assert_eq!((answer.status, answer.location.as_deref()), (301, Some("http://example.com/x?y=1")));
    assert!(told.allowed);
}

#[test]
fn verdicts() {
    let cases: [(&str, Mtls, wire::AccessPolicy, Option<&str>, &str); 6] = [
        (
            "front-1",
            Mtls::Strict,
            policy(Action::Allow, from_account("front")),
            None,
            "allowed by AccessPolicy/shop/action_allow",
        ),
        (
            "front-1",
            Mtls::Strict,
            policy(Action::Allow, from_account("back")),
            Some("none of the policies that allow"),
            "",
        ),
        ("front-1", Mtls::Permissive, policy(Action::Deny, from_account("front")), Some("denied by"), ""),
        ("front-1", Mtls::Permissive, policy(Action::Audit, from_account("front")), None, "no policy speaks of it"),
        ("stranger-1", Mtls::Strict, policy(Action::Deny, from_account("front")), Some("mTLS is strict"), ""),
        ("stranger-1", Mtls::Permissive, policy(Action::Deny, from_account("front")), None, "no policy speaks of it"),
    ];
    for (from, mtls, policy, denied, allowed) in cases {
        let mut shop = Table::shop(None);
        shop.inbound("web-1", "10.0.0.2", |web| {
            web.mtls = mtls.into();
            web.policies = vec![policy.clone()];
        });
        let told = shop.ask(from, "GET", "/");
        let verdict = &told.backends[0].endpoints[0].verdict;
        assert_eq!(verdict.allowed, denied.is_none(), "{from} {policy:?}: {verdict:?}");
        assert!(verdict.reason.contains(denied.unwrap_or(allowed)), "{from} {policy:?}: {verdict:?}");
        assert_eq!(told.allowed, verdict.allowed);
    }
}

#[test]
fn what_the_kubelet_asks_is_let_in() {
    let mut shop = Table::shop(None);
    shop.inbound("web-1", "10.0.0.2", |web| {
        web.mtls = Mtls::Strict.into();
        web.probes = vec![wire::Probe { port: 8080, path: "/healthz".into(), grpc: false }];
    });
    let told = shop.ask("stranger-1", "GET", "/healthz");
    assert!(told.allowed, "{}", told.summary);
    assert_eq!(told.backends[0].endpoints[0].verdict.reason, "the kubelet asks this about health");
    assert!(!shop.ask("stranger-1", "GET", "/").allowed);
}

#[test]
fn an_opaque_port_meets_l7_policies_closed() {
    let mut shop = Table::shop(None);
    shop.service("web", |web| web.ports[0].protocol = wire::Protocol::Tcp.into());
    shop.inbound("web-1", "10.0.0.2", |web| {
        let rule = wire::AccessRule { methods: vec!["GET".into()], ..Default::default() };
        web.policies = vec![policy(Action::Allow, rule)];
    });
    let told = shop.ask("front-1", "GET", "/");
    assert!(!told.allowed && told.request.method.is_none());
    assert!(told.summary.contains("nobody looks at the bytes"), "{}", told.summary);
}

#[test]
fn endpoints_of_the_callers_zone_and_those_that_drain() {
    let mut shop = Table::shop(None);
    shop.inbound("front-1", "10.0.0.1", |front| front.zone = "a".into());
    for (name, address, zone, state) in [
        ("web-1", "10.0.0.2", "a", State::Ready),
        ("web-2", "10.0.0.3", "b", State::Ready),
        ("web-3", "10.0.0.4", "a", State::Draining),
    ] {
        shop.inbound(name, address, |_| {});
        shop.endpoint("web", name, address, |web| {
            web.zone = zone.into();
            web.state = state.into();
        });
    }
    let told = shop.ask("front-1", "GET", "/");
    let seen: Vec<_> =
        told.backends[0].endpoints.iter().map(|it| (it.workload.as_str(), it.state, it.percent)).collect();
    assert_eq!(seen, [("shop/web-1", "ready", 100.0), ("shop/web-2", "ready", 0.0), ("shop/web-3", "draining", 0.0)]);
}

#[test]
fn the_text_says_it_all() {
    let header = wire::KeyMatch {
        name: "x-beta".into(),
        value: Some(wire::StringMatch { pattern: Some(string_match::Pattern::Present(false)) }),
    };
    let plain = wire::RouteMatch { headers: vec![header], ..Default::default() };
    let mut shop = Table::shop(table(vec![(Some(plain), rule("web", vec![], vec![to_web(1)]))]));
    shop.inbound("web-1", "10.0.0.2", |web| web.policies = vec![policy(Action::Deny, from_account("front"))]);
    let text = render::text(&shop.ask("front-1", "GET", "/x"), Paint::none());
    for part in [
        "Denied at shop/web-1: denied by AccessPolicy/shop/action_deny.\n",
        "Caller       shop/front-1 as spiffe://cluster.local/ns/shop/sa/front\n",
        "Route        HTTPRoute/shop/web#0 (every path, no header x-beta)\n",
        "Backend shop/web port 80, 100%\n",
        "shop/web-1  10.0.0.2:8080  -     ready  100%   mTLS  denied: denied by",
        "  policy AccessPolicy/shop/action_deny (deny): matches by rules[0]\n",
        "If a sidecar dies\n",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
}
