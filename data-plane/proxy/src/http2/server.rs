//! Requests of a peer.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, RecvStream,
    ext::Protocol,
    server::{Builder, SendResponse},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
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

/// Serves until the peer ends the connection, or `ending` resolves and the last request has been answered.
pub(crate) async fn serve<S, H, F>(
    stream: S,
    limits: &Limits,
    ending: impl Future<Output = ()>,
    handle: H,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Arriving>) -> F + 'static,
    F: Future<Output = Response<Relay>> + 'static,
{
    let gathered = Gathered::new(stream);
    let mut connection = Builder::new()
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(1024))
        .enable_connect_protocol()
        .handshake(gathered.clone())
        .await?;
    let handle = Rc::new(handle);
    let pings = connection.ping_pong();
    let life = Life::default();
    let mut gone = pin!(gone(pings, PATIENCE, &life, || gathered.reads()));
    let mut ending = pin!(ending);
    let mut ends = false;
    loop {
        let accepted = poll_fn(|cx| {
            if !ends && ending.as_mut().poll(cx).is_ready() {
                ends = true;
                connection.graceful_shutdown();
            }
            match gathered.poll(cx, |cx| connection.poll_accept(cx)) {
                Poll::Ready(accepted) => Poll::Ready(accepted),
                Poll::Pending => gone.as_mut().poll(cx).map(|()| None),
            }
        });
        let Some(accepted) = accepted.await else { return Ok(()) };
        let (request, respond) = accepted?;
        let handle = handle.clone();
        // Boxed: spawning moves a future many times, and this one holds all that a request needs.
        tokio::task::spawn_local(boxed(|| async move { answer(&*handle, request, respond).await }));
    }
}

async fn answer<H, F>(handle: &H, request: Request<RecvStream>, mut respond: SendResponse<Bytes>)
where
    H: Fn(Request<Arriving>) -> F,
    F: Future<Output = Response<Relay>>,
{
    let is_head = request.method() == Method::HEAD;
    let (request, tunnel) = arriving(request);
    let mut answering = pin!(handle(request));
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
            let _ = opened.send(Box::new(Tunnel::new(stream, received)));
        }
        return;
    }
    if let Relay::Full(bytes) = &body
        && !head.headers.contains_key(header::CONTENT_LENGTH)
    {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
    let last = is_head || body.is_end_stream();
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
