//! HTTP/2 frames (RFC 9113 section 4) and header fields (RFC 7541) by hand, and an attacker that sends them.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::peer::{Peer, is_silence};

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// How an attack ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The proxy said why, by an error code of RFC 9113 section 7.
    GoAway(u32),
    Closed,
    /// The proxy reads no more.
    Stalled,
    /// All was sent, and the connection is open.
    Open,
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

/// Sends the preface and then `batches`, until they end or the proxy has had enough. Reads what comes back in between
/// only if it `listens`. Returns how many batches were sent.
pub(super) fn attack(peer: &mut Peer, batches: impl Iterator<Item = Vec<u8>>, listens: bool) -> Result<(usize, Ended)> {
    const GIVE_UP: Duration = Duration::from_secs(2);
    peer.tcp().set_write_timeout(Some(GIVE_UP))?;
    let mut heard = Heard::default();
    let opening = [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat();
    let mut sent = 0;
    for batch in std::iter::once(opening).chain(batches) {
        if let Err(error) = peer.write_all(&batch).and_then(|()| peer.flush()) {
            let ended = if is_silence(&error) { Ended::Stalled } else { Ended::Closed };
            // Why it closed may have arrived before that.
            return Ok((sent, heard.listen(peer, Duration::from_millis(100))?.unwrap_or(ended)));
        }
        sent += 1;
        if listens && let Some(ended) = heard.listen(peer, Duration::from_micros(100))? {
            return Ok((sent, ended));
        }
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        if let Some(ended) = heard.listen(peer, Duration::from_millis(100))? {
            return Ok((sent, ended));
        }
    }
    Ok((sent, Ended::Open))
}

/// Bytes of frames that aren't whole yet.
#[derive(Default)]
struct Heard(Vec<u8>);

impl Heard {
    /// Reads for up to `limit`; says whether that was the end.
    fn listen(&mut self, peer: &mut Peer, limit: Duration) -> Result<Option<Ended>> {
        peer.tcp().set_read_timeout(Some(limit))?;
        let mut buffer = [0; 16 * 1024];
        match peer.read(&mut buffer) {
            Ok(0) => Ok(Some(Ended::Closed)),
            Ok(read) => {
                self.0.extend(&buffer[..read]);
                Ok(self.go_away())
            }
            Err(error) if is_silence(&error) => Ok(None),
            Err(_) => Ok(Some(Ended::Closed)),
        }
    }

    fn go_away(&mut self) -> Option<Ended> {
        while let Some((head, rest)) = self.0.split_at_checked(9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let kind = head[3];
            let payload = rest.get(..length)?.to_vec();
            self.0.drain(..9 + length);
            if let (kind::GOAWAY, Some(code)) = (kind, payload.get(4..8)) {
                return Some(Ended::GoAway(code.iter().fold(0, |code, &byte| code << 8 | u32::from(byte))));
            }
        }
        None
    }
}
