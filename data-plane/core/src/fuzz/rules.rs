//! What rules and requests are made of, drawn from few words, so that they often meet.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrigger_wire::{
    SpiffeId,
    proto::config::{self as wire, path_match, principal, string_match},
};

use super::draw::Draw;
use crate::{path::normalise, route::CallerView};

pub(super) const METHODS: &[&str] = &["GET", "POST", "DELETE", "FOO"];
const PATHS: &[&str] = &[
    "/", "/a", "/a/", "/a/b", "/ab", "/a%2Fb", "/a%2fb/c", "/%61", "/A", "//a", "/b/../a", "*", "", "/a;x", "/a;x/b",
    "/;x/a", "/a%3bx/b", "/a;x%2Fb",
];
const REGEXES: &[&str] = &["/a", "/a.*", "/(a|b)", "/a|/b", ".*", "[^/]*", "1|2", "1.", "(?i)/A", "(?m)^1$", "(?s).*"];
const NAMES: &[&str] = &["x-a", "X-A", "x-b", "cookie", "host"];
const VALUES: &[&str] = &["1", "2", "12", "", "1=2", "x-a=1; x-b=2", " x-a = 1 ;x-a=2", "/a"];
const IDENTITIES: &[&str] = &["spiffe://td/ns/shop/sa/x", "spiffe://td/ns/shop/sa/y", "spiffe://td/ns/other/sa/x"];
const ADDRESSES: &[&str] = &["10.0.0.1", "10.1.0.1", "::ffff:10.0.0.1", "fd00::1", "::1"];
const BLOCKS: &[&str] =
    &["10.0.0.0/8", "10.0.0.1", "10.0.0.0/16", "0.0.0.0/0", "::/0", "fd00::/8", "::1/128", "10.0.0.9/31"];

/// A request, and who sends it.
pub(super) struct Request {
    pub(super) identity: Option<SpiffeId>,
    pub(super) address: std::net::IpAddr,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) headers: HeaderMap,
}

pub(super) fn request(draw: &mut Draw<'_>) -> Request {
    let query = draw.text(&["", "x-a=1", "x-a=2&x-a=1", "x-b", "x%2Da=%31", "=1&&x-a", "x-a=1+2", "x-a=%", "x-a=%f"]);
    let path = draw.text(PATHS);
    Request {
        identity: draw.pick(&[None, Some(0), Some(1), Some(2)]).and_then(|at: usize| IDENTITIES[at].parse().ok()),
        address: draw.pick(ADDRESSES).parse().expect("these are addresses"),
        method: draw.pick(METHODS).parse().expect("these are methods"),
        path: normalise(&path).map_or_else(|_| "/".to_owned(), Into::into),
        query: (draw.below(4) > 0).then_some(query),
        headers: draw.few(header).into_iter().flatten().collect(),
    }
}

fn header(draw: &mut Draw<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = draw.pick(NAMES).parse().ok()?;
    Some((name, HeaderValue::from_bytes(&draw.bytes(VALUES)).ok()?))
}

impl Request {
    pub(super) fn caller(&self) -> CallerView<'_> {
        CallerView { identity: self.identity.as_ref(), address: self.address }
    }
}

pub(super) fn path(draw: &mut Draw<'_>) -> wire::PathMatch {
    use path_match::Pattern;
    let pattern = match draw.below(3) {
        0 => Pattern::Exact(draw.text(PATHS)),
        1 => Pattern::Prefix(draw.text(PATHS)),
        _ => Pattern::Regex(draw.text(REGEXES)),
    };
    wire::PathMatch { pattern: Some(pattern) }
}

pub(super) fn key(draw: &mut Draw<'_>) -> wire::KeyMatch {
    use string_match::Pattern;
    let name = draw.text(NAMES);
    let pattern = match draw.below(4) {
        0 => Pattern::Exact(draw.text(VALUES)),
        1 => Pattern::Prefix(draw.text(VALUES)),
        2 => Pattern::Regex(draw.text(REGEXES)),
        _ => Pattern::Present(draw.below(2) == 1),
    };
    wire::KeyMatch { name, value: Some(wire::StringMatch { pattern: Some(pattern) }) }
}

pub(super) fn principal(draw: &mut Draw<'_>) -> wire::Principal {
    use principal::Kind;
    let kind = match draw.below(4) {
        0 => Kind::Identity(draw.text(IDENTITIES)),
        1 => Kind::Namespace(draw.text(&["shop", "other", "sho"])),
        2 => Kind::Authenticated(true),
        _ => Kind::Cidr(draw.text(BLOCKS)),
    };
    wire::Principal { kind: Some(kind) }
}
