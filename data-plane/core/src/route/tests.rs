use http::{HeaderName, HeaderValue, StatusCode};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;
use crate::config::{Filters, KeyMatch, PathMatch, Principal, RouteEntry, StringMatch};

fn no_random() -> u32 {
    panic!("no entry is for a share")
}

fn request<'a>(path: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
    let caller = CallerView { identity: None, address: [10, 0, 0, 1].into() };
    RequestView { method: &Method::GET, path, query: Some("v=2"), headers, caller }
}

fn any() -> RouteMatch {
    RouteMatch { share_ppm: MILLION, ..RouteMatch::default() }
}

fn rule(name: &str, weights: &[u32]) -> Rule {
    let backend = |(index, weight): (usize, &u32)| Backend {
        service: format!("shop/{index}").into(),
        port: 80,
        weight: *weight,
        filters: Filters::default(),
        invalid: false,
    };
    Rule {
        name: name.into(),
        filters: Filters::default(),
        backends: weights.iter().enumerate().map(backend).collect(),
        total_weight: weights.iter().sum(),
        request_timeout: None,
        backend_timeout: None,
        retry: None,
        grpc: false,
        stickiness: None,
    }
}

fn table(matches: Vec<RouteMatch>) -> RouteTable {
    let rules = (0..matches.len()).map(|index| Arc::new(rule(&index.to_string(), &[1]))).collect();
    let entries = matches.into_iter().enumerate().map(|(rule, matches)| RouteEntry { matches, rule }).collect();
    RouteTable { consumer_namespace: "".into(), port: None, entries, rules }
}

#[test]
fn every_condition_counts_and_the_first_entry_wins() {
    let text = |text: &str| StringMatch::Exact(text.into());
    let table = table(vec![
        RouteMatch { path: Some(PathMatch::Exact("/exact".into())), ..any() },
        RouteMatch { method: Some(Method::POST), ..any() },
        RouteMatch {
            headers: vec![
                KeyMatch { name: HeaderName::from_static("x-a"), value: text("1") },
                KeyMatch { name: HeaderName::from_static("x-b"), value: text("2") },
            ],
            ..any()
        },
        RouteMatch { query: vec![KeyMatch { name: "v".into(), value: text("3") }], ..any() },
        RouteMatch { cookies: vec![KeyMatch { name: "c".into(), value: text("4") }], ..any() },
        RouteMatch { callers: vec![Principal::Authenticated, Principal::Namespace("shop".into())], ..any() },
        RouteMatch { path: Some(PathMatch::Prefix("/a".into())), ..any() },
        any(),
    ]);
    let (none, mut both) = (HeaderMap::new(), HeaderMap::new());
    both.insert("x-a", HeaderValue::from_static("1"));
    let one = both.clone();
    both.insert("x-b", HeaderValue::from_static("2"));
    let mut cookie = HeaderMap::new();
    cookie.insert("cookie", HeaderValue::from_static("b=0; c=4"));
    let id = SpiffeId::new("td", "other", "x").unwrap();
    let caller = CallerView { identity: Some(&id), address: [10, 0, 0, 1].into() };
    for (request, name, prefix) in [
        (request("/exact", &none), "0", None),
        (RequestView { method: &Method::POST, ..request("/exact", &none) }, "0", None),
        (RequestView { method: &Method::POST, ..request("/", &none) }, "1", Some("")),
        (request("/", &both), "2", Some("")),
        (request("/", &one), "7", Some("")),
        (RequestView { query: Some("v=3"), ..request("/", &none) }, "3", Some("")),
        (request("/", &cookie), "4", Some("")),
        (RequestView { caller, ..request("/", &none) }, "5", Some("")),
        (request("/a/b", &none), "6", Some("/a")),
        (request("/ab", &none), "7", Some("")),
    ] {
        let selected = table.select(&request, &mut no_random).unwrap();
        assert_eq!((&*selected.rule.name, selected.prefix), (name, prefix), "{request:?}");
    }
    let exact = self::table(vec![RouteMatch { path: Some(PathMatch::Exact("/x".into())), ..any() }]);
    assert!(exact.select(&request("/", &none), &mut no_random).is_none());
}

#[test]
fn shares_are_held() {
    let table = table(vec![RouteMatch { share_ppm: 100_000, ..any() }, any()]);
    let mut random = SmallRng::seed_from_u64(4);
    let headers = HeaderMap::new();
    let first = (0..100_000)
        .filter(|_| &*table.select(&request("/", &headers), &mut || random.random()).unwrap().rule.name == "0")
        .count();
    assert!((9_500..10_500).contains(&first), "{first}");
}

