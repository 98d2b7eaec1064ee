//! The one HTTP server behind the admin and the health interface: HTTP/1.1, and a bound on everything that a peer can
//! grow. Knows no page.

use std::{collections::VecDeque, convert::Infallible, future::Future, net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// Connections at once.
pub(super) const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole connection may last; scrapers reconnect.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
pub(super) const MAX_HEADERS: usize = 64;
/// In bytes; also the limit of a request's head.
pub(super) const BUFFER: usize = 16 * 1024;
/// Pause after a failed accept: most likely the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers on `listener` until the task is dropped. `answer` is told at which address of ours it was asked.
pub(super) async fn serve<H, F>(listener: TcpListener, answer: H)
where
    H: Fn(Request<Incoming>, Option<IpAddr>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                // Somebody who holds many open must not keep the next probe out.
                if open.len() >= MAX_CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(tokio::spawn(connection(stream, answer.clone())).abort_handle());
            }
            Err(error) => {
                tracing::warn!(%error, "admin interface can't accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<H, F>(stream: TcpStream, answer: H)
where
    H: Fn(Request<Incoming>, Option<IpAddr>) -> F,
    F: Future<Output = Response<Full<Bytes>>>,
{
    let here = stream.local_addr().ok().map(|address| address.ip().to_canonical());
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(request, here);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_LIMIT, served).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
    }
}
