//! Our server and our client against each other and against bytes, over a pipe in memory.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::oneshot,
    task::{LocalSet, spawn_local},
};

use super::*;
use crate::{
    http::{Arriving, Relay, Upgrading},
    pool::Failed,
    stream::Io,
};

const LIMIT: usize = 16 * 1024;

impl Io for DuplexStream {}

async fn within<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("it hangs")
}

/// Gives a request's body back, chunked if it came so, with its trailers.
async fn echo(request: Request<Arriving>) -> Response<Relay> {
    Response::new(Relay::Request { inner: request.into_body(), upload: Rc::default() })
}

/// A server's other end.
fn served<H, F>(handle: H) -> DuplexStream
where
    H: Fn(Request<Arriving>) -> F + 'static,
    F: Future<Output = Response<Relay>> + 'static,
{
    let (near, far) = duplex(1 << 16);
    spawn_local(async move { serve(far, LIMIT, &Cell::new(Ending::Never), handle).await });
    near
}

/// All that a server answers to these bytes until it closes.
async fn answers(mut peer: DuplexStream, bytes: &str) -> String {
    peer.write_all(bytes.as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    peer.read_to_end(&mut answers).await.unwrap();
    String::from_utf8(answers).unwrap()
}

/// What our client makes of an answer.
async fn asked(answer: &str) -> Result<Answer, Failed> {
    let (near, mut far) = duplex(1 << 16);
    far.write_all(answer.as_bytes()).await.unwrap();
    far.shutdown().await.unwrap();
    // Whoever reads the request: it must not be broken off.
    spawn_local(async move { far.read_to_end(&mut Vec::new()).await });
    send(Connection::new(near), Request::get("/").body(Relay::Empty).unwrap().into(), LIMIT).await
}

fn relayed(body: Bytes) -> Relay {
    Relay::Full(body)
}

#[tokio::test]
async fn one_request_after_the_other_on_one_connection() {
    within(async {
        let mut connection = Connection::new(served(echo));
        let long = Bytes::from(vec![3; 3 << 20]);
        for body in [Bytes::new(), Bytes::from_static(b"short"), long, Bytes::from_static(b"again")] {
            assert!(connection.is_open());
            let request = Request::post("/").header("host", "a").body(relayed(body.clone())).unwrap().into();
            let Answer { response, connection: back, .. } = send(connection, request, LIMIT).await.ok().unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.body().size_hint().exact(), Some(body.len() as u64));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body);
            connection = back.unwrap();
            // What is left of an upload is marked as sent by its own task.
            tokio::task::yield_now().await;
            assert!(connection.is_reusable(), "{} bytes", body.len());
        }
    })
    .await;
}

