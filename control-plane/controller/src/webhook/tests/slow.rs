//! Peers that begin something and don't go on: each is given up after a while, and is in nobody's way until then. Real sockets
//! until they stall, then a clock that jumps to whatever is waited for.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::*;

/// Of the first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const HALF_A_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Reads until the server hangs up; what it has said, and after how long.
async fn until_the_end(mut stream: impl AsyncRead + Unpin) -> (Vec<u8>, Duration) {
    tokio::time::pause();
    let begun = Instant::now();
    let mut said = Vec::new();
    // Whether it says goodbye is all one.
    let _ = timeout(Duration::from_secs(3600), stream.read_to_end(&mut said)).await.expect("it waits for ever");
    let took = begun.elapsed();
    tokio::time::resume();
    (said, took)
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_given_up() {
    let port = Port::open().await;
    // Nothing at all, and the beginning of a record of a handshake.
    for begin in [&b""[..], &[22, 3, 1, 2, 0, 1][..]] {
        let mut stream = TcpStream::connect(port.address).await.unwrap();
        stream.write_all(begin).await.unwrap();
        let (_, took) = until_the_end(stream).await;
        assert!(took <= Duration::from_secs(11), "{begin:?}: {took:?}");
        port.know("shop", &[("outrigger.dev/mode", "sidecar")]);
        assert_eq!(port.review("/inject", &pod("shop")).await["allowed"], true);
    }
}

#[tokio::test]
async fn a_request_that_never_begins_is_given_up() {
    let port = Port::open().await;
    for (alpn, begin) in [
        (&b"http/1.1"[..], &b""[..]),
        (b"http/1.1", b"POST /inject HTTP/1.1\r\nhost: webhook\r\n"),
        (b"h2", b""),
        (b"h2", HALF_A_PREFACE),
    ] {
        let mut stream = port.connect(SERVICE, alpn).await;
        stream.write_all(begin).await.unwrap();
        stream.flush().await.unwrap();
        let (said, took) = until_the_end(stream).await;
        let begin = String::from_utf8_lossy(begin);
        assert!(took <= Duration::from_secs(21), "{begin:?}: {took:?}");
        assert!(!String::from_utf8_lossy(&said).contains("200"), "{begin:?}: {said:?}");
    }
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let port = Port::open().await;
    let mut stream = port.connect(SERVICE, b"http/1.1").await;
    let head = "POST /inject HTTP/1.1\r\nhost: webhook\r\ncontent-length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let (said, took) = until_the_end(stream).await;
    assert!(String::from_utf8_lossy(&said).starts_with("HTTP/1.1 504"), "{said:?}");
    assert!(took <= Duration::from_secs(11), "{took:?}");
}

#[tokio::test]
async fn a_connection_that_was_used_may_rest() {
    let port = Port::open().await;
    port.know("shop", &[("outrigger.dev/mode", "sidecar")]);
    let stream = TokioIo::new(port.connect(SERVICE, b"h2").await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let body = Full::<Bytes>::from(pod("shop").to_string());
        let request = Request::post(format!("https://{SERVICE}/inject")).body(body).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        drop(answer.into_body().collect().await.unwrap());
        tokio::time::pause();
        tokio::time::sleep(Duration::from_secs(25)).await;
        tokio::time::resume();
    }
}
