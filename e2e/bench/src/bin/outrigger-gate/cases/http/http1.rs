//! Both ends of HTTP/1.1 as prepared bytes.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Result, bail, ensure};

use super::BODY;

const REQUEST: &[u8] = b"GET /api/stock-0/items/42?page=2 HTTP/1.1\r\n\
    host: cart.shop\r\n\
    user-agent: gate/1\r\n\
    accept: application/json\r\n\
    accept-encoding: gzip, br\r\n\
    x-request-id: 9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d\r\n\
    x-tenant: blue\r\n\r\n";

const HEAD: &str = "HTTP/1.1 200 OK\r\n\
    content-type: application/json\r\n\
    date: Tue, 24 Nov 2026 12:00:00 GMT\r\n\
    server: app\r\n";

pub(super) struct Caller(End);

pub(super) struct App {
    end: End,
    answer: Vec<u8>,
}

/// A connection, and what has been read of the current message.
struct End {
    stream: TcpStream,
    buffer: Box<[u8; 16 * 1024]>,
}

impl Caller {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(End::new(stream))
    }

    pub(super) fn ask(&mut self) -> Result<()> {
        Ok(self.0.stream.write_all(REQUEST)?)
    }

    pub(super) fn read_answer(&mut self) -> Result<()> {
        let answer = self.0.read(BODY)?;
        ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(answer));
        Ok(())
    }
}

impl App {
    pub(super) fn new(stream: TcpStream) -> Self {
        let mut answer = format!("{HEAD}content-length: {BODY}\r\n\r\n").into_bytes();
        answer.resize(answer.len() + BODY, b'x');
        Self { end: End::new(stream), answer }
    }

    /// Reads a request and answers it.
    pub(super) fn answer(&mut self) -> Result<()> {
        self.end.read(0)?;
        Ok(self.end.stream.write_all(&self.answer)?)
    }
}

impl End {
    fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Box::new([0; 16 * 1024]) }
    }

    /// One message whose body has `body` bytes.
    fn read(&mut self, body: usize) -> Result<&[u8]> {
        let mut filled = 0;
        loop {
            let message = &self.buffer[..filled];
            if let Some(head) = message.windows(4).position(|end| end == b"\r\n\r\n")
                && filled >= head + 4 + body
            {
                return Ok(&self.buffer[..filled]);
            }
            match self.stream.read(&mut self.buffer[filled..])? {
                0 => bail!("closed after {:?}", String::from_utf8_lossy(&self.buffer[..filled])),
                read => filled += read,
            }
        }
    }
}
