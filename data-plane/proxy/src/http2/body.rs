//! Bodies over one HTTP/2 stream, within its flow control.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use tokio::task::AbortHandle;

use crate::http1::is_framing;

/// A body as it comes. Room is given back to the peer as it is taken, so whoever doesn't poll slows the peer down.
pub(crate) struct Receiving {
    stream: RecvStream,
    /// What is still to come of a body that said its length.
    length: Option<u64>,
    data_done: bool,
    /// Of the request whose answer this is, if its body hasn't been sent to its end.
    upload: Option<AbortHandle>,
}

/// Why a body couldn't be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unsent {
    /// The peer wants no more of it, or the connection is gone.
    Peer,
    /// It broke off on its way here.
    Source,
}

impl Receiving {
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        // h2 has checked that there is one, and that it is kept to.
        let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, length, data_done: false, upload: None }
    }

    /// Ends the upload when this is dropped before its own end: nobody will see what comes of it.
    pub(super) fn abort_with(&mut self, upload: AbortHandle) {
        self.upload = Some(upload);
    }
}

/// Sends a body to its end; trailers too.
pub(super) async fn send_body<B>(mut body: B, mut to: SendStream<Bytes>) -> Result<(), Unsent>
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        let frame = poll_fn(|cx| {
            if to.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Unsent::Peer));
            }
            Pin::new(&mut body).poll_frame(cx).map(Ok)
        });
        match frame.await? {
            None => return to.send_data(Bytes::new(), true).map_err(|_| Unsent::Peer),
            Some(Err(_)) => {
                to.send_reset(Reason::INTERNAL_ERROR);
                return Err(Unsent::Source);
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    send_data(data, last, &mut to).await?;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    return to.send_trailers(trailers).map_err(|_| Unsent::Peer);
                }
            },
        }
    }
}

async fn send_data(mut data: Bytes, last: bool, to: &mut SendStream<Bytes>) -> Result<(), Unsent> {
    if data.is_empty() && last {
        return to.send_data(data, true).map_err(|_| Unsent::Peer);
    }
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let room = poll_fn(|cx| {
            // Room that comes later wakes us; a reset must, too.
            match to.capacity() {
                0 if to.poll_reset(cx).is_ready() => Poll::Ready(None),
                0 => to.poll_capacity(cx),
                room => Poll::Ready(Some(Ok(room))),
            }
        });
        let Some(Ok(room)) = room.await else { return Err(Unsent::Peer) };
        let part = data.split_to(room.min(data.len()));
        to.send_data(part, last && data.is_empty()).map_err(|_| Unsent::Peer)?;
    }
    Ok(())
}

/// As HTTP/1.1's. None is what all have.
fn without_framing(trailers: HeaderMap) -> HeaderMap {
    if !trailers.keys().any(is_framing) {
        return trailers;
    }
    trailers.iter().filter(|(name, _)| !is_framing(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

// === impl Receiving ===

impl Body for Receiving {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only if the stream is closed: then nobody wants the room.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_done = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(without_framing(trailers))))),
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(length) => SizeHint::with_exact(length),
            None => SizeHint::default(),
        }
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take()
            && !self.stream.is_end_stream()
        {
            upload.abort();
        }
    }
}
