use http::{HeaderName, HeaderValue};
use outrigger_wire::{
    SpiffeId,
    proto::config::{self as wire, path_match, principal, string_match},
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::*;

fn inbound(policies: Vec<wire::AccessPolicy>) -> Inbound {
    let message = wire::Inbound {
        workload: "shop/front".into(),
        identity: "spiffe://td/ns/shop/sa/front".into(),
        policies,
        ..wire::Inbound::default()
    };
    Inbound::compile(message).unwrap()
}

fn policy(name: &str, action: Action, rules: Vec<wire::AccessRule>) -> wire::AccessPolicy {
    wire::AccessPolicy { name: name.into(), action: action.into(), rules }
}

fn path(text: &str) -> wire::PathMatch {
    let pattern = match text.strip_suffix("/*") {
        Some(prefix) => path_match::Pattern::Prefix(prefix.into()),
        None => path_match::Pattern::Exact(text.into()),
    };
    wire::PathMatch { pattern: Some(pattern) }
}

fn header(name: &str, value: &str) -> wire::KeyMatch {
    let pattern = Some(string_match::Pattern::Exact(value.into()));
    wire::KeyMatch { name: name.into(), value: Some(wire::StringMatch { pattern }) }
}

fn namespace(name: &str) -> wire::Principal {
    wire::Principal { kind: Some(principal::Kind::Namespace(name.into())) }
}

fn id(namespace: &str) -> SpiffeId {
    SpiffeId::new("td", namespace, "x").unwrap()
}

fn caller(identity: Option<&SpiffeId>) -> CallerView<'_> {
    CallerView { identity, address: [10, 0, 0, 1].into() }
}

#[test]
fn deny_before_allow_and_closed_once_something_allows() {
    let (shop, other) = (id("shop"), id("other"));
    let from = |name: &str| wire::AccessRule { from: vec![namespace(name)], ..wire::AccessRule::default() };
    let allow = || policy("allow", Action::Allow, vec![from("shop")]);
    let deny = || policy("deny", Action::Deny, vec![from("shop")]);
    let audit = || policy("audit", Action::Audit, vec![from("shop"), from("other")]);
    for (policies, identity, allowed, decided, audits) in [
        (vec![], None, true, None, 0),
        (vec![allow()], Some(&shop), true, Some("allow"), 0),
        (vec![allow()], Some(&other), false, None, 0),
        (vec![allow()], None, false, None, 0),
        (vec![allow(), deny()], Some(&shop), false, Some("deny"), 0),
        (vec![deny()], Some(&other), true, None, 0),
        (vec![audit()], Some(&shop), true, None, 1),
        (vec![audit(), deny()], Some(&shop), false, Some("deny"), 1),
        (vec![policy("nobody", Action::Allow, vec![])], Some(&shop), false, None, 0),
        (vec![policy("nobody", Action::Deny, vec![])], Some(&shop), true, None, 0),
        (vec![policy("all", Action::Deny, vec![wire::AccessRule::default()])], None, false, Some("all"), 0),
    ] {
        let inbound = inbound(policies);
        let verdict = inbound.authorise(&AccessRequest { caller: caller(identity), port: 80, http: None });
        assert_eq!(verdict.allowed, allowed, "{inbound:?}");
        assert_eq!(verdict.policy.map(|name| &**name), decided, "{inbound:?}");
        assert_eq!(verdict.audits.len(), audits, "{inbound:?}");
    }
}

#[test]
fn unseen_requests_fail_closed() {
    let rule = || wire::AccessRule { paths: vec![path("/admin/*")], ports: vec![80], ..wire::AccessRule::default() };
    for (action, allowed, audits) in [(Action::Deny, false, 0), (Action::Allow, false, 0), (Action::Audit, true, 0)] {
        let inbound = inbound(vec![policy("p", action, vec![rule()])]);
        let verdict = inbound.authorise(&AccessRequest { caller: caller(None), port: 80, http: None });
        assert_eq!((verdict.allowed, verdict.audits.len()), (allowed, audits), "{action:?}");
        assert!(inbound.needs_http(80) && !inbound.needs_http(81));
    }
    let l4 = wire::AccessRule { ports: vec![80], from: vec![namespace("shop")], ..wire::AccessRule::default() };
    let inbound = inbound(vec![policy("p", Action::Deny, vec![l4])]);
    assert!(!inbound.needs_http(80));
}

