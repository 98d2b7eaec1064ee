//! Which rules of a table a request meets, and which endpoints a balancer picks, found by asking core with numbers of
//! our own where it asks for random ones.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Instant};

use outrigger_core::{
    Destination,
    config::{KeyMatch, PathMatch, RouteMatch, RouteTable, StringMatch},
    route::{RequestView, Selected, hash_of},
};

use super::request::share;

/// Entries for shares that are followed; what is left by then is next to nothing.
const SHARES: usize = 64;
/// Picks of which the endpoints' shares are counted.
const PICKS: u32 = 2000;

/// A rule, or none, and the share of such requests that meet it.
pub(crate) struct Way<'a> {
    pub(crate) selected: Option<Selected<'a>>,
    /// 0 to 1.
    pub(crate) share: f64,
}

/// Every way through a table that a request like this may take, in the order of the table.
pub(crate) fn ways<'a>(table: &'a RouteTable, request: &RequestView<'_>) -> Vec<Way<'a>> {
    let mut ways = Vec::new();
    let mut left = 1.0;
    for skipped in 0..SHARES {
        // Past `skipped` entries for a share, then into the next one.
        let mut asked = 0;
        let selected = table.select(request, &mut || {
            asked += 1;
            if asked > skipped { 0 } else { u32::MAX }
        });
        let drawn = asked > skipped;
        let part = selected.filter(|_| drawn).map_or(1.0, |it| f64::from(it.matched.share_ppm) / 1e6);
        ways.push(Way { selected, share: left * part });
        left *= 1.0 - part;
        if !drawn {
            break;
        }
    }
    ways
}

/// What of a rule's matches was met.
pub(crate) fn described(matched: &RouteMatch) -> String {
    let mut said = vec![match &matched.path {
        None => "every path".to_owned(),
        Some(PathMatch::Exact(path)) => format!("path {path}"),
        Some(PathMatch::Prefix(prefix)) => format!("path prefix {}", if prefix.is_empty() { "/" } else { prefix }),
        Some(PathMatch::Regex(regex)) => format!("path regex {regex}"),
    }];
    said.extend(matched.method.iter().map(|method| format!("method {method}")));
    said.extend(matched.headers.iter().map(|it| key("header", it.name.as_str(), it)));
    said.extend(matched.query.iter().map(|it| key("query", &it.name, it)));
    said.extend(matched.cookies.iter().map(|it| key("cookie", &it.name, it)));
    if !matched.callers.is_empty() {
        said.push("caller".to_owned());
    }
    if matched.share_ppm < 1_000_000 {
        said.push(format!("{} of the requests", share(matched.share_ppm)));
    }
    said.join(", ")
}

fn key<K>(kind: &str, name: &str, key: &KeyMatch<K>) -> String {
    match &key.value {
        StringMatch::Exact(value) => format!("{kind} {name}: {value}"),
        StringMatch::Prefix(prefix) => format!("{kind} {name}: {prefix}…"),
        StringMatch::Regex(regex) => format!("{kind} {name} regex {regex}"),
        StringMatch::Present(true) => format!("{kind} {name}"),
        StringMatch::Present(false) => format!("no {kind} {name}"),
    }
}

/// How often each endpoint is picked, 0 to 1, by workload and address.
pub(crate) fn picks(
    destination: &Destination,
    request: Option<&RequestView<'_>>,
    zone: &str,
) -> HashMap<(Arc<str>, IpAddr), f64> {
    let policy = &destination.service.policy;
    let hash = request.and_then(|request| policy.hash_on.as_ref().and_then(|key| hash_of(key, request)));
    let mut counted: HashMap<_, u32> = HashMap::new();
    // A fixed sequence: the same question gets the same answer.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let now = Instant::now();
    for _ in 0..PICKS {
        let Ok(picked) = destination.endpoints.pick(policy, hash, &mut random, now, &[], zone) else { continue };
        let spec = &picked.endpoint.spec;
        *counted.entry((spec.workload.clone(), spec.address)).or_default() += 1;
    }
    counted.into_iter().map(|(key, count)| (key, f64::from(count) / f64::from(PICKS))).collect()
}