#[test]
fn backends_by_weight() {
    let split = rule("", &[9, 0, 1]);
    let mut random = SmallRng::seed_from_u64(5);
    let mut counts = [0; 3];
    for key in 0..10_000 {
        let sticky = (key % 2 == 0).then(|| hash(&u32::to_be_bytes(key)));
        let backend = split.backend(random.random(), sticky).unwrap();
        assert!(sticky.is_none() || split.backend(random.random(), sticky).unwrap().service == backend.service);
        counts[usize::from(backend.service.as_bytes()[5] - b'0')] += 1;
    }
    assert!(counts[1] == 0 && (800..1200).contains(&counts[2]), "{counts:?}");
    assert_eq!(&*split.backend(0, None).unwrap().service, "shop/0");
    assert_eq!(&*split.backend(u32::MAX, None).unwrap().service, "shop/2");
    assert!(rule("", &[0, 0]).backend(7, None).is_none());
    assert!(rule("", &[]).backend(7, Some(1)).is_none());
    assert!(rule("", &[u32::MAX]).backend(u32::MAX, None).is_some());
}

#[test]
fn hash_keys() {
    let mut headers = HeaderMap::new();
    headers.append("x-user", HeaderValue::from_static("ann"));
    headers.append("cookie", HeaderValue::from_static("s=ann"));
    let plain = request("/", &headers);
    let header = HashKey::Header(HeaderName::from_static("x-user"));
    assert_eq!(hash_of(&header, &plain), Some(hash(b"ann")));
    assert_eq!(hash_of(&HashKey::Cookie("s".into()), &plain), Some(hash(b"ann")));
    assert_eq!(hash_of(&HashKey::Cookie("t".into()), &plain), None);
    assert_eq!(hash_of(&HashKey::Header(HeaderName::from_static("x-none")), &plain), None);
    assert_eq!(hash_of(&HashKey::Caller, &plain), Some(hash(&[10, 0, 0, 1])));
    let id = SpiffeId::new("td", "shop", "front").unwrap();
    let caller = CallerView { identity: Some(&id), ..plain.caller };
    assert_eq!(hash_of(&HashKey::Caller, &RequestView { caller, ..plain }), Some(hash(id.as_str().as_bytes())));
}

/// The table of `HTTPPathModifier.replacePrefixMatch` in Gateway API, then ours.
#[test]
fn prefixes_are_replaced() {
    for (path, prefix, replacement, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo", "/", "/xyz", "/xyz/foo"),
        ("/", "", "/xyz", "/xyz/"),
    ] {
        let change = PathChange::Prefix(replacement.into());
        assert_eq!(change.apply(path, Some(prefix)), expected, "{path} {prefix} {replacement}");
    }
    assert_eq!(PathChange::Prefix("/x".into()).apply("/a", None), "/a");
    assert_eq!(PathChange::Full("/x".into()).apply("/a", Some("/a")), "/x");
}

#[test]
fn locations() {
    let redirect = |scheme: &str, hostname: &str, port: u16| Redirect {
        scheme: (!scheme.is_empty()).then(|| scheme.into()),
        hostname: (!hostname.is_empty()).then(|| hostname.into()),
        path: None,
        port: (port != 0).then_some(port),
        status: StatusCode::FOUND,
    };
    for (redirect, (scheme, host, port), expected) in [
        (redirect("", "", 0), ("http", "a", 80), "http://a/p?q=1"),
        (redirect("", "", 0), ("http", "a:8080", 8080), "http://a:8080/p?q=1"),
        (redirect("", "", 0), ("https", "a", 443), "https://a/p?q=1"),
        (redirect("https", "", 0), ("http", "a:8080", 8080), "https://a/p?q=1"),
        (redirect("https", "", 443), ("http", "a", 80), "https://a/p?q=1"),
        (redirect("https", "", 8443), ("http", "a", 80), "https://a:8443/p?q=1"),
        (redirect("http", "", 0), ("http", "a", 8080), "http://a/p?q=1"),
        (redirect("", "b.example", 0), ("http", "a:81", 81), "http://b.example:81/p?q=1"),
        (redirect("", "b", 80), ("http", "a", 8080), "http://b/p?q=1"),
        (redirect("", "", 80), ("https", "a", 443), "https://a:80/p?q=1"),
        (redirect("", "", 0), ("http", "[::1]:81", 81), "http://[::1]:81/p?q=1"),
    ] {
        assert_eq!(redirect.location(scheme, host, port, "/p", Some("q=1"), None), expected, "{redirect:?}");
    }
    let moved = Redirect { path: Some(PathChange::Prefix("/n".into())), ..redirect("", "", 0) };
    assert_eq!(moved.location("http", "a", 80, "/p/x", None, Some("/p")), "http://a/n/x");
}

#[test]
fn headers_are_removed_then_set_then_added() {
    let (a, b) = (HeaderName::from_static("a"), HeaderName::from_static("b"));
    let value = HeaderValue::from_static;
    let change = HeaderChange {
        set: vec![(a.clone(), value("new"))],
        add: vec![(a.clone(), value("more")), (b.clone(), value("b"))],
        remove: vec![b.clone()],
    };
    let mut headers = HeaderMap::new();
    for old in ["1", "2"] {
        headers.append(&a, value(old));
        headers.append(&b, value(old));
    }
    change.apply(&mut headers);
    assert_eq!(headers.get_all(&a).iter().collect::<Vec<_>>(), ["new", "more"]);
    assert_eq!(headers.get_all(&b).iter().collect::<Vec<_>>(), ["b"]);
}