/// CVE-2026-26308: a second value of a header must neither hide the first from a deny rule nor borrow its allowance.
#[test]
fn several_values_of_a_header() {
    let rule = || wire::AccessRule { headers: vec![header("x-role", "admin")], ..wire::AccessRule::default() };
    let (allow, deny) = (
        inbound(vec![policy("p", Action::Allow, vec![rule()])]),
        inbound(vec![policy("p", Action::Deny, vec![rule()])]),
    );
    for (values, by_allow, by_deny) in [
        (vec![], false, true),
        (vec!["admin"], true, false),
        (vec!["user"], false, true),
        (vec!["admin", "user"], false, false),
        (vec!["user", "admin"], false, false),
        (vec!["admin", "admin"], true, false),
    ] {
        let name = || HeaderName::from_static("x-role");
        let headers = values.iter().map(|value| (name(), HeaderValue::from_static(value))).collect();
        let http = HttpView { method: &Method::GET, path: "/", host: "a", headers: &headers };
        let request = AccessRequest { caller: caller(None), port: 80, http: Some(http) };
        assert_eq!(allow.authorise(&request).allowed, by_allow, "{values:?}");
        assert_eq!(deny.authorise(&request).allowed, by_deny, "{values:?}");
    }
}

#[test]
fn hosts_without_case_port_and_trailing_dot() {
    let rule = wire::AccessRule { hosts: vec!["Shop.example.:80".into()], ..wire::AccessRule::default() };
    let inbound = inbound(vec![policy("p", Action::Deny, vec![rule])]);
    for (host, allowed) in [
        ("shop.example", false),
        ("SHOP.EXAMPLE", false),
        ("shop.example.", false),
        ("shop.example:8080", false),
        ("shop.example.:8080", false),
        ("x.shop.example", true),
        ("", true),
    ] {
        let headers = HeaderMap::new();
        let http = HttpView { method: &Method::GET, path: "/", host, headers: &headers };
        let request = AccessRequest { caller: caller(None), port: 80, http: Some(http) };
        assert_eq!(inbound.authorise(&request).allowed, allowed, "{host}");
    }
}

#[test]
fn an_encoded_slash_is_read_both_ways() {
    let rule = || wire::AccessRule { paths: vec![path("/admin/*")], ..wire::AccessRule::default() };
    let allow = inbound(vec![policy("allow", Action::Allow, vec![rule()])]);
    let deny = inbound(vec![policy("deny", Action::Deny, vec![rule()])]);
    for (path, by_allow, by_deny) in [
        ("/admin/x", true, false),
        ("/admin/a%2Fb", true, false),
        ("/admin%2F", false, false),
        ("/admin%2Fx", false, false),
        ("/%2Fadmin", false, false),
        ("/administer%2Fx", false, true),
        ("/x%2Fadmin", false, true),
    ] {
        let headers = HeaderMap::new();
        let http = HttpView { method: &Method::GET, path, host: "a", headers: &headers };
        let request = AccessRequest { caller: caller(None), port: 80, http: Some(http) };
        assert_eq!(allow.authorise(&request).allowed, by_allow, "{path}");
        assert_eq!(deny.authorise(&request).allowed, by_deny, "{path}");
    }
}

/// Servlets serve `/admin` where `/admin;x` is asked for, and everybody `/a:b` where `/a%3Ab` is.
#[test]
fn path_parameters_and_encoded_characters_are_read_both_ways() {
    let rule = |text| wire::AccessRule { paths: vec![path(text)], ..wire::AccessRule::default() };
    for (pattern, asked, by_allow, by_deny) in [
        ("/admin/*", "/admin;x/y", false, false),
        ("/admin/*", "/admin;x", false, false),
        ("/admin/*", "/;x/admin/y", false, false),
        ("/admin/*", "/admin%3Bx/y", false, false),
        ("/admin/*", "/admin/y;v=1", true, false),
        ("/admin/*", "/admin;x%2Fy", false, false),
        ("/admin/*", "/administer;x", false, true),
        ("/admin/*", "/a;x=/admin", false, true),
        ("/admin", "/admin;x", false, false),
        ("/admin", "/admin/y;x", false, true),
        ("/admin;x", "/admin;x", false, false),
        ("/things:delete", "/things%3Adelete", false, false),
        ("/things/*", "/things/%40a", true, false),
    ] {
        let headers = HeaderMap::new();
        let http = HttpView { method: &Method::GET, path: asked, host: "a", headers: &headers };
        let request = AccessRequest { caller: caller(None), port: 80, http: Some(http) };
        for (action, allowed) in [(Action::Allow, by_allow), (Action::Deny, by_deny)] {
            let inbound = inbound(vec![policy("p", action, vec![rule(pattern)])]);
            assert_eq!(inbound.authorise(&request).allowed, allowed, "{action:?} {pattern} {asked}");
        }
    }
    // What is left out of a denial is left out only if it is in every reading.
    let but = wire::AccessRule { not_paths: vec![path("/public/*")], ..wire::AccessRule::default() };
    let inbound = inbound(vec![policy("deny", Action::Deny, vec![but])]);
    for (asked, allowed) in [("/public/a;x", true), ("/public;x/a", false), ("/a;x/public", false)] {
        let headers = HeaderMap::new();
        let http = HttpView { method: &Method::GET, path: asked, host: "a", headers: &headers };
        let request = AccessRequest { caller: caller(None), port: 80, http: Some(http) };
        assert_eq!(inbound.authorise(&request).allowed, allowed, "{asked}");
    }
}

