//! HTTP/2 connections that requests share, and plain requests on them.

use std::rc::Rc;

use anyhow::Result;
use bytes::Bytes;
use h2::{
    RecvStream,
    client::{Builder, SendRequest},
};
use http::Request;
use tokio::sync::Mutex;

use crate::{
    failure::Failure,
    target::{Target, To},
};

/// Flow control shall not be what is measured.
pub(crate) const WINDOW: u32 = 4 << 20;

/// A connection, made anew whenever it has broken: by the first of its users who notices.
#[derive(Debug)]
pub(crate) struct Lane {
    target: Target,
    current: Mutex<Option<Numbered>>,
}

#[derive(Debug, Clone)]
struct Numbered {
    number: u64,
    sender: SendRequest<Bytes>,
}

/// One user's hold on a lane.
#[derive(Debug)]
pub(crate) struct Sender {
    lane: Rc<Lane>,
    held: Option<Numbered>,
    /// The last one that it has had.
    number: u64,
    new_connections: bool,
}

#[derive(Debug)]
pub(crate) struct Http2 {
    sender: Sender,
    request: Request<()>,
}

// === impl Lane ===

impl Lane {
    pub(crate) fn new(to: &To) -> Rc<Self> {
        Rc::new(Self { target: to.to.clone(), current: Mutex::new(None) })
    }

    /// A connection later than the one of that number.
    async fn after(&self, number: u64) -> Result<Numbered, Failure> {
        let mut current = self.current.lock().await;
        if let Some(later) = current.as_ref().filter(|it| it.number > number) {
            return Ok(later.clone());
        }
        *current = None;
        let made = Numbered { number: number + 1, sender: self.connect().await? };
        *current = Some(made.clone());
        Ok(made)
    }

    async fn connect(&self) -> Result<SendRequest<Bytes>, Failure> {
        let mut builder = Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
        let (sender, connection) = builder.handshake(self.target.connect().await?).await?;
        // Its errors are those of the requests on it.
        tokio::task::spawn_local(async { connection.await.unwrap_or_default() });
        Ok(sender)
    }
}

// === impl Sender ===

impl Sender {
    pub(crate) fn new(lane: Rc<Lane>, new_connections: bool) -> Self {
        Self { lane, held: None, number: 0, new_connections }
    }

    /// Ready for one request. That a server ended a connection between two requests is no failure.
    pub(crate) async fn ready(&mut self) -> Result<SendRequest<Bytes>, Failure> {
        if self.new_connections {
            return Ok(self.lane.connect().await?.ready().await?);
        }
        if let Some(Numbered { number, sender }) = self.held.take()
            && let Ok(sender) = sender.ready().await
        {
            self.held = Some(Numbered { number, sender: sender.clone() });
            return Ok(sender);
        }
        let Numbered { number, sender } = self.lane.after(self.number).await?;
        self.number = number;
        let sender = sender.ready().await?;
        self.held = Some(Numbered { number, sender: sender.clone() });
        Ok(sender)
    }
}

// === impl Http2 ===

impl Http2 {
    pub(crate) fn new(to: &To, sender: Sender) -> Result<Self> {
        Ok(Self { sender, request: to.http2()? })
    }

    pub(crate) async fn exchange(&mut self) -> Result<u64, Failure> {
        let (response, _) = self.sender.ready().await?.send_request(self.request.clone(), true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut bytes = 0;
        while let Some(chunk) = next(&mut body).await? {
            bytes += chunk.len() as u64;
        }
        if head.status.is_success() { Ok(bytes) } else { Err(Failure::Status(head.status.as_u16())) }
    }
}

pub(crate) async fn next(body: &mut RecvStream) -> Result<Option<Bytes>, Failure> {
    let Some(chunk) = body.data().await.transpose()? else { return Ok(None) };
    body.flow_control().release_capacity(chunk.len())?;
    Ok(Some(chunk))
}
