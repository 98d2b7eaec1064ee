//! Matchers of strings, paths, keys and callers. No regex is built from a literal; all engines are linear-time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use http::{HeaderMap, HeaderName, header::COOKIE};
use outrigger_wire::SpiffeId;

use crate::{path::hex, route::CallerView};

#[derive(Debug)]
pub enum StringMatch {
    Exact(Box<str>),
    Prefix(Box<str>),
    Regex(Box<regex::Regex>),
    Present(bool),
}

#[derive(Debug)]
pub struct KeyMatch<K> {
    pub name: K,
    pub value: StringMatch,
}

#[derive(Debug)]
pub enum PathMatch {
    Exact(Box<str>),
    /// Without a trailing slash; segment-wise.
    Prefix(Box<str>),
    Regex(Box<regex::Regex>),
}

#[derive(Debug)]
pub enum Principal {
    Identity(SpiffeId),
    Namespace(Box<str>),
    Authenticated,
    Cidr(IpBlock),
}

/// An address block in CIDR notation (RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpBlock {
    pub base: IpAddr,
    pub prefix: u8,
}

/// Why a text is no [`IpBlock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address block such as 10.0.0.0/8")]
pub struct BadIpBlock;

// === impl StringMatch ===

impl StringMatch {
    /// Whether a value that exists matches. What isn't UTF-8 meets a regex with replacement characters in it, so
    /// that a stray byte doesn't slip past a deny rule.
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_bytes(),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(regex) => regex.is_match(&String::from_utf8_lossy(value)),
            Self::Present(present) => *present,
        }
    }

    /// Whether it matches where there is no value.
    fn matches_absence(&self) -> bool {
        matches!(self, Self::Present(false))
    }
}

// === impl KeyMatch ===

impl KeyMatch<HeaderName> {
    /// Whether any of the header's values matches: for routing, and for rules that deny.
    pub fn matches_any(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter().peekable();
        if values.peek().is_none() {
            return self.value.matches_absence();
        }
        values.any(|value| self.value.matches(value.as_bytes()))
    }

    /// Whether the header is there and all of its values match: for rules that allow (CVE-2026-26308).
    pub fn matches_all(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(&self.name).iter().peekable();
        if values.peek().is_none() {
            return self.value.matches_absence();
        }
        values.all(|value| self.value.matches(value.as_bytes()))
    }
}

impl KeyMatch<Box<str>> {
    /// Whether the first parameter of this name in a query (without `?`) matches once it is decoded.
    pub fn matches_query(&self, query: Option<&str>) -> bool {
        let Some(value) = query.and_then(|query| query_value(query, &self.name)) else {
            return self.value.matches_absence();
        };
        match &self.value {
            StringMatch::Exact(exact) => decoded(value).eq(exact.bytes()),
            StringMatch::Prefix(prefix) => {
                let mut value = decoded(value);
                prefix.bytes().all(|expected| value.next() == Some(expected))
            }
            StringMatch::Regex(_) if value.contains(['%', '+']) => {
                self.value.matches(&decoded(value).collect::<Vec<u8>>())
            }
            StringMatch::Regex(_) | StringMatch::Present(_) => self.value.matches(value.as_bytes()),
        }
    }

    /// Whether any cookie of this name matches.
    pub fn matches_cookie(&self, headers: &HeaderMap) -> bool {
        let mut values = cookies(headers, &self.name).peekable();
        if values.peek().is_none() {
            return self.value.matches_absence();
        }
        values.any(|value| self.value.matches(value))
    }
}

/// The values of the cookies of this name (RFC 6265 section 5.4), quotes included.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';'));
    pairs.filter_map(move |pair| {
        let equals = pair.iter().position(|&byte| byte == b'=')?;
        (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
    })
}

/// The first parameter of this name, still encoded. One without `=` has the empty value.
fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        decoded(key).eq(name.bytes()).then_some(value)
    })
}

/// Bytes of a query's key or value, decoded as forms are (URL standard, `application/x-www-form-urlencoded`).
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&byte, after) = rest.split_first()?;
        let escaped = || Some(hex(after.first().copied())? << 4 | hex(after.get(1).copied())?);
        let (byte, used) = match byte {
            b'+' => (b' ', 0),
            b'%' => escaped().map_or((b'%', 0), |escaped| (escaped, 2)),
            _ => (byte, 0),
        };
        rest = &after[used..];
        Some(byte)
    })
}

// === impl PathMatch ===

impl PathMatch {
    /// Whether a normalised path matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == &**exact,
            // "/" is every path, "*" included.
            Self::Prefix(prefix) if prefix.is_empty() => true,
            Self::Prefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// The prefix that a [`PathChange::Prefix`](super::PathChange::Prefix) replaces.
    pub fn prefix(&self) -> Option<&str> {
        match self {
            Self::Prefix(prefix) => Some(prefix),
            Self::Exact(_) | Self::Regex(_) => None,
        }
    }
}

// === impl Principal ===

impl Principal {
    pub fn matches(&self, caller: CallerView<'_>) -> bool {
        match self {
            Self::Identity(identity) => caller.identity == Some(identity),
            Self::Namespace(namespace) => caller.identity.is_some_and(|id| id.namespace() == &**namespace),
            Self::Authenticated => caller.identity.is_some(),
            Self::Cidr(block) => block.contains(caller.address),
        }
    }
}

// === impl IpBlock ===

impl IpBlock {
    /// Whether the address is in the block. An IPv4 address mapped to IPv6 counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => masked_v4(address, self.prefix) == masked_v4(base, self.prefix),
            (IpAddr::V6(base), IpAddr::V6(address)) => masked_v6(address, self.prefix) == masked_v6(base, self.prefix),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl FromStr for IpBlock {
    type Err = BadIpBlock;

    /// Reads `ADDRESS/PREFIX`, or one `ADDRESS`. Bits behind the prefix don't count.
    fn from_str(text: &str) -> Result<Self, BadIpBlock> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(prefix.parse().map_err(|_| BadIpBlock)?))
            }
            Some(_) => return Err(BadIpBlock),
            None => (text, None),
        };
        let base: IpAddr = address.parse().map_err(|_| BadIpBlock)?;
        let longest = if base.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = prefix.unwrap_or(longest);
        if prefix > longest {
            return Err(BadIpBlock);
        }
        let base = match base {
            IpAddr::V4(address) => IpAddr::V4(masked_v4(address, prefix)),
            IpAddr::V6(address) => IpAddr::V6(masked_v6(address, prefix)),
        };
        Ok(Self { base, prefix })
    }
}

fn masked_v4(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

fn masked_v6(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

#[cfg(test)]
mod tests;
