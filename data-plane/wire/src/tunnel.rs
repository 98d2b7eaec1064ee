//! The small headers in front of tunnelled bytes: one frame, then the bytes themselves.
//!
//! A frame is a big-endian `u16` length, then that many bytes: one version byte, then fields of
//! one tag byte, a big-endian `u16` length and the value. Unknown tags are skipped, so fields can be added.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::SpiffeId;

/// Longest frame in bytes, length prefix excluded.
pub const MAX_FRAME: usize = 4096;

const VERSION: u8 = 1;

/// What follows on an opaque connection between proxies ([`alpn::TCP`](crate::names::alpn::TCP)) or on a delivery
/// ([`alpn::DELIVER`](crate::names::alpn::DELIVER)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpHeader {
    /// Port on the destination pod.
    pub port: u16,
    /// Whom a shared proxy acts for; honoured from shared proxies only.
    pub caller: Caller,
    /// Address of whom it acts for.
    pub address: Option<IpAddr>,
}

/// On whose behalf bytes are carried.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Caller {
    /// The peer of the TLS session itself.
    #[default]
    Peer,
    /// Someone who proved no identity.
    Anonymous,
    /// A workload that the sender has authenticated.
    Identity(SpiffeId),
}

/// What a guard tells a shared proxy of one captured connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardHeader {
    /// The pod's app called `destination`.
    Outbound { source: SocketAddr, destination: SocketAddr },
    /// A meshed peer reached the pod's mesh port; the guard has ended its TLS.
    InboundMesh {
        source: SocketAddr,
        /// The pod's address that was reached.
        destination: SocketAddr,
        peer: SpiffeId,
        /// What the TLS session agreed on: see [`alpn`](crate::names::alpn).
        alpn: Vec<u8>,
    },
    /// Plaintext that was captured on its way to the pod's `destination`.
    InboundPlain { source: SocketAddr, destination: SocketAddr },
}

/// Why bytes are no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    #[error("longer than {MAX_FRAME} bytes")]
    TooLong,
    #[error("ends in the middle of a field")]
    Truncated,
    #[error("version {0} is not known")]
    Version(u8),
    #[error("field {0} is malformed")]
    Malformed(u8),
    #[error("field {0} is missing")]
    Missing(u8),
}

mod tag {
    pub(super) const PORT: u8 = 1;
    pub(super) const CALLER: u8 = 2;
    pub(super) const KIND: u8 = 3;
    pub(super) const SOURCE: u8 = 4;
    pub(super) const DESTINATION: u8 = 5;
    pub(super) const PEER: u8 = 6;
    pub(super) const ALPN: u8 = 7;
    pub(super) const ADDRESS: u8 = 8;
}

const KIND_OUTBOUND: u8 = 1;
const KIND_INBOUND_MESH: u8 = 2;
const KIND_INBOUND_PLAIN: u8 = 3;

/// Length of the frame that begins with `prefix`.
///
/// # Errors
/// If it is longer than [`MAX_FRAME`].
pub fn frame_len(prefix: [u8; 2]) -> Result<usize, HeaderError> {
    let len = usize::from(u16::from_be_bytes(prefix));
    if len > MAX_FRAME { Err(HeaderError::TooLong) } else { Ok(len) }
}

// === impl TcpHeader ===

