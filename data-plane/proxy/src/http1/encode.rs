//! Heads as they are sent, and how the end of what follows is told.

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header, response};
use http_body::Body;

use super::decode::is_framing;

/// How the receiver learns where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    Sized(u64),
    Chunked,
    /// By the end of the connection.
    ToEnd,
}

/// What a caller has to be answered in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// By HEAD: no body.
    pub(super) head: bool,
    /// HTTP/1.0.
    pub(super) old: bool,
    pub(super) keep: bool,
}

pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

impl Framing {
    fn of(body: &impl Body) -> Self {
        if body.is_end_stream() {
            return Self::None;
        }
        body.size_hint().exact().map_or(Self::Chunked, Self::Sized)
    }
}

pub(super) fn request<B: Body>(out: &mut Vec<u8>, request: &Request<B>) -> Framing {
    let framing = Framing::of(request.body());
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.uri().path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let length = fields(out, request.headers());
    let has_content = [Method::POST, Method::PUT, Method::PATCH].contains(request.method());
    match framing {
        // That there is nothing is worth saying where there might be something (RFC 9110 section 8.6).
        Framing::None if has_content || length.is_some() => field(out, &header::CONTENT_LENGTH, b"0"),
        Framing::None | Framing::ToEnd => {}
        Framing::Sized(length) => content_length(out, length),
        Framing::Chunked => field(out, &header::TRANSFER_ENCODING, b"chunked"),
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// Whether the connection may go on is in `asked`, afterwards too.
pub(super) fn response<B: Body>(out: &mut Vec<u8>, head: &response::Parts, body: &B, asked: &mut Asked) -> Framing {
    let status = head.status;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let length = fields(out, &head.headers);
    let framing = if status.is_informational() || status == StatusCode::NO_CONTENT {
        Framing::None
    } else if asked.head || status == StatusCode::NOT_MODIFIED {
        match (length, body.size_hint().exact()) {
            (Some(length), _) => field(out, &header::CONTENT_LENGTH, length.as_bytes()),
            // One that was made here.
            (None, Some(length @ 1..)) => content_length(out, length),
            (None, _) => {}
        }
        Framing::None
    } else {
        let framing = match Framing::of(body) {
            Framing::Chunked if asked.old => Framing::ToEnd,
            framing => framing,
        };
        match framing {
            Framing::None => field(out, &header::CONTENT_LENGTH, b"0"),
            Framing::Sized(length) => content_length(out, length),
            Framing::Chunked => field(out, &header::TRANSFER_ENCODING, b"chunked"),
            Framing::ToEnd => asked.keep = false,
        }
        framing
    };
    match (asked.keep, asked.old) {
        _ if status == StatusCode::SWITCHING_PROTOCOLS => {}
        (false, _) => field(out, &header::CONNECTION, b"close"),
        (true, true) => field(out, &header::CONNECTION, b"keep-alive"),
        (true, false) => {}
    }
    out.extend_from_slice(b"\r\n");
    framing
}

/// What ends a chunked body.
pub(super) fn trailers(out: &mut Vec<u8>, trailers: &HeaderMap) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.iter().filter(|(name, _)| !is_framing(name)) {
        field(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes all fields but those that we say ourselves; returns the length that was said.
fn fields<'a>(out: &mut Vec<u8>, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let mut length = None;
    for (name, value) in headers {
        match *name {
            header::CONTENT_LENGTH => length = Some(value),
            header::TRANSFER_ENCODING => {}
            _ => field(out, name, value.as_bytes()),
        }
    }
    length
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"content-length: ");
    number::<10>(out, length);
    out.extend_from_slice(b"\r\n");
}

/// The line before a chunk's data.
pub(super) fn chunk_size(out: &mut Vec<u8>, size: u64) {
    number::<16>(out, size);
    out.extend_from_slice(b"\r\n");
}

fn number<const BASE: u64>(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(number % BASE) as usize];
        number /= BASE;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::Response;
    use http_body::Frame;
    use http_body_util::{Either, Empty, Full, StreamBody};

    use super::*;

    type Any = Either<Full<Bytes>, StreamBody<futures_util::stream::Empty<Result<Frame<Bytes>, Infallible>>>>;

    fn full(text: &'static str) -> Any {
        Either::Left(Full::new(Bytes::from_static(text.as_bytes())))
    }

    fn unknown() -> Any {
        Either::Right(StreamBody::new(futures_util::stream::empty()))
    }

    #[test]
    fn requests_say_where_they_end() {
        for (method, body, want, framing) in [
            ("GET", full(""), "GET /a?b HTTP/1.1\r\nhost: a\r\n\r\n", Framing::None),
            ("POST", full(""), "POST /a?b HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n", Framing::None),
            ("GET", full("abc"), "GET /a?b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n", Framing::Sized(3)),
            ("PUT", unknown(), "PUT /a?b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", Framing::Chunked),
        ] {
            let asked = Request::builder().method(method).uri("/a?b").header("host", "a").body(body).unwrap();
            let mut out = Vec::new();
            assert_eq!(request(&mut out, &asked), framing);
            assert_eq!(String::from_utf8_lossy(&out), want);
        }
        let mut out = Vec::new();
        let asked = Request::get("/").header("content-length", "0").body(Empty::<Bytes>::new()).unwrap();
        request(&mut out, &asked);
        assert_eq!(String::from_utf8_lossy(&out), "GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n");
    }

    #[test]
    fn answers_say_where_they_end_and_what_becomes_of_the_connection() {
        let new = Asked { head: false, old: false, keep: true };
        for (status, body, asked, want, framing) in [
            (200, full("abc"), new, "content-length: 3\r\n", Framing::Sized(3)),
            (200, full(""), new, "content-length: 0\r\n", Framing::None),
            (200, unknown(), new, "transfer-encoding: chunked\r\n", Framing::Chunked),
            (200, unknown(), Asked { old: true, ..new }, "connection: close\r\n", Framing::ToEnd),
            (
                200,
                full("abc"),
                Asked { old: true, ..new },
                "content-length: 3\r\nconnection: keep-alive\r\n",
                Framing::Sized(3),
            ),
            (
                200,
                full("abc"),
                Asked { keep: false, ..new },
                "content-length: 3\r\nconnection: close\r\n",
                Framing::Sized(3),
            ),
            (404, full("abc"), Asked { head: true, ..new }, "content-length: 3\r\n", Framing::None),
            (204, full(""), new, "", Framing::None),
            (304, full(""), new, "", Framing::None),
            (101, full(""), Asked { keep: false, ..new }, "", Framing::None),
        ] {
            let (head, ()) = Response::builder().status(status).body(()).unwrap().into_parts();
            let (mut out, mut after) = (Vec::new(), asked);
            assert_eq!(response(&mut out, &head, &body, &mut after), framing, "{status} {asked:?}");
            let text = String::from_utf8_lossy(&out).into_owned();
            assert_eq!(text.split_once("\r\n").map(|(_, fields)| fields), Some(&*format!("{want}\r\n")), "{status}");
            assert_eq!(after.keep, asked.keep && framing != Framing::ToEnd);
        }
    }

    #[test]
    fn numbers() {
        for value in [0, 7, 10, 255, 4096, u64::MAX] {
            let (mut ten, mut sixteen) = (Vec::new(), Vec::new());
            number::<10>(&mut ten, value);
            number::<16>(&mut sixteen, value);
            assert_eq!((ten, sixteen), (value.to_string().into_bytes(), format!("{value:x}").into_bytes()));
        }
    }
}
