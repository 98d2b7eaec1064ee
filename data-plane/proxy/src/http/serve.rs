//! Serving one downstream connection, with bounds on everything a peer can grow.

use std::{
    cell::Cell,
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use http::{Request, Response};
use tokio::time::sleep_until;

use super::{Arriving, Quiet, Relay};
use crate::{
    drain::Drain,
    engine::Role,
    http1::{self, Ending},
    http2,
    stream::Io,
    worker::Worker,
};

/// A shared proxy asks its peers to connect anew after so long: by then the sidecar that it stands in for may be back.
/// It costs no request: HTTP/2 has GOAWAY (RFC 9113 section 6.8), and HTTP/1 is told with an answer.
const STAND_IN: Duration = Duration::from_secs(10);

/// Everybody else's peers prove anew who they are after so long.
const SESSION: Duration = Duration::from_secs(3600);

async fn grown_old(worker: &Worker) {
    let age = match worker.engine.role {
        Role::Shared => STAND_IN,
        Role::Sidecar => SESSION,
    };
    tokio::time::sleep(about(worker, age)).await;
}

/// Up to a quarter longer, so that peers don't come back all at once.
fn about(worker: &Worker, age: Duration) -> Duration {
    age + age / 4 * (worker.random() % 256) / 256
}

/// Serves HTTP/1.1 until the peer or `drain` ends it, or its next request doesn't come within `idle`.
pub(crate) async fn serve_http1<S, H, F>(
    worker: &Worker,
    drain: &Drain,
    stream: S,
    idle: Duration,
    quiet: &Quiet,
    handle: H,
) where
    S: Io,
    H: Fn(Request<Arriving>) -> F,
    F: Future<Output = Response<Relay>>,
{
    let limits = &worker.engine.limits;
    // No timer: one that says nothing has no answer to be told with.
    let ending = Cell::new(match worker.engine.role {
        Role::Shared => Ending::WithAnswer(Instant::now() + about(worker, STAND_IN)),
        Role::Sidecar => Ending::Never,
    });
    let mut connection = pin!(http1::serve(stream, (limits.header_bytes as usize).max(16 * 1024), &ending, handle));
    let mut drained = pin!(drain.raised());
    let now = Instant::now();
    quiet.start(now, limits.request_head, idle);
    let mut timer = pin!(sleep_until((now + limits.request_head.min(idle)).into()));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        if ending.get() != Ending::Now && drained.as_mut().poll(cx).is_ready() {
            ending.set(Ending::Now);
            // An idle one ends at once.
            cx.waker().wake_by_ref();
        }
        while timer.as_mut().poll(cx).is_ready() {
            match quiet.look(Instant::now()) {
                Some(later) => timer.as_mut().reset(later.into()),
                None => return Poll::Ready(None),
            }
        }
        Poll::Pending
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "HTTP/1 connection ended"),
        None => tracing::debug!("HTTP/1 connection closed: its next request didn't come"),
    }
}

/// Serves HTTP/2 until the peer or `drain` ends it, or it has no stream open for `idle`.
pub(crate) async fn serve_http2<S, H, F>(worker: &Worker, drain: &Drain, stream: S, idle: Duration, handle: H)
where
    S: Io,
    H: Fn(Request<Arriving>) -> F + 'static,
    F: Future<Output = Response<Relay>> + 'static,
{
    let ending = async {
        tokio::select! {
            () = drain.raised() => {}
            () = grown_old(worker) => {}
        }
    };
    if let Err(error) = http2::serve(stream, &worker.engine.limits, idle, ending, handle).await {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}
