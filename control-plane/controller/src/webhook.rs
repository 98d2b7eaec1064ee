//! The port that API servers call: HTTPS, admission reviews in and out; and what replicas ask each other. Every replica
//! serves it, as soon as there is a root: pods of meshed namespaces wait for nothing else. Never judges.

mod admissions;
mod body;

#[cfg(test)]
mod tests;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use k8s_openapi::api::core::v1;
use kube::{Api, Client};
use outrigger_ca::Authority;
use outrigger_kube::{
    cluster::{Derived, Namespace, Store},
    peers,
};
use outrigger_webhook::{Answer, NamespaceView, Review, Verdict};
use outrigger_wire::names::{CONTROLLER_NAME, MODE_LABEL, SYSTEM_NAMESPACE};
use outrigger_xds::Acks;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    authenticate::bearer,
    injector,
    listener::{self, Guest, Room},
    tls::Tls,
    token_review::{ReviewError, TokenReviews},
    webhook_certificate::WebhookCertificate,
};
pub(crate) use admissions::Admissions;
use body::{Bodies, Unread, Whole};

/// Time for a peer to send a request's headers.
const HEADERS: Duration = Duration::from_secs(10);
/// A peer that is gone is noticed after this, twice.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Requests at once on one connection.
const MAX_STREAMS: u32 = 256;
/// For a whole review; API servers wait for ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// For the API server to say what a namespace's labels are.
const NAMESPACE: Duration = Duration::from_secs(2);
/// Reviews that are judged at once. One takes a millisecond, unless somebody has made it large.
const JUDGES: usize = 8;

/// What the answers are made of.
pub(crate) struct Webhook {
    client: Client,
    config: injector::Current,
    namespaces: watch::Receiver<Store<Namespace>>,
    derived: watch::Receiver<Option<Arc<Derived>>>,
    acks: Arc<Acks>,
    reviews: Arc<TokenReviews>,
    admissions: Arc<Admissions>,
    authority: Arc<Authority>,
    bodies: Bodies,
    judges: Arc<Semaphore>,
}

/// What it is made from.
pub(crate) struct Sources {
    pub(crate) client: Client,
    pub(crate) config: injector::Current,
    pub(crate) namespaces: watch::Receiver<Store<Namespace>>,
    pub(crate) derived: watch::Receiver<Option<Arc<Derived>>>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) reviews: Arc<TokenReviews>,
    pub(crate) admissions: Arc<Admissions>,
    pub(crate) authority: Arc<Authority>,
}

/// A status, and text or JSON.
type Page = Response<Full<Bytes>>;

/// When to stop, in two steps.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Whoever comes is still answered, once: API servers keep their connections, and should find another replica.
    pub(crate) drain: CancellationToken,
    pub(crate) end: CancellationToken,
}

// === impl Stop ===

impl Stop {
    /// Is over when a connection is to take no more requests. While draining, it is left its first.
    async fn of_connection(&self, guest: &Guest) {
        let drained = async {
            self.drain.cancelled().await;
            guest.asked().await;
        };
        tokio::select! {
            () = drained => {}
            () = self.end.cancelled() => {}
        }
    }
}

// === impl Webhook ===

impl Webhook {
    pub(crate) fn new(sources: Sources) -> Arc<Self> {
        let Sources { client, config, namespaces, derived, acks, reviews, admissions, authority } = sources;
        let (bodies, judges) = (Bodies::new(), Arc::new(Semaphore::new(JUDGES)));
        Arc::new(Self { client, config, namespaces, derived, acks, reviews, admissions, authority, bodies, judges })
    }

