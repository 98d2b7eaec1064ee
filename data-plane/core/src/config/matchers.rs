//! Matchers of strings, paths, keys and callers. No regex is built from a literal; all engines are linear-time.

use std::net::IpAddr;

use outrigger_wire::SpiffeId;

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