/// A literal matches itself and nothing else, whatever it would mean to a regex (CVE-2026-39350).
#[test]
fn literals_match_only_themselves() {
    let rule = |fill: &dyn Fn(&mut wire::AccessRule)| {
        let mut rule = wire::AccessRule::default();
        fill(&mut rule);
        inbound(vec![policy("deny", Action::Deny, vec![rule])])
    };
    let prefix = |text: &str| wire::StringMatch { pattern: Some(string_match::Pattern::Prefix(text.into())) };
    let others = (33..127).map(char::from).filter(char::is_ascii_punctuation).chain(['x']);
    let text = |character: char| format!("a{character}b");
    for own in others.clone() {
        let literal = text(own);
        let by_path = crate::path::normalise(&format!("/{literal}"))
            .ok()
            .map(|normal| rule(&|rule| rule.paths = vec![path(&normal), path(&format!("/p{normal}/*"))]));
        let by_host =
            crate::host::is_host(literal.as_bytes()).then(|| rule(&|rule| rule.hosts = vec![literal.clone()]));
        let by_header = rule(&|rule| rule.headers = vec![header("x-a", &literal)]);
        let by_prefix = rule(&|rule| {
            rule.headers = vec![wire::KeyMatch { name: "x-a".into(), value: Some(prefix(&literal)) }];
        });
        for other in others.clone() {
            let asked = text(other);
            let (mut headers, same) = (HeaderMap::new(), own == other);
            headers.insert("x-a", asked.parse().unwrap());
            let denies = |inbound: &Inbound, path: &str, host: &str| {
                let http = HttpView { method: &Method::GET, path, host, headers: &headers };
                !inbound.authorise(&AccessRequest { caller: caller(None), port: 80, http: Some(http) }).allowed
            };
            assert_eq!(denies(&by_header, "/", "h"), same, "header {literal:?} {asked:?}");
            assert_eq!(denies(&by_prefix, "/", "h"), same, "prefix {literal:?} {asked:?}");
            if let Some(by_host) = &by_host
                && crate::host::is_host(asked.as_bytes())
            {
                assert_eq!(denies(by_host, "/", &asked), same, "host {literal:?} {asked:?}");
            }
            let asked = crate::path::normalise(&format!("/{asked}")).map(String::from);
            if let (Some(by_path), Ok(asked)) = (&by_path, asked) {
                assert_eq!(denies(by_path, &asked, "h"), same, "path {literal:?} {asked:?}");
                assert_eq!(denies(by_path, &format!("/p{asked}/c"), "h"), same, "path {literal:?} {asked:?}");
            }
        }
    }
    for (account, other) in [("a.b", "axb"), ("a-b", "a_b"), ("a.b", "a.bc")] {
        let id = |name: &str| SpiffeId::new("td", "shop", name).unwrap();
        let from = principal::Kind::Identity(id(account).to_string());
        let inbound = rule(&|rule| rule.from = vec![wire::Principal { kind: Some(from.clone()) }]);
        for (name, allowed) in [(account, false), (other, true)] {
            let id = id(name);
            let request = AccessRequest { caller: caller(Some(&id)), port: 80, http: None };
            assert_eq!(inbound.authorise(&request).allowed, allowed, "{account} {name}");
        }
    }
}

// === differential: the messages read naively, every condition spelt out ===

#[derive(Debug, Clone)]
struct Case {
    namespace: Option<&'static str>,
    address: &'static str,
    port: u32,
    http: Option<(&'static str, &'static str, &'static str, Vec<&'static str>)>,
}

