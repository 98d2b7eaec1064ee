//! Whoever asked may go away at any moment: a request's future is dropped after its first poll, after its second and so on,
//! and each time whatever it held must be free: endpoint, place at the destination, stream, and the turn to dial.

use std::{
    future::{Future, poll_fn},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use outrigger_core::{
    Destination, Snapshot, Store,
    config::{EndpointSpec, Service},
};
use outrigger_wire::proto::config as wire;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{LocalSet, spawn_local, yield_now},
};

use super::{Arriving, Caller, Departure, Quiet, forward};
use crate::{
    Engine, Limits, Role,
    fallback::Fallback,
    telemetry::{AccessLog, Metrics, access_log::LogFormat},
    tls::MeshTls,
    worker::Worker,
};

const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);
const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// More than there are tasks that have something to do at once.
const SOON: usize = 1_000;

/// A worker, and a destination that bears one request at a time.
struct Scene {
    from: Rc<Departure>,
    destination: Arc<Destination>,
    /// Bound, but nobody listens.
    _refusing: Option<TcpSocket>,
}

// === impl Scene ===

impl Scene {
    async fn new(http2: bool, refuses: bool) -> Self {
        let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
        let mut ports = vec![listener.local_addr().unwrap().port()];
        spawn_local(serve(listener, http2));
        let refusing = refuses.then(|| TcpSocket::new_v4().unwrap());
        if let Some(socket) = &refusing {
            socket.bind(SocketAddr::new(LOCALHOST, 0)).unwrap();
            ports.push(socket.local_addr().unwrap().port());
        }
        let protocol = if http2 { wire::Protocol::Http2 } else { wire::Protocol::Http };
        let service = wire::Service {
            name: "shop/cart".into(),
            addresses: vec![SERVICE.ip().to_string()],
            ports: vec![wire::ServicePort { port: 80, protocol: protocol.into(), ..wire::ServicePort::default() }],
            ..wire::Service::default()
        };
        let mut service = Service::compile(service).unwrap();
        service.policy.max_connections = Some(1);
        let mut snapshot = Snapshot::default();
        snapshot.set_service(Arc::new(service), ports.into_iter().map(endpoint).collect());
        let destination = snapshot.services["shop/cart"].clone();
        let (store, _) = Store::new();
        store.publish(snapshot);
        let caller = Caller { identity: None, address: LOCALHOST, acting: false };
        let worker = Rc::new(Worker::new(engine(store)));
        let from = Departure { worker, caller, original: SERVICE, quiet: Rc::new(Quiet::default()) };
        Self { from: Rc::new(from), destination, _refusing: refusing }
    }

    /// One request, and its answer to the end.
    fn ask(&self) -> impl Future<Output = Bytes> + use<> {
        let from = self.from.clone();
        async move {
            let request = Request::get("/").header("host", "cart").body(Arriving::Empty).unwrap();
            forward(from, request).await.into_body().collect().await.unwrap().to_bytes()
        }
    }

    fn is_free(&self) -> bool {
        let Destination { service, endpoints, .. } = &*self.destination;
        let place = endpoints.pick(&service.policy, None, &mut || 0, Instant::now(), &[], "");
        place.is_ok_and(|place| {
            drop(place);
            endpoints.iter().all(|endpoint| endpoint.in_flight() == 0) && self.from.worker.pool.in_use() == 0
        })
    }

    /// A trial of an endpoint that refused may be under way beside the requests.
    async fn is_free_soon(&self) -> bool {
        for _ in 0..SOON {
            if self.is_free() {
                return true;
            }
            yield_now().await;
        }
        false
    }
}

fn engine(store: Arc<Store>) -> Arc<Engine> {
    let (tls, metrics) = (MeshTls::new(store.clone()), Metrics::new());
    Arc::new(Engine {
        role: Role::Sidecar,
        log: AccessLog::stdout(LogFormat::Off, metrics.access_log_dropped()).unwrap(),
        fallback: Arc::new(Fallback::new(store.clone(), tls.clone(), None, String::new())),
        store,
        tls,
        metrics,
        limits: Limits::default(),
        zone: String::new(),
        mark: None,
        active: Default::default(),
        shares: Default::default(),
    })
}

fn endpoint(port: u16) -> EndpointSpec {
    EndpointSpec {
        service: "shop/cart".into(),
        workload: format!("shop/cart-{port}").into(),
        address: LOCALHOST,
        ports: vec![(80, port)],
        identity: None,
        meshed: false,
        zone: "".into(),
        weight: 1,
        draining: false,
    }
}

async fn serve(listener: TcpListener, http2: bool) {
    while let Ok((stream, _)) = listener.accept().await {
        if http2 {
            spawn_local(serve_http2(stream))
        } else {
            spawn_local(serve_http1(stream))
        };
    }
}

async fn serve_http1(mut stream: TcpStream) {
    let (mut asked, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        asked.extend_from_slice(&buffer[..count]);
        if asked.ends_with(b"\r\n\r\n") {
            asked.clear();
            for piece in ["HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", "hello", "world"] {
                let _ = stream.write_all(piece.as_bytes()).await;
                yield_now().await;
            }
        }
    }
}

async fn serve_http2(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        if let Ok(mut body) = respond.send_response(Response::new(()), false) {
            let _ = body.send_data(Bytes::from_static(b"hello"), false);
            let _ = body.send_data(Bytes::from_static(b"world"), true);
        }
    }
}

/// What comes of a future that is polled so often and then dropped; `None`: not yet anything.
async fn polled<T>(most: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut polls) = (Box::pin(future), 0);
    poll_fn(|cx| {
        if polls == most {
            return Poll::Ready(None);
        }
        polls += 1;
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

#[tokio::test]
async fn a_request_that_is_dropped_at_any_of_its_polls_leaves_nothing_taken() {
    let all = async {
        for (http2, refuses) in [(false, false), (false, true), (true, false), (true, true)] {
            for most in 1.. {
                let context = format!("HTTP/2: {http2}, one refuses: {refuses}, after {most} polls");
                let scene = Scene::new(http2, refuses).await;
                // The second time on whatever connections the first has left.
                let first = polled(most, scene.ask()).await;
                assert!(scene.is_free_soon().await, "{context}");
                assert_eq!(scene.ask().await, "helloworld", "{context}");
                let again = polled(most, scene.ask()).await;
                assert!(scene.is_free_soon().await, "{context}, again");
                assert_eq!(scene.ask().await, "helloworld", "{context}, again");
                if first.is_some() && again.is_some() {
                    assert!(most > 2, "{context}: nothing was dropped");
                    break;
                }
            }
        }
    };
    LocalSet::new().run_until(all).await;
}
