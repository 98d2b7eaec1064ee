//! Health, metrics and debugging over plain HTTP, read only. Shows no secret.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use outrigger_kube::cluster::KindStatus;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    listener::{self, Room},
    metrics::{self, Observed},
};

/// Time for a peer to send its request's headers.
const HEADERS: Duration = Duration::from_secs(5);

/// Which pages a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pages {
    /// For whoever is on this machine.
    All,
    /// Health, readiness and metrics: for everybody.
    Health,
}

const PAGES: &str = "/healthz\n/readyz\n/metrics\n/debug/leader\n/debug/unmeshed\n/debug/watches\n/debug/proxies\n/debug/problems\n/debug/resources?type=Service\n\
                     /debug/resource?type=Service&name=NAMESPACE/NAME\n";

/// What the pages are made of.
pub(crate) struct Admin {
    observed: Observed,
    registry: Registry,
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(observed: Observed) -> Arc<Self> {
        let registry = metrics::registry(observed.clone());
        Arc::new(Self { observed, registry })
    }

    /// Serves until `stop`, then drains.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, room: Room, pages: Pages, stop: CancellationToken) {
        listener::accept(listener, room, stop.clone(), |stream, _, _| {
            let (admin, stop) = (Arc::clone(&self), stop.clone());
            async move {
                let service = service_fn(move |request: Request<_>| {
                    let answer = admin.answer(pages, request.method(), request.uri().path(), request.uri().query());
                    std::future::ready(Ok::<_, Infallible>(answer))
                });
                let mut http1 = http1::Builder::new();
                http1.timer(TokioTimer::new()).header_read_timeout(HEADERS);
                let connection = http1.serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    // What a peer does wrong here is its own business.
                    _ = connection => {}
                    () = stop.cancelled() => {}
                }
            }
        })
        .await;
    }

    fn answer(&self, pages: Pages, method: &Method, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        if method != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        match path {
            "/healthz" => match self.observed.failure.get() {
                None => text(StatusCode::OK, "ok\n".to_owned()),
                Some(failure) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{failure}\n")),
            },
            "/readyz" => match self.observed.missing() {
                None => text(StatusCode::OK, "ready\n".to_owned()),
                Some(missing) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{missing}\n")),
            },
            "/metrics" => match metrics::render(&self.registry) {
                Ok(page) => respond(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", page),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            },
            _ if pages == Pages::Health => text(StatusCode::NOT_FOUND, "/healthz\n/readyz\n/metrics\n".to_owned()),
            "/debug/leader" | "/debug/unmeshed" | "/debug/watches" => match self.of_cluster(path) {
                Some(value) => page(&value),
                None => text(StatusCode::NOT_FOUND, "there is no cluster\n".to_owned()),
            },
            "/debug/proxies" => page(&self.observed.acks.to_json()),
            "/debug/problems" => page(&self.problems()),
            "/debug/resources" => match self.resources(query) {
                Some(resources) => page(&resources),
                None => text(StatusCode::NOT_FOUND, "no such type\n".to_owned()),
            },
            "/debug/resource" => match self.resource(query) {
                Some(body) => respond(StatusCode::OK, "application/x-protobuf", body),
                None => text(StatusCode::NOT_FOUND, "no such resource\n".to_owned()),
            },
            _ => text(StatusCode::NOT_FOUND, PAGES.to_owned()),
        }
    }

    fn problems(&self) -> Value {
        let problems = self.observed.problems.borrow();
        let problem = |p: &outrigger_kube::Problem| {
            json!({
                "file": &*p.file,
                "document": p.document,
                "object": p.object,
                "field": p.field,
                "problem": p.problem,
                "remedy": p.remedy,
            })
        };
        problems.iter().map(problem).collect()
    }

    fn of_cluster(&self, path: &str) -> Option<Value> {
        let cluster = self.observed.cluster.as_ref()?;
        match path {
            "/debug/leader" => serde_json::to_value(&*cluster.leadership.borrow()).ok(),
            "/debug/unmeshed" => serde_json::to_value(&**cluster.unmeshed.borrow()).ok(),
            _ => Some(cluster.watches.kinds().iter().map(kind).collect()),
        }
    }

    /// Names and versions, of all types or of the one that is asked for by URL or short name.
    fn resources(&self, query: Option<&str>) -> Option<Value> {
        let snapshot = Arc::clone(&self.observed.snapshots.borrow());
        let wanted = parameter(query, "type");
        let types: Map<String, Value> = snapshot
            .types
            .iter()
            .filter(|(url, _)| wanted.is_none_or(|wanted| is_type(url, wanted)))
            .map(|(url, set)| {
                let versions = set.resources.values().map(|r| (r.name.to_string(), Value::from(&*r.version)));
                ((*url).to_owned(), Value::Object(versions.collect()))
            })
            .collect();
        (wanted.is_none() || !types.is_empty()).then(|| json!({ "generation": snapshot.generation, "types": types }))
    }

    /// The encoded message of one resource, by its name or an alias; neither holds what a query would have to encode.
    fn resource(&self, query: Option<&str>) -> Option<Bytes> {
        let snapshot = Arc::clone(&self.observed.snapshots.borrow());
        let (wanted, name) = (parameter(query, "type")?, parameter(query, "name")?);
        let (_, set) = snapshot.types.iter().find(|(url, _)| is_type(url, wanted))?;
        let name = set.aliases.get(name).map_or(name, |name| name);
        set.resources.get(name).map(|resource| resource.body.clone())
    }
}

/// How the watch of one kind is doing.
fn kind(kind: &KindStatus) -> Value {
    json!({
        "kind": kind.kind,
        "synced": kind.synced,
        "absent": kind.absent,
        "objects": kind.objects,
        "silence_seconds": kind.silence().map(|silence| silence.as_secs()),
        "relists": kind.relists,
        "failures": kind.failures,
        "error": kind.error,
    })
}

/// A parameter of a query, as it stands there.
fn parameter<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    query?.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Whether a type is asked for by URL or short name.
fn is_type(url: &str, wanted: &str) -> bool {
    wanted == url || wanted == metrics::short(url)
}

fn page(value: &Value) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", body)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
