//! Route tables, compiled, against a naive reading of the same messages.

use http::{HeaderMap, header::COOKIE};
use outrigger_wire::proto::config::{self as wire, filter, path_change, stickiness::Key};

use super::{
    draw::Draw,
    naive,
    rules::{self, METHODS, Request},
};
use crate::{
    config::Service,
    path::normalise,
    route::{MILLION, RequestView, hash_of},
};

/// The first entry that a naive reading finds is selected, a backend has a weight, and a rewritten path is normal.
pub fn route(data: &[u8]) {
    let mut draw = Draw(data);
    let entries = draw.few(entry);
    let rules = (0..entries.len()).map(|at| rule(&mut draw, at)).collect();
    let numbered =
        entries.iter().cloned().zip(0..).map(|(entry, rule)| wire::RouteEntry { r#match: Some(entry), rule });
    let table = wire::RouteTable { entries: numbered.collect(), rules, ..Default::default() };
    let request = rules::request(&mut draw);
    let (random, sticky) = (draw.number(), draw.below(2) == 1);
    let message = wire::Service { name: "shop/a".into(), route_tables: vec![table.clone()], ..Default::default() };
    let Ok(service) = Service::compile(message) else { return };
    let view = RequestView {
        method: &request.method,
        path: &request.path,
        query: request.query.as_deref(),
        headers: &request.headers,
        caller: request.caller(),
    };
    let selected = service.table("shop", 80).and_then(|table| table.select(&view, &mut || random));

    let expected = entries.iter().position(|entry| meets(entry, &request, random));
    assert_eq!(selected.map(|it| &*it.rule.name), expected.map(|at| at.to_string()).as_deref(), "{table:#?}");
    let (Some(selected), Some(expected)) = (selected, expected) else { return };
    let key = selected.rule.stickiness.as_ref().filter(|_| sticky).and_then(|key| hash_of(key, &view));
    let weights: u32 = table.rules[expected].backends.iter().map(|backend| backend.weight).sum();
    let backend = selected.rule.backend(random, key);
    assert_eq!(backend.map_or(0, |backend| backend.weight.min(1)), weights.min(1));
    if let Some(change) = &selected.rule.filters.rewrite_path {
        let path = change.apply(&request.path, selected.prefix);
        assert!(path == request.path || normalise(&path).as_deref() == Ok(&*path), "{path:?} of {:?}", request.path);
    }
}

fn entry(draw: &mut Draw<'_>) -> wire::RouteMatch {
    wire::RouteMatch {
        path: (draw.below(3) > 0).then(|| rules::path(draw)),
        method: if draw.below(4) == 0 { draw.pick(METHODS).into() } else { String::new() },
        headers: draw.some(rules::key),
        query: draw.some(rules::key),
        cookies: draw.some(rules::key),
        callers: draw.some(rules::principal),
        share_ppm: draw.pick(&[0, 0, 0, 1, MILLION / 2, MILLION]),
    }
}

fn rule(draw: &mut Draw<'_>, at: usize) -> wire::RouteRule {
    use path_change::Kind;
    let backend = |draw: &mut Draw<'_>| wire::Backend {
        service: "shop/b".into(),
        port: 80,
        weight: draw.pick(&[0, 1, 9, 1 << 30]),
        ..Default::default()
    };
    let change = |draw: &mut Draw<'_>| {
        let path = draw.text(&["/", "/new", "/new/", "/a%2Fb", "", "/x//y"]);
        let kind = Some(if draw.below(2) == 0 { Kind::Full(path) } else { Kind::Prefix(path) });
        let rewrite = wire::Rewrite { path: Some(wire::PathChange { kind }), ..Default::default() };
        wire::Filter { kind: Some(filter::Kind::Rewrite(rewrite)) }
    };
    let key = match draw.below(4) {
        0 => None,
        1 => Some(Key::Caller(true)),
        2 => Some(Key::Header("x-a".into())),
        _ => Some(Key::Cookie("x-a".into())),
    };
    wire::RouteRule {
        name: at.to_string(),
        filters: draw.some(change),
        backends: draw.some(backend),
        stickiness: key.map(|key| wire::Stickiness { key: Some(key) }),
        ..Default::default()
    }
}

// === the naive reading ===

fn meets(entry: &wire::RouteMatch, request: &Request, random: u32) -> bool {
    let header = |key: &wire::KeyMatch| {
        let values = request.headers.get_all(key.name.as_str()).iter();
        naive::key(key, &values.map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>(), false)
    };
    let first = |key: &wire::KeyMatch| {
        let value = pairs(request.query.as_deref().unwrap_or_default())
            .into_iter()
            .find_map(|(name, value)| (name == key.name.as_bytes()).then_some(value));
        naive::key(key, &value.into_iter().collect::<Vec<_>>(), false)
    };
    let share = if entry.share_ppm == 0 { MILLION } else { entry.share_ppm };
    entry.path.as_ref().is_none_or(|path| naive::path(path, &request.path))
        && (entry.method.is_empty() || entry.method == request.method.as_str())
        && entry.headers.iter().all(header)
        && entry.query.iter().all(first)
        && entry.cookies.iter().all(|key| naive::key(key, &cookies(&request.headers, &key.name), false))
        && (entry.callers.is_empty()
            || entry.callers.iter().any(|principal| naive::principal(principal, request.caller())))
        && (u64::from(random) * u64::from(MILLION)) >> 32 < u64::from(share)
}

/// Names and values of a query (URL standard, `application/x-www-form-urlencoded` parsing).
fn pairs(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let decode = |text: &str| {
        let (text, mut out) = (text.replace('+', " ").into_bytes(), Vec::new());
        let mut at = 0;
        while at < text.len() {
            let digits = text.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
            match digits.filter(|_| text[at] == b'%').and_then(|digits| str::from_utf8(digits).ok()) {
                Some(digits) => {
                    out.push(u8::from_str_radix(digits, 16).expect("these are digits"));
                    at += 3;
                }
                None => {
                    out.push(text[at]);
                    at += 1;
                }
            }
        }
        out
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// Values of the cookies of a name.
fn cookies(headers: &HeaderMap, name: &str) -> Vec<Vec<u8>> {
    let trim = |part: &[u8]| part.trim_ascii().to_vec();
    let mut found = Vec::new();
    for line in headers.get_all(COOKIE) {
        for pair in line.as_bytes().split(|byte| *byte == b';') {
            let mut parts = pair.splitn(2, |byte| *byte == b'=');
            if let (Some(key), Some(value)) = (parts.next(), parts.next())
                && trim(key) == name.as_bytes()
            {
                found.push(trim(value));
            }
        }
    }
    found
}
