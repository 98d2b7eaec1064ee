use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

fn exact(text: &str) -> StringMatch {
    StringMatch::Exact(text.into())
}

fn prefix(text: &str) -> StringMatch {
    StringMatch::Prefix(text.into())
}

fn regex(text: &str) -> StringMatch {
    StringMatch::Regex(Box::new(regex::Regex::new(&format!("^(?:{text})$")).unwrap()))
}

fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())).collect()
}

#[test]
fn several_values_of_a_header() {
    let one = |value: &'static [u8]| headers(&[("x-role", value)]);
    let two = |first: &'static [u8], second: &'static [u8]| headers(&[("x-role", first), ("x-role", second)]);
    for (value, headers, any, all) in [
        (exact("admin"), one(b"admin"), true, true),
        (exact("admin"), two(b"admin", b"user"), true, false),
        (exact("admin"), two(b"user", b"admin"), true, false),
        (exact("admin"), two(b"admin", b"admin"), true, true),
        (exact("admin"), one(b"admin,user"), false, false),
        (exact("admin"), headers(&[]), false, false),
        (prefix("ad"), two(b"user", b"admin"), true, false),
        (regex("a.*n"), two(b"admin", b"aXn"), true, true),
        (regex("a.*n"), one(b"a\xffn"), true, true),
        (regex("min"), one(b"admin"), false, false),
        (StringMatch::Present(true), one(b""), true, true),
        (StringMatch::Present(true), headers(&[]), false, false),
        (StringMatch::Present(false), one(b""), false, false),
        (StringMatch::Present(false), headers(&[]), true, true),
    ] {
        let key = KeyMatch { name: HeaderName::from_static("x-role"), value };
        assert_eq!((key.matches_any(&headers), key.matches_all(&headers)), (any, all), "{key:?} {headers:?}");
    }
}

#[test]
fn queries() {
    for (name, value, query, expected) in [
        ("a", exact("1"), Some("a=1"), true),
        ("a", exact("1"), Some("b=2&a=1"), true),
        ("a", exact("1"), Some("a=2&a=1"), false),
        ("a", exact("1"), Some("aa=1"), false),
        ("a", exact(""), Some("a"), true),
        ("a", exact(""), Some("&&a="), true),
        ("a", exact("x y"), Some("a=x%20y"), true),
        ("a", exact("x y"), Some("a=x+y"), true),
        ("a b", exact("="), Some("a+b=%3d"), true),
        ("a", exact("%zz%"), Some("a=%zz%"), true),
        ("a", prefix("x/"), Some("a=x%2Fy"), true),
        ("a", prefix("x/y"), Some("a=x%2F"), false),
        ("a", regex("[0-9]+"), Some("a=%31%32"), true),
        ("a", regex("[0-9]+"), Some("a=12x"), false),
        ("a", StringMatch::Present(true), Some("a"), true),
        ("a", StringMatch::Present(false), Some("b"), true),
        ("a", StringMatch::Present(false), None, true),
        ("a", exact(""), None, false),
    ] {
        let key = KeyMatch { name: Box::<str>::from(name), value };
        assert_eq!(key.matches_query(query), expected, "{key:?} {query:?}");
    }
}

#[test]
fn cookies_of_one_and_of_several_headers() {
    for (value, headers, expected) in [
        (exact("1"), headers(&[("cookie", b"a=1")]), true),
        (exact("1"), headers(&[("cookie", b"b=2; a=1;c")]), true),
        (exact("1"), headers(&[("cookie", b"b=2"), ("cookie", b" a = 1 ")]), true),
        (exact("1"), headers(&[("cookie", b"a=2; a=1")]), true),
        (exact("1"), headers(&[("cookie", b"aa=1; a")]), false),
        (exact("x=y"), headers(&[("cookie", b"a=x=y")]), true),
        (StringMatch::Present(false), headers(&[("cookie", b"b=1")]), true),
        (StringMatch::Present(true), headers(&[("cookie", b"a=")]), true),
    ] {
        let key = KeyMatch { name: Box::<str>::from("a"), value };
        assert_eq!(key.matches_cookie(&headers), expected, "{key:?} {headers:?}");
    }
}

#[test]
fn paths() {
    let prefix = |text: &str| PathMatch::Prefix(text.into());
    for (matcher, path, expected) in [
        (prefix("/a"), "/a", true),
        (prefix("/a"), "/a/", true),
        (prefix("/a"), "/a/b", true),
        (prefix("/a"), "/ab", false),
        (prefix("/a"), "/", false),
        (prefix(""), "/", true),
        (prefix(""), "/x", true),
        (prefix(""), "*", true),
        (PathMatch::Exact("/a".into()), "/a", true),
        (PathMatch::Exact("/a".into()), "/a/", false),
        (PathMatch::Regex(Box::new(regex::Regex::new("^(?:/a.*)$").unwrap())), "/abc", true),
    ] {
        assert_eq!(matcher.matches(path), expected, "{matcher:?} {path}");
    }
}

#[test]
fn blocks() {
    for (block, address, expected) in [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.9.9.9/8", "10.0.0.1", true),
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("0.0.0.0/0", "1.2.3.4", true),
        ("0.0.0.0/0", "::1", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1/32", "10.0.0.2", false),
        ("fd00::/8", "fd12::1", true),
        ("::/0", "fe80::1", true),
        ("::/0", "10.0.0.1", false),
        ("fd00::1/128", "fd00::2", false),
    ] {
        let block: IpBlock = block.parse().unwrap();
        assert_eq!(block.contains(address.parse().unwrap()), expected, "{block:?} {address}");
    }
    for text in
        ["", "/", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0/8", "a/8", "1.1.1.1/8/8"]
    {
        assert_eq!(text.parse::<IpBlock>(), Err(BadIpBlock), "{text:?}");
    }
}

/// Compared with counting equal leading bits one by one.
#[test]
fn random_blocks() {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let mut random = SmallRng::seed_from_u64(3);
    for _ in 0..20_000 {
        let base = IpAddr::V4(Ipv4Addr::from_bits(random.random()));
        let near = Ipv4Addr::from_bits(bits(base).0.wrapping_shr(96) as u32 ^ (1 << random.random_range(0..32)));
        let prefix = random.random_range(0..=32);
        let block: IpBlock = format!("{base}/{prefix}").parse().unwrap();
        let expected = (0..prefix).all(|bit| bits(base).0 << bit >> 127 == bits(near.into()).0 << bit >> 127);
        assert_eq!(block.contains(near.into()), expected, "{block:?} {near}");
    }
}
