//! The port that API servers call: HTTPS, admission reviews in and out; and what replicas ask each other. Every replica
//! serves it, as soon as there is a root: pods of meshed namespaces wait for nothing else.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
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
use outrigger_kube::{
    cluster::{Derived, Namespace, Store},
    peers,
};
use outrigger_webhook::{Answer, NamespaceView, Review, Verdict};
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE};
use outrigger_xds::Acks;
use rustls::{ServerConfig, version::TLS13};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    authenticate::bearer, injector, listener, token_review::TokenReviews, webhook_certificate::WebhookCertificate,
};

/// Longest body in bytes: objects have 3 MiB at most, and a review may hold two.
const MAX_BODY: usize = 8 << 20;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time for a peer to send a request's headers.
const HEADERS: Duration = Duration::from_secs(10);
/// For a whole review; API servers wait for ten seconds.
const PATIENCE: Duration = Duration::from_secs(8);
/// For the API server to say what a new namespace's labels are.
const NAMESPACE: Duration = Duration::from_secs(2);

/// What the answers are made of.
pub(crate) struct Webhook {
    pub(crate) client: Client,
    pub(crate) config: injector::Current,
    pub(crate) namespaces: watch::Receiver<Store<Namespace>>,
    pub(crate) derived: watch::Receiver<Option<Arc<Derived>>>,
    pub(crate) acks: Arc<Acks>,
    pub(crate) reviews: Arc<crate::authenticate::Authenticator>,
}

/// A status, and text or JSON.
type Page = Response<Full<Bytes>>;

// === impl Webhook ===

impl Webhook {
    /// Serves until `stop`, then drains.
    pub(crate) async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        certificate: Arc<WebhookCertificate>,
        stop: CancellationToken,
    ) -> Result<()> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .context("TLS 1.3")?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = TlsAcceptor::from(Arc::new(tls));
        listener::accept(listener, stop.clone(), |stream, peer| {
            let (webhook, tls, stop) = (Arc::clone(&self), tls.clone(), stop.clone());
            async move { webhook.serve(stream, peer, tls, stop).await }
        })
        .await;
        Ok(())
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, stop: CancellationToken) {
        let stream = match timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake failed"),
            Err(_) => return tracing::debug!(%peer, "TLS handshake took too long"),
        };
        let service = service_fn(move |request| {
            let webhook = Arc::clone(&self);
            async move {
                let page = timeout(PATIENCE, webhook.answer(request)).await;
                Ok::<_, Infallible>(page.unwrap_or_else(|_| text(StatusCode::GATEWAY_TIMEOUT, "it took too long")))
            }
        });
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
        http.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stop.cancelled() => {
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
        let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "the body is broken, or too long");
        };
        let body = body.to_bytes();
        match path.as_str() {
            "/inject" => self.inject(body).await,
            "/validate" => review(body, |review| review.validate()).await,
            _ => self.acks(body).await,
        }
    }

    async fn inject(&self, body: Bytes) -> Page {
        // Read twice: its namespace must be known before it is judged, and the judge works on another thread.
        let namespace = match Review::parse(&body) {
            Ok(review) => review.namespace().to_owned(),
            Err(error) => return text(StatusCode::BAD_REQUEST, &error.to_string()),
        };
        let namespace = self.namespace(&namespace).await;
        let config = self.config.load_full();
        review(body, move |review| review.inject(namespace.as_ref(), &config)).await
    }

    /// As the watch knows it; one that was made a moment ago as the API server does.
    async fn namespace(&self, name: &str) -> Option<NamespaceView> {
        let known = self.namespaces.borrow().get(name).cloned();
        if let Some(known) = known {
            return Some(NamespaceView { name: name.to_owned(), labels: known.labels.clone() });
        }
        let api: Api<v1::Namespace> = Api::all(self.client.clone());
        let found = timeout(NAMESPACE, api.get(name)).await.ok()?.ok()?;
        Some(NamespaceView { name: name.to_owned(), labels: found.metadata.labels.unwrap_or_default() })
    }

    async fn admit_replica(&self, request: &Request<Incoming>) -> Result<(), StatusCode> {
        let token = bearer(request.headers()).ok_or(StatusCode::UNAUTHORIZED)?;
        let crate::authenticate::Authenticator::Reviews(reviews) = &*self.reviews else {
            return Err(StatusCode::FORBIDDEN);
        };
        is_replica(reviews, token).await
    }

    async fn acks(&self, question: Bytes) -> Page {
        let Some(derived) = self.derived.borrow().clone() else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "nothing has been derived yet");
        };
        let acks = Arc::clone(&self.acks);
        match spawn_blocking(move || peers::answer(&question, &derived.snapshot, &derived.affects, &*acks)).await {
            Ok(Ok(body)) => json(body),
            Ok(Err(error)) => text(StatusCode::BAD_REQUEST, &error.to_string()),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the count failed"),
        }
    }
}

async fn is_replica(reviews: &TokenReviews, token: &str) -> Result<(), StatusCode> {
    let caller = reviews.caller(token).await.map_err(|_| StatusCode::UNAUTHORIZED)?;
    let replica = caller.namespace == SYSTEM_NAMESPACE && caller.account == CONTROLLER_NAME;
    if replica { Ok(()) } else { Err(StatusCode::FORBIDDEN) }
}

/// Judges on a thread where nobody else waits; a panic is this review's alone.
async fn review(body: Bytes, judge: impl FnOnce(&Review) -> Answer + Send + 'static) -> Page {
    match spawn_blocking(move || Review::parse(&body).map(|review| judge(&review))).await {
        Ok(Ok(answer)) => {
            if !matches!(answer.verdict, Verdict::Untouched | Verdict::Allowed) {
                tracing::info!(verdict = answer.verdict.as_str(), message = answer.message, "admission");
            }
            json(answer.body)
        }
        Ok(Err(error)) => text(StatusCode::BAD_REQUEST, &error.to_string()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the review failed"),
    }
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
