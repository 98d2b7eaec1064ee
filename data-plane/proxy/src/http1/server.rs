//! Requests of a peer, one after the other.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use http::{Method, Request, Response, StatusCode, Version, header};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Error, Receiving,
    encode::{self, Asked},
    parse::{self, RequestHead},
    wire::Wire,
    write::{Outgoing, scratch},
};
use crate::{
    http::{Arriving, Relay, Upgrading, boxed},
    stream::Io,
};

/// A peer that is still sending when its connection is closed wouldn't see its last answer. It has so long to stop.
const LINGER: Duration = Duration::from_secs(2);

/// When a connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Never,
    /// With the first answer from then on. An idle connection is left alone: closing it could cross with a request.
    WithAnswer(Instant),
    /// As soon as no request is under way.
    Now,
}

/// Serves until the peer ends the connection, or `ending` says so.
///
/// # Errors
/// When the connection breaks, or says what isn't HTTP/1; the peer has been told.
pub(crate) async fn serve<S, H, F>(
    stream: S,
    header_bytes: usize,
    ending: &Cell<Ending>,
    handle: H,
) -> Result<(), Error>
where
    S: Io,
    H: Fn(Request<Arriving>) -> F,
    F: Future<Output = Response<Relay>>,
{
    let wire = Wire::new(stream);
    loop {
        let mut seen = 0;
        let next = poll_fn(|cx| {
            let polled = wire.poll_head(cx, &mut seen, header_bytes, parse::request);
            if polled.is_pending() && ending.get() == Ending::Now && wire.is_blank() {
                Poll::Ready(Ok(None))
            } else {
                polled
            }
        });
        let head = match next.await {
            Ok(Some(head)) => head,
            Ok(None) => return close(&wire).await,
            Err(error) => return refuse(wire, error).await,
        };
        let mut asked = Asked {
            head: head.parts.method == Method::HEAD,
            old: head.parts.version == Version::HTTP_10,
            keep: head.keep,
        };
        let (request, changing) = arriving(head, &wire);
        // Boxed: an idle connection has no need of the room.
        let mut answering = boxed(|| handle(request));
        let Some(response) = unless_gone(&wire, |cx| answering.as_mut().poll(cx)).await else { return Ok(()) };
        drop(answering);
        wire.expects.set(false);
        asked.keep &= ending.get().allows_more() && !wire.is_abandoned();
        let (head, body) = response.into_parts();
        let mut out = scratch();
        let framing = encode::response(&mut out, &head, &body, &mut asked);
        let mut sending = Outgoing::new(wire.clone(), out, body, framing);
        match unless_gone(&wire, |cx| sending.poll(cx)).await {
            None => return Ok(()),
            Some(sent) => sent?,
        }
        drop(sending);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            if let (Some(changing), Some(wire)) = (changing, Rc::into_inner(wire)) {
                // Nobody waits for it any more: it is closed.
                let _ = changing.send(wire.into_stream());
            }
            return Ok(());
        }
        poll_fn(|cx| wire.poll_released(cx)).await;
        if wire.is_abandoned() {
            return linger(&wire).await;
        }
        if !asked.keep {
            return if wire.is_blank() { close(&wire).await } else { linger(&wire).await };
        }
    }
}

type Changing = oneshot::Sender<Box<dyn Io>>;

/// The request with its body; of one that may change the protocol, where the stream is waited for then.
fn arriving(head: RequestHead, wire: &Rc<Wire>) -> (Request<Arriving>, Option<Changing>) {
    let RequestHead { mut parts, body, expects, .. } = head;
    wire.expects.set(expects);
    let body = if wire.expect(body) { Arriving::Http1(Receiving::new(wire.clone())) } else { Arriving::Empty };
    let mut changing = None;
    if parts.headers.contains_key(header::UPGRADE) {
        let (sender, upgrading) = Upgrading::new();
        parts.extensions.insert(upgrading);
        changing = Some(sender);
    }
    (Request::from_parts(parts, body), changing)
}

/// `None`: the caller has gone, which cancels what it has asked for.
async fn unless_gone<T>(wire: &Wire, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Option<T> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = poll(cx) {
            return Poll::Ready(Some(done));
        }
        ready!(wire.poll_gone(cx));
        Poll::Ready(None)
    })
    .await
}

/// Tells the peer what is wrong with its request.
async fn refuse(wire: Rc<Wire>, error: Error) -> Result<(), Error> {
    if let Some(status) = error.status() {
        let (mut head, ()) = Response::new(()).into_parts();
        head.status = status;
        let mut out = scratch();
        let mut asked = Asked { head: false, old: false, keep: false };
        let framing = encode::response(&mut out, &head, &Relay::Empty, &mut asked);
        let mut sending = Outgoing::new(wire.clone(), out, Relay::Empty, framing);
        poll_fn(|cx| sending.poll(cx)).await?;
        linger(&wire).await?;
    }
    Err(error)
}

async fn close(wire: &Wire) -> Result<(), Error> {
    Ok(poll_fn(|cx| wire.poll_shutdown(cx)).await?)
}

/// Closes, and throws away what comes until the peer has closed, too: bytes that nobody reads reset a connection, and
/// with it the answer that is under way.
async fn linger(wire: &Wire) -> Result<(), Error> {
    close(wire).await?;
    let _ = timeout(LINGER, poll_fn(|cx| wire.poll_discard(cx))).await;
    Ok(())
}

// === impl Ending ===

impl Ending {
    /// Whether another request may come after the answer that is about to be sent.
    fn allows_more(self) -> bool {
        match self {
            Self::Never => true,
            Self::WithAnswer(from) => Instant::now() < from,
            Self::Now => false,
        }
    }
}