#[tokio::test]
async fn hyper_as_client_and_as_server() {
    within(async {
        let io = hyper_util::rt::TokioIo::new(served(echo));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        spawn_local(connection);
        for _ in 0..2 {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-end", HeaderValue::from_static("1"));
            let frames = [
                Frame::data(Bytes::from_static(b"one ")),
                Frame::data(Bytes::from(vec![b'x'; 100_000])),
                Frame::trailers(trailers),
            ];
            let body = StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, io::Error>)));
            let request = Request::post("/").header("host", "a").header("trailer", "x-end").body(body).unwrap();
            let body = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
            assert!(body.trailers().is_some_and(|trailers| trailers.contains_key("x-end")));
            assert_eq!(body.to_bytes().len(), 100_004);
        }
        let (near, far) = duplex(1 << 16);
        let service = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
            Ok::<_, std::convert::Infallible>(Response::new(request.into_body()))
        });
        spawn_local(async move {
            hyper::server::conn::http1::Builder::new()
                .serve_connection(hyper_util::rt::TokioIo::new(far), service)
                .await
        });
        let mut connection = Connection::new(near);
        for size in [0, 10, 100_000] {
            let request = Request::put("/").header("host", "a").body(relayed(vec![1; size].into())).unwrap().into();
            let Answer { response, connection: back, .. } = send(connection, request, LIMIT).await.ok().unwrap();
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), size);
            connection = back.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn requests_in_one_piece_are_answered_in_order_until_one_closes() {
    within(async {
        let handle = async |request: Request<Arriving>| Response::new(relayed(request.uri().path().to_owned().into()));
        let requests = "GET /a HTTP/1.1\r\n\r\nHEAD /b HTTP/1.1\r\n\r\nGET /c HTTP/1.0\r\n\r\nGET /d HTTP/1.1\r\n\r\n";
        let want = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/aHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\
                    HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n/c";
        let mut peer = served(handle);
        peer.write_all(requests.as_bytes()).await.unwrap();
        let mut answers = vec![0; want.len()];
        peer.read_exact(&mut answers).await.unwrap();
        assert_eq!(String::from_utf8(answers).unwrap(), want);
        assert_eq!(peer.read(&mut [0]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http_is_told_so_and_the_connection_ends() {
    within(async {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
        let long = format!("GET / HTTP/1.1\r\na: {}", "b".repeat(LIMIT));
        for (request, status) in [
            ("nonsense\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\na : b\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n", 400),
            ("GET / HTTP/1.1\n\n", 400),
            ("GET / HTTP/1.1\r\n\n", 400),
            ("GET / HTTP/1.1\nhost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\n\r\n", 400),
            ("GET / HTTP/1.1\r\nhost: a\nb: c\r\n\r\n", 400),
            ("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 501),
            (&many, 431),
            (&long, 431),
        ] {
            let answer = answers(served(echo), request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
            assert!(answer.contains("connection: close\r\n"), "{request:?}: {answer:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_read_is_not_the_next_request() {
    within(async {
        let ignore = async |_: Request<Arriving>| Response::new(Relay::Empty);
        // There already: skipped.
        let (body, next) = ("GET /smuggled", "GET / HTTP/1.1\r\nconnection: close\r\n\r\n");
        let whole = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{body}{next}", body.len());
        assert_eq!(answers(served(ignore), &whole).await.matches("HTTP/1.1 200").count(), 2);
        // Still to come: the connection ends, and says so.
        let part = format!("POST / HTTP/1.1\r\ncontent-length: 1000\r\n\r\n{body}");
        let answer = answers(served(ignore), &part).await;
        assert_eq!((answer.matches("HTTP/1.1 200").count(), answer.contains("connection: close")), (1, true));
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_expects_a_word_gets_one_if_its_body_is_wanted() {
    within(async {
        let collect = async |request: Request<Arriving>| {
            let body = request.into_body().collect().await.unwrap();
            Response::new(relayed(body.to_bytes()))
        };
        let request = "POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
        let mut peer = served(collect);
        peer.write_all(request.as_bytes()).await.unwrap();
        let mut word = [0; 25];
        peer.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
        peer.write_all(b"late").await.unwrap();
        let mut head = [0; 42];
        peer.read_exact(&mut head).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&head), "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate");
        let unwanted = served(async |_| Response::new(Relay::Empty));
        assert!(answers(unwanted, request).await.starts_with("HTTP/1.1 200 OK\r\n"));
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_has_gone_cancels_its_request() {
    struct Noticed(Option<oneshot::Sender<()>>);
    impl Drop for Noticed {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }
    within(async {
        let (cancelled, noticed) = oneshot::channel();
        let guard = Cell::new(Some(Noticed(Some(cancelled))));
        let mut peer = served(move |_| {
            let guard = guard.take();
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        });
        peer.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        drop(peer);
        noticed.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_ends_when_it_is_asked_to_and_a_busy_one_after_its_answer() {
    within(async {
        let ending = Cell::new(Ending::Now);
        let (_near, far) = duplex(100);
        serve(far, LIMIT, &ending, echo).await.unwrap();
        let (mut near, far) = duplex(1000);
        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        serve(far, LIMIT, &ending, echo).await.unwrap();
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_has_grown_old_ends_with_an_answer_and_never_between_two() {
    within(async {
        let now = Instant::now();
        let ending = Cell::new(Ending::WithAnswer(now + Duration::from_secs(3600)));
        let (mut near, far) = duplex(1000);
        let mut serving = Box::pin(serve(far, LIMIT, &ending, echo));
        near.write_all(b"GET /young HTTP/1.1\r\n\r\n").await.unwrap();
        assert!((&mut serving).now_or_never().is_none(), "it was closed though it is young");
        ending.set(Ending::WithAnswer(now));
        assert!((&mut serving).now_or_never().is_none(), "it was closed while its peer may be sending");
        near.write_all(b"GET /old HTTP/1.1\r\n\r\n").await.unwrap();
        serving.await.unwrap();
        let mut answers = String::new();
        near.read_to_string(&mut answers).await.unwrap();
        assert_eq!(answers.matches("HTTP/1.1 200").count(), 2, "{answers}");
        assert_eq!(answers.matches("connection: close\r\n").count(), 1, "{answers}");
    })
    .await;
}

#[tokio::test]
async fn answers_of_apps() {
    within(async {
        let one = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        for (answer, body, reusable) in [
            (one, Some("abc"), true),
            (&*format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n{one}"), Some("abc"), true),
            ("HTTP/1.1 200 OK\r\n\r\nto the end", Some("to the end"), false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Some("abc"), true),
            ("HTTP/1.1 204 No Content\r\n\r\n", Some(""), true),
            (&*format!("{one}{one}"), Some("abc"), false),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", None, false),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", None, false),
        ] {
            let Answer { response, connection, request } = asked(answer).await.ok().unwrap();
            assert!(request.is_some());
            let read = response.into_body().collect().await.ok().map(|body| body.to_bytes());
            assert_eq!(read, body.map(|body| Bytes::from(body.to_owned())), "{answer:?}");
            assert_eq!(connection.unwrap().is_reusable(), reusable, "{answer:?}");
        }
        for answer in
            ["", "HTTP/1.1 200", "SSH-2.0\r\n\r\n", "HTTP/1.1 101 Changed\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"]
        {
            assert!(asked(answer).await.is_err_and(|failed| !failed.unsent), "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_found_nobody_comes_back() {
    within(async {
        let (near, far) = duplex(100);
        let connection = Connection::new(near);
        drop(far);
        assert!(!connection.is_open());
        let request = Request::get("/").body(Relay::Empty).unwrap().into();
        let failed = send(connection, request, LIMIT).await.err().unwrap();
        assert!(failed.request.is_some() && failed.unsent);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_has_been_sent() {
    within(async {
        let (near, mut far) = duplex(1000);
        let long = Bytes::from(vec![1; 100_000]);
        let app = spawn_local(async move {
            far.read_exact(&mut [0; 100]).await.unwrap();
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await.unwrap();
            let mut taken = 100;
            while taken < 100_000 {
                taken += far.read(&mut [0; 4096]).await.unwrap();
            }
            far.write_all(b"k").await.unwrap();
            far
        });
        let request = Request::post("/").body(relayed(long)).unwrap().into();
        let Answer { response, connection, request } = send(Connection::new(near), request, LIMIT).await.ok().unwrap();
        assert!(request.is_none());
        let connection = connection.unwrap();
        assert!(!connection.is_reusable());
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
        let _far = app.await.unwrap();
        assert!(connection.is_reusable());
    })
    .await;
}

#[tokio::test]
async fn both_sides_change_the_protocol() {
    within(async {
        let peer = served(|request| async move {
            let changed = Upgrading::take(&request).unwrap();
            spawn_local(async move {
                let mut stream = changed.await.unwrap();
                let mut heard = [0; 5];
                stream.read_exact(&mut heard).await.unwrap();
                stream.write_all(&heard).await.unwrap();
            });
            let answer = Response::builder().status(101).header("upgrade", "shout").header("connection", "upgrade");
            answer.body(Relay::Empty).unwrap()
        });
        let request = Request::builder().method(Method::GET).header("upgrade", "shout").header("connection", "upgrade");
        let Answer { response, connection, .. } =
            send(Connection::new(peer), request.body(Relay::Empty).unwrap().into(), LIMIT).await.ok().unwrap();
        assert!(connection.is_none());
        let Arriving::Tunnel(mut stream) = response.into_body() else { panic!("no tunnel") };
        stream.write_all(b"hello").await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"hello");
    })
    .await;
}

/// Each may be followed by another, but not for ever.
#[tokio::test]
async fn informational_answers_end_somewhere() {
    within(async {
        for (number, answered) in [(0, true), (100, true), (101, false)] {
            let words = "HTTP/1.1 102 Processing\r\n\r\n".repeat(number);
            let asked = asked(&(words + "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
            assert_eq!(asked.is_ok_and(|answer| answer.response.status() == 200), answered, "{number}");
        }
    })
    .await;
}
