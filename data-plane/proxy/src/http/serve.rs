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
    rt::{Executor, Sleep, Timer},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};

use super::Relay;
use crate::{engine::Role, stream::Io, worker::Worker};

/// Spawns onto the worker's own thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

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

const WINDOW: u32 = 1 << 20;

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
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Relay>>,
{
    let limits = &worker.engine.limits;
    let service = service_fn(|request| {
        let answered = handle(request);
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
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<Relay>> + 'static,
{
    let limits = &worker.engine.limits;
    let service = service_fn(move |request| {
        let answered = handle(request);
        async { Ok::<_, Infallible>(answered.await) }
    });
    let connection = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(limits.header_bytes)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(4 * WINDOW)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .enable_connect_protocol()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = worker.drain.raised() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = grown_old(worker) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP/2 connection ended");
    }
}
