//! Paths and matches as their documents say, read from the messages themselves: slowly, and by other means than the
//! compiled ones.

use std::net::IpAddr;

use outrigger_wire::proto::config::{self as wire, path_match, principal, string_match};
use regex::bytes::Regex;

use crate::{path::normalise, route::CallerView};

/// A path's normal form; none if it is refused.
pub(super) fn normal(path: &str) -> Option<String> {
    if path.is_empty() || path == "*" {
        return Some(if path.is_empty() { "/" } else { path }.to_owned());
    }
    if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f || b"\\?#".contains(&byte)) {
        return None;
    }
    let mut kept: Vec<String> = Vec::new();
    let segments: Vec<String> = path.strip_prefix('/')?.split('/').map(segment).collect::<Option<_>>()?;
    for segment in &segments {
        match segment.as_str() {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => {
                let all = other.replace("%2F", "/").replace("%3B", ";");
                if all.split('/').any(|part| [".", ".."].contains(&part.split(';').next().unwrap_or_default())) {
                    return None;
                }
                kept.push(other.to_owned());
            }
        }
    }
    let slash = segments.last().is_some_and(|last| ["", ".", ".."].contains(&last.as_str())) && !kept.is_empty();
    Some(format!("/{}{}", kept.join("/"), if slash { "/" } else { "" }))
}

/// Everything that may be read from a normal path, itself first: character by character.
pub(super) fn readings(path: &str) -> Vec<String> {
    let mut readings = vec![path.to_owned()];
    for (slashes_first, slashes_last, marks) in [
        (true, false, &[][..]),
        (false, false, &[";"]),
        (true, false, &[";"]),
        (false, true, &[";"]),
        (false, false, &[";", "%3B"]),
        (true, false, &[";", "%3B"]),
        (false, true, &[";", "%3B"]),
    ] {
        let mut rest = if slashes_first { path.replace("%2F", "/") } else { path.to_owned() };
        let (mut kept, mut within) = (String::new(), false);
        while let Some(next) = rest.chars().next() {
            within = next != '/' && (within || marks.iter().any(|mark| rest.starts_with(mark)));
            if !within {
                kept.push(next);
            }
            rest.remove(0);
        }
        let kept = if slashes_last { kept.replace("%2F", "/") } else { kept };
        let kept = normal(&kept).unwrap_or(kept);
        let mut plain = kept.clone();
        for byte in b"!$&'()*+,;=:@" {
            plain = plain.replace(&format!("%{byte:02X}"), &char::from(*byte).to_string());
        }
        readings.extend([kept, plain]);
    }
    readings
}

/// With every byte in its one form.
fn segment(text: &str) -> Option<String> {
    let (mut out, mut rest) = (String::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let (byte, encoded) = if *byte == b'%' {
            let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            rest = &after[2..];
            (u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?, true)
        } else {
            rest = after;
            (*byte, false)
        };
        if byte == 0 || byte == b'\\' {
            return None;
        }
        let plain = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if plain || (!encoded && b"!$&'()*+,;=:@".contains(&byte)) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(out)
}

pub(super) fn path(matcher: &wire::PathMatch, path: &str) -> bool {
    use path_match::Pattern;
    match matcher.pattern.as_ref().expect("it was compiled") {
        Pattern::Exact(text) => normalise(text).is_ok_and(|text| text == path),
        Pattern::Prefix(text) => {
            let prefix = normalise(text).expect("it was compiled");
            let mut wanted = prefix.split('/').filter(|segment| !segment.is_empty());
            prefix == "/" || {
                let mut segments = path.split('/').skip(1);
                wanted.all(|wanted| segments.next() == Some(wanted))
            }
        }
        Pattern::Regex(pattern) => whole(pattern, path.as_bytes()),
    }
}

/// Whether a key of these values matches; `all`: each of them.
pub(super) fn key(matcher: &wire::KeyMatch, values: &[Vec<u8>], all: bool) -> bool {
    use string_match::Pattern;
    let pattern = matcher.value.as_ref().and_then(|value| value.pattern.as_ref()).expect("it was compiled");
    if let Pattern::Present(present) = pattern {
        return *present != values.is_empty();
    }
    let matches = |value: &Vec<u8>| match pattern {
        Pattern::Exact(text) => text.as_bytes() == value,
        Pattern::Prefix(text) => value.starts_with(text.as_bytes()),
        Pattern::Regex(pattern) => whole(pattern, String::from_utf8_lossy(value).as_bytes()),
        Pattern::Present(_) => false,
    };
    if all { !values.is_empty() && values.iter().all(matches) } else { values.iter().any(matches) }
}

fn whole(pattern: &str, text: &[u8]) -> bool {
    Regex::new(&format!(r"\A(?:{pattern})\z")).expect("it was compiled").is_match(text)
}

pub(super) fn principal(matcher: &wire::Principal, caller: CallerView<'_>) -> bool {
    use principal::Kind;
    let identity = caller.identity.map(|identity| identity.as_str());
    match matcher.kind.as_ref().expect("it was compiled") {
        Kind::Identity(text) => identity == Some(text),
        Kind::Namespace(name) => identity.is_some_and(|text| text.split('/').nth(4) == Some(name)),
        Kind::Authenticated(_) => identity.is_some(),
        Kind::Cidr(block) => within(block, caller.address.to_canonical()),
    }
}

/// Bit by bit.
fn within(block: &str, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => format!("{:032b}", address.to_bits()),
        IpAddr::V6(address) => format!("{:0128b}", address.to_bits()),
    };
    let (base, prefix) = block.split_once('/').map_or((block, None), |(base, prefix)| (base, Some(prefix)));
    let (base, address) = (bits(base.parse().expect("it was compiled")), bits(address));
    let prefix = prefix.map_or(base.len(), |prefix| prefix.parse().expect("it was compiled"));
    base.len() == address.len() && base[..prefix] == address[..prefix]
}
