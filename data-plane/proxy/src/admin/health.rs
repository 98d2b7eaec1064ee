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

use super::{Admin, method_not_allowed, server, text};
use crate::listeners::connect_app;

/// Before a port: does the pod's app accept connections there? Stands for a TCP probe of the kubelet, which would be
/// captured, and so would always succeed.
const TCP_PROBE: &str = "/probe/tcp/";
/// Probes of the app at once.
const MAX_PROBES: usize = 32;
/// How long the app's kernel may take to answer.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Answers on `listener` until the task is dropped; `tcp_probes` says whether it also probes the pod's app.
pub async fn serve_health(listener: TcpListener, admin: Arc<Admin>, tcp_probes: bool) {
    let slots = tcp_probes.then(|| Arc::new(Semaphore::new(MAX_PROBES)));
    server::serve(listener, move |request, here| {
        let (admin, slots) = (admin.clone(), slots.clone());
        async move { answer(&admin, slots.as_deref(), &request, here).await }
    })
    .await;
}

async fn answer<B>(
    admin: &Admin,
    slots: Option<&Semaphore>,
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
    match (slots, path.strip_prefix(TCP_PROBE).map(str::parse)) {
        (Some(slots), Some(Ok(port))) if port != 0 && !ports::is_own(port) => probe(slots, here, port).await,
        (Some(_), Some(_)) => text(StatusCode::NOT_FOUND, "no port of the pod's app\n"),
        _ => text(StatusCode::NOT_FOUND, "healthz readyz metrics\n"),
    }
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
