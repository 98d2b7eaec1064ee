//! Apps with HTTP/2 that take no request, or not this one.

use h2::{Reason, server};
use http::{Method, StatusCode};
use http_body_util::BodyExt;

use super::*;

fn ask(method: &Method) -> Request<Arriving> {
    Request::builder().method(method).uri("http://a/x").version(http::Version::HTTP_2).body(Arriving::Empty).unwrap()
}

async fn read(response: Response<Relay>) -> StatusCode {
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

/// A stream that was refused has not been worked on, whatever its method (RFC 9113 section 8.7).
#[tokio::test]
async fn what_was_refused_is_sent_again() {
    within(async {
        let rig = Rig::http2(|stream, seen| async move {
            let mut connection = server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                seen.borrow_mut().push(request.method().to_string());
                if seen.borrow().len() == 1 {
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    respond.send_response(Response::new(()), true).unwrap();
                }
            }
        })
        .await;
        for method in [Method::GET, Method::POST, Method::PATCH] {
            for way in [Way::Out, Way::In] {
                if method == Method::GET && way == Way::In {
                    // The caller's proxy has the copy.
                    continue;
                }
                let answer = match way {
                    Way::In => deliver(rig.arrival(false), ask(&method)).await,
                    _ => rig.call(ask(&method)).await,
                };
                assert_eq!(read(answer).await, StatusCode::OK, "{method} {way:?}");
                assert_eq!(rig.seen.take(), [method.as_str(), method.as_str()]);
            }
        }
        assert_eq!(rig.streams(), 0);
    })
    .await;
}

/// A GOAWAY says of later streams that they weren't worked on (RFC 9113 section 6.8).
#[tokio::test]
async fn what_goaway_leaves_out_is_sent_again() {
    within(async {
        let rig = Rig::http2(|mut stream, seen| async move {
            let first = seen.borrow().is_empty();
            seen.borrow_mut().push(String::new());
            if !first {
                let mut connection = server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_response(Response::new(()), true).unwrap();
                }
                return;
            }
            // SETTINGS, and once the request has come, a GOAWAY that counts no stream.
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut read = Vec::new();
            // HEADERS that end their stream, the first.
            while !read.windows(6).any(|bytes| bytes == b"\x01\x05\x00\x00\x00\x01") {
                stream.read_buf(&mut read).await.unwrap();
            }
            stream.write_all(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
            let _ = stream.read_to_end(&mut read).await;
        })
        .await;
        assert_eq!(read(rig.call(ask(&Method::POST)).await).await, StatusCode::OK);
        assert_eq!((rig.seen.take().len(), rig.streams()), (2, 0));
    })
    .await;
}

/// SETTINGS_MAX_CONCURRENT_STREAMS of 0 (CVE-2021-32780) ends in an answer, and in few connections.
#[tokio::test]
async fn who_takes_no_streams_is_not_waited_for() {
    within(async {
        let rig = Rig::http2(|stream, seen| async move {
            seen.borrow_mut().push(String::new());
            let mut connection =
                server::Builder::new().max_concurrent_streams(0).handshake::<_, Bytes>(stream).await.unwrap();
            while connection.accept().await.is_some() {}
        })
        .await;
        for method in [Method::GET, Method::POST, Method::GET] {
            let answer = rig.call(ask(&method)).await;
            assert_eq!(read(answer).await, StatusCode::SERVICE_UNAVAILABLE, "{method}");
            assert!(rig.streams() == 0 && rig.connections() <= 1, "{} {}", rig.streams(), rig.connections());
            assert!(rig.seen.take().len() <= 6);
        }
    })
    .await;
}

/// One that allowed some streams before it allowed none: what waits for its turn isn't told.
#[tokio::test(start_paused = true)]
async fn who_takes_no_streams_any_more_is_not_waited_for_either() {
    use crate::http2::{Full, Settings, open, send};
    let run = async {
        let (near, mut far) = duplex(1 << 16);
        let settings = Settings { header_bytes: 16 * 1024, streams: 100, asked: true };
        let (sender, connection) = open(near, settings, || {}).await.unwrap();
        let allow = |streams: u8| [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, streams];
        far.write_all(&allow(1)).await.unwrap();
        while connection.allowed.get() != 1 {
            tokio::task::yield_now().await;
        }
        let _first = spawn_local({
            let mut sender = sender.clone();
            async move { send(&mut sender, Box::new(ask(&Method::GET).map(|_| Relay::Empty)), None).await.map(drop) }
        });
        tokio::task::yield_now().await;
        far.write_all(&allow(0)).await.unwrap();
        let limit = Duration::from_secs(1);
        let waits = Some(Full { connection: &connection, look: limit });
        let sent = send(&mut sender.clone(), Box::new(ask(&Method::GET).map(|_| Relay::Empty)), waits).await;
        assert!(matches!(
            sent,
            Err(crate::pool::Failed { error: crate::pool::UpstreamError::Full, unsent: false, .. })
        ));
        // Its keeper lives: the peer does say something.
        drop(far);
    };
    LocalSet::new().run_until(run).await;
}
