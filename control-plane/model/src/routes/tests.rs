use wire::{filter::Kind, path_match::Pattern};

use super::*;
use crate::{Inputs, Reason, fixtures::*, inputs::*};

/// Services a/s and b/s with ports 80 and 81, a/one with port 80.
fn inputs(routes: Vec<Route>) -> Inputs {
    let services = vec![
        service("a/s", "10.0.0.1", &[80, 81]),
        service("b/s", "10.0.0.2", &[80, 81]),
        service("a/one", "10.0.0.3", &[80]),
    ];
    Inputs { services, routes, ..Inputs::default() }
}

fn tables_of(inputs: &Inputs, service: &str) -> (Vec<wire::RouteTable>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mesh = Mesh::join(inputs, &mut findings);
    let tables = tables(&mesh, &mut findings, &mut Affects::default()).remove(service).unwrap_or_default();
    (tables, findings)
}

/// Entries as "path>rule", in the order in which they are tried.
fn order(table: &wire::RouteTable) -> Vec<String> {
    let entries = table.entries.iter();
    entries
        .map(|entry| {
            let matches = entry.r#match.as_ref().unwrap();
            let path = match matches.path.as_ref().and_then(|p| p.pattern.as_ref()) {
                Some(Pattern::Exact(p)) => format!("={p}"),
                Some(Pattern::Prefix(p)) => p.clone(),
                Some(Pattern::Regex(p)) => format!("~{p}"),
                None => "*".to_owned(),
            };
            let rule = &table.rules[entry.rule as usize].name;
            format!("{path}>{}", rule.split_once('/').unwrap().1)
        })
        .collect()
}

fn with(mut matches: RouteMatch, change: impl FnOnce(&mut wire::RouteMatch)) -> RouteMatch {
    change(&mut matches.request);
    matches
}

