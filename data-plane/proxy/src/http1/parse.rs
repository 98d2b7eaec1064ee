//! Heads as they come, and what they say about the message (RFC 9112 section 6.3).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header, request, response,
};
use httparse::Status;

use super::{
    Error,
    decode::{Chunks, Decoder},
};

pub(super) struct RequestHead {
    pub(super) parts: request::Parts,
    pub(super) body: Decoder,
    /// The connection may go on behind it.
    pub(super) keep: bool,
    /// The peer waits for a word before it sends the body.
    pub(super) expects: bool,
}

pub(super) struct ResponseHead {
    pub(super) parts: response::Parts,
    /// As if the request hadn't been HEAD.
    pub(super) body: Decoder,
    pub(super) keep: bool,
}

/// Fields of a head; hyper takes as many.
const FIELDS: usize = 100;
/// Fields that a proxy adds.
const ADDED: usize = 4;
/// The longest number of a body's bytes: 10^19 - 1.
const DIGITS: usize = 19;

/// What the fields of a head say about its message.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    expects: bool,
}

pub(super) fn request(bytes: &Bytes) -> Result<Option<(usize, RequestHead)>, Error> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    let Status::Complete(length) = parsed.parse_with_uninit_headers(bytes, &mut fields)? else { return Ok(None) };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else { return Ok(None) };
    if !has_whole_line_ends(&bytes[..length], method.as_bytes(), parsed.headers) {
        return Err(Error::Malformed("a line feed alone"));
    }
    let version = version(parsed.version);
    let (mut parts, ()) = Request::new(()).into_parts();
    let said;
    (parts.headers, said) = Said::read(bytes, parsed.headers)?;
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| Error::Malformed("the method"))?;
    parts.uri =
        Uri::from_maybe_shared(bytes.slice_ref(target.as_bytes())).map_err(|_| Error::Malformed("the target"))?;
    parts.version = version;
    let body = match (said.chunked, said.length) {
        (true, Some(_)) => return Err(Error::Malformed("both a length and a transfer coding")),
        (true, None) if version == Version::HTTP_10 => return Err(Error::Malformed("a transfer coding in HTTP/1.0")),
        (true, None) => Decoder::Chunked(Chunks::default()),
        (false, Some(1..)) => Decoder::Sized(said.length.unwrap_or_default()),
        (false, _) => Decoder::Done,
    };
    let expects = said.expects && body != Decoder::Done && version == Version::HTTP_11;
    Ok(Some((length, RequestHead { parts, body, keep: said.keep(version), expects })))
}

pub(super) fn response(bytes: &Bytes) -> Result<Option<(usize, ResponseHead)>, Error> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parse = config.parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields);
    let Status::Complete(length) = parse? else { return Ok(None) };
    let version = version(parsed.version);
    let (mut parts, ()) = Response::new(()).into_parts();
    let said;
    (parts.headers, said) = Said::read(bytes, parsed.headers)?;
    parts.status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| Error::Malformed("the status"))?;
    parts.version = version;
    let bodiless =
        parts.status.is_informational() || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&parts.status);
    let body = match (said.chunked, said.length) {
        _ if bodiless => Decoder::Done,
        (true, _) if version == Version::HTTP_10 => return Err(Error::Malformed("a transfer coding in HTTP/1.0")),
        (true, _) => Decoder::Chunked(Chunks::default()),
        (false, Some(0)) => Decoder::Done,
        (false, Some(length)) => Decoder::Sized(length),
        (false, None) => Decoder::ToEnd,
    };
    // A length beside a coding may be an attack (RFC 9112 section 6.3, rule 3).
    let keep = said.keep(version) && body != Decoder::ToEnd && !(said.chunked && said.length.is_some());
    if said.chunked {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(Some((length, ResponseHead { parts, body, keep })))
}

