use super::*;
use crate::config::{Answer, Balancer, PathChange, Protocol};

fn message() -> wire::Service {
    wire::Service { name: "shop/cart".into(), ..wire::Service::default() }
}

fn with_rule(rule: wire::RouteRule) -> wire::Service {
    let entries = vec![wire::RouteEntry { r#match: None, rule: 0 }];
    let table = wire::RouteTable { entries, rules: vec![rule], ..wire::RouteTable::default() };
    wire::Service { route_tables: vec![table], ..message() }
}

fn with_match(matches: wire::RouteMatch) -> wire::Service {
    let mut service = with_rule(wire::RouteRule::default());
    service.route_tables[0].entries[0].r#match = Some(matches);
    service
}

fn with_filter(kind: wire::filter::Kind) -> wire::Service {
    with_rule(wire::RouteRule { filters: vec![wire::Filter { kind: Some(kind) }], ..wire::RouteRule::default() })
}

fn backend(service: &str, weight: u32) -> wire::Backend {
    wire::Backend { service: service.into(), port: 80, weight, ..wire::Backend::default() }
}

fn endpoint() -> wire::Endpoint {
    wire::Endpoint {
        service: "shop/cart".into(),
        workload: "shop/cart-0".into(),
        address: "10.0.0.1".into(),
        ..wire::Endpoint::default()
    }
}

fn inbound() -> wire::Inbound {
    wire::Inbound {
        workload: "shop/cart-0".into(),
        identity: "spiffe://td/ns/shop/sa/cart".into(),
        ..wire::Inbound::default()
    }
}

fn with_access(rule: wire::AccessRule) -> wire::Inbound {
    let policy = wire::AccessPolicy { name: "p".into(), action: 0, rules: vec![rule] };
    wire::Inbound { policies: vec![policy], ..inbound() }
}

fn path(pattern: wire::path_match::Pattern) -> wire::PathMatch {
    wire::PathMatch { pattern: Some(pattern) }
}

fn headers(name: &str, value: &str) -> wire::HeaderChange {
    let set = vec![wire::Header { name: name.into(), value: value.into() }];
    wire::HeaderChange { set, ..wire::HeaderChange::default() }
}

fn principal(kind: wire::principal::Kind) -> wire::Principal {
    wire::Principal { kind: Some(kind) }
}

#[test]
fn defaults() {
    let policy = Service::compile(message()).unwrap().policy;
    assert_eq!(policy.balancer, Balancer::LeastRequest);
    assert_eq!(policy.connect_timeout, Duration::from_secs(2));
    assert_eq!((policy.request_timeout, policy.max_connections), (None, None));
    assert_eq!(policy.retry_budget_percent, 20);
    assert!(policy.retry.is_none());
    let ejection = policy.ejection.unwrap();
    assert_eq!((ejection.consecutive_failures, ejection.max_percent), (5, 50));
    assert_eq!(ejection.base, Duration::from_secs(10));
    let disabled = wire::Ejection { disabled: true, ..wire::Ejection::default() };
    let policy = wire::TrafficPolicy { ejection: Some(disabled), ..wire::TrafficPolicy::default() };
    assert!(
        Service::compile(wire::Service { traffic_policy: Some(policy), ..message() })
            .unwrap()
            .policy
            .ejection
            .is_none()
    );

    let endpoint = EndpointSpec::compile(endpoint()).unwrap();
    assert_eq!((endpoint.weight, endpoint.draining, endpoint.meshed), (1, false, false));
    let service = Service::compile(with_match(wire::RouteMatch::default())).unwrap();
    assert_eq!(service.tables[0].entries[0].matches.share_ppm, 1_000_000);
    let service = Service::compile(with_filter(wire::filter::Kind::Redirect(wire::Redirect::default()))).unwrap();
    let Some(Answer::Redirect(redirect)) = &service.tables[0].rules[0].filters.answer else { panic!("no redirect") };
    assert_eq!((redirect.status.as_u16(), redirect.port), (302, None));
}

#[test]
fn services_that_are_refused() {
    use wire::{filter::Kind, path_match::Pattern};
    let port = |port, protocol| wire::ServicePort { port, name: String::new(), protocol };
    let long = "a".repeat(1025);
    let key = |name: &str, pattern| {
        let value = Some(wire::StringMatch { pattern });
        vec![wire::KeyMatch { name: name.into(), value }]
    };
    let regex = |text: &str| Some(wire::string_match::Pattern::Regex(text.into()));
    let mut bad_index = with_rule(wire::RouteRule::default());
    bad_index.route_tables[0].entries[0].rule = 1;
    let policy = |policy| wire::Service { traffic_policy: Some(policy), ..message() };
    let rule = |backends| with_rule(wire::RouteRule { backends, ..wire::RouteRule::default() });
    let path_is = |pattern| with_match(wire::RouteMatch { path: Some(path(pattern)), ..wire::RouteMatch::default() });
    let redirect = |redirect| with_filter(Kind::Redirect(redirect));
    let direct = |status| with_filter(Kind::DirectResponse(wire::DirectResponse { status, ..Default::default() }));
    for (message, field) in [
        (wire::Service::default(), "name"),
        (wire::Service { name: "@x".into(), ..message() }, "name"),
        (wire::Service { addresses: vec!["10.0.0".into()], ..message() }, "addresses"),
        (wire::Service { ports: vec![port(0, 0)], ..message() }, "ports.port"),
        (wire::Service { ports: vec![port(65536, 0)], ..message() }, "ports.port"),
        (wire::Service { ports: vec![port(80, 0), port(80, 1)], ..message() }, "ports.port"),
        (wire::Service { ports: vec![port(80, 9)], ..message() }, "ports.protocol"),
        (bad_index, "route_tables.entries.rule"),
        (path_is(Pattern::Exact("a".into())), "path"),
        (path_is(Pattern::Prefix("*".into())), "path.prefix"),
        (path_is(Pattern::Prefix("/a%00".into())), "path"),
        (path_is(Pattern::Regex("(".into())), "path.regex"),
        (path_is(Pattern::Regex("a)|(?:b".into())), "path.regex"),
        (path_is(Pattern::Regex(long)), "path.regex"),
        (path_is(Pattern::Regex(r"(\w{100}){100}".into())), "path.regex"),
        (path_is(Pattern::Regex("(?x) a # ".into())), "path.regex"),
        (with_match(wire::RouteMatch { path: Some(wire::PathMatch::default()), ..Default::default() }), "path"),
        (with_match(wire::RouteMatch { method: "GE T".into(), ..Default::default() }), "method"),
        (with_match(wire::RouteMatch { headers: key("a b", regex("x")), ..Default::default() }), "headers.name"),
        (with_match(wire::RouteMatch { headers: key("a", regex("[")), ..Default::default() }), "headers.value"),
        (with_match(wire::RouteMatch { query: key("", regex("x")), ..Default::default() }), "match.query"),
        (with_match(wire::RouteMatch { cookies: key("a", None), ..Default::default() }), "match.cookies"),
        (with_match(wire::RouteMatch { callers: vec![Default::default()], ..Default::default() }), "principal"),
        (with_match(wire::RouteMatch { share_ppm: 1_000_001, ..Default::default() }), "match.share_ppm"),
        (rule(vec![backend("", 1)]), "backends.service"),
        (rule(vec![wire::Backend { port: 0, ..backend("shop/a", 1) }]), "backends.port"),
        (rule(vec![backend("shop/a", u32::MAX), backend("shop/b", 1)]), "backends.weight"),
        (with_rule(wire::RouteRule { filters: vec![wire::Filter::default()], ..Default::default() }), "filters"),
        (with_rule(wire::RouteRule { stickiness: Some(Default::default()), ..Default::default() }), "stickiness"),
        (with_filter(Kind::RequestHeaders(headers("a\n", "x"))), "filters.headers.name"),
        (with_filter(Kind::RequestHeaders(headers("a", "x\r\ny"))), "filters.headers.value"),
        (with_filter(Kind::RequestHeaders(headers("Outrigger-Caller", "x"))), "filters.headers.name"),
        (with_filter(Kind::ResponseHeaders(headers("transfer-encoding", "x"))), "filters.headers.name"),
        (with_filter(Kind::ResponseHeaders(headers("host", "x"))), "filters.headers.name"),
        (with_filter(Kind::RequestHeaders(headers("host", "a/b"))), "filters.request_headers.set"),
        (with_filter(Kind::Mirror(wire::Mirror::default())), "filters.mirror"),
        (redirect(wire::Redirect { scheme: "ftp".into(), ..Default::default() }), "filters.redirect.scheme"),
        (redirect(wire::Redirect { status: 200, ..Default::default() }), "filters.redirect.status"),
        (redirect(wire::Redirect { port: 70_000, ..Default::default() }), "filters.redirect.port"),
        (redirect(wire::Redirect { hostname: "a b".into(), ..Default::default() }), "filters.redirect.hostname"),
        (direct(0), "filters.direct_response.status"),
        (direct(100), "filters.direct_response.status"),
        (direct(600), "filters.direct_response.status"),
        (policy(wire::TrafficPolicy { balancer: 9, ..Default::default() }), "traffic_policy.balancer"),
        (
            policy(wire::TrafficPolicy { retry_budget_percent: 101, ..Default::default() }),
            "traffic_policy.retry_budget_percent",
        ),
        (
            policy(wire::TrafficPolicy {
                retry: Some(wire::Retry { codes: vec![99], ..Default::default() }),
                ..Default::default()
            }),
            "retry.codes",
        ),
    ] {
        let error = Service::compile(message.clone()).expect_err(&format!("{field}: {message:?}"));
        assert_eq!((&*error.resource, error.field), (&*message.name, field), "{error}");
    }
}

#[test]
fn endpoints_inbounds_and_trust_that_are_refused() {
    let target = wire::EndpointPort { port: 80, target: 0 };
    for (message, field) in [
        (wire::Endpoint { service: String::new(), ..endpoint() }, "service"),
        (wire::Endpoint { workload: String::new(), ..endpoint() }, "workload"),
        (wire::Endpoint { address: "10.0.0.1:80".into(), ..endpoint() }, "address"),
        (wire::Endpoint { identity: "spiffe://td/x".into(), ..endpoint() }, "identity"),
        (wire::Endpoint { meshed: true, ..endpoint() }, "identity"),
        (wire::Endpoint { ports: vec![target], ..endpoint() }, "ports.target"),
        (wire::Endpoint { state: 2, ..endpoint() }, "state"),
    ] {
        assert_eq!(EndpointSpec::compile(message).unwrap_err().field, field);
    }
    let fallback = |fallback| wire::Inbound { fallback: Some(fallback), ..inbound() };
    let cidr = principal(wire::principal::Kind::Cidr("10.0.0.0/33".into()));
    let nobody = principal(wire::principal::Kind::Authenticated(false));
    let unknown = wire::AccessPolicy { action: 3, ..wire::AccessPolicy::default() };
    for (message, field) in [
        (wire::Inbound { workload: String::new(), ..inbound() }, "workload"),
        (wire::Inbound { identity: String::new(), ..inbound() }, "identity"),
        (wire::Inbound { addresses: vec!["x".into()], ..inbound() }, "addresses"),
        (wire::Inbound { mtls: 2, ..inbound() }, "mtls"),
        (wire::Inbound { acting_identities: vec!["x".into()], ..inbound() }, "acting_identities"),
        (wire::Inbound { policies: vec![unknown], ..inbound() }, "policies.action"),
        (fallback(wire::Fallback { on_sidecar_failure: 3, ..Default::default() }), "fallback.on_sidecar_failure"),
        (fallback(wire::Fallback { on_fallback_failure: 2, ..Default::default() }), "fallback.on_fallback_failure"),
        (fallback(wire::Fallback { on_control_plane_loss: 2, ..Default::default() }), "fallback.on_control_plane_loss"),
        (with_access(wire::AccessRule { from: vec![cidr], ..Default::default() }), "principal.cidr"),
        (with_access(wire::AccessRule { not_from: vec![nobody], ..Default::default() }), "principal"),
        (with_access(wire::AccessRule { ports: vec![0], ..Default::default() }), "policies.rules.ports"),
        (with_access(wire::AccessRule { hosts: vec![":80".into()], ..Default::default() }), "policies.rules.hosts"),
        (with_access(wire::AccessRule { methods: vec!["".into()], ..Default::default() }), "method"),
    ] {
        assert_eq!(Inbound::compile(message).unwrap_err().field, field);
    }
    let trust = |trust_domain: &str, roots: Vec<bytes::Bytes>| wire::Trust {
        trust_domain: trust_domain.into(),
        roots,
        ..Default::default()
    };
    let root = bytes::Bytes::from_static(b"der");
    assert_eq!(Trust::compile(trust("TD", vec![root.clone()])).unwrap_err().field, "trust_domain");
    assert_eq!(Trust::compile(trust("td", vec![])).unwrap_err().field, "roots");
    assert_eq!(Trust::compile(trust("td", vec![bytes::Bytes::new()])).unwrap_err().field, "roots");
    assert_eq!(Trust::compile(trust("td", vec![root.clone()])).unwrap().roots, [root]);
}

#[test]
fn regexes_match_whole_values() {
    for (pattern, matches, differs) in [("a|ab", "ab", "abc"), ("b", "b", "abc"), ("(?m)a", "a", "a\nb"), ("", "", "a")]
    {
        let Ok(regex) = regex("f", pattern) else { panic!("{pattern} is refused") };
        assert!(regex.is_match(matches) && !regex.is_match(differs), "{pattern}");
    }
}

#[test]
fn regexes_are_limited_by_object() {
    use wire::path_match::Pattern;
    let table = |of: &[(&str, &[String])]| {
        let named = |name: &str| wire::RouteRule { name: format!("{name}#0"), ..Default::default() };
        let entries = of.iter().zip(0..).flat_map(|((_, patterns), rule)| {
            let entry = move |pattern: &String| {
                let path = Some(path(Pattern::Regex(pattern.clone())));
                wire::RouteEntry { r#match: Some(wire::RouteMatch { path, ..Default::default() }), rule }
            };
            patterns.iter().map(entry)
        });
        let (entries, rules) = (entries.collect(), of.iter().map(|(name, _)| named(name)).collect());
        Service::compile(wire::Service {
            route_tables: vec![wire::RouteTable { entries, rules, ..Default::default() }],
            ..message()
        })
    };
    let many = |count: usize, regex: &str| (0..count).map(|n| format!("/{n}{regex}")).collect::<Vec<_>>();
    // Each owner has a limit of its own, and what is there several times counts once.
    let (few, same) = (many(256, "/.*"), vec!["/a.*".to_owned(); 300]);
    table(&[("MeshRoute/shop/a", &few), ("MeshRoute/shop/b", &few), ("MeshRoute/shop/c", &same)]).unwrap();
    let refused = |of: &[(&str, &[String])], object: &str| {
        let error = table(of).unwrap_err();
        assert_eq!((&*error.resource, error.field), ("shop/cart", "route_tables.entries"));
        assert!(error.to_string().contains(object), "{error}");
    };
    refused(
        &[("MeshRoute/shop/a", &few), ("MeshRoute/shop/b", &many(257, "/.*"))],
        "MeshRoute/shop/b has more than 256",
    );
    refused(
        &[("MeshRoute/shop/a", &few), ("MeshRoute/shop/b", &many(256, "(a{100}){60}"))],
        "of MeshRoute/shop/b take",
    );

    let with_paths = |patterns: Vec<String>| {
        let paths = patterns.into_iter().map(|pattern| path(Pattern::Regex(pattern))).collect();
        Inbound::compile(with_access(wire::AccessRule { paths, ..Default::default() }))
    };
    with_paths(few).unwrap();
    assert_eq!(with_paths(many(257, "/.*")).unwrap_err().field, "policies.rules");
}

#[test]
fn what_matches_is_normalised_like_requests() {
    use wire::path_match::Pattern;
    for (pattern, path, expected) in [
        (Pattern::Exact("/a//b/%61".into()), "/a/b/a", true),
        (Pattern::Prefix("/a/".into()), "/a/b", true),
        (Pattern::Prefix("/a/".into()), "/a", true),
        (Pattern::Prefix("/".into()), "/a", true),
        (Pattern::Prefix("/é".into()), "/%C3%A9/x", true),
        (Pattern::Regex("/a.*".into()), "/x/a", false),
    ] {
        let Ok(matcher) = path_match(self::path(pattern)) else { panic!("{path} is refused") };
        assert_eq!(matcher.matches(path), expected, "{matcher:?} {path}");
    }
}

#[test]
fn the_most_specific_table_applies() {
    let table = |namespace: &str, port: u32| wire::RouteTable {
        consumer_namespace: namespace.into(),
        port,
        ..wire::RouteTable::default()
    };
    let route_tables = vec![table("", 0), table("", 80), table("shop", 0), table("shop", 81), table("x", 80)];
    let service = Service::compile(wire::Service { route_tables, ..message() }).unwrap();
    for (namespace, port, expected) in [
        ("other", 80, ("", Some(80))),
        ("other", 81, ("", None)),
        ("shop", 80, ("shop", None)),
        ("shop", 81, ("shop", Some(81))),
        ("x", 80, ("x", Some(80))),
        ("x", 81, ("", None)),
    ] {
        let table = service.table(namespace, port).unwrap();
        assert_eq!((&*table.consumer_namespace, table.port), expected, "{namespace} {port}");
    }
    let none = Service::compile(wire::Service { route_tables: vec![table("shop", 81)], ..message() }).unwrap();
    assert!(none.table("shop", 80).is_none() && none.table("", 81).is_none());
}

#[test]
fn backends_weights_and_mirrors() {
    use wire::filter::Kind;
    let mirror = |service: &str| {
        let mirror = wire::Mirror { backend: Some(backend(service, 0)), share_ppm: 0 };
        vec![wire::Filter { kind: Some(Kind::Mirror(mirror)) }]
    };
    let invalid = wire::Backend { invalid: true, weight: 5, ..wire::Backend::default() };
    let with_mirror = wire::Backend { filters: mirror("shop/m2"), ..backend("shop/b", 0) };
    let rule = wire::RouteRule {
        backends: vec![backend("shop/a", 1), with_mirror, invalid],
        filters: mirror("shop/m1"),
        ..wire::RouteRule::default()
    };
    let service = Service::compile(with_rule(rule)).unwrap();
    let names: Vec<_> = service.backend_services().into_iter().collect();
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["shop/a", "shop/b", "shop/m1", "shop/m2"]);
    let rule = &service.tables[0].rules[0];
    assert_eq!((rule.total_weight, rule.backends[1].weight), (6, 0));
    assert_eq!(rule.filters.mirrors[0].share_ppm, 1_000_000);
}

#[test]
fn filters_by_when_they_act() {
    use wire::{filter::Kind, path_change};
    let path = wire::PathChange { kind: Some(path_change::Kind::Prefix("/v2/".into())) };
    let rewrite = wire::Rewrite { hostname: "b.example".into(), path: Some(path) };
    let fault = wire::Fault { delay_ms: 5, delay_share_ppm: 10, abort_status: 503, abort_share_ppm: 20 };
    let kinds = [
        Kind::RequestHeaders(headers("Host", "a.example")),
        Kind::Rewrite(rewrite),
        Kind::ResponseHeaders(headers("x-a", "1")),
        Kind::Fault(fault),
    ];
    let filters = kinds.into_iter().map(|kind| wire::Filter { kind: Some(kind) }).collect();
    let service = Service::compile(with_rule(wire::RouteRule { filters, ..wire::RouteRule::default() })).unwrap();
    let filters = &service.tables[0].rules[0].filters;
    assert_eq!(filters.rewrite_host.as_ref().unwrap(), "b.example");
    assert!(matches!(&filters.rewrite_path, Some(PathChange::Prefix(prefix)) if &**prefix == "/v2"));
    assert!(filters.request_headers[0].set.is_empty() && filters.response_headers[0].set.len() == 1);
    let fault = filters.fault.as_ref().unwrap();
    assert_eq!((fault.delay, fault.delay_share_ppm, fault.abort_share_ppm), (Duration::from_millis(5), 10, 20));
}

#[test]
fn none_is_not_the_default() {
    let off = wire::Retry::default();
    let rule = wire::RouteRule { retry: Some(off.clone()), request_timeout_ms: Some(0), ..wire::RouteRule::default() };
    let policy = wire::TrafficPolicy { retry: Some(off), ..wire::TrafficPolicy::default() };
    let service = wire::Service { traffic_policy: Some(policy), ..with_rule(rule) };
    let service = Service::compile(service).unwrap();
    let rule = &service.tables[0].rules[0];
    assert_eq!(rule.request_timeout, Some(Duration::ZERO), "the policy's doesn't apply");
    for retry in [&rule.retry, &service.policy.retry] {
        assert_eq!(retry.as_ref().unwrap().attempts, 0);
    }
    let unset = Service::compile(with_rule(wire::RouteRule::default())).unwrap();
    assert!(unset.tables[0].rules[0].request_timeout.is_none() && unset.tables[0].rules[0].retry.is_none());
}

#[test]
fn ports_and_protocols() {
    let ports = vec![wire::ServicePort { port: 80, name: "http".into(), protocol: 1 }];
    let service = Service::compile(wire::Service { ports: ports.clone(), ..message() }).unwrap();
    assert_eq!(service.port(80).unwrap().protocol, Protocol::Http);
    assert!(service.port(81).is_none());
    let inbound = Inbound::compile(wire::Inbound { ports, ..inbound() }).unwrap();
    assert_eq!(&*inbound.port(80).unwrap().name, "http");
    let ports = vec![wire::EndpointPort { port: 80, target: 8080 }];
    let endpoint = EndpointSpec::compile(wire::Endpoint { ports, ..endpoint() }).unwrap();
    assert_eq!((endpoint.target_port(80), endpoint.target_port(81)), (8080, 81));
}
