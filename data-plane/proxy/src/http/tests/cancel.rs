//! A caller may go at any moment. Wherever its request is then, nothing of it stays behind.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use h2::server;

use super::*;
use crate::http2;

/// A future that is dropped when it has been polled so many times.
struct Polls<F> {
    future: Option<Pin<Box<F>>>,
    left: usize,
}

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.left == 0 {
            self.future = None;
        }
        let Some(future) = &mut self.future else { return Poll::Ready(None) };
        let polled = future.as_mut().poll(cx).map(Some);
        self.left -= 1;
        if self.left == 0 {
            cx.waker().wake_by_ref();
        }
        polled
    }
}

/// Lets all others come as far as they can without more bytes.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// An app that takes its time for everything, so that there is much to wait for.
async fn slow_http1() -> Rig {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let mut read = Vec::new();
                loop {
                    // Requests have the same length, but for the number of their chunks.
                    while !read.ends_with(b"0\r\n\r\n") {
                        if !stream.read_buf(&mut read).await.is_ok_and(|read| read > 0) {
                            return;
                        }
                    }
                    read.clear();
                    for part in
                        ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\n", "transfer-encoding: chunked\r\n\r\n"]
                            .into_iter()
                            .chain(["3\r\nabc\r\n"; 4])
                            .chain(["0\r\n\r\n"])
                    {
                        settle().await;
                        if stream.write_all(part.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Rig::new(address, Seen::default(), one_at_a_time(wire::Protocol::Http), wire::Protocol::Http)
}

async fn slow_http2() -> Rig {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(async move {
                let Ok(mut connection) = server::handshake(stream).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    spawn_local(async move {
                        let mut body = request.into_body();
                        while let Some(Ok(data)) = body.data().await {
                            let _ = body.flow_control().release_capacity(data.len());
                        }
                        settle().await;
                        let Ok(mut stream) = respond.send_response(Response::new(()), false) else { return };
                        for at in 0..4 {
                            settle().await;
                            if stream.send_data(Bytes::from_static(b"abc"), at == 3).is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        }
    });
    Rig::new(address, Seen::default(), one_at_a_time(wire::Protocol::Http2), wire::Protocol::Http2)
}

/// A place that isn't given back fails the next request.
fn one_at_a_time(protocol: wire::Protocol) -> wire::Service {
    let policy = wire::TrafficPolicy { max_connections: 1, ..wire::TrafficPolicy::default() };
    wire::Service { traffic_policy: Some(policy), ..service(protocol) }
}

/// Serves one connection of a caller that sends a request with a body, piece by piece, and reads its answer; `polls` times
/// at most. Says whether the answer came, and how many requests were begun.
async fn served(rig: &Rig, way: Way, http2: bool, polls: usize) -> (bool, usize) {
    let begun = Rc::new(Cell::new(0));
    let (mut near, far) = duplex(1 << 16);
    let (departure, arrival, count) = (rig.departure(), rig.arrival(false), begun.clone());
    let handle = move |request| {
        let (departure, arrival) = (departure.clone(), arrival.clone());
        count.set(count.get() + 1);
        async move {
            match way {
                Way::Out => forward(departure, request).await,
                _ => deliver(arrival, request).await,
            }
        }
    };
    let caller = spawn_local(async move {
        if http2 {
            let (mut sender, connection) = h2::client::handshake(near).await.ok()?;
            let driver = spawn_local(connection);
            let request = Request::post("http://a/x").body(()).unwrap();
            let (answer, mut body) = sender.send_request(request, false).ok()?;
            for at in 0..3 {
                settle().await;
                body.send_data(Bytes::from_static(b"abc"), at == 2).ok()?;
            }
            let mut answer = answer.await.ok()?.into_body();
            let mut length = 0;
            while let Some(data) = answer.data().await {
                length += data.ok()?.len();
            }
            drop((sender, body, answer));
            let _ = driver.await;
            return Some(length);
        }
        let head = "POST /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
        for part in [head, "3\r\nabc\r\n", "3\r\nabc\r\n", "3\r\nabc\r\n", "0\r\n\r\n"] {
            settle().await;
            near.write_all(part.as_bytes()).await.ok()?;
        }
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.ok()?;
        answer.ends_with(b"0\r\n\r\n").then(|| answer.windows(3).filter(|part| part == b"abc").count() * 3)
    });
    let limits = Limits::default();
    let ending = Cell::new(Ending::Never);
    // HTTP/2's requests are tasks of their own: they are cancelled by the end of their connection.
    let whole = if http2 {
        let serving = http2::serve(far, &limits, limits.idle, std::future::pending(), handle);
        Polls { future: Some(Box::pin(serving)), left: polls }.await.is_some()
    } else {
        Polls { future: Some(Box::pin(http1::serve(far, 16 * 1024, &ending, handle))), left: polls }.await.is_some()
    };
    let length = caller.await.unwrap();
    assert!(!whole || length == Some(12), "{length:?}");
    (whole, begun.get())
}

#[tokio::test]
async fn a_caller_that_goes_at_any_moment_leaves_nothing_behind() {
    within(async {
        for (rig, app) in [(slow_http1().await, "HTTP/1.1"), (slow_http2().await, "HTTP/2")] {
            let mut requests = 0;
            for way in [Way::Out, Way::In] {
                // A caller's HTTP/2 is the app's as well.
                for http2 in if app == "HTTP/2" { &[false, true][..] } else { &[false] } {
                    let mut polls = 0;
                    loop {
                        polls += 1;
                        let (whole, begun) = served(&rig, way, *http2, polls).await;
                        settle().await;
                        requests += begun;
                        let at = format!("{app}, {way:?}, HTTP/2: {http2}, {polls} polls");
                        assert_eq!((rig.in_flight(), rig.streams(), rig.records()), (0, 0, requests), "{at}");
                        if whole {
                            break;
                        }
                    }
                    assert!(polls > 5, "{app}, {way:?}, HTTP/2: {http2}: nothing to wait for in {polls} polls");
                }
            }
            assert_eq!(rig.worker.engine.active.count(), 0);
        }
    })
    .await;
}
