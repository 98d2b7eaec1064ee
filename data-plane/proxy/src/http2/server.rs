//! Requests of a peer.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    ext::Protocol,
    server::{Builder, SendResponse},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    Receiving, Tunnel, WINDOW,
    alive::{Life, Patience, gone},
    body::{Unsent, send_body},
    gather::Gathered,
};
use crate::{
    engine::Limits,
    http::{Arriving, Relay, Upgrading, boxed},
    stream::Io,
};

const PATIENCE: Patience = Patience { silence: Duration::from_secs(30), answer: Duration::from_secs(10) };

/// Fields of a request's head: HTTP/1.1's hundred, and what proxies add.
const FIELDS: usize = 128;
/// Cookies may come in a field each (RFC 9113 section 8.2.3), and browsers keep up to 180 of a site.
const COOKIES: usize = 256;

/// What a connection's streams share.
struct Serving<H> {
    handle: H,
    /// Those that have become tunnels have each one more, and may be anywhere.
    tunnels: Arc<()>,
}

/// Serves until the peer ends the connection, or `ending` resolves and the last request has been answered. Ends it if it
/// doesn't begin in time, or has no stream open for `idle`, or up to twice as long. An open stream may be silent for as
/// long as it likes: whether it is an upload that stalls or one that has nothing to say nobody can tell.
pub(crate) async fn serve<S, H, F>(
    stream: S,
    limits: &Limits,
    idle: Duration,
    ending: impl Future<Output = ()>,
    handle: H,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Arriving>) -> F + 'static,
    F: Future<Output = Response<Relay>> + 'static,
{
    let gathered = Gathered::new(stream);
    let mut ending = pin!(ending);
    let handshake = Builder::new()
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        // A proxy's callers may all go at once: it takes back what it may have open, and keeps its connection.
        .max_pending_accept_reset_streams(limits.streams as usize)
        .max_local_error_reset_streams(Some(1024))
        .enable_connect_protocol()
        .handshake(gathered.clone());
    // Boxed: large, and over soon. Not cut short by `ending`: without GOAWAY nobody knows whether to send again what is on its
    // way already.
    let Ok(begun) = Box::pin(timeout(limits.request_head.min(idle), handshake)).await else {
        tracing::debug!("HTTP/2 connection closed: its preface didn't come");
        return Ok(());
    };
    let mut connection = begun?;
    let serving = Rc::new(Serving { handle, tunnels: Arc::default() });
    let pings = connection.ping_pong();
    let life = Life::default();
    let mut gone = pin!(gone(pings, PATIENCE, &life, || gathered.reads()));
    // Boxed: each connection's task has to be small.
    let (mut look, mut looks) = (Box::pin(sleep(idle)), false);
    // Streams so far; how many there had been at the last look, and whether none was open then.
    let (mut streams, mut before) = (0_u64, (0, true));
    let mut ends = false;
    loop {
        let accepted = poll_fn(|cx| {
            if !ends && ending.as_mut().poll(cx).is_ready() {
                ends = true;
                connection.graceful_shutdown();
            }
            let polled = gathered.poll(cx, |cx| connection.poll_accept(cx));
            if polled.is_ready() {
                return polled;
            }
            // Once it runs, it's cheaper to ask whether it has ended than to poll it.
            if !looks || look.is_elapsed() {
                looks = true;
                while look.as_mut().poll(cx).is_ready() {
                    let now = (streams, serving.is_idle());
                    if now.1 && now == before {
                        connection.abrupt_shutdown(Reason::NO_ERROR);
                        cx.waker().wake_by_ref();
                    }
                    before = now;
                    look.as_mut().reset(Instant::now() + idle);
                }
            }
            gone.as_mut().poll(cx).map(|()| None)
        });
        let Some(accepted) = accepted.await else { return Ok(()) };
        let (request, respond) = accepted?;
        streams += 1;
        let serving = serving.clone();
        // Boxed: spawning moves a future many times, and this one holds all that a request needs.
        tokio::task::spawn_local(boxed(|| async move { answer(&serving, request, respond).await }));
    }
}

async fn answer<H, F>(serving: &Serving<H>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>)
where
    H: Fn(Request<Arriving>) -> F,
    F: Future<Output = Response<Relay>>,
{
    let refusal = if has_too_many_fields(request.headers()) {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else {
        has_padding(request.headers()).then_some(StatusCode::BAD_REQUEST)
    };
    if let Some(status) = refusal {
        let mut response = Response::new(());
        *response.status_mut() = status;
        // Fails only if nobody waits for it.
        let _ = respond.send_response(response, true);
        return;
    }
    let is_head = request.method() == Method::HEAD;
    let (request, tunnel) = arriving(request);
    let mut answering = pin!((serving.handle)(request));
    let answered = poll_fn(|cx| {
        // A caller that has gone cancels its request.
        if respond.poll_reset(cx).is_ready() {
            return Poll::Ready(None);
        }
        answering.as_mut().poll(cx).map(Some)
    });
    let Some(response) = answered.await else { return };
    let (mut head, body) = response.into_parts();
    if let Some((opened, received)) = tunnel
        && head.status == StatusCode::OK
    {
        if let Ok(stream) = respond.send_response(Response::from_parts(head, ()), false) {
            // Nobody waits for it any more: the stream is reset as it is dropped.
            let _ = opened.send(Box::new(Tunnel::new(stream, received, Some(serving.tunnels.clone()))));
        }
        return;
    }
    if let Relay::Full(bytes) = &body
        && !head.headers.contains_key(header::CONTENT_LENGTH)
    {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    // Of an answer that has none, nobody can say where the body would end (RFC 9110 section 6.4.1).
    let bodiless = is_head || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let last = bodiless || body.is_end_stream();
    let stream = match respond.send_response(Response::from_parts(head, ()), last) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%error, "an answer's head was refused");
            return respond.send_reset(Reason::INTERNAL_ERROR);
        }
    };
    if !last && send_body(body, stream).await == Err(Unsent::Source) {
        tracing::debug!("an answer broke off");
    }
}

fn has_too_many_fields(headers: &HeaderMap) -> bool {
    headers.len() > FIELDS && {
        let cookies = headers.get_all(header::COOKIE).iter().count();
        cookies > COOKIES || headers.len() - cookies > FIELDS
    }
}

/// Whether a value begins or ends with a blank, which a request mustn't have (RFC 9113 section 8.2.1): as HTTP/1.1 it would
/// be no part of the value, so policies and the app would see two different ones. h2 lets it pass.
fn has_padding(headers: &HeaderMap) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    headers.values().map(HeaderValue::as_bytes).any(|value| is_blank(value.first()) || is_blank(value.last()))
}

impl<H> Serving<H> {
    /// No stream is open. For who serves the connection, and holds one of each itself.
    fn is_idle(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1 && Arc::strong_count(&self.tunnels) == 1
    }
}

type Opening = (oneshot::Sender<Box<dyn Io>>, RecvStream);

/// The request with its body; of one that wants to become a tunnel, the stream is kept for that.
fn arriving(request: Request<RecvStream>) -> (Request<Arriving>, Option<Opening>) {
    let (mut head, received) = request.into_parts();
    if head.method != Method::CONNECT || head.extensions.get::<Protocol>().is_none() {
        let body = Arriving::Http2(Receiving::new(received, &head.headers));
        return (Request::from_parts(head, body), None);
    }
    let (opened, upgrading) = Upgrading::new();
    head.extensions.insert(upgrading);
    (Request::from_parts(head, Arriving::Empty), Some((opened, received)))
}
