//! Bodies: as they arrive, and what is carried from one side to the other, counted on the way.

use std::{
    cell::Cell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::Exchange;
use crate::{http1, http2, stream::Io};

/// A body as it comes from a peer.
pub(crate) enum Arriving {
    Empty,
    Http1(http1::Receiving),
    Http2(http2::Receiving),
    /// The peer has agreed to change the protocol: no body, but bytes.
    Tunnel(Box<dyn Io>),
}

/// A body on its way through.
pub(crate) enum Relay {
    Empty,
    /// Made here.
    Full(Bytes),
    /// Of a request, counted for its exchange.
    Request {
        inner: Arriving,
        upload: Rc<Upload>,
    },
    /// Of an answer; ends the exchange.
    Answer(Box<Answer>),
}

/// How far a request's body has come.
#[derive(Default)]
pub(crate) struct Upload {
    pub(super) bytes: Cell<u64>,
    /// The caller broke it off.
    pub(super) broke: Cell<bool>,
}

impl Upload {
    fn add(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
    }
}

pub(crate) struct Answer {
    inner: Arriving,
    /// Taken when the body has ended.
    exchange: Option<Box<Exchange>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the answer took longer than the route allows")]
    Deadline,
    #[error(transparent)]
    Http1(#[from] http1::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl Relay {
    pub(crate) fn answer(inner: Arriving, exchange: Box<Exchange>, deadline: Option<Instant>) -> Self {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        Self::Answer(Box::new(Answer { inner, exchange: Some(exchange), deadline }))
    }
}

// === impl Arriving ===

impl Body for Arriving {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(_) => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Tunnel(_) => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

// === impl Relay ===

impl Body for Relay {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Request { inner, upload } => {
                let polled = Pin::new(inner).poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => upload.add(frame.data_ref().map_or(0, |data| data.len() as u64)),
                    Poll::Ready(Some(Err(_))) => upload.broke.set(true),
                    Poll::Ready(None) | Poll::Pending => {}
                }
                polled
            }
            Self::Answer(answer) => answer.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Request { inner, .. } => inner.is_end_stream(),
            Self::Answer(answer) => answer.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Request { inner, .. } => inner.size_hint(),
            Self::Answer(answer) => answer.inner.size_hint(),
        }
    }
}

// === impl Answer ===

impl Answer {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_pending() {
            if let Some(deadline) = &mut self.deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                if let Some(exchange) = self.exchange.take() {
                    exchange.broken("request_timeout");
                }
                return Poll::Ready(Some(Err(BodyError::Deadline)));
            }
            return Poll::Pending;
        }
        let Some(exchange) = &mut self.exchange else { return polled };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    exchange.received += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    exchange.see_grpc_status(trailers);
                }
            }
            Poll::Ready(None) => self.complete(),
            Poll::Ready(Some(Err(_))) => {
                if let Some(exchange) = self.exchange.take() {
                    exchange.broken("upstream_reset");
                }
            }
            Poll::Pending => {}
        }
        polled
    }

    fn complete(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.complete();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body of known length is not polled once more after its last byte.
        if self.inner.is_end_stream() {
            self.complete();
        } else if let Some(exchange) = self.exchange.take() {
            exchange.broken("downstream_gone");
        }
    }
}
