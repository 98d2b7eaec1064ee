//! Fuzz targets: messages of callers and of servers, read whole and in pieces, and sent on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method, Request, header, uri::PathAndQuery};
use http_body::{Body, Frame, SizeHint};
use outrigger_core::path::{normalise, split_target};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    decode::Decoder,
    encode::{self, Asked, Framing},
    parse::{self, RequestHead, ResponseHead},
    wire::{Parse, Wire},
};
use crate::{http::fuzz as head, stream::Io};

/// Longer than any input.
const LIMIT: usize = 1 << 16;
/// With more fields there is no room for those that are added: whoever reads as many as we do refuses them.
const FIELDS: usize = 90;

/// Requests are the same in whatever pieces they come; and whoever gets one from us reads one, and the same.
pub fn request(data: &[u8]) {
    let Some((pace, bytes)) = data.split_first() else { return };
    let show = |head: &RequestHead| format!("{:?} {:?} {} {}", head.parts, head.body, head.keep, head.expects);
    for message in read_twice(bytes, *pace, parse::request, |head| head.body, show) {
        request_sent_on(message, pace % 2 == 1);
    }
}

/// Answers are the same in whatever pieces they come; and whoever gets one from us reads one, and the same.
pub fn response(data: &[u8]) {
    let Some((pace, bytes)) = data.split_first() else { return };
    let show = |head: &ResponseHead| format!("{:?} {:?} {}", head.parts, head.body, head.keep);
    for message in read_twice(bytes, *pace, parse::response, |head| head.body, show) {
        response_sent_on(message, pace % 2 == 1, pace % 4 == 3);
    }
}

/// What was read of a message.
struct Message<T> {
    head: T,
    body: Vec<u8>,
    trailers: HeaderMap,
    whole: bool,
}

/// A connection to whose other end all has been written already.
struct Pieces {
    rest: Bytes,
    /// The most that comes at once; it changes.
    pace: usize,
}

/// A body of which nobody knows the length yet.
struct Unknown;

fn read_twice<T>(
    bytes: &[u8],
    pace: u8,
    parse: Parse<T>,
    decoder: fn(&T) -> Decoder,
    show: impl Fn(&T) -> String,
) -> impl Iterator<Item = Message<T>> {
    let (whole, end) = read(bytes, LIMIT, parse, decoder);
    let (pieces, pieces_end) = read(bytes, usize::from(pace / 4) + 1, parse, decoder);
    assert_eq!((whole.len(), end), (pieces.len(), pieces_end), "messages, and whether they end well");
    for (one, other) in whole.iter().zip(&pieces) {
        assert_eq!(show(&one.head), show(&other.head));
        assert_eq!((&one.body, &one.trailers, one.whole), (&other.body, &other.trailers, other.whole));
    }
    whole.into_iter().filter(|message| message.whole)
}

/// All messages, and whether the connection ends where one ends.
fn read<T>(bytes: &[u8], pace: usize, parse: Parse<T>, decoder: fn(&T) -> Decoder) -> (Vec<Message<T>>, bool) {
    let wire = Wire::new(Pieces { rest: Bytes::copy_from_slice(bytes), pace });
    let cx = &mut Context::from_waker(Waker::noop());
    let mut messages = Vec::new();
    loop {
        let Poll::Ready(read) = wire.poll_head(cx, &mut 0, LIMIT, parse) else { panic!("all has come") };
        let ended = read.is_ok();
        let Ok(Some(head)) = read else { return (messages, ended) };
        wire.expect(decoder(&head));
        let mut message = Message { head, body: Vec::new(), trailers: HeaderMap::new(), whole: false };
        while let Poll::Ready(Some(Ok(frame))) = wire.poll_frame(cx) {
            match frame.into_data() {
                Ok(data) => message.body.extend_from_slice(&data),
                Err(frame) => message.trailers.extend(frame.into_trailers().unwrap_or_default()),
            }
        }
        message.whole = wire.is_read();
        messages.push(message);
        if !wire.is_read() {
            return (messages, false);
        }
    }
}

