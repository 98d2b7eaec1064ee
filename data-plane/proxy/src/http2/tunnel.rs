//! A stream that carries bytes of another protocol (RFC 8441), as a byte stream.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Both directions of one stream.
pub(crate) struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received and not read yet.
    rest: Bytes,
    /// Its connection isn't idle while this lives.
    _open: Option<Arc<()>>,
}

/// Of one write, so that one stream doesn't take the whole connection's room.
const WRITE: usize = 16 * 1024;

impl Tunnel {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream, open: Option<Arc<()>>) -> Self {
        Self { send, recv, rest: Bytes::new(), _open: open }
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => {
                    let _ = self.recv.flow_control().release_capacity(data.len());
                    self.rest = data;
                }
                Some(Err(error)) if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let n = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..n]);
        self.rest.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if let Poll::Ready(reset) = self.send.poll_reset(cx) {
            let error =
                reset.map_or_else(broken, |reason| io::Error::new(io::ErrorKind::BrokenPipe, reason.to_string()));
            return Poll::Ready(Err(error));
        }
        let wanted = buf.len().min(WRITE);
        self.send.reserve_capacity(wanted);
        let room = loop {
            match ready!(self.send.poll_capacity(cx)) {
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Some(Ok(0)) => {}
                Some(Ok(room)) => break room.min(wanted),
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        };
        self.send.send_data(Bytes::copy_from_slice(&buf[..room]), false).map_err(broken)?;
        Poll::Ready(Ok(room))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Fails only if the stream is closed already.
        let _ = self.send.send_data(Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}
