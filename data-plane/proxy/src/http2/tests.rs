//! Our client against our server, over a pipe in memory.

use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    task::{LocalSet, spawn_local},
};

use super::{
    frames::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, Heard, PREFACE, RST_STREAM, SETTINGS, frame},
    *,
};
use crate::{
    engine::Limits,
    http::{Arriving, Relay, Upgrading},
};

const IDLE: Duration = Duration::from_secs(75);

/// Runs a test against a server that hands every request to `handle`.
async fn with_server<H, F, T>(handle: H, test: impl FnOnce(h2::client::SendRequest<Bytes>) -> T)
where
    H: Fn(Request<Arriving>) -> F + 'static,
    F: Future<Output = Response<Relay>> + 'static,
    T: Future<Output = ()>,
{
    let run = async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (end, ended) = oneshot::channel::<()>();
        let server = spawn_local(async move {
            let ending = async { drop(ended.await) };
            serve(far, &Limits::default(), IDLE, ending, handle).await
        });
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked: true };
        let (sender, _) = open(near, settings, || {}).await.unwrap();
        test(sender).await;
        drop(end);
        // Whoever goes first leaves the other a broken pipe.
        let _ = server.await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(20), LocalSet::new().run_until(run)).await.expect("it hangs");
}

fn request(body: Relay) -> Box<Request<Relay>> {
    Request::builder().method(Method::POST).uri("http://app/echo").body(body).unwrap().into()
}

/// Gives a request's body back in one piece.
async fn echo(request: Request<Arriving>) -> Response<Relay> {
    let body = request.into_body().collect().await.unwrap().to_bytes();
    Response::new(Relay::Full(body))
}