impl TcpHeader {
    /// The whole frame, length prefix included.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Frame::new();
        frame.field(tag::PORT, &self.port.to_be_bytes());
        match &self.caller {
            Caller::Peer => {}
            Caller::Anonymous => frame.field(tag::CALLER, b"-"),
            Caller::Identity(id) => frame.field(tag::CALLER, id.as_str().as_bytes()),
        }
        if let Some(address) = self.address {
            frame.field(tag::ADDRESS, &address_bytes(address));
        }
        frame.finish()
    }

    /// Reads a frame without its length prefix.
    ///
    /// # Errors
    /// If it isn't a well-formed header.
    pub fn decode(frame: &[u8]) -> Result<Self, HeaderError> {
        let mut port = None;
        let mut caller = Caller::Peer;
        let mut source = None;
        each_field(frame, |tag, value| {
            match tag {
                tag::PORT => {
                    port = Some(u16::from_be_bytes(value.try_into().map_err(|_| HeaderError::Malformed(tag))?));
                }
                tag::CALLER if value == b"-" => caller = Caller::Anonymous,
                tag::CALLER => caller = Caller::Identity(identity(tag, value)?),
                tag::ADDRESS => source = Some(address(tag, value)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self { port: port.ok_or(HeaderError::Missing(tag::PORT))?, caller, address: source })
    }
}

// === impl GuardHeader ===

impl GuardHeader {
    /// The whole frame, length prefix included.
    pub fn encode(&self) -> Vec<u8> {
        let mut frame = Frame::new();
        let (kind, source, destination) = match self {
            Self::Outbound { source, destination } => (KIND_OUTBOUND, source, destination),
            Self::InboundMesh { source, destination, .. } => (KIND_INBOUND_MESH, source, destination),
            Self::InboundPlain { source, destination } => (KIND_INBOUND_PLAIN, source, destination),
        };
        frame.field(tag::KIND, &[kind]);
        frame.field(tag::SOURCE, &socket_bytes(*source));
        frame.field(tag::DESTINATION, &socket_bytes(*destination));
        if let Self::InboundMesh { peer, alpn, .. } = self {
            frame.field(tag::PEER, peer.as_str().as_bytes());
            frame.field(tag::ALPN, alpn);
        }
        frame.finish()
    }

    /// Reads a frame without its length prefix.
    ///
    /// # Errors
    /// If it isn't a well-formed header.
    pub fn decode(frame: &[u8]) -> Result<Self, HeaderError> {
        let (mut kind, mut source, mut destination, mut peer, mut alpn) = (None, None, None, None, None);
        each_field(frame, |tag, value| {
            match tag {
                tag::KIND => kind = value.first().copied(),
                tag::SOURCE => source = Some(socket(tag, value)?),
                tag::DESTINATION => destination = Some(socket(tag, value)?),
                tag::PEER => peer = Some(identity(tag, value)?),
                tag::ALPN => alpn = Some(value.to_vec()),
                _ => {}
            }
            Ok(())
        })?;
        let source = source.ok_or(HeaderError::Missing(tag::SOURCE))?;
        let destination = destination.ok_or(HeaderError::Missing(tag::DESTINATION))?;
        match kind.ok_or(HeaderError::Missing(tag::KIND))? {
            KIND_OUTBOUND => Ok(Self::Outbound { source, destination }),
            KIND_INBOUND_PLAIN => Ok(Self::InboundPlain { source, destination }),
            KIND_INBOUND_MESH => Ok(Self::InboundMesh {
                source,
                destination,
                peer: peer.ok_or(HeaderError::Missing(tag::PEER))?,
                alpn: alpn.ok_or(HeaderError::Missing(tag::ALPN))?,
            }),
            _ => Err(HeaderError::Malformed(tag::KIND)),
        }
    }

    /// The original destination.
    pub fn destination(&self) -> SocketAddr {
        match self {
            Self::Outbound { destination, .. }
            | Self::InboundMesh { destination, .. }
            | Self::InboundPlain { destination, .. } => *destination,
        }
    }
}

// === fields ===

struct Frame(Vec<u8>);

impl Frame {
    fn new() -> Self {
        Self(vec![0, 0, VERSION])
    }

    fn field(&mut self, tag: u8, value: &[u8]) {
        // Values are ports, addresses, identities (at most 2048 bytes) and ALPN names (at most 255).
        let len = u16::try_from(value.len()).expect("a field is shorter than 64 KiB");
        self.0.push(tag);
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    fn finish(mut self) -> Vec<u8> {
        let len = u16::try_from(self.0.len() - 2).expect("a header is shorter than 64 KiB");
        self.0[..2].copy_from_slice(&len.to_be_bytes());
        self.0
    }
}

fn each_field(frame: &[u8], mut visit: impl FnMut(u8, &[u8]) -> Result<(), HeaderError>) -> Result<(), HeaderError> {
    let (&version, mut rest) = frame.split_first().ok_or(HeaderError::Truncated)?;
    if version != VERSION {
        return Err(HeaderError::Version(version));
    }
    while let Some((&tag, after)) = rest.split_first() {
        let (len, after) = after.split_first_chunk::<2>().ok_or(HeaderError::Truncated)?;
        let (value, after) =
            after.split_at_checked(usize::from(u16::from_be_bytes(*len))).ok_or(HeaderError::Truncated)?;
        visit(tag, value)?;
        rest = after;
    }
    Ok(())
}

fn identity(tag: u8, value: &[u8]) -> Result<SpiffeId, HeaderError> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(HeaderError::Malformed(tag))
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn address(tag: u8, value: &[u8]) -> Result<IpAddr, HeaderError> {
    if let Ok(v4) = <[u8; 4]>::try_from(value) {
        return Ok(IpAddr::V4(Ipv4Addr::from(v4)));
    }
    Ok(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(value).map_err(|_| HeaderError::Malformed(tag))?)))
}

fn socket_bytes(address: SocketAddr) -> Vec<u8> {
    let mut bytes = address_bytes(address.ip());
    bytes.extend_from_slice(&address.port().to_be_bytes());
    bytes
}

fn socket(tag: u8, value: &[u8]) -> Result<SocketAddr, HeaderError> {
    let (ip, port) = value.split_last_chunk::<2>().ok_or(HeaderError::Malformed(tag))?;
    Ok(SocketAddr::new(address(tag, ip)?, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> SpiffeId {
        SpiffeId::new("cluster.local", "shop", name).unwrap()
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn headers_survive_the_wire() {
        for caller in [Caller::Peer, Caller::Anonymous, Caller::Identity(id("front"))] {
            let header = TcpHeader { port: 6379, caller, address: Some("fd00::7".parse().unwrap()) };
            let bytes = header.encode();
            assert_eq!(frame_len([bytes[0], bytes[1]]).unwrap(), bytes.len() - 2);
            assert_eq!(TcpHeader::decode(&bytes[2..]).unwrap(), header);
        }
        let (source, destination) = (addr("10.0.0.1:4000"), addr("[fd00::1]:80"));
        for header in [
            GuardHeader::Outbound { source, destination },
            GuardHeader::InboundPlain { source, destination },
            GuardHeader::InboundMesh { source, destination, peer: id("front"), alpn: b"h2".to_vec() },
        ] {
            let bytes = header.encode();
            assert_eq!(GuardHeader::decode(&bytes[2..]).unwrap(), header);
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_survived() {
        let header = GuardHeader::InboundMesh {
            source: addr("10.0.0.1:4000"),
            destination: addr("10.0.0.2:15008"),
            peer: id("front"),
            alpn: b"h2".to_vec(),
        };
        let bytes = header.encode();
        for cut in 2..bytes.len() {
            assert!(GuardHeader::decode(&bytes[2..cut]).is_err());
            let _ = TcpHeader::decode(&bytes[2..cut]);
        }
        for at in 2..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = GuardHeader::decode(&bytes[2..]);
                let _ = TcpHeader::decode(&bytes[2..]);
            }
        }
    }

    #[test]
    fn unknown_fields_are_skipped() {
        let mut bytes = TcpHeader { port: 80, caller: Caller::Peer, address: None }.encode();
        bytes.extend_from_slice(&[200, 0, 1, 42]);
        assert_eq!(TcpHeader::decode(&bytes[2..]).unwrap().port, 80);
    }
}
