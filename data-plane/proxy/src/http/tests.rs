//! Requests through the real ways out and in, against apps that are scripted, over loopback.

mod answers;
mod cancel;
mod changes;
mod early;
mod framing;
mod refusals;
mod retired;
mod shares;
mod strict;

use std::{
    cell::{Cell, RefCell},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use outrigger_core::{
    Snapshot, Store,
    config::{EndpointSpec, Inbound, Service},
};
use outrigger_wire::{SpiffeId, proto::config as wire};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
};

use super::*;
use crate::{
    engine::{Engine, Limits, Role},
    http1::{self, Ending},
    http2::{
        self,
        frames::{DATA, END_STREAM, GOAWAY, HEADERS, Heard, PREFACE, RST_STREAM, SETTINGS, frame},
    },
    tls::MeshTls,
    worker::Worker,
};

/// What is called; nobody listens there.
const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);

/// One worker, the app of `shop/app` behind it, and what that app has been given.
struct Rig {
    worker: Rc<Worker>,
    app: SocketAddr,
    seen: Seen,
}

/// Heads, one after the other.
type Seen = Rc<RefCell<Vec<String>>>;

async fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), LocalSet::new().run_until(test)).await.expect("it hangs")
}

/// A service with one app behind it, which speaks HTTP/2 if that is declared.
fn service(protocol: wire::Protocol) -> wire::Service {
    wire::Service {
        name: "shop/app".into(),
        addresses: vec![SERVICE.ip().to_string()],
        ports: vec![wire::ServicePort { port: 80, name: "http".into(), protocol: protocol.into() }],
        ..wire::Service::default()
    }
}

/// What is sent to all requests of a service.
fn with_filter(kind: wire::filter::Kind) -> wire::Service {
    let rule = wire::RouteRule { filters: vec![wire::Filter { kind: Some(kind) }], ..wire::RouteRule::default() };
    let entry = wire::RouteEntry { r#match: Some(wire::RouteMatch::default()), rule: 0 };
    let table = wire::RouteTable { port: 80, entries: vec![entry], rules: vec![rule], ..wire::RouteTable::default() };
    wire::Service { route_tables: vec![table], ..service(wire::Protocol::Http) }
}

impl Rig {
    fn new(app: SocketAddr, seen: Seen, service: wire::Service, protocol: wire::Protocol) -> Self {
        let endpoint = wire::Endpoint {
            service: "shop/app".into(),
            workload: "shop/app-0".into(),
            address: app.ip().to_string(),
            ports: vec![wire::EndpointPort { port: 80, target: app.port().into() }],
            ..wire::Endpoint::default()
        };
        let port = wire::ServicePort { port: app.port().into(), name: "http".into(), protocol: protocol.into() };
        let inbound = wire::Inbound {
            workload: "shop/app-0".into(),
            identity: "spiffe://cluster.local/ns/shop/sa/app".into(),
            ports: vec![port],
            ..wire::Inbound::default()
        };
        let mut snapshot = Snapshot::default();
        let endpoints = vec![EndpointSpec::compile(endpoint).unwrap()];
        snapshot.set_service(Arc::new(Service::compile(service).unwrap()), endpoints);
        snapshot.set_inbound(Arc::new(Inbound::compile(inbound).unwrap()));
        snapshot.set_own("shop/app-0");
        let (store, _asks) = Store::new();
        store.publish(snapshot);
        let tls = MeshTls::new(store.clone());
        let engine = Arc::new(Engine::new(Role::Sidecar, store, tls));
        Self { worker: Rc::new(Worker::new(engine)), app, seen }
    }

    /// An app that reads heads of HTTP/1.1, and gives `answer` to each.
    async fn http1(service: wire::Service, answer: &'static str) -> Self {
        Self::listening(service, wire::Protocol::Http, move |stream, seen| answer_heads(stream, seen, answer)).await
    }

    /// An app that has each connection handed to it.
    async fn http2<F>(each: impl Fn(TcpStream, Seen) -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        Self::listening(service(wire::Protocol::Http2), wire::Protocol::Http2, each).await
    }

    async fn listening<F>(
        service: wire::Service,
        protocol: wire::Protocol,
        each: impl Fn(TcpStream, Seen) -> F + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Seen::default());
        let of_app = seen.clone();
        spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                spawn_local(each(stream, of_app.clone()));
            }
        });
        Self::new(address, seen, service, protocol)
    }

    fn departure(&self) -> Rc<Departure> {
        let caller = Caller { identity: None, address: Ipv4Addr::LOCALHOST.into(), acting: false };
        Rc::new(Departure { worker: self.worker.clone(), caller, original: SERVICE, quiet: Rc::default() })
    }

    /// Of a stranger whose plaintext was captured, or of somebody of the mesh.
    fn arrival(&self, meshed: bool) -> Rc<Arrival> {
        Rc::new(Arrival {
            worker: self.worker.clone(),
            app: App::Here(self.app.ip()),
            peer: meshed.then(|| SpiffeId::new("cluster.local", "shop", "front").unwrap()),
            peer_name: unauthenticated(),
            source: Ipv4Addr::LOCALHOST.into(),
            captured: (!meshed).then_some(self.app.port()),
            quiet: Rc::default(),
        })
    }

    /// Of HTTP/2, in the pool.
    fn connections(&self) -> usize {
        self.worker.pool.http2_open().0
    }

    fn streams(&self) -> usize {
        self.worker.pool.http2_open().1
    }

    /// Requests at the only endpoint.
    fn in_flight(&self) -> u32 {
        let snapshot = self.worker.engine.store.load();
        let Some(Some(destination)) = snapshot.addresses.get(&SERVICE.ip()) else { panic!("no service") };
        destination.endpoints.iter().map(|endpoint| endpoint.in_flight()).sum()
    }

    /// Requests that have ended, whatever came of them.
    fn records(&self) -> usize {
        let text = self.worker.engine.metrics.encode();
        let lines = text.lines().filter(|line| line.starts_with("outrigger_http_requests_total{"));
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap()).sum()
    }

    async fn call(&self, request: Request<Arriving>) -> Response<Relay> {
        forward(self.departure(), request).await
    }

    /// All that a caller with HTTP/1.1 gets for these bytes until its connection ends, as the last request must ask for.
    async fn talk(&self, way: Way, bytes: &str) -> String {
        let (mut near, far) = duplex(1 << 16);
        let (departure, arrival) = (self.departure(), self.arrival(false));
        spawn_local(async move {
            let handle = |request| {
                let (departure, arrival) = (departure.clone(), arrival.clone());
                async move {
                    match way {
                        Way::Out => forward(departure, request).await,
                        Way::In => deliver(arrival, request).await,
                        Way::Away => turned_away(departure, request, RequestError::Shed).await,
                    }
                }
            };
            http1::serve(far, 16 * 1024, &Cell::new(Ending::Never), handle).await
        });
        near.write_all(bytes.as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        near.read_to_end(&mut answers).await.unwrap();
        String::from_utf8(answers).unwrap()
    }
}

