//! Requests to a peer.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{
    Reason, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use outrigger_core::retry::idempotent;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    Receiving, Tunnel, WINDOW,
    alive::{Life, Patience, gone},
    body::send_body,
    gather::Gathered,
};
use crate::{
    http::{Arriving, Relay, copy},
    pool::{Failed, UpstreamError},
};

/// A peer that has vanished is found out by these two, whether or not it owes an answer.
const PATIENCE: Patience = Patience { silence: Duration::from_secs(5), answer: Duration::from_secs(2) };

/// Streams until the peer has said how many it allows: it is recommended to allow as many (RFC 9113 section 6.5.2), and who
/// allows fewer refuses the others.
const UNHEARD: usize = 100;

pub(crate) struct Settings {
    pub(crate) header_bytes: u32,
    /// Streams, whatever the peer allows.
    pub(crate) streams: usize,
    /// Whether a silent peer is asked if it is still there. Servers of gRPC end connections for it, and an app that stands
    /// still for some seconds isn't gone: only proxies are.
    pub(crate) asked: bool,
}

/// A connection without room for one more stream, which is opened once there is. Whether the peer will still have any at all
/// is looked at that often.
pub(crate) struct Full<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) look: Duration,
}

/// What is known of a connection while its driver runs it.
pub(crate) struct Connection {
    pub(crate) closed: Cell<bool>,
    /// As many streams as the peer allows.
    pub(crate) allowed: Cell<usize>,
    pub(crate) life: Life,
}

/// Begins HTTP/2 on a stream, and leaves it to a task that `ended` is called in.
pub(crate) async fn open<S, E>(
    stream: S,
    settings: Settings,
    ended: E,
) -> Result<(SendRequest<Bytes>, Rc<Connection>), h2::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    E: FnOnce() + 'static,
{
    let gathered = Gathered::new(stream);
    let unheard = settings.streams.min(UNHEARD);
    let (sender, connection) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(unheard)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .max_header_list_size(settings.header_bytes)
        .handshake(gathered.clone())
        .await?;
    let state = Rc::new(Connection { closed: Cell::new(false), allowed: Cell::new(unheard), life: Life::default() });
    tokio::task::spawn_local(drive(connection, gathered, settings, state.clone(), ended));
    Ok((sender, state))
}

async fn drive<S, E>(
    connection: h2::client::Connection<Gathered<S>, Bytes>,
    gathered: Gathered<S>,
    settings: Settings,
    state: Rc<Connection>,
    ended: E,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    E: FnOnce(),
{
    let mut connection = connection;
    let pings = settings.asked.then(|| connection.ping_pong()).flatten();
    let mut connection = pin!(connection);
    let mut gone = pin!(gone(pings, PATIENCE, &state.life, || gathered.reads()));
    let result = poll_fn(|cx| {
        let polled = gathered.poll(cx, |cx| connection.as_mut().poll(cx));
        state.allowed.set(connection.max_concurrent_send_streams().min(settings.streams));
        match polled {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => gone.as_mut().poll(cx).map(|()| None),
        }
    });
    let result = result.await;
    state.closed.set(true);
    state.life.tell();
    // Before the socket is closed with the connection, and its number becomes another's.
    ended();
    match result {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "upstream HTTP/2 connection ended"),
        None => tracing::debug!("upstream HTTP/2 connection ended: the peer answers no ping"),
    }
}

/// Sends a request. What is left of its body when the answer begins is sent on beside it.
pub(crate) async fn send(
    sender: &mut SendRequest<Bytes>,
    request: Box<Request<Relay>>,
    full: Option<Full<'_>>,
) -> Result<Response<Arriving>, Failed> {
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        return Err(Failed::unsent(UpstreamError::Http2(error), request));
    }
    // Of one that others mustn't repeat: it may come back all the same. Whoever repeats the rest has a copy.
    let whole = (request.body().is_end_stream() && !idempotent(request.method())).then(|| copy(&request, Relay::Empty));
    exchange(sender, request, full).await.map_err(|error| match error {
        UpstreamError::Http2(error) => failed(error, whole),
        error => Failed { error, request: None, unsent: false },
    })
}

/// Whether the peer says that it hasn't worked on the request: it has refused the stream (RFC 9113 section 8.7), or its
/// GOAWAY counts only streams before (section 6.8).
fn failed(error: h2::Error, whole: Option<Box<Request<Relay>>>) -> Failed {
    let refused = error.is_remote() && error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    let unsent = refused || (error.is_remote() && error.is_go_away());
    let error = if refused { UpstreamError::Refused(error) } else { UpstreamError::Http2(error) };
    Failed { error, request: whole.filter(|_| unsent), unsent }
}

async fn exchange(
    sender: &mut SendRequest<Bytes>,
    request: Box<Request<Relay>>,
    full: Option<Full<'_>>,
) -> Result<Response<Arriving>, UpstreamError> {
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_2;
    let connect = head.method == Method::CONNECT;
    let bodiless = !connect && body.is_end_stream();
    let (mut answer, stream) = sender.send_request(Request::from_parts(head, ()), bodiless)?;
    if let Some(full) = full {
        // Boxed: rare.
        Box::pin(full.opened(sender)).await?;
    }
    if connect {
        return Ok(tunnel(answer, stream).await?);
    }
    let mut upload = (!bodiless).then(|| Box::pin(send_body(body, stream)));
    let answered = poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && sending.as_mut().poll(cx).is_ready()
        {
            upload = None;
        }
        pin!(&mut answer).poll(cx)
    });
    let (head, received) = answered.await?.into_parts();
    let mut body = Receiving::new(received, &head.headers);
    if let Some(rest) = upload {
        body.abort_with(tokio::task::spawn_local(rest).abort_handle());
    }
    Ok(Response::from_parts(head, Arriving::Http2(body)))
}

impl Full<'_> {
    /// Waits until there is room for the stream, as long as the peer takes any at all.
    async fn opened(&self, sender: &mut SendRequest<Bytes>) -> Result<(), UpstreamError> {
        loop {
            match timeout(self.look, poll_fn(|cx| sender.poll_ready(cx))).await {
                // If the connection ends, the answer says what that means for this stream.
                Ok(_) => return Ok(()),
                // It may be sent yet, and be reset at once.
                Err(_) if self.connection.allowed.get() == 0 => return Err(UpstreamError::Full),
                Err(_) => {}
            }
        }
    }
}

/// The answer to a CONNECT: bytes both ways, or a body that says why not.
async fn tunnel(answer: ResponseFuture, mut stream: SendStream<Bytes>) -> Result<Response<Arriving>, h2::Error> {
    let (head, received) = answer.await?.into_parts();
    let body = if head.status == StatusCode::OK {
        Arriving::Tunnel(Box::new(Tunnel::new(stream, received, None)))
    } else {
        // Fails only if the peer has ended the stream.
        let _ = stream.send_data(Bytes::new(), true);
        Arriving::Http2(Receiving::new(received, &head.headers))
    };
    Ok(Response::from_parts(head, body))
}
