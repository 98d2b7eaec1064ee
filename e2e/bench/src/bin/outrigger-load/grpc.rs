//! gRPC calls to a server that returns each message: unary ones, and messages within one bidirectional stream.

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, Request, Response};

use crate::{
    failure::Failure,
    http2::{Sender, next},
    pattern::Pattern,
    target::To,
};

const CORRUPT: Failure = Failure::Wrong("corrupt");

#[derive(Debug)]
pub(crate) struct Unary {
    sender: Sender,
    request: Request<()>,
    message: Bytes,
}

#[derive(Debug)]
pub(crate) struct Stream {
    sender: Sender,
    request: Request<()>,
    message: Bytes,
    call: Option<Call>,
}

#[derive(Debug)]
struct Call {
    send: SendStream<Bytes>,
    receive: Receive,
}

/// A server may wait for the first message before it answers at all.
#[derive(Debug)]
enum Receive {
    Head(ResponseFuture),
    Body(RecvStream),
}

/// With its prefix: not compressed, and its length.
pub(crate) fn message(pattern: &Pattern, size: usize) -> Bytes {
    let mut message = BytesMut::with_capacity(5 + size);
    message.put_u8(0);
    message.put_u32(size as u32);
    while message.len() < 5 + size {
        let position = message.len() - 5;
        message.put_slice(pattern.at(position as u64, (size - position) as u64));
    }
    message.freeze()
}

// === impl Unary ===

impl Unary {
    pub(crate) fn new(to: &To, sender: Sender, message: Bytes) -> Result<Self> {
        Ok(Self { sender, request: to.http2()?, message })
    }

    pub(crate) async fn exchange(&mut self) -> Result<u64, Failure> {
        let (response, mut send) = self.sender.ready().await?.send_request(self.request.clone(), false)?;
        send.send_data(self.message.clone(), true)?;
        let mut body = accepted(response.await?)?;
        let mut left = &self.message[..];
        while let Some(chunk) = next(&mut body).await? {
            left = left.strip_prefix(&chunk[..]).ok_or(CORRUPT)?;
        }
        ended(body.trailers().await?.as_ref())?;
        if left.is_empty() { Ok(self.message.len() as u64) } else { Err(Failure::Wrong("message cut short")) }
    }
}

// === impl Stream ===

impl Stream {
    pub(crate) fn new(to: &To, sender: Sender, message: Bytes) -> Result<Self> {
        Ok(Self { sender, request: to.http2()?, message, call: None })
    }

    pub(crate) async fn exchange(&mut self) -> Result<u64, Failure> {
        // Out of its place while in use: after a failure it is gone.
        let mut call = match self.call.take() {
            Some(call) => call,
            None => {
                let (response, send) = self.sender.ready().await?.send_request(self.request.clone(), false)?;
                Call { send, receive: Receive::Head(response) }
            }
        };
        call.send.send_data(self.message.clone(), false)?;
        let mut body = call.receive.body().await?;
        let mut left = &self.message[..];
        while !left.is_empty() {
            let Some(chunk) = next(&mut body).await? else {
                ended(body.trailers().await?.as_ref())?;
                return Err(Failure::CLOSED);
            };
            left = left.strip_prefix(&chunk[..]).ok_or(CORRUPT)?;
        }
        self.call = Some(Call { send: call.send, receive: Receive::Body(body) });
        Ok(self.message.len() as u64)
    }

    /// Ends the call, for its status.
    pub(crate) async fn finish(&mut self) -> Result<(), Failure> {
        let Some(Call { mut send, receive }) = self.call.take() else { return Ok(()) };
        send.send_data(Bytes::new(), true)?;
        let mut body = receive.body().await?;
        if next(&mut body).await?.is_some() {
            return Err(CORRUPT);
        }
        ended(body.trailers().await?.as_ref())
    }
}

// === impl Receive ===

impl Receive {
    async fn body(self) -> Result<RecvStream, Failure> {
        match self {
            Self::Head(response) => accepted(response.await?),
            Self::Body(body) => Ok(body),
        }
    }
}

/// An answer that has its status in the head has no body.
fn accepted(response: Response<RecvStream>) -> Result<RecvStream, Failure> {
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        return Err(Failure::Status(head.status.as_u16()));
    }
    if head.headers.contains_key("grpc-status") {
        ended(Some(&head.headers))?;
    }
    Ok(body)
}

fn ended(trailers: Option<&HeaderMap>) -> Result<(), Failure> {
    match trailers.and_then(|it| it.get("grpc-status")).map(http::HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        Some(status) => Err(Failure::Grpc(String::from_utf8_lossy(status).into_owned())),
        None => Err(Failure::Wrong("no grpc-status")),
    }
}
