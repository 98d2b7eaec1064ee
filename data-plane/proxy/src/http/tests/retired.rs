//! A root is retired while its peers have connections open, and callers call.

use std::future::poll_fn;

use outrigger_wire::{
    names::{alpn, headers},
    tunnel::{Caller as Claim, TcpHeader},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::*;
use crate::{
    inbound,
    pressure::Level,
    tls::{ServerAlpn, TlsStream, connect, server_name, tests::Rotation},
    worker,
};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// A callee with certificate and roots, which takes mTLS.
struct Callee {
    rig: Rc<Rig>,
    address: SocketAddr,
    rotation: Rotation,
    /// Lets the app answer what it is asked for at `/held`.
    answer: Rc<Notify>,
    _drain: watch::Sender<bool>,
}

/// Of one caller, one of each kind.
struct Open {
    http2: h2::client::SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
    http1: TlsStream,
    opaque: TlsStream,
}

async fn serve_app(app: TcpListener, seen: Seen, answer: Rc<Notify>) {
    loop {
        let (mut stream, _) = app.accept().await.unwrap();
        let (seen, answer) = (seen.clone(), answer.clone());
        spawn_local(async move {
            let mut read = Vec::new();
            while stream.read_buf(&mut read).await.is_ok_and(|read| read > 0) {
                if read.ends_with(b"\r\n\r\n") {
                    let head = String::from_utf8(std::mem::take(&mut read)).unwrap().to_ascii_lowercase();
                    let held = head.starts_with("get /held ");
                    seen.borrow_mut().push(head);
                    if held {
                        answer.notified().await;
                    }
                    if stream.write_all(OK.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", name).unwrap()
}

impl Callee {
    /// What is under way with peers of a retired root may take `limit`.
    async fn start(limit: Duration) -> Self {
        let (app, seen, answer) =
            (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(), Seen::default(), Rc::default());
        let at = app.local_addr().unwrap();
        spawn_local(serve_app(app, seen.clone(), Rc::clone(&answer)));
        let (rig, rotation) =
            (Rc::new(Rig::new(at, seen, service(wire::Protocol::Http), wire::Protocol::Auto)), Rotation::new());
        let engine = &rig.worker.engine;
        let callee_svid = rotation.by_new(&id("app"));
        let snapshot = Snapshot { trust: rotation.trust(false), ..Snapshot::clone(&engine.store.load()) };
        engine.store.publish(snapshot);
        engine.store.publish_svid(callee_svid);
        tokio::spawn(engine.tls.clone().follow(limit));
        while engine.tls.identity().is_none() {
            tokio::task::yield_now().await;
        }
        let drain = watch::Sender::new(false);
        spawn_local(worker::end(rig.worker.clone(), drain.subscribe(), watch::Sender::new(Level::Calm).subscribe()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let at = rig.clone();
        spawn_local(async move {
            // Every third is a guard's tunnel with plaintext in it, which as in a shared proxy is HTTP/1.
            for turn in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                let rig = at.clone();
                spawn_local(async move {
                    if turn % 3 != 1 {
                        return inbound::accept_mesh(&rig.worker, stream).await;
                    }
                    let (stream, _, _) = inbound::handshake(&rig.worker, stream, ServerAlpn::Shared).await.unwrap();
                    let (drain, app) = (rig.worker.drain_with(stream.root()), App::Here(rig.app.ip()));
                    inbound::serve_plain(&rig.worker, &drain, stream, app, rig.app.ip(), rig.app).await;
                });
            }
        });
        Self { rig, address, rotation, answer, _drain: drain }
    }

    fn caller(&self, old: bool) -> Arc<MeshTls> {
        let (store, _asks) = Store::new();
        store.publish(Snapshot { trust: self.rotation.trust(false), ..Snapshot::default() });
        let front = id("front");
        store.publish_svid(if old { self.rotation.by_old(&front) } else { self.rotation.by_new(&front) });
        MeshTls::new(store)
    }

    fn retire(&self) {
        let store = &self.rig.worker.engine.store;
        store.publish(Snapshot { trust: self.rotation.trust(true), ..Snapshot::clone(&store.load()) });
    }

    async fn dial(&self, caller: &MeshTls, name: &'static [u8]) -> TlsStream {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let config = caller.client(&[id("app")], name).unwrap();
        connect(config, server_name(self.address.ip()), socket).await.unwrap().0
    }

    async fn open(&self, caller: &MeshTls) -> Open {
        let (http2, connection) = h2::client::handshake(self.dial(caller, alpn::H2).await).await.unwrap();
        let driver = spawn_local(connection);
        let http1 = self.dial(caller, alpn::GUARD).await;
        let mut opaque = self.dial(caller, alpn::TCP).await;
        let header = TcpHeader { port: self.rig.app.port(), caller: Claim::Peer, address: None };
        opaque.write_all(&header.encode()).await.unwrap();
        let mut open = Open { http2, driver, http1, opaque };
        open.go_on(self).await;
        open
    }

    /// Asks for what the app keeps back.
    async fn held(&self, open: &mut Open) -> h2::client::ResponseFuture {
        let (answer, _) = open.http2.send_request(self.request("/held"), true).unwrap();
        while !self.rig.seen.borrow().iter().any(|head| head.starts_with("get /held ")) {
            tokio::task::yield_now().await;
        }
        answer
    }

    fn request(&self, path: &str) -> Request<()> {
        let request = Request::get(format!("http://app{path}")).header(headers::PROTO, "1.1");
        request.header(headers::PORT, self.rig.app.port()).body(()).unwrap()
    }
}

impl Open {
    async fn go_on(&mut self, callee: &Callee) {
        poll_fn(|cx| self.http2.poll_ready(cx)).await.unwrap();
        let (answer, _) = self.http2.send_request(callee.request("/"), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        for stream in [&mut self.http1, &mut self.opaque] {
            stream.write_all(b"GET / HTTP/1.1\r\nhost: app\r\n\r\n").await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut heard).await.unwrap() > 0);
            }
            assert!(heard.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&heard));
        }
    }
}

#[tokio::test]
async fn connections_end_with_the_root_of_their_peer_and_no_request_does() {
    within(async {
        let callee = Callee::start(Duration::from_secs(3600)).await;
        let (late, renewed) = (callee.caller(true), callee.caller(false));
        let (mut ending, mut staying) = (callee.open(&late).await, callee.open(&renewed).await);
        let answer = callee.held(&mut ending).await;
        callee.retire();
        assert!(ending.opaque.read(&mut [0]).await.is_err(), "cut off, at once");
        // By TLS' own way of saying so.
        assert_eq!(ending.http1.read(&mut [0]).await.unwrap(), 0);
        // GOAWAY: what is under way ends, nothing new begins.
        callee.answer.notify_one();
        assert_eq!(answer.await.unwrap().status(), 200);
        ending.driver.await.unwrap().unwrap();
        assert!(poll_fn(|cx| ending.http2.poll_ready(cx)).await.is_err());
        staying.go_on(&callee).await;
        callee.open(&renewed).await.go_on(&callee).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_under_way_with_such_a_peer_ends_at_the_limit() {
    within(async {
        let callee = Callee::start(Duration::from_millis(1)).await;
        let (late, renewed) = (callee.caller(true), callee.caller(false));
        let (mut ending, mut staying) = (callee.open(&late).await, callee.open(&renewed).await);
        let answer = callee.held(&mut ending).await;
        callee.retire();
        assert!(answer.await.is_err());
        let _ = ending.driver.await.unwrap();
        assert!(poll_fn(|cx| ending.http2.poll_ready(cx)).await.is_err());
        staying.go_on(&callee).await;
    })
    .await;
}