#[test]
fn precedence_within_and_across_kinds() {
    let ladder = [
        path("=/a/b"),
        path("~/a/.*"),
        with(path("/a/b/"), |m| m.method = "GET".to_owned()),
        with(path("/a/b"), |m| m.headers = vec![key("x"), key("y")]),
        with(path("/a/b"), |m| {
            m.headers = vec![key("x")];
            m.query = vec![key("q")];
        }),
        with(path("/a/b"), |m| m.headers = vec![key("x")]),
        with(path("/a/b"), |m| m.query = vec![key("q"), key("r")]),
        with(path("/a/b"), |m| m.query = vec![key("q")]),
        with(path("/a/b"), |m| {
            m.cookies = vec![key("c")];
            m.share_ppm = 10;
        }),
        with(path("/a/b"), |m| m.callers = vec![wire::Principal::default()]),
        path("/a/b"),
        path("/a"),
        with(path("/"), |m| m.method = "GET".to_owned()),
        path("/"),
    ];
    for (higher, lower) in ladder.iter().zip(&ladder[1..]) {
        let of = |m: &RouteMatch| Specificity::of(&m.request, None);
        assert!(of(higher) > of(lower), "{higher:?} isn't before {lower:?}");
    }
    // However the ladder is spread over rules and kinds, it comes out in order.
    let rules: Vec<RouteRule> = ladder.iter().rev().map(|m| rule(vec![m.clone()], &["a/one:80"])).collect();
    let (odd, even): (Vec<_>, Vec<_>) = rules.into_iter().enumerate().partition(|(index, _)| index % 2 == 1);
    let rules = |list: Vec<(usize, RouteRule)>| list.into_iter().map(|(_, rule)| rule).collect();
    let routes = vec![
        route(RouteKind::HttpRoute, "a/http", "a/s", rules(odd)),
        route(RouteKind::MeshRoute, "a/mesh", "a/s", rules(even)),
    ];
    let (tables, findings) = tables_of(&inputs(routes), "a/s");
    assert_eq!(findings, []);
    let got: Vec<_> = tables[0].entries.iter().map(|e| e.r#match.clone().unwrap()).collect();
    assert_eq!(got, ladder.map(|m| m.request));
}

#[test]
fn ties_go_to_age_then_name_then_order() {
    let tied = |name: &str, created: Option<i64>| {
        let rules = vec![rule(vec![path("/")], &["a/one:80"]), rule(vec![path("/")], &["a/one:80"])];
        Route { created, ..route(RouteKind::HttpRoute, name, "a/s", rules) }
    };
    let routes = vec![tied("a/young", None), tied("a/b", Some(2)), tied("a/a", Some(2)), tied("a/z", Some(1))];
    let (tables, _) = tables_of(&inputs(routes), "a/s");
    let expected = ["a/z#0", "a/z#1", "a/a#0", "a/a#1", "a/b#0", "a/b#1", "a/young#0", "a/young#1"];
    assert_eq!(order(&tables[0]), expected.map(|rule| format!("/>{rule}")));
}

#[test]
fn grpc_methods_are_paths() {
    let regex = GrpcMethod { service: Some("p.*".to_owned()), method: None, regex: true };
    let matches = vec![
        RouteMatch::default(),
        grpc(None, Some("Get.It")),
        grpc(Some("p.S"), None),
        RouteMatch { grpc: Some(regex), ..RouteMatch::default() },
        grpc(Some("p.S"), Some("Get")),
    ];
    let (tables, _) =
        tables_of(&inputs(vec![route(RouteKind::GrpcRoute, "a/g", "a/s", vec![rule(matches, &["a/one:80"])])]), "a/s");
    let expected = ["=/p.S/Get", "~/(?:p.*)/[^/]+", "/p.S", r"~/[^/]+/Get\.It", "*"];
    assert_eq!(order(&tables[0]), expected.map(|path| format!("{path}>a/g#0")));
    assert!(tables[0].rules[0].grpc);
}

#[test]
fn tables_by_port_and_consumer() {
    let any = |name: &str, parent: &str| {
        route(RouteKind::HttpRoute, name, parent, vec![rule(vec![path("/")], &["a/one:80"])])
    };
    let mut twice = any("a/twice", "a/s");
    twice.parents.push(RouteParent { index: 1, service: "a/s".to_owned(), port: Some(80) });
    let routes = vec![any("a/all", "a/s"), any("a/one", "a/s:81"), any("b/consumer", "a/s:80"), twice];
    let (tables, _) = tables_of(&inputs(routes), "a/s");
    let got: Vec<_> = tables.iter().map(|t| (t.consumer_namespace.as_str(), t.port, order(t).join(" "))).collect();
    assert_eq!(
        got,
        [
            ("", 0, "/>a/all#0 />a/twice#0".to_owned()),
            ("", 80, "/>a/all#0 />a/twice#0".to_owned()),
            ("", 81, "/>a/all#0 />a/one#0 />a/twice#0".to_owned()),
            ("b", 80, "/>b/consumer#0".to_owned()),
        ]
    );
}

#[test]
fn parents_that_do_not_exist_are_reported() {
    let mut one = route(RouteKind::HttpRoute, "a/r", "a/none", vec![rule(vec![], &["a/one:80"])]);
    one.parents.push(RouteParent { index: 1, service: "a/s".to_owned(), port: Some(99) });
    let (tables, findings) = tables_of(&inputs(vec![one]), "a/s");
    assert!(tables.is_empty());
    let fields: Vec<_> = findings.iter().map(|f| (f.object.as_str(), f.field.as_str())).collect();
    assert_eq!(fields, [("HTTPRoute/a/r", "spec.parentRefs[0]"), ("HTTPRoute/a/r", "spec.parentRefs[1]")]);
}

#[test]
fn backends_resolve_or_fail() {
    // backend, expected port, valid
    let table =
        [("a/one:0", 80, true), ("a/s:81", 81, true), ("a/s:0", 0, false), ("a/s:9", 9, false), ("a/x:80", 80, false)];
    for (backend, port, valid) in table {
        let routes = vec![route(RouteKind::HttpRoute, "a/r", "a/s", vec![rule(vec![], &[backend])])];
        let (tables, findings) = tables_of(&inputs(routes), "a/s");
        let got = &tables[0].rules[0].backends[0];
        assert_eq!((got.port, !got.invalid, findings.is_empty()), (port, valid, valid), "{backend}");
        if let Some(finding) = findings.first() {
            assert_eq!(finding.field, "spec.rules[0].backendRefs[0]");
        }
    }
}

#[test]
fn other_namespaces_need_a_grant() {
    let from = |kind: RouteKind, namespace: &str| GrantFrom {
        group: kind.group().to_owned(),
        kind: kind.name().to_owned(),
        namespace: namespace.to_owned(),
    };
    let grant = |namespace: &str, from: GrantFrom, to: Option<&str>| Grant {
        namespace: namespace.to_owned(),
        from: vec![from],
        to: vec![to.map(str::to_owned)],
    };
    let http = RouteKind::HttpRoute;
    let table = [
        (None, false),
        (Some(grant("b", from(http, "a"), None)), true),
        (Some(grant("b", from(http, "a"), Some("s"))), true),
        (Some(grant("b", from(http, "a"), Some("t"))), false),
        (Some(grant("b", from(http, "c"), None)), false),
        (Some(grant("b", from(RouteKind::GrpcRoute, "a"), None)), false),
        (Some(grant("b", from(RouteKind::MeshRoute, "a"), None)), false),
        (Some(grant("a", from(http, "a"), None)), false),
    ];
    for (grant, permitted) in table {
        let mut inputs = inputs(vec![route(http, "a/r", "a/s", vec![rule(vec![], &["b/s:80"])])]);
        inputs.grants.extend(grant.clone());
        let (tables, findings) = tables_of(&inputs, "a/s");
        assert_eq!(!tables[0].rules[0].backends[0].invalid, permitted, "{grant:?}");
        assert_eq!(findings.is_empty(), permitted);
    }
}

/// As the Gateway API's MeshConsumerRoute has it.
#[test]
fn a_consumer_route_may_name_the_service_that_was_called() {
    let http = RouteKind::HttpRoute;
    let mut consumer = route(http, "a/r", "b/s", vec![rule(vec![], &["b/s:80"])]);
    let (tables, findings) = tables_of(&inputs(vec![consumer.clone()]), "b/s");
    assert_eq!((&*tables[0].consumer_namespace, tables[0].rules[0].backends[0].invalid), ("a", false));
    assert!(findings.is_empty(), "{findings:?}");
    // Callers of a/s never asked for b/s.
    consumer.parents.push(RouteParent { index: 1, service: "a/s".to_owned(), port: None });
    let (tables, findings) = tables_of(&inputs(vec![consumer]), "a/s");
    assert!(tables[0].rules[0].backends[0].invalid);
    assert_eq!(findings[0].reason, Reason::RefNotPermitted);
}

#[test]
fn mirrors_resolve_or_are_dropped() {
    let mirror = |backend: &str| wire::Filter {
        kind: Some(Kind::Mirror(wire::Mirror { backend: Some(to(backend)), share_ppm: 5 })),
    };
    let mut one = rule(vec![], &["a/one:80"]);
    one.filters = vec![mirror("b/s:80"), mirror("a/one:0")];
    let (tables, findings) = tables_of(&inputs(vec![route(RouteKind::HttpRoute, "a/r", "a/s", vec![one])]), "a/s");
    assert_eq!(tables[0].rules[0].filters, [mirror("a/one:80")]);
    assert_eq!(findings[0].field, "spec.rules[0].filters[0].requestMirror");
}

#[test]
fn a_rule_without_an_answer_is_reported() {
    let redirect = wire::Filter { kind: Some(Kind::Redirect(wire::Redirect::default())) };
    let answering = RouteRule { filters: vec![redirect], ..RouteRule::default() };
    let rules = vec![answering, RouteRule { name: Some("named".to_owned()), ..RouteRule::default() }];
    let (tables, findings) = tables_of(&inputs(vec![route(RouteKind::HttpRoute, "a/r", "a/s", rules)]), "a/s");
    assert_eq!(tables[0].rules[1].name, "HTTPRoute/a/r#named");
    assert_eq!(findings.iter().map(|f| f.field.as_str()).collect::<Vec<_>>(), ["spec.rules[1].backendRefs"]);
}
