//! Changing the protocol: to whatever the mesh needn't look into, and never to one with requests in it.

use h2::ext::Protocol;
use http::{Method, StatusCode};
use outrigger_wire::names::headers;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// An extended CONNECT, as a proxy or whoever else sends it.
fn extended(rig: &Rig, protocol: &str, method: Option<&str>) -> Request<Arriving> {
    let (_sender, upgrading) = Upgrading::new();
    let mut request = Request::connect("http://a/x").version(http::Version::HTTP_2);
    request = request.header(headers::PORT, rig.app.port()).extension(Protocol::from(protocol)).extension(upgrading);
    if let Some(method) = method {
        request = request.header(headers::METHOD, method);
    }
    request.body(Arriving::Empty).unwrap()
}

/// Requests of HTTP/2 behind an `Upgrade: h2c` would be seen by no route and no policy.
#[tokio::test]
async fn nothing_that_carries_requests_is_changed_to() {
    within(async {
        let rig = Rig::http1(service(wire::Protocol::Http), OK).await;
        for (offered, passed) in [
            ("websocket", Some("websocket")),
            ("kafka/1.0", Some("kafka/1.0")),
            ("websocket, h2c", Some("websocket")),
            ("h2c,websocket", Some("websocket")),
            ("h2c\r\nupgrade: websocket", Some("websocket")),
            ("H2C", None),
            ("h2c", None),
            ("h2c, H2C", None),
            ("h2", None),
            ("h2c-14", None),
            ("HTTP/2.0", None),
            ("h3", None),
            ("TLS/1.0", None),
            ("tls/1.2, HTTP/1.1", None),
            ("h2c;q=1", None),
            ("\"websocket\"", None),
            (",", None),
        ] {
            for way in [Way::Out, Way::In] {
                let request = format!(
                    "GET /x HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: {offered}\r\n\
                     http2-settings: AAMAAABkAAQAAP__\r\n\r\n"
                );
                let answers = rig.talk(way, &request).await;
                assert!(answers.starts_with("HTTP/1.1 200 "), "{offered}: {answers}");
                let seen = rig.seen.take();
                let upgrades: Vec<_> = seen
                    .iter()
                    .flat_map(|head| head.lines())
                    .filter_map(|line| line.strip_prefix("upgrade: "))
                    .collect();
                assert_eq!(upgrades, Vec::from_iter(passed), "{offered}, {way:?}: {seen:?}");
                assert!(!seen[0].contains("http2-settings"), "{seen:?}");
            }
        }
        // Whether its upgrade is named in Connection or not.
        rig.talk(Way::In, "GET /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\nhttp2-settings: x\r\n\r\n").await;
        assert!(!rig.seen.take()[0].contains("http2-settings"));
        for (protocol, passed) in
            [("websocket", true), ("h2c", false), ("H2C", false), ("http/2", false), ("a,h2c", false)]
        {
            for meshed in [false, true] {
                let answer = deliver(rig.arrival(meshed), extended(&rig, protocol, None)).await;
                let seen = rig.seen.take();
                assert_eq!(seen.len(), usize::from(passed), "{protocol}: {seen:?}");
                if passed {
                    assert!(seen[0].contains("upgrade: websocket\r\n"), "{seen:?}");
                } else {
                    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{protocol}");
                }
            }
        }
    })
    .await;
}

/// CONNECT asks for bytes to anywhere, whatever else it asks for; and who isn't a proxy doesn't say what a request was.
#[tokio::test]
async fn connect_is_never_carried() {
    within(async {
        let rig = Rig::http1(service(wire::Protocol::Http), OK).await;
        for way in [Way::Out, Way::In] {
            for fields in ["connection: close", "connection: upgrade, close\r\nupgrade: websocket"] {
                let answers =
                    rig.talk(way, &format!("CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n{fields}\r\n\r\n")).await;
                assert!(answers.starts_with("HTTP/1.1 405 "), "{way:?}: {answers}");
            }
        }
        for meshed in [false, true] {
            let answer = deliver(rig.arrival(meshed), extended(&rig, "websocket", Some("CONNECT"))).await;
            let refused = answer.status() == StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!((refused, rig.seen.take().len()), (meshed, usize::from(!meshed)));
        }
        for (meshed, method) in [(true, Method::POST), (false, Method::GET)] {
            drop(deliver(rig.arrival(meshed), extended(&rig, "websocket", Some("POST"))).await);
            let seen = rig.seen.take();
            assert!(seen[0].starts_with(&format!("{method} /x ").to_ascii_lowercase()), "{seen:?}");
        }
        // Out, nobody is a proxy.
        drop(forward(rig.departure(), extended(&rig, "websocket", Some("POST"))).await);
        assert!(rig.seen.take()[0].starts_with("get /x "));
    })
    .await;
}

/// What follows an extended CONNECT stays here until the app has agreed; if it doesn't, it was nothing.
#[tokio::test]
async fn nothing_follows_before_the_app_has_agreed() {
    within(async {
        for (answer, status) in [(OK, Some(StatusCode::UPGRADE_REQUIRED)), ("", None)] {
            let rig = Rig::http1(service(wire::Protocol::Http), answer).await;
            let (near, far) = duplex(1 << 16);
            let (arrival, port) = (rig.arrival(true), rig.app.port());
            let limits = Limits::default();
            spawn_local(async move {
                let idle = limits.idle;
                let handle = move |request| deliver(arrival.clone(), request);
                http2::serve(far, &limits, idle, std::future::pending(), handle).await
            });
            let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
            spawn_local(connection);
            while !sender.is_extended_connect_protocol_enabled() {
                tokio::task::yield_now().await;
            }
            let request = Request::connect("http://a/x").header(headers::PORT, port);
            let request = request.extension(Protocol::from("websocket")).body(()).unwrap();
            let (answered, mut stream) = sender.send_request(request, false).unwrap();
            stream.send_data(Bytes::from_static(b"GET /denied HTTP/1.1\r\nhost: a\r\n\r\n"), false).unwrap();
            match status {
                Some(status) => assert_eq!(answered.await.unwrap().status(), status),
                None => {
                    while rig.seen.borrow().is_empty() {
                        tokio::task::yield_now().await;
                    }
                    for _ in 0..100 {
                        tokio::task::yield_now().await;
                    }
                }
            }
            let seen = rig.seen.take();
            assert!(seen.len() == 1 && seen[0].starts_with("get /x "), "{seen:?}");
        }
    })
    .await;
}
