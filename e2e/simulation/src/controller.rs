//! A replica: reads the API server, each kind at its own pace, and serves what follows from it.

use std::{cell::RefCell, convert::Infallible, net::Ipv4Addr, rc::Rc, sync::Arc, time::Duration};

use http::{Request, header::AUTHORIZATION};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use outrigger_model::{MeshSnapshot, Progress, build};
use outrigger_wire::SpiffeId;
use outrigger_xds::{Ads, Principal};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::{sync::watch, time::sleep};
use tonic::{body::Body, codegen::Service};
use turmoil::net::{TcpListener, TcpStream};

use crate::api::{Api, KINDS, Read, Shared};

pub(crate) const NAMES: [&str; 2] = ["controller-1", "controller-2"];
pub(crate) const PORT: u16 = 15010;
/// As in control-plane/controller.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Kinds that a replica hears nothing of at the moment.
pub(crate) type Lags = Rc<RefCell<[bool; KINDS.len()]>>;

/// One process, until it is crashed.
pub(crate) async fn serve(api: Shared, lags: Lags, seed: u64) -> turmoil::Result {
    let (snapshots, served) = watch::channel(Arc::default());
    tokio::task::spawn_local(follow(api, lags, SmallRng::seed_from_u64(seed), snapshots));
    let ads = Ads::new(served.clone(), Arc::default());
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(answer(stream, ads.clone()));
    }
}

/// Lists, then watches, and derives what is new of it.
async fn follow(api: Shared, lags: Lags, mut random: SmallRng, snapshots: watch::Sender<Arc<MeshSnapshot>>) {
    let mut read: Read = [api.borrow().newest(); KINDS.len()];
    let mut last: Option<Arc<MeshSnapshot>> = None;
    loop {
        let inputs = api.borrow().view(&read);
        let mut snapshot = build(&inputs, last.as_deref()).snapshot;
        snapshot.progress = Arc::new(progress(&api.borrow(), &read));
        let snapshot = Arc::new(snapshot);
        snapshots.send_replace(Arc::clone(&snapshot));
        last = Some(snapshot);
        loop {
            sleep(Duration::from_millis(random.random_range(1..60))).await;
            let before = api.borrow().changed(&read);
            let newest = api.borrow().newest();
            for (read, lags) in read.iter_mut().zip(*lags.borrow()) {
                // Some of what there is to read, or all.
                let news = newest - *read;
                *read += if lags || news == 0 { 0 } else { random.random_range(1..=news) };
            }
            if api.borrow().changed(&read) != before {
                break;
            }
        }
    }
}

/// As control-plane/kube has it.
fn progress(api: &Api, read: &Read) -> Progress {
    let mut progress = Progress::default();
    for (kind, (read, changed)) in KINDS.into_iter().zip(read.iter().zip(api.changed(read))) {
        progress.changed(kind.name(), changed as u64);
        progress.read(kind.name(), *read as u64);
    }
    progress
}

async fn answer(stream: TcpStream, ads: Ads) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut ads = ads.clone();
        async move { Ok::<_, Infallible>(ads.call(authenticated(request)).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .serve_connection(TokioIo::new(stream), service);
    // However it ends, the proxy comes back.
    let _ = connection.await;
}

/// A token is the workload's name.
fn authenticated(request: Request<Incoming>) -> Request<Body> {
    let mut request = request.map(Body::new);
    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    if let Some(workload) = token.map(str::to_owned) {
        let namespace = workload.split_once('/').unwrap().0;
        let identity = SpiffeId::new("cluster.local", namespace, "app").unwrap();
        let shared = namespace == outrigger_wire::names::SYSTEM_NAMESPACE;
        request.extensions_mut().insert(Principal { workload: workload.into(), identity, shared });
    }
    request
}
