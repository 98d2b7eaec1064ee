//! Byte streams that the proxy hands around: one type for what can be dialled, one for bytes read ahead.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use nix::sys::uio::readv;
use outrigger_wire::tunnel;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::{
    chunk::{Chunk, PAYLOAD, Size},
    http2::Tunnel,
    tls::TlsStream,
};

/// What every stream here can do: carry bytes, and carry them in chunks, which saves copies where a stream knows how.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Ready when filling may bring something, so that nobody holds memory while nothing comes.
    fn poll_fillable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Reads into an empty chunk. One that stays empty means the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        poll_fill_slot(self, cx, chunk)
    }

    /// Sends all of a chunk, which is empty afterwards, and whatever had to be sent before it.
    fn poll_drain(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        ready!(chunk.poll_write_to(cx, self))?;
        Pin::new(self).poll_flush(cx)
    }

    /// The socket, if bytes may bypass whatever is between: nothing has been read ahead, and nothing changes them.
    fn bare(&self) -> Option<&TcpStream> {
        None
    }
}

fn poll_fill_slot<S>(stream: &mut S, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>>
where
    S: AsyncRead + Unpin + ?Sized,
{
    let mut buf = ReadBuf::new(chunk.slot());
    ready!(Pin::new(stream).poll_read(cx, &mut buf))?;
    let read = buf.filled().len();
    chunk.fill(read);
    Poll::Ready(Ok(()))
}

/// A dialled connection.
pub(crate) enum Link {
    Plain(TcpStream),
    Tls(TlsStream),
}

/// A stream whose first bytes have been read already.
pub(crate) struct Prefixed<S> {
    prefix: BytesMut,
    inner: S,
}

impl<S> Prefixed<S> {
    pub(crate) fn new(prefix: BytesMut, inner: S) -> Self {
        Self { prefix, inner }
    }

    /// Puts back what was read.
    pub(crate) fn unread(self, read: BytesMut) -> Self {
        debug_assert!(self.prefix.is_empty());
        Self { prefix: read, inner: self.inner }
    }
}

/// Reads one frame of a [`tunnel`], without its length. Takes as long as the peer does.
pub(crate) async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).await?;
    let len = tunnel::frame_len(prefix).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let mut frame = vec![0; len];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

// === impl TcpStream, Tunnel, Box ===

impl Io for Tunnel {}

impl Io for Box<dyn Io> {
    fn poll_fillable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        (**self).poll_fillable(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        (**self).poll_fill(cx, chunk)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        (**self).poll_drain(cx, chunk)
    }

    fn bare(&self) -> Option<&TcpStream> {
        (**self).bare()
    }
}

impl Io for TcpStream {
    fn poll_fillable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        if chunk.size() == Size::Small {
            return poll_fill_slot(self, cx, chunk);
        }
        loop {
            ready!(self.poll_read_ready(cx))?;
            let mut slots = chunk.slots();
            let mut read = None;
            let tried = self.try_io(Interest::READABLE, || {
                let n = readv(&*self, &mut slots)?;
                read = Some(n);
                // Less than asked for, so there is no more: the next attempt waits for the event loop.
                if n > 0 && n < slots.len() * PAYLOAD { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if let Some(read) = read {
                chunk.fill(read);
                return Poll::Ready(Ok(()));
            }
            match tried {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                _ => {}
            }
        }
    }

    fn bare(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

// === impl Prefixed ===

impl<S: Io> Io for Prefixed<S> {
    fn poll_fillable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() { self.inner.poll_fillable(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return self.inner.poll_fill(cx, chunk);
        }
        self.prefix.advance(chunk.put(&self.prefix));
        if self.prefix.is_empty() {
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        self.inner.poll_drain(cx, chunk)
    }

    fn bare(&self) -> Option<&TcpStream> {
        self.inner.bare().filter(|_| self.prefix.is_empty())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..n]);
        self.prefix.advance(n);
        if self.prefix.is_empty() {
            self.prefix = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

// === impl Link ===

impl Link {
    pub(crate) fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.socket(),
        }
    }
}

impl Io for Link {
    fn poll_fillable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_fillable(cx),
            Self::Tls(stream) => stream.poll_fillable(cx),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_fill(cx, chunk),
            Self::Tls(stream) => stream.poll_fill(cx, chunk),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>, chunk: &mut Chunk) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_drain(cx, chunk),
            Self::Tls(stream) => stream.poll_drain(cx, chunk),
        }
    }

    fn bare(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(stream) => stream.bare(),
            Self::Tls(_) => None,
        }
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
