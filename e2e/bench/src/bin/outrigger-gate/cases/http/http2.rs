//! Both ends of HTTP/2 as prepared bytes: as much of RFC 9113 as one request after another takes. As libraries do, the
//! first message of a connection puts its fields into HPACK's table, and the later ones name their places there.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Result, bail, ensure};

use super::BODY;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const REQUEST: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "cart.shop"),
    (":path", "/api/stock-0/items/42?page=2"),
    ("user-agent", "gate/1"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, br"),
    ("x-request-id", "9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"),
    ("x-tenant", "blue"),
];

const RESPONSE: &[(&str, &str)] = &[
    (":status", "200"),
    ("content-type", "application/json"),
    ("date", "Tue, 24 Nov 2026 12:00:00 GMT"),
    ("server", "app"),
    ("content-length", "1024"),
];

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// As much as there is, so that no other update is needed for a million answers.
const WINDOW: u32 = (1 << 31) - 1 - 65_535;

pub(super) struct Caller {
    end: End,
    fields: Fields,
    stream: u32,
}

pub(super) struct App {
    end: End,
    fields: Fields,
}

/// What is sent as header block: at first, and from then on.
struct Fields {
    first: Vec<u8>,
    again: Vec<u8>,
    sent: bool,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
}

struct End {
    stream: TcpStream,
    read: Box<[u8; 32 * 1024]>,
    /// What of `read` hasn't been looked at.
    from: usize,
    to: usize,
    write: Vec<u8>,
}

impl Caller {
    pub(super) fn new(stream: TcpStream) -> Result<Self> {
        let mut end = End::new(stream);
        end.write.extend_from_slice(PREFACE);
        end.frame(SETTINGS, 0, 0, &[]);
        end.frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes());
        end.flush()?;
        Ok(Self { end, fields: Fields::new(REQUEST), stream: 1 })
    }

    pub(super) fn ask(&mut self) -> Result<()> {
        self.end.frame(HEADERS, END_STREAM | END_HEADERS, self.stream, self.fields.next());
        self.end.flush()
    }

    pub(super) fn read_answer(&mut self) -> Result<()> {
        let mut body = 0;
        loop {
            let (frame, length) = self.end.next()?;
            ensure!(frame.stream == self.stream, "a frame of kind {} for stream {}", frame.kind, frame.stream);
            body += if frame.kind == DATA { length } else { 0 };
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
        ensure!(body == BODY, "the answer has {body} bytes instead of {BODY}");
        self.stream += 2;
        Ok(())
    }
}

impl App {
    pub(super) fn new(stream: TcpStream) -> Result<Self> {
        let mut end = End::new(stream);
        while end.to < PREFACE.len() {
            end.fill()?;
        }
        ensure!(end.read.starts_with(PREFACE), "the app was called by something else than HTTP/2");
        end.from = PREFACE.len();
        end.frame(SETTINGS, 0, 0, &[]);
        end.flush()?;
        Ok(Self { end, fields: Fields::new(RESPONSE) })
    }

    /// Reads a request and answers it.
    pub(super) fn answer(&mut self) -> Result<()> {
        const TEXT: [u8; BODY] = [b'x'; BODY];
        let stream = loop {
            let (frame, _) = self.end.next()?;
            if frame.flags & END_STREAM != 0 {
                break frame.stream;
            }
        };
        self.end.frame(HEADERS, END_HEADERS, stream, self.fields.next());
        self.end.frame(DATA, END_STREAM, stream, &TEXT);
        self.end.flush()
    }
}

impl Fields {
    fn new(fields: &[(&str, &str)]) -> Self {
        let mut first = Vec::new();
        for (name, value) in fields {
            // A literal that is added to the table, without Huffman's code (RFC 7541 section 6.2.1).
            first.push(0x40);
            for text in [name, value] {
                first.push(u8::try_from(text.len()).unwrap_or(0x7e));
                first.extend_from_slice(text.as_bytes());
            }
        }
        // The newest has place 62.
        let again = (0..fields.len()).rev().map(|age| 0x80 | (62 + u8::try_from(age).unwrap_or(0))).collect();
        Self { first, again, sent: false }
    }

    fn next(&mut self) -> &[u8] {
        if std::mem::replace(&mut self.sent, true) { &self.again } else { &self.first }
    }
}

impl End {
    fn new(stream: TcpStream) -> Self {
        Self { stream, read: Box::new([0; 32 * 1024]), from: 0, to: 0, write: Vec::with_capacity(4096) }
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
        self.write.extend_from_slice(&length[1..]);
        self.write.extend_from_slice(&[kind, flags]);
        self.write.extend_from_slice(&stream.to_be_bytes());
        self.write.extend_from_slice(payload);
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.write)?;
        self.write.clear();
        Ok(())
    }

    fn fill(&mut self) -> Result<()> {
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        } else if self.to == self.read.len() {
            self.read.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
        }
        match self.stream.read(&mut self.read[self.to..])? {
            0 => bail!("the proxy has closed the connection"),
            read => self.to += read,
        }
        Ok(())
    }

    /// The next frame of a message, and the length of its payload. What is about the connection is dealt with here.
    fn next(&mut self) -> Result<(Frame, usize)> {
        loop {
            while self.to - self.from < 9 {
                self.fill()?;
            }
            let head = &self.read[self.from..self.from + 9];
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream };
            ensure!(length + 9 < self.read.len(), "a frame of {length} bytes");
            while self.to - self.from < 9 + length {
                self.fill()?;
            }
            let payload = self.from + 9..self.from + 9 + length;
            self.from = payload.end;
            match frame.kind {
                DATA | HEADERS => return Ok((frame, length)),
                SETTINGS if frame.flags & ACK == 0 => {
                    self.frame(SETTINGS, ACK, 0, &[]);
                    self.flush()?;
                }
                PING if frame.flags & ACK == 0 => {
                    let mut echo = [0; 8];
                    echo.copy_from_slice(&self.read[payload]);
                    self.frame(PING, ACK, 0, &echo);
                    self.flush()?;
                }
                RST_STREAM | GOAWAY => bail!("the proxy has given up: {:?}", &self.read[payload]),
                _ => {}
            }
        }
    }
}