/// Whether every line that was parsed begins behind a CRLF, or at the beginning, and the last one is empty. Others may not
/// take a line feed alone for a line's end, and so see other lines (RFC 9112 section 2.2). `first` is the beginning of the
/// first line.
pub(super) fn has_whole_line_ends(bytes: &[u8], first: &[u8], fields: &[httparse::Header<'_>]) -> bool {
    let begins = |part: &[u8]| {
        let at = (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
        at == 0 || bytes.get(..at).is_some_and(|before| before.ends_with(b"\r\n"))
    };
    begins(first) && fields.iter().all(|field| begins(field.name.as_bytes())) && bytes.ends_with(b"\r\n\r\n")
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 }
}

// === impl Said ===

impl Said {
    fn read(bytes: &Bytes, fields: &[httparse::Header<'_>]) -> Result<(HeaderMap, Self), Error> {
        let mut said = Self::default();
        // With room for those that are added on the way.
        let mut headers = HeaderMap::with_capacity(fields.len() + ADDED);
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Error::Malformed("a field's name"))?;
            let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value))
                .map_err(|_| Error::Malformed("a field's value"))?;
            if said.hear(&name, &value)? {
                headers.append(name, value);
            }
        }
        Ok((headers, said))
    }

    /// Whether the field is one of the message.
    fn hear(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<bool, Error> {
        match *name {
            header::CONTENT_LENGTH => {
                let length = number(value.as_bytes()).ok_or(Error::Malformed("Content-Length"))?;
                if let Some(other) = self.length.replace(length) {
                    return if other == length { Ok(false) } else { Err(Error::Malformed("two lengths")) };
                }
            }
            header::TRANSFER_ENCODING => {
                if std::mem::replace(&mut self.chunked, true) || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(Error::Coding);
                }
                return Ok(false);
            }
            header::CONNECTION => {
                for token in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    self.close |= token.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            header::EXPECT => self.expects |= value.as_bytes().eq_ignore_ascii_case(b"100-continue"),
            _ => {}
        }
        Ok(true)
    }

    fn keep(&self, version: Version) -> bool {
        !self.close && (version == Version::HTTP_11 || self.keep_alive)
    }
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > DIGITS || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_requests_end() {
        let chunked = Decoder::Chunked(Chunks::default());
        for (fields, want) in [
            ("", Some(Decoder::Done)),
            ("content-length: 0\r\n", Some(Decoder::Done)),
            ("content-length: 7\r\n", Some(Decoder::Sized(7))),
            ("content-length: 7\r\ncontent-length: 7\r\n", Some(Decoder::Sized(7))),
            ("transfer-encoding: Chunked\r\n", Some(chunked)),
            ("content-length: 7\r\ncontent-length: 8\r\n", None),
            ("content-length: 7, 7\r\n", None),
            ("content-length: +7\r\n", None),
            ("content-length: \r\n", None),
            ("content-length: 10000000000000000000\r\n", None),
            ("content-length: 7\r\ntransfer-encoding: chunked\r\n", None),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", None),
            ("transfer-encoding: gzip, chunked\r\n", None),
            ("transfer-encoding: identity\r\n", None),
        ] {
            let bytes = Bytes::from(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n"));
            let read = request(&bytes).ok().flatten().map(|(length, head)| (length, head.body));
            assert_eq!(read, want.map(|body| (bytes.len(), body)), "{fields:?}");
        }
        assert!(request(&Bytes::from_static(b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n")).is_err());
        assert!(request(&Bytes::from_static(b"POST / HTTP/1.1\r\nhost: a\r\n")).is_ok_and(|head| head.is_none()));
    }

    #[test]
    fn where_answers_end_and_whether_the_connection_goes_on() {
        let chunked = Decoder::Chunked(Chunks::default());
        for (head, body, keep) in [
            ("1.1 200 OK\r\n", Decoder::ToEnd, false),
            ("1.1 200\r\ncontent-length: 7\r\n", Decoder::Sized(7), true),
            ("1.1 200 OK\r\ncontent-length: 7\r\nconnection: x, Close\r\n", Decoder::Sized(7), false),
            ("1.0 200 OK\r\ncontent-length: 7\r\n", Decoder::Sized(7), false),
            ("1.0 200 OK\r\ncontent-length: 7\r\nconnection: keep-alive\r\n", Decoder::Sized(7), true),
            ("1.1 200 OK\r\ntransfer-encoding: chunked\r\n", chunked, true),
            ("1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 7\r\n", chunked, false),
            ("1.1 204 No Content\r\n", Decoder::Done, true),
            ("1.1 304 Not Modified\r\ncontent-length: 7\r\n", Decoder::Done, true),
            ("1.1 100 Continue\r\n", Decoder::Done, true),
        ] {
            let bytes = Bytes::from(format!("HTTP/{head}\r\n"));
            let (length, read) = response(&bytes).unwrap().unwrap();
            assert_eq!((length, read.body, read.keep), (bytes.len(), body, keep), "{head:?}");
            assert!(read.body != chunked || !read.parts.headers.contains_key(header::CONTENT_LENGTH));
        }
        for head in ["1.0 200 OK\r\ntransfer-encoding: chunked\r\n", "1.1 200 OK\r\ntransfer-encoding: gzip\r\n"] {
            assert!(response(&Bytes::from(format!("HTTP/{head}\r\n"))).is_err(), "{head:?}");
        }
    }
}