#[tokio::test]
async fn a_request_without_a_body_and_one_with() {
    with_server(echo, |mut sender| async move {
        let response = send(&mut sender, request(Relay::Empty), None).await.ok().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        // More than a stream's and a pipe's room.
        let long = Bytes::from(vec![3; 3 << 20]);
        for body in [Bytes::from_static(b"short"), long] {
            let response = send(&mut sender, request(Relay::Full(body.clone())), None).await.ok().unwrap();
            let length = response.body().size_hint().exact();
            assert_eq!(length, Some(body.len() as u64));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_of_hypers_with_a_body_in_pieces_and_trailers() {
    let run = async {
        let (near, far) = tokio::io::duplex(1 << 16);
        spawn_local(async move { serve(far, &Limits::default(), IDLE, std::future::pending(), echo).await });
        let (mut sender, connection) = hyper::client::conn::http2::handshake::<_, _, StreamBody<_>>(
            hyper_util::rt::TokioExecutor::new(),
            hyper_util::rt::TokioIo::new(near),
        )
        .await
        .unwrap();
        spawn_local(connection);
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", HeaderValue::from_static("1"));
        for last in [None, Some(Frame::trailers(trailers))] {
            let mut frames =
                Vec::from([Frame::data(Bytes::from_static(b"one ")), Frame::data(Bytes::from_static(b"two"))]);
            frames.extend(last);
            let body = StreamBody::new(futures_util::stream::iter(frames.into_iter().map(Ok::<_, std::io::Error>)));
            let request = Request::post("http://app/echo").body(body).unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "one two");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), LocalSet::new().run_until(run)).await.expect("it hangs");
}

#[tokio::test]
async fn a_body_is_passed_on_to_its_end_however_that_comes() {
    let run = async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (middle, end) = tokio::io::duplex(1 << 16);
        spawn_local(async move { serve(end, &Limits::default(), IDLE, std::future::pending(), echo).await });
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked: true };
        let (sender, _) = open(middle, settings, || {}).await.unwrap();
        let pass_on = move |request: Request<Arriving>| {
            let mut sender = sender.clone();
            async move {
                let inner = request.map(|inner| Relay::Request { inner, upload: Default::default() });
                let response = send(&mut sender, inner.into(), None).await.ok().unwrap();
                response.map(|inner| Relay::Request { inner, upload: Default::default() })
            }
        };
        spawn_local(async move { serve(far, &Limits::default(), IDLE, std::future::pending(), pass_on).await });
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        spawn_local(connection);
        for parts in [&["one ", "two"][..], &["one two", ""], &["", "one two"]] {
            let (answer, mut body) =
                sender.send_request(Request::post("http://app/").body(()).unwrap(), false).unwrap();
            for (at, part) in parts.iter().enumerate() {
                body.send_data(Bytes::from_static(part.as_bytes()), at + 1 == parts.len()).unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = answer.await.unwrap().into_body();
            assert_eq!(answer.data().await.unwrap().unwrap(), "one two");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), LocalSet::new().run_until(run)).await.expect("it hangs");
}

#[tokio::test]
async fn an_answer_that_comes_before_the_request_has_ended() {
    let early = |request: Request<Arriving>| async move {
        drop(request);
        let mut response = Response::new(Relay::Empty);
        *response.status_mut() = StatusCode::FORBIDDEN;
        response
    };
    with_server(early, |mut sender| async move {
        let long = Bytes::from(vec![3; 3 << 20]);
        for _ in 0..3 {
            let response = send(&mut sender, request(Relay::Full(long.clone())), None).await.ok().unwrap();
            assert_eq!(response.status(), StatusCode::FORBIDDEN);
        }
    })
    .await;
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_and_half_closes() {
    let upgrade = |request: Request<Arriving>| async move {
        let opening = Upgrading::take(&request).unwrap();
        spawn_local(async move {
            let mut tunnel = opening.await.unwrap();
            let mut heard = Vec::new();
            tunnel.read_to_end(&mut heard).await.unwrap();
            heard.reverse();
            tunnel.write_all(&heard).await.unwrap();
            tunnel.shutdown().await.unwrap();
        });
        Response::new(Relay::Empty)
    };
    with_server(upgrade, |mut sender| async move {
        // Until the server has said that it takes such requests.
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let mut request = request(Relay::Empty);
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from("websocket"));
        let response = send(&mut sender, request, None).await.ok().unwrap();
        let Arriving::Tunnel(mut tunnel) = response.into_body() else { panic!("no tunnel") };
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        tunnel.write_all(&sent).await.unwrap();
        tunnel.shutdown().await.unwrap();
        let mut heard = Vec::new();
        tunnel.read_to_end(&mut heard).await.unwrap();
        heard.reverse();
        assert_eq!(heard, sent);
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_goes_cancels_its_request() {
    let cancelled = std::rc::Rc::new(tokio::sync::Notify::new());
    let notify = cancelled.clone();
    let hang = move |_: Request<Arriving>| {
        let guard = Cancelled(notify.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    };
    with_server(hang, |mut sender| async move {
        let sending = async { send(&mut sender, request(Relay::Empty), None).await.map(|_| ()) };
        let waited = tokio::time::timeout(Duration::from_millis(50), sending).await;
        assert!(waited.is_err());
        cancelled.notified().await;
    })
    .await;
}

struct Cancelled(std::rc::Rc<tokio::sync::Notify>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_given_up() {
    let run = async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked: true };
        let (told, ended) = oneshot::channel();
        let (_sender, connection) = open(near, settings, move || told.send(()).unwrap()).await.unwrap();
        ended.await.unwrap();
        assert!(connection.closed.get());
        drop(far);
    };
    LocalSet::new().run_until(run).await;
}

/// A minute of a peer that says nothing: whether its connection is still open, and how many PINGs it has got.
async fn silent_minute(asked: bool) -> (bool, usize) {
    let run = async {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked };
        let (_sender, _connection) = open(near, settings, || {}).await.unwrap();
        let mut said = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(60), far.read_to_end(&mut said)).await;
        let mut frames = &said[24..];
        let mut pings = 0;
        while let [a, b, c, kind, ..] = *frames {
            pings += usize::from(kind == 6);
            frames = &frames[9 + u32::from_be_bytes([0, a, b, c]) as usize..];
        }
        (ended.is_err(), pings)
    };
    LocalSet::new().run_until(run).await
}

#[tokio::test(start_paused = true)]
async fn an_app_that_says_nothing_is_left_alone() {
    assert_eq!(silent_minute(true).await, (false, 1));
    assert_eq!(silent_minute(false).await, (true, 0));
}

#[tokio::test]
async fn a_peer_that_is_doubted_is_asked() {
    let run = async {
        let (near, far) = tokio::io::duplex(1 << 16);
        let server =
            spawn_local(async move { serve(far, &Limits::default(), IDLE, std::future::pending(), echo).await });
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked: true };
        let (_sender, connection) = open(near, settings, || {}).await.unwrap();
        for _ in 0..3 {
            connection.life.doubt();
            connection.life.sign().await;
            assert!(!connection.life.is_doubted());
        }
        server.abort();
        connection.life.doubt();
        connection.life.sign().await;
        assert!(connection.closed.get());
    };
    tokio::time::timeout(Duration::from_secs(20), LocalSet::new().run_until(run)).await.expect("it hangs");
}

/// Its kernel may still acknowledge what comes.
#[tokio::test(start_paused = true)]
async fn a_peer_that_hangs_gives_no_sign() {
    let run = async {
        let (near, _far) = tokio::io::duplex(1 << 16);
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked: true };
        let (_sender, connection) = open(near, settings, || {}).await.unwrap();
        connection.life.doubt();
        let sign = tokio::time::timeout(Duration::from_millis(1900), connection.life.sign()).await;
        assert!(sign.is_err() && connection.life.is_doubted() && !connection.closed.get());
        connection.life.sign().await;
        assert!(connection.closed.get());
    };
    LocalSet::new().run_until(run).await;
}

/// How long a server keeps a peer that sends these bytes and no more.
async fn kept(bytes: &'static [u8]) -> Duration {
    let (mut near, far) = tokio::io::duplex(1 << 16);
    let start = tokio::time::Instant::now();
    let server = spawn_local(async move { serve(far, &Limits::default(), IDLE, std::future::pending(), echo).await });
    near.write_all(bytes).await.unwrap();
    drop(server.await.unwrap());
    start.elapsed()
}

/// As HTTP/1.1's: by `request_head` for what must come first, by `idle` for what may come later.
#[tokio::test(start_paused = true)]
async fn who_begins_nothing_is_not_waited_for() {
    let run = async {
        let head = Limits::default().request_head;
        for bytes in [&b""[..], b"PRI * HTTP/2.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            assert_eq!(kept(bytes).await.as_secs(), head.as_secs(), "{}", bytes.escape_ascii());
        }
    };
    LocalSet::new().run_until(run).await;
}

/// What is on its way to a server that ends already isn't lost: the server reads it before it says so.
#[tokio::test(start_paused = true)]
async fn who_comes_to_a_server_that_ends_is_answered() {
    let run = async {
        let (near, far) = tokio::io::duplex(1 << 16);
        spawn_local(async move { serve(far, &Limits::default(), IDLE, std::future::ready(()), echo).await });
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked: true };
        let (mut sender, _) = open(near, settings, || {}).await.unwrap();
        let response = send(&mut sender, request(Relay::Empty), None).await.map_err(|failed| failed.error).unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    };
    LocalSet::new().run_until(run).await;
}

