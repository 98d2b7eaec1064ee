//! The admin interface: health, readiness, metrics, configuration dump, log level, drain. HTTP/1.1 on loopback.
//!
//! Never shows a key or a token, and never answers a browser that was lured here.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_core::Store;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
};

use crate::telemetry::Metrics;

mod dump;

/// What the interface shows and does.
pub struct Admin {
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    /// Whether this proxy may be sent traffic.
    pub ready: Arc<AtomicBool>,
    /// `true` once draining was asked for.
    pub drain: watch::Sender<bool>,
    /// The app's own part of the dump: what its clients are doing.
    pub extra: Box<dyn Fn() -> serde_json::Value + Send + Sync>,
    pub set_level: SetLevel,
}

/// Sets the log filter, or says what is wrong with it.
pub type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole connection may last; scrapers reconnect.
const CONNECTION_LIMIT: Duration = Duration::from_secs(600);
const MAX_HEADERS: usize = 64;
/// In bytes; also the limit of a request's head.
const BUFFER: usize = 16 * 1024;
/// Pause after a failed accept: most likely the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers on `listener` until the task is dropped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(connection(stream, admin.clone(), slot));
            }
            Err(error) => {
                tracing::warn!(%error, "admin interface can't accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, admin: Arc<Admin>, _slot: OwnedSemaphorePermit) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = admin.answer(&request);
        async move { Ok::<_, Infallible>(response) }
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

// === impl Admin ===

impl Admin {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !names_loopback(request) {
            return text(StatusCode::MISDIRECTED_REQUEST, "the Host header must name this machine\n");
        }
        // No tool of ours sends it, and every browser does with what a page asks for.
        if request.headers().contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "not for browsers\n");
        }
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        let write = matches!(*request.method(), Method::PUT | Method::POST);
        match request.uri().path() {
            "/healthz" if read => text(StatusCode::OK, "ok\n"),
            "/readyz" if read => self.readiness(),
            "/metrics" if read => body(StatusCode::OK, Metrics::CONTENT_TYPE, self.metrics.encode()),
            "/config_dump" if read => self.dump(),
            "/logging" if write => self.logging(request.uri().query().unwrap_or_default()),
            "/drain" if write => {
                self.drain.send_replace(true);
                text(StatusCode::OK, "draining\n")
            }
            "/healthz" | "/readyz" | "/metrics" | "/config_dump" => method_not_allowed("GET, HEAD"),
            "/logging" | "/drain" => method_not_allowed("PUT, POST"),
            _ => text(StatusCode::NOT_FOUND, "healthz readyz metrics config_dump logging drain\n"),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        if *self.drain.borrow() {
            text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
        } else if self.ready.load(Ordering::Acquire) {
            text(StatusCode::OK, "ready\n")
        } else {
            text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
        }
    }

    fn dump(&self) -> Response<Full<Bytes>> {
        let snapshot = self.store.load_full();
        let mut value = dump::snapshot(&snapshot);
        value["certificate"] = dump::certificate(self.store.svid().as_deref());
        value["status"] = (self.extra)();
        body(StatusCode::OK, "application/json", format!("{value:#}\n"))
    }

    fn logging(&self, query: &str) -> Response<Full<Bytes>> {
        let level = query.split('&').find_map(|pair| pair.strip_prefix("level="));
        let Some(level) = level else {
            return text(StatusCode::BAD_REQUEST, "say /logging?level=FILTER\n");
        };
        let level = percent_encoding::percent_decode_str(level).decode_utf8_lossy();
        match (self.set_level)(&level) {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(problem) => text(StatusCode::BAD_REQUEST, format!("{problem}\n")),
        }
    }
}

/// Against DNS rebinding: a page on a name that now resolves to 127.0.0.1 still sends that name.
fn names_loopback<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    // A request target in absolute form counts instead of the header (RFC 9112, section 3.2.2).
    let host = request.uri().authority().map_or(host.as_bytes(), |authority| authority.as_str().as_bytes());
    let Ok(authority) = http::uri::Authority::try_from(host) else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    body(status, "text/plain; charset=utf-8", text)
}

fn body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn method_not_allowed(allow: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

#[cfg(test)]
mod tests;