/// What a caller with HTTP/2 is told on a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Of each HEADERS: an answer's, and its trailers'.
    blocks: Vec<Vec<u8>>,
    body: String,
    /// `END_STREAM`, `RST_STREAM` or `GOAWAY`.
    end: &'static str,
}

impl Rig {
    /// What is said on streams 1 and 3 for these frames, until both have ended.
    async fn talk_http2(&self, meshed: bool, frames: &[u8]) -> [Told; 2] {
        let (mut near, far) = duplex(1 << 16);
        let arrival = self.arrival(meshed);
        let server = spawn_local(async move {
            let handle = move |request| deliver(arrival.clone(), request);
            http2::serve(far, &Limits::default(), Duration::from_secs(75), std::future::pending(), handle).await
        });
        near.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), frames].concat()).await.unwrap();
        let mut told = [Told::default(), Told::default()];
        while told.iter().any(|told| told.end.is_empty())
            && let Some(heard) = Heard::next(&mut near).await
        {
            if heard.kind == GOAWAY {
                told.iter_mut().filter(|told| told.end.is_empty()).for_each(|told| told.end = "GOAWAY");
            }
            let Some(told) = (heard.stream as usize).checked_sub(1).and_then(|at| told.get_mut(at / 2)) else {
                continue;
            };
            match heard.kind {
                HEADERS => told.blocks.push(heard.payload),
                DATA => told.body.push_str(&String::from_utf8_lossy(&heard.payload)),
                RST_STREAM => told.end = "RST_STREAM",
                _ => continue,
            }
            if heard.flags & END_STREAM != 0 && told.end.is_empty() {
                told.end = "END_STREAM";
            }
        }
        drop(near);
        // Whoever goes first leaves the other a broken pipe.
        let _ = server.await.unwrap();
        told
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    In,
    /// There is no room for it.
    Away,
}

async fn answer_heads(mut stream: TcpStream, seen: Seen, answer: &'static str) {
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.is_ok_and(|read| read > 0) {
        while let Some(end) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            let head: Vec<u8> = read.drain(..end + 4).collect();
            seen.borrow_mut().push(String::from_utf8(head).unwrap().to_ascii_lowercase());
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