fn naive_principal(principal: &wire::Principal, case: &Case) -> bool {
    match principal.kind.as_ref().unwrap() {
        principal::Kind::Identity(identity) => {
            case.namespace.is_some_and(|ns| *identity == format!("spiffe://td/ns/{ns}/sa/x"))
        }
        principal::Kind::Namespace(namespace) => case.namespace == Some(namespace),
        principal::Kind::Authenticated(_) => case.namespace.is_some(),
        principal::Kind::Cidr(block) => case.address.starts_with(block.trim_end_matches("0.0.0/8")),
    }
}

fn naive_path(path: &wire::PathMatch, asked: &str) -> bool {
    match path.pattern.as_ref().unwrap() {
        path_match::Pattern::Exact(exact) => asked == exact,
        path_match::Pattern::Prefix(prefix) => asked == prefix || asked.starts_with(&format!("{prefix}/")),
        path_match::Pattern::Regex(_) => unreachable!("not generated"),
    }
}

fn naive_rule(rule: &wire::AccessRule, action: Action, case: &Case) -> bool {
    let mut conditions = vec![
        rule.from.is_empty() || rule.from.iter().any(|from| naive_principal(from, case)),
        rule.not_from.iter().all(|from| !naive_principal(from, case)),
        rule.ports.is_empty() || rule.ports.contains(&case.port),
    ];
    let Some((method, path, host, roles)) = &case.http else {
        let l4_only = wire::AccessRule {
            from: rule.from.clone(),
            not_from: rule.not_from.clone(),
            ports: rule.ports.clone(),
            ..wire::AccessRule::default()
        };
        conditions.push(action == Action::Deny || *rule == l4_only);
        return conditions.into_iter().all(|holds| holds);
    };
    conditions.push(rule.methods.is_empty() || rule.methods.iter().any(|of| of == method));
    conditions.push(rule.paths.is_empty() || rule.paths.iter().any(|of| naive_path(of, path)));
    conditions.push(rule.not_paths.iter().all(|of| !naive_path(of, path)));
    conditions.push(rule.hosts.is_empty() || rule.hosts.iter().any(|of| of == host));
    for header in &rule.headers {
        let Some(string_match::Pattern::Exact(expected)) = &header.value.as_ref().unwrap().pattern else {
            unreachable!()
        };
        let matching = roles.iter().filter(|role| *role == expected).count();
        conditions.push(matching > 0 && (action != Action::Allow || matching == roles.len()));
    }
    conditions.into_iter().all(|holds| holds)
}

fn naive(policies: &[wire::AccessPolicy], case: &Case) -> bool {
    let any = |action: Action| {
        let of_action = policies.iter().filter(|policy| policy.action == action as i32);
        of_action.flat_map(|policy| &policy.rules).any(|rule| naive_rule(rule, action, case))
    };
    let restricts = policies.iter().any(|policy| policy.action == Action::Allow as i32);
    !any(Action::Deny) && (!restricts || any(Action::Allow))
}

fn some<T: Clone>(random: &mut SmallRng, of: &[T]) -> Vec<T> {
    match random.random_range(0..3) {
        0 => (0..random.random_range(1..3)).filter_map(|_| of.choose(random).cloned()).collect(),
        _ => Vec::new(),
    }
}

fn random_policies(random: &mut SmallRng) -> Vec<wire::AccessPolicy> {
    let kinds = [
        principal::Kind::Namespace("shop".into()),
        principal::Kind::Namespace("other".into()),
        principal::Kind::Identity("spiffe://td/ns/shop/sa/x".into()),
        principal::Kind::Authenticated(true),
        principal::Kind::Cidr("10.0.0.0/8".into()),
    ];
    let principals = kinds.map(|kind| wire::Principal { kind: Some(kind) });
    let paths = ["/a", "/a/*", "/a/b", "/b/*"].map(path);
    (0..random.random_range(0..4))
        .map(|_| {
            let action = *[Action::Allow, Action::Deny, Action::Audit].choose(random).unwrap();
            let rules = (0..random.random_range(0..3))
                .map(|_| wire::AccessRule {
                    from: some(random, &principals),
                    not_from: some(random, &principals),
                    ports: some(random, &[80, 81]),
                    methods: some(random, &["GET".to_owned(), "POST".to_owned()]),
                    paths: some(random, &paths),
                    not_paths: some(random, &paths),
                    hosts: some(random, &["a".to_owned(), "b".to_owned()]),
                    headers: some(random, &[header("x-role", "admin"), header("x-role", "user")]),
                })
                .collect();
            policy("p", action, rules)
        })
        .collect()
}

