use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use outrigger_core::{
    Snapshot, Svid,
    config::{EndpointSpec, Inbound, Service},
};
use outrigger_wire::proto::config as wire;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    server::{BUFFER, MAX_CONNECTIONS, MAX_HEADERS},
    *,
};
use crate::listeners::bind_address;

struct Running {
    address: std::net::SocketAddr,
    /// The health interface of the same proxy, a guard.
    health: std::net::SocketAddr,
    admin: Arc<Admin>,
    ready: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    levels: Arc<Mutex<Vec<String>>>,
}

async fn running() -> Running {
    let (store, _asks) = Store::new();
    store.publish_svid(Svid {
        id: "spiffe://cluster.local/ns/shop/sa/front".parse().unwrap(),
        chain: vec![],
        anchor: String::new(),
        key: b"SECRET-KEY".to_vec(),
        not_before: std::time::UNIX_EPOCH,
        not_after: std::time::UNIX_EPOCH,
    });
    let levels = Arc::new(Mutex::new(Vec::new()));
    let set = levels.clone();
    let ready = Arc::new(AtomicBool::new(false));
    let flag = ready.clone();
    let hangs = Arc::new(AtomicBool::new(false));
    let hung = hangs.clone();
    let admin = Arc::new(Admin {
        store,
        metrics: Metrics::new(),
        alive: Box::new(move || {
            if hung.load(Ordering::Relaxed) {
                Box::pin(std::future::pending())
            } else {
                Box::pin(std::future::ready(()))
            }
        }),
        readiness: Box::new(move || flag.load(Ordering::Relaxed).then_some(()).ok_or("no certificate")),
        drain: watch::Sender::new(false),
        extra: Box::new(|| [("mode".to_owned(), "guard".into())].into_iter().collect()),
        set_level: Box::new(move |level| {
            set.lock().unwrap().push(level.into());
            if level == "bad" { Err("no such level".into()) } else { Ok(()) }
        }),
    });
    let listen = || TcpListener::from_std(bind_address(([127, 0, 0, 1], 0).into()).unwrap()).unwrap();
    let (listener, open) = (listen(), listen());
    let (address, health) = (listener.local_addr().unwrap(), open.local_addr().unwrap());
    tokio::spawn(serve(listener, admin.clone()));
    let departure: Departure = Box::new(|within| Box::pin(async move { format!("waited {within:?}\n") }));
    tokio::spawn(serve_health(open, admin.clone(), Some(departure)));
    Running { address, health, admin, ready, hangs, levels }
}

impl Running {
    async fn send(&self, request: &str) -> String {
        Self::send_to(self.address, request).await
    }

    /// Asks the health interface as the kubelet does: by the pod's address.
    async fn health(&self, method: &str, target: &str) -> u16 {
        let request = format!("{method} {target} HTTP/1.1\r\nhost: 10.1.0.7:15023\r\nconnection: close\r\n\r\n");
        Self::send_to(self.health, &request).await[9..12].parse().unwrap()
    }

