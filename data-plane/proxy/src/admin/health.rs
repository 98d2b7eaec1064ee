//! The health interface, for the kubelet and for scrapers: plain HTTP on all of the pod's addresses, read only. Shows
//! what everybody in the pod's network may know, and never more.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use outrigger_wire::names::ports;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Admin, Departure, method_not_allowed, server, text};
use crate::listeners::connect_app;

/// Before a port: does the pod's app accept connections there? Stands for a TCP probe of the kubelet, which would be
/// captured, and so would always succeed.
const TCP_PROBE: &str = "/probe/tcp/";
/// Probes of the app at once.
const MAX_PROBES: usize = 32;
/// Before the pod ends: have those who call it left?
const DEPARTURE: &str = "/departure";
/// Those who ask that at once; each container of the pod may.
const MAX_DEPARTURES: usize = 32;
/// How long the app's kernel may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// What the kubelet asks about the pod's app.
struct App {
    departure: Departure,
    probes: Semaphore,
    departures: Semaphore,
}

/// Answers on `listener` until the task is dropped; with a `departure` also what the kubelet asks about the pod's app.
pub async fn serve_health(listener: TcpListener, admin: Arc<Admin>, departure: Option<Departure>) {
    let app = departure.map(|departure| {
        let (probes, departures) = (Semaphore::new(MAX_PROBES), Semaphore::new(MAX_DEPARTURES));
        Arc::new(App { departure, probes, departures })
    });
    server::serve(listener, move |request, here| {
        let (admin, app) = (admin.clone(), app.clone());
        async move { answer(&admin, app.as_deref(), &request, here).await }
    })
    .await;
}

async fn answer<B>(
    admin: &Admin,
    app: Option<&App>,
    request: &Request<B>,
    here: Option<IpAddr>,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return method_not_allowed("GET, HEAD");
    }
    let path = request.uri().path();
    if let Some(page) = admin.page(path).await {
        return page;
    }
    let Some(app) = app else { return text(StatusCode::NOT_FOUND, "healthz readyz metrics\n") };
    match path.strip_prefix(TCP_PROBE).map(str::parse) {
        Some(Ok(port)) if port != 0 && !ports::is_own(port) => probe(&app.probes, here, port).await,
        Some(_) => text(StatusCode::NOT_FOUND, "no port of the pod's app\n"),
        None if path == DEPARTURE => departure(app, request.uri().query().unwrap_or_default()).await,
        None => text(StatusCode::NOT_FOUND, "healthz readyz metrics probe/tcp/PORT departure\n"),
    }
}

/// Takes its time. Good in any case: nobody could do anything about a pod that ends before all callers know.
async fn departure(app: &App, query: &str) -> Response<Full<Bytes>> {
    let seconds = query.split('&').find_map(|pair| pair.strip_prefix("seconds="));
    let Some(Ok(seconds)) = seconds.map(str::parse::<u16>) else {
        return text(StatusCode::BAD_REQUEST, "say /departure?seconds=NUMBER\n");
    };
    let Ok(_slot) = app.departures.try_acquire() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many wait at once\n");
    };
    text(StatusCode::OK, (app.departure)(Duration::from_secs(seconds.into())).await)
}

/// Tries the port at the address at which we were asked, as the kubelet would have.
async fn probe(slots: &Semaphore, here: Option<IpAddr>, port: u16) -> Response<Full<Bytes>> {
    let Ok(_slot) = slots.try_acquire() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many probes at once\n");
    };
    let app = SocketAddr::new(here.unwrap_or(Ipv4Addr::LOCALHOST.into()), port);
    match tokio::time::timeout(PROBE_LIMIT, connect_app(app, None)).await {
        Ok(Ok(_)) => text(StatusCode::OK, "connected\n"),
        Ok(Err(error)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{app}: {error}\n")),
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{app}: no answer within {PROBE_LIMIT:?}\n")),
    }
}