#[test]
fn same_verdicts_as_a_naive_reading() {
    let mut random = SmallRng::seed_from_u64(6);
    let mut verdicts = [0; 2];
    for _ in 0..20_000 {
        let policies = random_policies(&mut random);
        let inbound = inbound(policies.clone());
        for _ in 0..4 {
            let mut pick = |of: &[&'static str]| *of.choose(&mut random).unwrap();
            let http = (pick(&["GET", "POST"]), pick(&["/", "/a", "/a/b", "/ab", "/b/c"]), pick(&["a", "b"]));
            let roles = match pick(&["0", "1", "2"]) {
                "0" => vec![],
                "1" => vec![pick(&["admin", "user"])],
                _ => vec![pick(&["admin", "user"]), pick(&["admin", "user"])],
            };
            let case = Case {
                namespace: [None, Some("shop"), Some("other")][random.random_range(0..3)],
                address: ["10.1.2.3", "11.1.2.3"][random.random_range(0..2)],
                port: random.random_range(80..82),
                http: random.random_bool(0.7).then_some((http.0, http.1, http.2, roles)),
            };
            let identity = case.namespace.map(id);
            let method: Method = http.0.parse().unwrap();
            let roles = case.http.as_ref().map(|http| http.3.clone()).unwrap_or_default();
            let name = || HeaderName::from_static("x-role");
            let headers = roles.iter().map(|role| (name(), HeaderValue::from_static(role))).collect();
            let view = HttpView { method: &method, path: http.1, host: http.2, headers: &headers };
            let caller = CallerView { identity: identity.as_ref(), address: case.address.parse().unwrap() };
            let request = AccessRequest { caller, port: case.port as u16, http: case.http.is_some().then_some(view) };
            let verdict = inbound.authorise(&request);
            assert_eq!(verdict.allowed, naive(&policies, &case), "{policies:#?} {case:?}");
            assert!(
                inbound.needs_http(request.port) || {
                    // Where nobody wants to see requests, seeing them changes nothing.
                    let unseen = inbound.authorise(&AccessRequest { http: None, ..request });
                    unseen.allowed == verdict.allowed
                }
            );
            verdicts[usize::from(verdict.allowed)] += 1;
        }
    }
    assert!(verdicts.iter().all(|count| *count > 10_000), "{verdicts:?}");
}

#[test]
fn a_probe_is_exactly_what_the_platform_asks() {
    let probe = |port, path: &str, grpc| wire::Probe { port, path: path.into(), grpc };
    let probes = vec![
        probe(8080, "/healthz", false),
        probe(8080, "/deep//./live?full=1", false),
        probe(8081, "", false),
        probe(9090, "", true),
        // Nobody can ask for it: it is left out, and the others stay.
        probe(8080, "/a%zz", false),
    ];
    let inbound = Inbound::compile(wire::Inbound {
        workload: "shop/front".into(),
        identity: "spiffe://td/ns/shop/sa/front".into(),
        probes,
        ..wire::Inbound::default()
    })
    .unwrap();
    for (port, method, path, expected) in [
        (8080, Method::GET, "/healthz", true),
        (8080, Method::HEAD, "/healthz", true),
        (8080, Method::GET, "/deep/live", true),
        (8081, Method::GET, "/", true),
        (9090, Method::POST, "/grpc.health.v1.Health/Check", true),
        (8081, Method::GET, "/healthz", false),
        (8080, Method::POST, "/healthz", false),
        (8080, Method::OPTIONS, "/healthz", false),
        (8080, Method::CONNECT, "/healthz", false),
        (8080, Method::GET, "/healthz/", false),
        (8080, Method::GET, "/healthz/x", false),
        (8080, Method::GET, "/Healthz", false),
        (8080, Method::GET, "/healthz%2F", false),
        (8080, Method::GET, "/", false),
        (8080, Method::POST, "/grpc.health.v1.Health/Check", false),
        (9090, Method::GET, "/grpc.health.v1.Health/Check", false),
        (9090, Method::POST, "/grpc.health.v1.Health/Watch", false),
        (9090, Method::GET, "/", false),
    ] {
        assert_eq!(inbound.is_probe(port, &method, path), expected, "{port} {method} {path}");
    }
    assert!(inbound.is_probed(8080) && inbound.is_probed(9090) && !inbound.is_probed(8082));
}