    /// Serves until the end, then drains.
    pub(crate) async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        room: Room,
        certificate: Arc<WebhookCertificate>,
        stop: Stop,
    ) -> Result<()> {
        let tls = Arc::new(Tls::new(certificate, &[b"h2", b"http/1.1"])?);
        listener::accept(listener, room, stop.end.clone(), |stream, peer, guest| {
            let (webhook, tls, stop) = (Arc::clone(&self), Arc::clone(&tls), stop.clone());
            async move { webhook.serve(stream, peer, &tls, guest, stop).await }
        })
        .await;
        Ok(())
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, tls: &Tls, guest: Guest, stop: Stop) {
        let stream = tokio::select! {
            stream = tls.handshake(stream, peer) => stream,
            () = stop.end.cancelled() => None,
        };
        let Some(stream) = stream else { return };
        let service = service_fn(|request| {
            let (webhook, guest) = (Arc::clone(&self), guest.clone());
            guest.has_asked_now();
            async move {
                let page = timeout(PATIENCE, webhook.answer(request)).await;
                // API servers don't say who they are; whoever gets an answer is taken for one.
                if page.as_ref().is_ok_and(|page| page.status() == StatusCode::OK) {
                    guest.is_known_now();
                }
                Ok::<_, Infallible>(page.unwrap_or_else(|_| text(StatusCode::GATEWAY_TIMEOUT, "it took too long")))
            }
        });
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .max_concurrent_streams(MAX_STREAMS);
        // Settled already: a peer that says nothing must not be waited for to find out.
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let http = if is_h2 { http.http2_only() } else { http.http1_only() };
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = guest.silence() => return tracing::debug!(%peer, "nothing was asked for in time"),
            () = stop.of_connection(&guest) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Page {
        let path = request.uri().path().to_owned();
        if !matches!(path.as_str(), "/inject" | "/validate" | peers::PATH) {
            return text(StatusCode::NOT_FOUND, "no such page");
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only POST");
        }
        if path == peers::PATH
            && let Err(status) = self.admit_replica(&request).await
        {
            return text(status, "only for replicas of the controller");
        }
        let begun = Instant::now();
        let body = match self.bodies.read(request.into_body()).await {
            Ok(body) => body,
            Err(Unread::TooLong) => return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
            Err(Unread::Busy) => return text(StatusCode::SERVICE_UNAVAILABLE, "too much at once"),
            Err(Unread::Broken) => return text(StatusCode::BAD_REQUEST, "the body is broken"),
        };
        let (page, verdict) = match path.as_str() {
            "/inject" => self.inject(body).await,
            "/validate" => self.validate(body).await,
            _ => return self.count(body).await,
        };
        self.admissions.count(if path == "/inject" { "inject" } else { "validate" }, verdict, begun.elapsed());
        page
    }

    /// The answer, and the verdict that is counted.
    async fn inject(&self, body: Whole) -> (Page, &'static str) {
        let (review, body) = match self.judge(move || (Review::parse(&body.bytes), body)).await {
            Ok((Ok(review), body)) => (review, body),
            Ok((Err(error), _)) => return (text(StatusCode::BAD_REQUEST, &error.to_string()), "malformed"),
            Err(page) => return (page, "failed"),
        };
        let namespace = self.namespace(review.namespace()).await;
        let config = self.config.load_full();
        let judged = self.judge(move || {
            // Its share of memory is in use until here.
            let _body = body;
            review.inject(namespace.as_ref(), &config)
        });
        judged.await.map_or_else(|page| (page, "failed"), answered)
    }

    async fn validate(&self, body: Whole) -> (Page, &'static str) {
        match self.judge(move || Review::parse(&body.bytes).map(|review| review.validate())).await {
            Ok(Ok(answer)) => answered(answer),
            Ok(Err(error)) => (text(StatusCode::BAD_REQUEST, &error.to_string()), "malformed"),
            Err(page) => (page, "failed"),
        }
    }

    /// On a thread where nobody else waits; a panic is this call's alone.
    async fn judge<T: Send + 'static>(&self, judge: impl FnOnce() -> T + Send + 'static) -> Result<T, Page> {
        // Never closed, so there is always one to wait for. It is kept until the work is done, awaited or not.
        let turn = Arc::clone(&self.judges).acquire_owned().await;
        let judged = spawn_blocking(move || {
            let _turn = turn;
            judge()
        });
        judged.await.map_err(|panicked| {
            tracing::error!(%panicked, "a call failed");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the call failed")
        })
    }

    /// As the watch knows it. The API server calls because of labels that it sees: if ours don't enrol anybody, they may be
    /// older, and it is asked itself.
    async fn namespace(&self, name: &str) -> Option<NamespaceView> {
        let view = |labels| NamespaceView { name: name.to_owned(), labels };
        let known = self.namespaces.borrow().get(name).map(|known| view(known.labels.clone()));
        let enrols = |view: &NamespaceView| {
            matches!(view.labels.get(MODE_LABEL).map(String::as_str), Some("sidecar" | "shared"))
        };
        if known.as_ref().is_some_and(enrols) {
            return known;
        }
        let api: Api<v1::Namespace> = Api::all(self.client.clone());
        match timeout(NAMESPACE, api.get(name)).await {
            Ok(Ok(found)) => Some(view(found.metadata.labels.unwrap_or_default())),
            Ok(Err(error)) => {
                tracing::debug!(namespace = name, %error, "the API server doesn't tell of a namespace");
                known
            }
            Err(_) => known,
        }
    }

    async fn admit_replica(&self, request: &Request<Incoming>) -> Result<(), StatusCode> {
        let token = bearer(request.headers()).ok_or(StatusCode::UNAUTHORIZED)?;
        let caller = self.reviews.caller(token).await.map_err(|error| match error {
            ReviewError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ReviewError::Denied(_) | ReviewError::NotAPod => StatusCode::UNAUTHORIZED,
        })?;
        let replica = caller.namespace == SYSTEM_NAMESPACE && caller.account == CONTROLLER_NAME;
        if replica { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
    }

    /// What this replica's proxies hold.
    async fn count(&self, question: Whole) -> Page {
        let Some(derived) = self.derived.borrow().clone() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "nothing has been derived yet");
        };
        let (acks, signs) = (Arc::clone(&self.acks), self.authority.signs_by());
        let answer = move || peers::answer(&question.bytes, &derived.snapshot, &derived.affects, &*acks, &signs);
        let counted = self.judge(answer).await;
        match counted {
            Ok(Ok(body)) => json(body),
            Ok(Err(error)) => text(StatusCode::BAD_REQUEST, &error.to_string()),
            Err(page) => page,
        }
    }
}

fn answered(answer: Answer) -> (Page, &'static str) {
    let verdict = answer.verdict.as_str();
    if !matches!(answer.verdict, Verdict::Untouched | Verdict::Allowed) {
        tracing::info!(verdict, message = answer.message, "admission");
    }
    (json(answer.body), verdict)
}

fn json(body: Vec<u8>) -> Page {
    respond(StatusCode::OK, "application/json", body.into())
}

fn text(status: StatusCode, message: &str) -> Page {
    respond(status, "text/plain; charset=utf-8", format!("{message}\n").into())
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> Page {
    let mut page = Response::new(Full::new(body));
    *page.status_mut() = status;
    page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    page
}
