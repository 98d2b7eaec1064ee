//! The admin interface: health, readiness, metrics, configuration dump, log level, drain. HTTP/1.1 on loopback. What of
//! it is for others is in [`health`].
//!
//! Never shows a key or a token, and never answers a browser that was lured here.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use outrigger_core::Store;
use tokio::{net::TcpListener, sync::watch};

use crate::telemetry::Metrics;

mod dump;
mod health;
mod server;

pub use health::serve_health;

/// What the interface shows and does.
pub struct Admin {
    pub store: Arc<Store>,
    pub metrics: Arc<Metrics>,
    pub alive: Alive,
    pub readiness: Readiness,
    /// `true` once draining was asked for.
    pub drain: watch::Sender<bool>,
    /// The app's own entries of the dump: what the proxy is, and what its clients are doing.
    pub extra: Extra,
    pub set_level: SetLevel,
}

/// Resolves once everything that must turn has turned.
pub type Alive = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Whether this proxy may be sent traffic; if not, what it waits for.
pub type Readiness = Box<dyn Fn() -> Result<(), &'static str> + Send + Sync>;

/// Entries of the dump, by name.
pub type Extra = Box<dyn Fn() -> serde_json::Map<String, serde_json::Value> + Send + Sync>;

/// Sets the log filter, or says what is wrong with it.
pub type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Waits until nobody calls the pod any more, or for so long; says how that went, in a line.
pub type Departure = Box<dyn Fn(Duration) -> BoxFuture<'static, String> + Send + Sync>;

/// How long a proxy that is alive may take to show it; the kubelet waits for a second.
const ALIVE_WITHIN: Duration = Duration::from_millis(700);

/// Answers on `listener` until the task is dropped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    server::serve(listener, move |request, _| {
        let admin = admin.clone();
        async move { admin.answer(&request).await }
    })
    .await;
}

// === impl Admin ===

impl Admin {
    async fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !names_loopback(request) {
            return text(StatusCode::MISDIRECTED_REQUEST, "the Host header must name this machine\n");
        }
        // No tool of ours sends it, and every browser does with what a page asks for.
        if request.headers().contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "not for browsers\n");
        }
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        let write = matches!(*request.method(), Method::PUT | Method::POST);
        let path = request.uri().path();
        if read && let Some(page) = self.page(path).await {
            return page;
        }
        match path {
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

    /// What anyone may see.
    async fn page(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        match path {
            "/healthz" => Some(self.health().await),
            "/readyz" => Some(self.ready()),
            "/metrics" => Some(body(StatusCode::OK, Metrics::CONTENT_TYPE, self.metrics.encode())),
            _ => None,
        }
    }

    async fn health(&self) -> Response<Full<Bytes>> {
        match tokio::time::timeout(ALIVE_WITHIN, (self.alive)()).await {
            Ok(()) => text(StatusCode::OK, "ok\n"),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "a worker hangs\n"),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        match self.not_ready() {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    }

    fn not_ready(&self) -> Option<&'static str> {
        if *self.drain.borrow() { Some("draining") } else { (self.readiness)().err() }
    }

    fn dump(&self) -> Response<Full<Bytes>> {
        let snapshot = self.store.load_full();
        let mut value = dump::snapshot(&snapshot);
        value["certificate"] = dump::certificate(self.store.svid().as_deref());
        value["ready"] = self.not_ready().is_none().into();
        value["not_ready"] = self.not_ready().into();
        for (name, entry) in (self.extra)() {
            value[name] = entry;
        }
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