fn request_sent_on(message: Message<RequestHead>, chunked: bool) {
    let Message { head, body, trailers, .. } = message;
    let mut request = Request::from_parts(head.parts, ());
    if request.method() == Method::CONNECT || request.headers().len() > FIELDS || head::leave(&mut request).is_err() {
        return;
    }
    let mut out = Vec::new();
    let request = request.map(|()| Bytes::from(body));
    let framing = if chunked {
        encode::request(&mut out, &request.clone().map(|_| Unknown))
    } else {
        encode::request(&mut out, &request.clone().map(http_body_util::Full::new))
    };
    send_body(&mut out, framing, request.body(), &trailers);

    let got = read_one(&out, parse::request, |head| head.body);
    let parts = &got.head.parts;
    let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    assert_eq!(
        (&parts.method, target),
        (request.method(), request.uri().path_and_query().map_or("", |it| it.as_str()))
    );
    let path = split_target(target).0;
    assert_eq!(normalise(path).as_deref(), Ok(path));
    assert!(!path.is_empty() && parts.uri.authority().is_none());
    assert_eq!(said(&parts.headers), said(request.headers()));
    assert_eq!(parts.headers.get_all(header::HOST).iter().count(), 1);
    same_end(&got, request.body(), &trailers, chunked);
}

fn response_sent_on(message: Message<ResponseHead>, chunked: bool, old: bool) {
    let Message { head, body, trailers, .. } = message;
    let mut parts = head.parts;
    if parts.headers.len() > FIELDS {
        return;
    }
    head::strip_hop_by_hop(&mut parts.headers);
    let (mut out, body) = (Vec::new(), Bytes::from(body));
    let mut asked = Asked { head: false, old, keep: true };
    let framing = if chunked && head.body != Decoder::Done {
        encode::response(&mut out, &parts, &Unknown, &mut asked)
    } else {
        encode::response(&mut out, &parts, &http_body_util::Full::new(body.clone()), &mut asked)
    };
    send_body(&mut out, framing, &body, &trailers);

    let got = read_one(&out, parse::response, |head| head.body);
    assert_eq!(got.head.parts.status, parts.status);
    let mut headers = said(&got.head.parts.headers);
    headers.retain(|(name, _)| name != "connection");
    assert_eq!(headers, said(&parts.headers));
    same_end(&got, &body, &trailers, framing == Framing::Chunked);
}

fn send_body(out: &mut Vec<u8>, framing: Framing, body: &Bytes, trailers: &HeaderMap) {
    if framing != Framing::Chunked {
        assert!(framing != Framing::None || body.is_empty());
        out.extend_from_slice(body);
        return;
    }
    for piece in body.chunks(100) {
        encode::chunk_size(out, piece.len() as u64);
        out.extend_from_slice(piece);
        out.extend_from_slice(b"\r\n");
    }
    encode::trailers(out, trailers);
}

/// What must be one message and nothing else.
fn read_one<T>(bytes: &[u8], parse: Parse<T>, decoder: fn(&T) -> Decoder) -> Message<T> {
    let (mut messages, ends) = read(bytes, LIMIT, parse, decoder);
    assert!(ends && messages.len() == 1, "{} messages in {}", messages.len(), bytes.escape_ascii());
    messages.remove(0)
}

fn same_end<T>(got: &Message<T>, body: &Bytes, trailers: &HeaderMap, chunked: bool) {
    assert_eq!(got.body, *body);
    assert_eq!(&got.trailers, if chunked { trailers } else { &got.trailers });
}

/// Fields but for the length, which is the connection's way to say where a message ends, and for blanks around values.
fn said(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let fields = headers.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
    let mut fields: Vec<_> =
        fields.map(|(name, value)| (name.to_string(), value.as_bytes().trim_ascii().to_vec())).collect();
    fields.sort_by(|one, other| one.0.cmp(&other.0));
    fields
}

// === impl Pieces, Unknown ===

impl Io for Pieces {}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.rest.len().min(self.pace).min(buf.remaining());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        if self.pace < LIMIT {
            self.pace = self.pace * 5 % 67 + 1;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Body for Unknown {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
