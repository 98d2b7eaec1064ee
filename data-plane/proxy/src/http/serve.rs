//! Serving one downstream connection with hyper, with bounds on everything a peer can grow.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    rt::{Sleep, Timer},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::{Arriving, Relay};
use crate::{engine::Role, http2, stream::Io, worker::Worker};

/// hyper knows one limit for silence between requests and for a head that has begun. The first head has begun when it
/// comes here, so its limit is shorter.
struct HeadTimer {
    first: Duration,
    begun: AtomicBool,
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        TokioTimer::new().sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        let begun = self.begun.swap(true, Ordering::Relaxed);
        let deadline = if begun { deadline } else { deadline.min(self.now() + self.first) };
        TokioTimer::new().sleep_until(deadline)
    }
}

/// A shared proxy asks HTTP/2 peers to connect anew after so long: by then the sidecar that it stands in for may be
/// back. GOAWAY costs no request (RFC 9113 section 6.8).
const STAND_IN: Duration = Duration::from_secs(10);

/// Everybody else's peers prove anew who they are after so long.
const SESSION: Duration = Duration::from_secs(3600);

async fn grown_old(worker: &Worker) {
    let age = match worker.engine.role {
        Role::Shared => STAND_IN,
        Role::Sidecar => SESSION,
    };
    // Up to a quarter longer, so that peers don't come back all at once.
    tokio::time::sleep(age + age / 4 * (worker.random() % 256) / 256).await;
}

/// Serves HTTP/1.1 until the peer or a drain ends it. `idle` is how long the next request may take to come.
pub(crate) async fn serve_http1<S, H, F>(worker: &Worker, stream: S, idle: Duration, handle: H)
where
    S: Io,
    H: Fn(Request<Arriving>) -> F,
    F: Future<Output = Response<Relay>>,
{
    let limits = &worker.engine.limits;
    let service = service_fn(|request: Request<Incoming>| {
        let answered = handle(request.map(Arriving::Http1));
        async { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http1::Builder::new()
        .timer(HeadTimer { first: limits.request_head, begun: AtomicBool::new(false) })
        .header_read_timeout(idle)
        // Of headers hyper takes 100; to say so ourselves would cost more than a request's routing.
        .max_buf_size((limits.header_bytes as usize).max(16 * 1024))
        // A caller that has gone cancels its request.
        .half_close(false)
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = worker.drain.raised() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/1 connection ended");
    }
}

/// Serves HTTP/2 until the peer or a drain ends it.
pub(crate) async fn serve_http2<S, H, F>(worker: &Worker, stream: S, handle: H)
where
    S: Io,
    H: Fn(Request<Arriving>) -> F + 'static,
    F: Future<Output = Response<Relay>> + 'static,
{
    let ending = async {
        tokio::select! {
            () = worker.drain.raised() => {}
            () = grown_old(worker) => {}
        }
    };
    if let Err(error) = http2::serve(stream, &worker.engine.limits, ending, handle).await {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}
