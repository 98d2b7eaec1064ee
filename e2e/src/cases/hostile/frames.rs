//! HTTP/2 frames (RFC 9113 section 4) and header fields (RFC 7541) by hand, and an attacker that sends them.

use std::{
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::peer::{Peer, is_silence};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
    /// RFC 9218 section 7.1; h2 knows nothing of it.
    pub(crate) const PRIORITY_UPDATE: u8 = 16;
}

pub(super) const END_STREAM: u8 = 1;
/// Of SETTINGS and PING.
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// How an attack ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Ended {
    /// The proxy said why, by an error code of RFC 9113 section 7.
    GoAway(u32),
    Closed,
    /// The proxy reads no more.
    Stalled,
    /// All was sent, and the connection is open.
    #[default]
    Open,
}

impl Ended {
    pub(super) fn go_away(payload: &[u8]) -> Self {
        let code = payload.get(4..8).unwrap_or_default();
        Self::GoAway(code.iter().fold(0, |code, &byte| code << 8 | u32::from(byte)))
    }
}

/// What came of one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attack {
    /// How many batches were sent.
    pub(super) sent: usize,
    pub(super) bytes: usize,
    pub(super) ended: Ended,
}

/// How a client begins.
pub(super) fn opening() -> Vec<u8> {
    [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("an attack's frame is short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Stream identifiers of a client, in their order.
pub(super) fn streams() -> impl Iterator<Item = u32> {
    (1..).step_by(2)
}

/// A literal field that isn't put into the table (RFC 7541 section 6.2.2).
pub(super) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    string(&mut bytes, name);
    string(&mut bytes, value);
    bytes
}

/// A literal field that is put into the table (section 6.2.1).
pub(super) fn indexed_field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0x40];
    string(&mut bytes, name);
    string(&mut bytes, value);
    bytes
}

/// The table's newest field, in one byte (section 6.1): the first behind the static table's 61.
pub(super) const NEWEST: u8 = 0x80 | 62;

/// A length with a prefix of seven bits (section 5.1), and the octets as they are.
fn string(bytes: &mut Vec<u8>, text: &str) {
    let mut rest = text.len();
    if rest < 127 {
        bytes.push(u8::try_from(rest).unwrap_or_default());
    } else {
        bytes.push(127);
        rest -= 127;
        while rest >= 128 {
            bytes.push(u8::try_from(rest % 128).unwrap_or_default() | 128);
            rest /= 128;
        }
        bytes.push(u8::try_from(rest).unwrap_or_default());
    }
    bytes.extend(text.as_bytes());
}

/// Header fields of a request to a port behind the mesh, made by an HTTP/1.1 app.
pub(super) fn request(method: &str, path: &str, port: u16) -> Vec<u8> {
    [
        field(":method", method),
        field(":scheme", "http"),
        field(":path", path),
        field(":authority", "hostile"),
        field("outrigger-port", &port.to_string()),
        field("outrigger-proto", "1.1"),
    ]
    .concat()
}

/// Sends `batches` until they end or the proxy has had enough, and hears for up to `linger` what it says then. Reads what
/// comes back in between only if it `listens`.
pub(super) fn attack(
    peer: &mut Peer,
    batches: impl Iterator<Item = Vec<u8>>,
    listens: bool,
    linger: Duration,
) -> Result<Attack> {
    // Who waits for an end waits longer for room.
    let give_up = 2 * linger.max(Duration::from_millis(200));
    peer.tcp().set_write_timeout(Some(give_up))?;
    let mut heard = Heard::default();
    let (mut sent, mut bytes) = (0, 0);
    for batch in batches {
        if let Err(error) = write(peer, &batch, give_up) {
            let ended = if is_silence(&error) { Ended::Stalled } else { Ended::Closed };
            // Why it closed may have arrived before that.
            let ended = heard.listen(peer, Duration::from_millis(100))?.unwrap_or(ended);
            return Ok(Attack { sent, bytes, ended });
        }
        sent += 1;
        bytes += batch.len();
        if listens && let Some(ended) = heard.listen(peer, Duration::from_micros(100))? {
            return Ok(Attack { sent, bytes, ended });
        }
    }
    let start = Instant::now();
    while start.elapsed() < linger {
        if let Some(ended) = heard.listen(peer, Duration::from_millis(100))? {
            return Ok(Attack { sent, bytes, ended });
        }
    }
    Ok(Attack { sent, bytes, ended: Ended::Open })
}

/// All of it, unless there is room for a part only within that time.
fn write(peer: &mut Peer, mut batch: &[u8], limit: Duration) -> io::Result<()> {
    let start = Instant::now();
    while !batch.is_empty() {
        if start.elapsed() > limit {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let written = peer.write(batch)?;
        batch = &batch[written..];
    }
    peer.flush()
}

/// Bytes of frames that aren't whole yet.
#[derive(Default)]
pub(super) struct Heard(Vec<u8>);

impl Heard {
    /// Reads for up to `limit`; says whether that was the end.
    fn listen(&mut self, peer: &mut Peer, limit: Duration) -> Result<Option<Ended>> {
        peer.tcp().set_read_timeout(Some(limit))?;
        match self.read(peer) {
            Ok(true) => Ok(self.go_away()),
            Ok(false) => Ok(Some(Ended::Closed)),
            Err(error) if is_silence(&error) => Ok(None),
            Err(_) => Ok(Some(Ended::Closed)),
        }
    }

    /// Whether there was anything to read.
    pub(super) fn read(&mut self, peer: &mut Peer) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let read = peer.read(&mut buffer)?;
        self.0.extend(&buffer[..read]);
        Ok(read > 0)
    }

    /// The preface of a client, which comes before its first frame.
    pub(super) fn skip_preface(&mut self) -> bool {
        let is_there = self.0.starts_with(PREFACE);
        if is_there {
            self.0.drain(..PREFACE.len());
        }
        is_there
    }

    /// Kind, stream and payload of the next frame, if it is whole.
    pub(super) fn frame(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let (head, rest) = self.0.split_at_checked(9)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, stream) = (head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        let payload = rest.get(..length)?.to_vec();
        self.0.drain(..9 + length);
        Some((kind, stream, payload))
    }

    fn go_away(&mut self) -> Option<Ended> {
        while let Some((kind, _, payload)) = self.frame() {
            if kind == kind::GOAWAY {
                return Some(Ended::go_away(&payload));
            }
        }
        None
    }
}
