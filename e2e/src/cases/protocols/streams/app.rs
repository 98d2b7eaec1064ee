//! The apps: each gives back what it hears, for as long as somebody listens.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use anyhow::Result;
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::http2::{alone, tokio_stream};
use crate::raw::Wire;

const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const PING: u8 = 6;
const ACK: u8 = 1;

/// A connection that counts the PINGs that its reader is asked by.
struct Asked<S> {
    inner: S,
    head: Vec<u8>,
    /// Bytes until the next frame begins.
    skip: usize,
    pings: Arc<AtomicU64>,
}

pub(super) fn tcp(stream: TcpStream) -> Result<()> {
    echo(stream)
}

/// A WebSocket, or one answer.
pub(super) fn http1(stream: TcpStream) -> Result<()> {
    let mut wire = Wire::of(stream.try_clone()?)?;
    if wire.head()?.header("upgrade").is_none() {
        return wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
    wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")?;
    stream.set_read_timeout(None)?;
    echo(stream)
}

fn echo(mut stream: TcpStream) -> Result<()> {
    let mut heard = [0; 4096];
    loop {
        match stream.read(&mut heard)? {
            0 => return Ok(()),
            length => stream.write_all(&heard[..length])?,
        }
    }
}

pub(super) fn grpc(stream: TcpStream, pings: &Arc<AtomicU64>) -> Result<()> {
    alone(async {
        let asked = Asked { inner: tokio_stream(stream)?, head: Vec::new(), skip: PREFACE, pings: Arc::clone(pings) };
        let mut connection = h2::server::handshake(asked).await?;
        while let Some(request) = connection.accept().await {
            let (request, respond) = request?;
            tokio::task::spawn_local(back(request, respond));
        }
        Ok(())
    })?
}

async fn back(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) -> Result<()> {
    let head = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut to = respond.send_response(head, false)?;
    let mut from = request.into_body();
    while let Some(data) = from.data().await {
        let data = data?;
        from.flow_control().release_capacity(data.len())?;
        to.send_data(data, false)?;
    }
    let status = (http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"));
    Ok(to.send_trailers(HeaderMap::from_iter([status]))?)
}

// === impl Asked ===

impl<S> Asked<S> {
    fn look(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let (head, rest) = bytes.split_at(bytes.len().min(FRAME_HEAD - self.head.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            // RFC 9113 section 4.1: three octets of length, type, flags.
            if let [a, b, c, kind, flags, ..] = self.head[..]
                && self.head.len() == FRAME_HEAD
            {
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.pings.fetch_add(u64::from(kind == PING && flags & ACK == 0), Ordering::Relaxed);
                self.head.clear();
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Asked<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.look(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Asked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