    async fn send_to(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A refusal in the middle of a request may reset the connection behind it.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn ask(&self, method: &str, target: &str, headers: &str) -> (u16, String) {
        let answer = self.send(&format!("{method} {target} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    async fn status(&self, method: &str, target: &str) -> u16 {
        self.ask(method, target, "host: localhost:15020\r\n").await.0
    }
}

#[tokio::test]
async fn verbs() {
    let running = running().await;
    assert_eq!(running.status("GET", "/healthz").await, 200);
    assert_eq!(running.status("GET", "/readyz").await, 503);
    running.ready.store(true, Ordering::Relaxed);
    assert_eq!(running.status("GET", "/readyz").await, 200);
    assert_eq!(running.status("HEAD", "/metrics").await, 200);
    for path in ["/logging?level=debug", "/drain"] {
        assert_eq!(running.status("GET", path).await, 405);
    }
    assert_eq!(running.status("POST", "/metrics").await, 405);
    assert_eq!(running.status("GET", "/").await, 404);

    assert_eq!(running.status("PUT", "/logging?level=info%2Ch2%3Dtrace").await, 200);
    assert_eq!(running.status("POST", "/logging?level=bad").await, 400);
    assert_eq!(running.status("POST", "/logging").await, 400);
    assert_eq!(*running.levels.lock().unwrap(), ["info,h2=trace", "bad"]);

    assert!(!*running.admin.drain.borrow());
    assert_eq!(running.status("POST", "/drain").await, 200);
    assert!(*running.admin.drain.borrow());
    assert_eq!(running.status("GET", "/readyz").await, 503);
}

#[tokio::test]
async fn others_read_health_and_nothing_else() {
    let running = running().await;
    assert_eq!(running.health("GET", "/healthz").await, 200);
    assert_eq!(running.health("GET", "/readyz").await, 503);
    running.ready.store(true, Ordering::Relaxed);
    assert_eq!(running.health("GET", "/readyz").await, 200);
    assert_eq!(running.health("HEAD", "/metrics").await, 200);
    for target in ["/config_dump", "/logging?level=debug", "/drain", "/", "/probe/tcp", "/probe/tcp/"] {
        assert_eq!(running.health("GET", target).await, 404, "{target}");
        assert_eq!(running.health("POST", target).await, 405, "{target}");
    }
    assert!(!*running.admin.drain.borrow());
    running.admin.drain.send_replace(true);
    assert_eq!(running.health("GET", "/readyz").await, 503);
    assert_eq!(running.health("GET", "/healthz").await, 200);
    running.hangs.store(true, Ordering::Relaxed);
    assert_eq!(running.health("GET", "/healthz").await, 503);
}

#[tokio::test]
async fn a_tcp_probe_says_whether_the_app_accepts() {
    let running = running().await;
    let app = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = app.local_addr().unwrap().port();
    assert_eq!(running.health("GET", &format!("/probe/tcp/{port}")).await, 200);
    drop(app);
    assert_eq!(running.health("GET", &format!("/probe/tcp/{port}")).await, 503);
    for port in ["0", "15006", "15021", "15023", "65536", "-1", "80/x"] {
        assert_eq!(running.health("GET", &format!("/probe/tcp/{port}")).await, 404, "{port}");
    }
}

#[tokio::test]
async fn the_kubelet_waits_for_a_departure() {
    let running = running().await;
    let request = "GET /departure?seconds=7 HTTP/1.1\r\nhost: 10.1.0.7:15023\r\nconnection: close\r\n\r\n";
    let answer = Running::send_to(running.health, request).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("waited 7s\n"), "{answer}");
    for query in ["", "?seconds=", "?seconds=-1", "?seconds=65536", "?minutes=1"] {
        assert_eq!(running.health("GET", &format!("/departure{query}")).await, 400, "{query}");
    }
    assert_eq!(running.health("GET", "/departures?seconds=7").await, 404);
}

#[tokio::test]
async fn nobody_keeps_a_probe_out_by_holding_connections() {
    let running = running().await;
    let mut held = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        held.push(TcpStream::connect(running.health).await.unwrap());
    }
    assert_eq!(running.health("GET", "/healthz").await, 200);
}

#[tokio::test]
async fn only_who_means_this_machine() {
    let running = running().await;
    for (headers, status) in [
        ("host: localhost\r\n", 200),
        ("host: LOCALHOST:15020\r\n", 200),
        ("host: 127.0.0.1:15020\r\n", 200),
        ("host: 127.8.9.1\r\n", 200),
        ("host: [::1]:15020\r\n", 200),
        ("", 421),
        ("host: \r\n", 421),
        ("host: evil.example\r\n", 421),
        ("host: 10.0.0.1\r\n", 421),
        ("host: localhost.evil.example\r\n", 421),
        ("host: evil.example@localhost\r\n", 421),
        ("host: 127.0.0.1.evil.example\r\n", 421),
        ("host: localhost\r\nhost: evil.example\r\n", 421),
        ("host: localhost\r\norigin: http://localhost\r\n", 403),
    ] {
        assert_eq!(running.ask("GET", "/healthz", headers).await.0, status, "{headers:?}");
    }
    assert_eq!(running.ask("GET", "http://evil.example/healthz", "host: localhost\r\n").await.0, 421);
}

#[tokio::test]
async fn a_dump_shows_no_secret() {
    let running = running().await;
    let (status, body) = running.ask("GET", "/config_dump", "host: localhost\r\n").await;
    assert_eq!(status, 200);
    let dump: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(dump["certificate"]["identity"], "spiffe://cluster.local/ns/shop/sa/front");
    assert_eq!(dump["mode"], "guard");
    assert_eq!((&dump["ready"], &dump["not_ready"]), (&false.into(), &"no certificate".into()));
    assert!(!body.contains("SECRET") && !body.contains(&format!("{:?}", b"SECRET-KEY")));
}

#[tokio::test]
async fn a_dump_shows_what_is_in_force() {
    let running = running().await;
    let service = wire::Service {
        name: "shop/front".into(),
        addresses: vec!["10.96.0.7".into()],
        ports: vec![wire::ServicePort { port: 80, name: "http".into(), ..Default::default() }],
        ..Default::default()
    };
    let endpoint = wire::Endpoint {
        service: "shop/front".into(),
        workload: "shop/front-1".into(),
        address: "10.1.0.7".into(),
        ..Default::default()
    };
    let inbound = wire::Inbound {
        workload: "shop/front-1".into(),
        identity: "spiffe://cluster.local/ns/shop/sa/front".into(),
        policies: vec![wire::AccessPolicy { name: "shop/only-web".into(), ..Default::default() }],
        ..Default::default()
    };
    let mut snapshot = Snapshot::default();
    let service = Arc::new(Service::compile(service).unwrap());
    snapshot.set_service(service, vec![EndpointSpec::compile(endpoint).unwrap()]);
    snapshot.set_inbound(Arc::new(Inbound::compile(inbound).unwrap()));
    snapshot.set_absent([192, 0, 2, 1].into());
    running.admin.store.publish(snapshot);

    let (_, body) = running.ask("GET", "/config_dump", "host: localhost\r\n").await;
    let dump: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(dump["generation"], 1);
    assert_eq!(dump["services"][0]["addresses"][0], "10.96.0.7");
    assert_eq!(dump["services"][0]["endpoints"][0]["address"], "10.1.0.7");
    assert_eq!(dump["services"][0]["endpoints"][0]["ejected"], false);
    assert_eq!(dump["inbounds"][0]["policies"][0]["name"], "shop/only-web");
    assert_eq!(dump["not_meshed"][0], "192.0.2.1");
}

#[tokio::test]
async fn heads_are_limited() {
    let running = running().await;
    let many = "x: y\r\n".repeat(MAX_HEADERS + 1);
    let long = format!("x: {}\r\n", "y".repeat(2 * BUFFER));
    for headers in [many, long] {
        let answer = running.send(&format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let answer = running.send("\u{16}\u{3}\u{1}garbage\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(running.status("GET", "/healthz").await, 200);
}
