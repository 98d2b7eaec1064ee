//! Backends: as little work as their protocol allows.

use std::{convert::Infallible, future::poll_fn, rc::Rc};

use anyhow::{Context, Result};
use bytes::Bytes;
use clap::ValueEnum;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    failure::Failure,
    http2::{WINDOW, next},
};

const BUFFER: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Http1,
    H2,
    Grpc,
    TcpEcho,
}

/// For ever. A connection that breaks is its client's affair.
pub(crate) async fn serve(listener: &TcpListener, kind: Kind, size: usize) -> Result<()> {
    let body = Bytes::from(vec![b'x'; size]);
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        tokio::task::spawn_local(async move {
            let _ended = match kind {
                Kind::Http1 => http1(stream, body).await,
                Kind::H2 => http2(stream, body).await,
                Kind::Grpc => grpc(stream).await,
                Kind::TcpEcho => echo(stream).await,
            };
        });
    }
}

async fn http1(stream: TcpStream, body: Bytes) -> Result<()> {
    let answer = |request: Request<Incoming>| {
        let body = body.clone();
        async move {
            // A body that isn't read would end the connection.
            let _ = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Full::new(body)))
        }
    };
    let mut builder = http1::Builder::new();
    builder.header_read_timeout(None).half_close(true);
    Ok(builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await?)
}

async fn http2(stream: TcpStream, body: Bytes) -> Result<()> {
    let mut connection = builder().handshake(stream).await?;
    let mut head = Response::new(());
    head.headers_mut().insert("content-length", HeaderValue::from(body.len()));
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let (head, body) = (head.clone(), body.clone());
        if request.body().is_end_stream() {
            // Sent as its window allows, by the connection.
            let _ = respond.send_response(head, false).and_then(|mut send| send.send_data(body, true));
            continue;
        }
        tokio::task::spawn_local(async move {
            let mut asked = request.into_body();
            while next(&mut asked).await?.is_some() {}
            respond.send_response(head, false)?.send_data(body, true)?;
            Ok::<_, Failure>(())
        });
    }
    Ok(())
}

async fn grpc(stream: TcpStream) -> Result<()> {
    let mut connection = builder().handshake(stream).await?;
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let head = Rc::new(head);
    while let Some(request) = connection.accept().await {
        let (request, respond) = request?;
        tokio::task::spawn_local(call(request.into_body(), respond, head.clone()));
    }
    Ok(())
}

/// A message is its bytes: what returns them returns all messages, of a unary call and of a stream alike.
async fn call(
    mut body: h2::RecvStream,
    mut respond: SendResponse<Bytes>,
    head: Rc<Response<()>>,
) -> Result<(), Failure> {
    let mut send = respond.send_response((*head).clone(), false)?;
    while let Some(chunk) = body.data().await.transpose()? {
        let length = chunk.len();
        // The end of the other side's stream. Peers take a few empty frames in a row for an attack.
        if length == 0 {
            continue;
        }
        send.reserve_capacity(length);
        while send.capacity() < length {
            poll_fn(|cx| send.poll_capacity(cx)).await.ok_or(Failure::CLOSED)??;
        }
        send.send_data(chunk, false)?;
        body.flow_control().release_capacity(length)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(send.send_trailers(trailers)?)
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    builder
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(stream.shutdown().await?);
        }
        stream.write_all(&buffer[..read]).await?;
    }
}
