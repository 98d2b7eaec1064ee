//! HTTP/2 with prior knowledge, and gRPC in all its forms.

use std::{net::TcpStream, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use outrigger_testbed::Machine;
use tokio::{runtime, task::LocalSet, time::timeout};

use super::{HTTP2, Way, mesh, ways};
use crate::raw::{PATIENCE, Server, every, pattern};

/// More than any window.
const BIG: usize = 8 << 20;
/// Streams on one connection at once.
const STREAMS: usize = 64;

/// An answer to its end.
struct Answer {
    head: http::response::Parts,
    body: Vec<u8>,
    trailers: HeaderMap,
}

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let _server = Server::in_pod(mesh.pod("test/server")?, HTTP2, serve)?;
    let _plain = Server::in_pod(mesh.pod("test/plain")?, HTTP2, serve)?;
    let mut results = Vec::new();
    for way in ways(&mesh, HTTP2)? {
        for (name, check) in [
            ("gRPC unary", Check::Unary),
            ("gRPC server streaming", Check::Streaming),
            ("gRPC trailers-only error", Check::TrailersOnly),
            ("trailers both ways", Check::Trailers),
            ("8 MiB both ways", Check::Big),
            ("many streams", Check::Many),
        ] {
            let result = alone(async { timeout(2 * PATIENCE, check.run(&way)).await })?;
            results.push((format!("{name}, {}", way.name), result.unwrap_or_else(|_| bail!("never ended"))));
        }
    }
    every(results)
}

#[derive(Clone, Copy)]
enum Check {
    Unary,
    Streaming,
    TrailersOnly,
    Trailers,
    Big,
    Many,
}

impl Check {
    async fn run(self, way: &Way<'_>) -> Result<()> {
        let stream = way.caller.namespace.connect(way.to, PATIENCE)?;
        let (client, connection) = h2::client::handshake(tokio_stream(stream)?).await?;
        tokio::task::spawn_local(connection);
        let message = framed(b"a message");
        match self {
            Self::Unary => {
                let answer = ask(client, "/test.Echo/Unary", message.clone()).await?;
                ensure!(answer.body == message && answer.grpc_status() == Some("0"), "{:?}", answer.trailers);
            }
            Self::Streaming => {
                let answer = ask(client, "/test.Echo/Stream", message.clone()).await?;
                ensure!(answer.body == message.repeat(5) && answer.grpc_status() == Some("0"), "{:?}", answer.trailers);
            }
            Self::TrailersOnly => {
                let answer = ask(client, "/test.Echo/Fail", message).await?;
                let status = answer.head.headers.get("grpc-status");
                ensure!(status.is_some_and(|status| status == "5") && answer.body.is_empty(), "{:?}", answer.head);
                ensure!(answer.trailers.is_empty(), "made into {:?}", answer.trailers);
            }
            Self::Trailers => {
                let answer = ask(client, "/echo", b"body".to_vec()).await?;
                ensure!(answer.trailers.get("x-sum").is_some_and(|sum| sum == "4"), "{:?}", answer.trailers);
            }
            Self::Big => {
                let body = pattern(BIG);
                let answer = ask(client, "/echo", body.clone()).await?;
                ensure!(answer.body == body, "{} bytes came back, or others", answer.body.len());
            }
            Self::Many => {
                let asked = (0..STREAMS).map(|turn| {
                    let body = pattern(1000 + turn);
                    let client = client.clone();
                    tokio::task::spawn_local(async move {
                        let answer = ask(client, "/echo", body.clone()).await?;
                        ensure!(answer.body == body, "another stream's body");
                        Ok(())
                    })
                });
                for one in asked.collect::<Vec<_>>() {
                    one.await??;
                }
            }
        }
        Ok(())
    }
}

impl Answer {
    fn grpc_status(&self) -> Option<&str> {
        self.trailers.get("grpc-status")?.to_str().ok()
    }
}

/// One request with a body and, as a trailer, its length.
async fn ask(client: h2::client::SendRequest<Bytes>, path: &str, body: Vec<u8>) -> Result<Answer> {
    let mut client = client.ready().await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://raw{path}"))
        .header("content-type", if path.starts_with("/test.") { "application/grpc" } else { "text/plain" })
        .header("te", "trailers")
        .body(())?;
    let (answer, to) = client.send_request(request, false)?;
    let sum = HeaderValue::from(body.len());
    let sent = tokio::task::spawn_local(async move {
        let mut to = send(to, body.into()).await?;
        to.send_trailers(HeaderMap::from_iter([(http::HeaderName::from_static("x-sum"), sum)])).context("trailers")
    });
    let (head, mut from) = answer.await.context("the answer's head")?.into_parts();
    let (body, trailers) = receive(&mut from).await.context("the answer's body")?;
    // Who answers without listening may refuse the rest.
    let _ = sent.await?;
    Ok(Answer { head, body, trailers })
}

/// The app, on a thread of its own.
fn serve(stream: TcpStream) -> Result<()> {
    alone(async {
        let mut connection = h2::server::handshake(tokio_stream(stream)?).await?;
        while let Some(request) = connection.accept().await {
            let (request, respond) = request?;
            tokio::task::spawn_local(answer(request, respond));
        }
        Ok(())
    })?
}

async fn answer(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) -> Result<()> {
    let path = request.uri().path().to_owned();
    let (body, mut trailers) = receive(&mut request.into_body()).await?;
    let mut head = Response::builder().header("content-type", "application/grpc");
    if path == "/test.Echo/Fail" {
        head = head.header("grpc-status", "5").header("grpc-message", "not here");
        respond.send_response(head.body(())?, true)?;
        return Ok(());
    }
    let mut to = respond.send_response(head.body(())?, false)?;
    let times = if path == "/test.Echo/Stream" { 5 } else { 1 };
    for turn in 0..times {
        if turn > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        to = send(to, body.clone().into()).await?;
    }
    if path.starts_with("/test.") {
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
    }
    Ok(to.send_trailers(trailers)?)
}

/// As fast as the other end takes it.
async fn send(mut to: SendStream<Bytes>, mut body: Bytes) -> Result<SendStream<Bytes>> {
    while !body.is_empty() {
        to.reserve_capacity(body.len());
        let room = std::future::poll_fn(|cx| to.poll_capacity(cx)).await.context("the stream was closed")??;
        to.send_data(body.split_to(room.min(body.len())), false)?;
    }
    Ok(to)
}

async fn receive(from: &mut RecvStream) -> Result<(Vec<u8>, HeaderMap)> {
    let mut body = Vec::new();
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    Ok((body, from.trailers().await?.unwrap_or_default()))
}

/// gRPC's length-prefixed message.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0], &length[..], message].concat()
}

pub(super) fn tokio_stream(stream: TcpStream) -> Result<tokio::net::TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    Ok(tokio::net::TcpStream::from_std(stream)?)
}

/// On a runtime of this thread.
pub(crate) fn alone<T>(work: impl Future<Output = T>) -> Result<T> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(LocalSet::new().block_on(&runtime, work))
}
