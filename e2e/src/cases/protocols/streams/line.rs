//! A caller's end of one stream.

use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::http2::{framed, tokio_stream};

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Tcp,
    WebSocket,
    Grpc,
}

pub(super) enum Line {
    Bytes(tokio::net::TcpStream),
    Grpc(SendStream<Bytes>, RecvStream, BytesMut),
}

// === impl Line ===

impl Line {
    pub(super) async fn open(kind: Kind, stream: TcpStream) -> Result<Self> {
        let stream = tokio_stream(stream)?;
        match kind {
            Kind::Tcp => Ok(Self::Bytes(stream)),
            Kind::WebSocket => upgraded(stream).await.map(Self::Bytes),
            Kind::Grpc => {
                let (client, connection) = h2::client::handshake(stream).await?;
                tokio::task::spawn_local(connection);
                let request = Request::builder()
                    .method(Method::POST)
                    .uri("http://raw/test.Echo/Bidi")
                    .header("content-type", "application/grpc")
                    .header("te", "trailers")
                    .body(())?;
                let (answer, to) = client.ready().await?.send_request(request, false)?;
                let from = answer.await.context("the answer's head")?.into_body();
                Ok(Self::Grpc(to, from, BytesMut::new()))
            }
        }
    }

    /// Says something that nobody has said before, and hears it.
    pub(super) async fn exchange(&mut self, number: u64) -> Result<()> {
        let message = framed(format!("{number:011}").as_bytes());
        self.say(&message).await.context("to say something")?;
        let heard = self.hear(message.len()).await.context("to hear it")?;
        ensure!(heard == message, "{:?} came back of {number}", String::from_utf8_lossy(&heard));
        Ok(())
    }

    /// Resolves when anything comes, or the end: nothing should.
    pub(super) async fn disturbed(&mut self) -> String {
        match self {
            Self::Bytes(stream) => format!("{:?}", stream.read_u8().await),
            Self::Grpc(_, from, _) => format!("{:?}", from.data().await),
        }
    }

    async fn say(&mut self, message: &[u8]) -> Result<()> {
        match self {
            Self::Bytes(stream) => Ok(stream.write_all(message).await?),
            // Shorter than any window.
            Self::Grpc(to, ..) => Ok(to.send_data(Bytes::copy_from_slice(message), false)?),
        }
    }

    async fn hear(&mut self, length: usize) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(stream) => {
                let mut heard = vec![0; length];
                stream.read_exact(&mut heard).await?;
                Ok(heard)
            }
            Self::Grpc(_, from, heard) => {
                while heard.len() < length {
                    let data = from.data().await.context("the stream has ended")??;
                    from.flow_control().release_capacity(data.len())?;
                    heard.extend_from_slice(&data);
                }
                Ok(heard.split_to(length).to_vec())
            }
        }
    }
}

/// What comes after the handshake is bytes to everybody on the way (RFC 6455 section 1.3).
async fn upgraded(mut stream: tokio::net::TcpStream) -> Result<tokio::net::TcpStream> {
    let ask = "GET /socket HTTP/1.1\r\nhost: raw\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
               sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(ask.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.context("the answer's head")?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101 "), "no WebSocket: {head:?}");
    Ok(stream)
}