/// A proxy's callers may all go at once, and with what they asked for comes what others ask for.
#[tokio::test(start_paused = true)]
async fn who_takes_back_all_that_is_open_keeps_the_connection() {
    let run = async {
        let (mut near, far) = tokio::io::duplex(1 << 16);
        spawn_local(async move { serve(far, &Limits::default(), IDLE, std::future::pending(), echo).await });
        let ask = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, b"\x82\x86\x84\x41\x01a");
        let take_back = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        let taken_back = (0..200).flat_map(|at| [ask(2 * at + 1), take_back(2 * at + 1)].concat());
        let mut sent = [PREFACE, &frame(SETTINGS, 0, 0, b"")].concat();
        sent.extend(taken_back.chain(ask(1001)));
        near.write_all(&sent).await.unwrap();
        loop {
            let heard = Heard::next(&mut near).await.unwrap();
            assert_ne!(heard.kind, GOAWAY, "{}", heard.payload.escape_ascii());
            if heard.kind == HEADERS && heard.stream == 1001 {
                return;
            }
        }
    };
    LocalSet::new().run_until(run).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_streams_ends_and_one_with_a_silent_stream_does_not() {
    let run = async {
        let start = tokio::time::Instant::now();
        let (near, far) = tokio::io::duplex(1 << 16);
        let slow = |request: Request<Arriving>| async move {
            if let Some(opening) = Upgrading::take(&request) {
                spawn_local(async move {
                    let mut tunnel = opening.await.unwrap();
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                    tunnel.shutdown().await.unwrap();
                });
                return Response::new(Relay::Empty);
            }
            let wait = request.uri().path()[1..].parse().unwrap();
            tokio::time::sleep(Duration::from_secs(wait)).await;
            Response::new(Relay::Empty)
        };
        let server =
            spawn_local(async move { serve(far, &Limits::default(), IDLE, std::future::pending(), slow).await });
        // It answers pings.
        let (mut sender, connection) = h2::client::handshake(near).await.unwrap();
        let connection = spawn_local(connection);
        let ask = |path: &str| Request::get(format!("http://app/{path}")).body(()).unwrap();
        for wait in ["3600", "0", "70"] {
            sender.send_request(ask(wait), true).unwrap().0.await.unwrap();
        }
        while !sender.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        let connect = Request::connect("http://app/x").extension(Protocol::from("websocket")).body(()).unwrap();
        let (answer, stream) = sender.send_request(connect, false).unwrap();
        let mut received = answer.await.unwrap().into_body();
        while let Some(data) = received.data().await {
            assert!(data.unwrap().is_empty());
        }
        let busy = start.elapsed();
        assert!(busy.as_secs() >= 7270, "{busy:?}");
        drop((stream, received));
        server.await.unwrap().unwrap();
        let idle = start.elapsed() - busy;
        assert!(idle >= IDLE && idle <= 2 * IDLE, "{idle:?}");
        // It was told.
        connection.await.unwrap().unwrap();
    };
    // Of its hours none pass.
    tokio::time::timeout(Duration::from_secs(100_000), LocalSet::new().run_until(run)).await.expect("it never ends");
}

/// Many small fields cost more than their bytes; HTTP/1.1 has a limit of them as well.
#[tokio::test]
async fn many_fields_are_refused_and_many_cookies_are_not() {
    let ignore = async |_: Request<Arriving>| Response::new(Relay::Empty);
    with_server(ignore, |mut sender| async move {
        for (name, number, status) in
            [("x", 100, 200), ("x", 129, 431), ("cookie", 180, 200), ("cookie", 300, 431), ("cookie", 1500, 431)]
        {
            let mut request = request(Relay::Empty);
            for _ in 0..number {
                request.headers_mut().append(name, HeaderValue::from_static("a"));
            }
            let response = send(&mut sender, request, None).await.ok().unwrap();
            assert_eq!(response.status(), status, "{number} of {name}");
        }
    })
    .await;
}
