//! Requests by HTTP/1.1: one write, one read and no allocation for an answer that comes at once.

use std::{io, rc::Rc, time::Duration};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    chunked::Chunked,
    failure::Failure,
    target::{Target, To},
};

/// The longest head, and how much of a body is read at once.
const BUFFER: usize = 64 * 1024;
const HEADERS: usize = 64;
/// For how long a server that was asked to may take to close.
const CLOSING: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Http1 {
    target: Rc<Target>,
    request: Vec<u8>,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
    new_connections: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    body: Body,
    close: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClosed,
}

// === impl Http1 ===

impl Http1 {
    pub(crate) fn new(to: &To, new_connections: bool) -> Result<Self> {
        let request = to.http1(new_connections)?;
        let target = Rc::new(to.to.clone());
        Ok(Self { target, request, stream: None, buffer: vec![0; BUFFER], new_connections })
    }

    pub(crate) async fn exchange(&mut self) -> Result<u64, Failure> {
        // Out of its place while in use: after a failure it is gone.
        let mut stream = match self.stream.take().filter(Self::is_idle) {
            Some(stream) => stream,
            None => self.target.connect().await?,
        };
        stream.write_all(&self.request).await?;
        let (head, filled) = self.head(&mut stream).await?;
        let bytes = self.body(&mut stream, &head, filled).await?;
        if self.new_connections || !(head.close || head.body == Body::UntilClosed) {
            self.stream = Some(stream);
        }
        if (200..300).contains(&head.status) { Ok(bytes) } else { Err(Failure::Status(head.status)) }
    }

    /// Ends a connection that was for one exchange. Who closes first keeps the port for a minute, so that is left to
    /// the server.
    pub(crate) async fn rest(&mut self) {
        if let Some(mut stream) = self.stream.take_if(|_| self.new_connections) {
            let _ = timeout(CLOSING, stream.read(&mut self.buffer)).await;
        }
    }

    /// A server may close a connection on which nothing is under way; that is no failure. Costs no system call as long
    /// as nothing has come.
    fn is_idle(stream: &TcpStream) -> bool {
        stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Returns the head of the final answer, and how much of the buffer it and what came with it fill.
    async fn head(&mut self, stream: &mut TcpStream) -> Result<(Head, usize), Failure> {
        let mut filled = 0;
        loop {
            let read = stream.read(&mut self.buffer[filled..]).await?;
            if read == 0 {
                return Err(if filled < BUFFER { Failure::CLOSED } else { Failure::Wrong("head too long") });
            }
            filled += read;
            while let Some(head) = Head::parse(&self.buffer[..filled])? {
                if head.status >= 200 {
                    return Ok((head, filled));
                }
                self.buffer.copy_within(head.length..filled, 0);
                filled -= head.length;
            }
        }
    }

    async fn body(&mut self, stream: &mut TcpStream, head: &Head, filled: usize) -> Result<u64, Failure> {
        let (mut bytes, mut chunked) = (0, Chunked::START);
        let mut come = head.length..filled;
        loop {
            bytes += match head.body {
                Body::Chunked => chunked.feed(&self.buffer[come])?,
                Body::Length(_) | Body::UntilClosed => come.len() as u64,
            };
            match head.body {
                Body::Length(length) if bytes > length => return Err(Failure::Wrong("more than content-length")),
                Body::Length(length) if bytes == length => return Ok(bytes),
                Body::Chunked if chunked == Chunked::Done => return Ok(bytes),
                Body::Length(_) | Body::Chunked | Body::UntilClosed => {}
            }
            come = 0..stream.read(&mut self.buffer).await?;
            if come.is_empty() {
                return if head.body == Body::UntilClosed { Ok(bytes) } else { Err(Failure::CLOSED) };
            }
        }
    }
}

// === impl Head ===

impl Head {
    /// `None` while it isn't whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Failure> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Failure::Wrong("malformed head")),
        };
        let status = response.code.unwrap_or_default();
        let mut head = Self { status, length, body: Body::UntilClosed, close: response.version == Some(0) };
        for header in response.headers {
            if header.name.eq_ignore_ascii_case("content-length") && head.body != Body::Chunked {
                let length = std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse().ok());
                head.body = Body::Length(length.ok_or(Failure::Wrong("malformed content-length"))?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                head.body = Body::Chunked;
            } else if header.name.eq_ignore_ascii_case("connection") {
                head.close |= header.value.eq_ignore_ascii_case(b"close");
            }
        }
        if status < 200 || status == 204 || status == 304 {
            head.body = Body::Length(0);
        }
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let parse = |text: &str| Head::parse(text.as_bytes());
        let head = |status, body, close, text: &str| Head { status, length: text.len(), body, close };
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", 200, Body::Length(12), false),
            ("HTTP/1.1 503 No\r\ncontent-length:0\r\nConnection: Close\r\n\r\n", 503, Body::Length(0), true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n", 200, Body::Chunked, false),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, Body::Length(0), false),
            ("HTTP/1.1 100 Continue\r\n\r\n", 100, Body::Length(0), false),
            ("HTTP/1.0 200 OK\r\n\r\n", 200, Body::UntilClosed, true),
        ];
        for (text, status, body, close) in cases {
            assert_eq!(parse(text).unwrap(), Some(head(status, body, close, text)), "{text}");
            assert_eq!(parse(&text[..text.len() - 1]).unwrap(), None, "{text}");
        }
        for wrong in ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n"] {
            assert!(matches!(parse(wrong), Err(Failure::Wrong(_))), "{wrong}");
        }
    }
}
