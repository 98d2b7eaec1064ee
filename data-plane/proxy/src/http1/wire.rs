//! One connection: what has been read and not taken yet, and how far the message that is being read has come. Shared by
//! whoever writes to it and whoever reads a body from it, on one thread. Holds no memory while nothing comes.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::{
    Error,
    decode::{Decoder, Step},
};
use crate::{
    chunk::{Chunk, Size},
    stream::{Io, Prefixed},
};

pub(crate) struct Wire {
    inner: RefCell<Inner>,
    /// Somebody reads the body that is coming.
    held: Cell<bool>,
    /// Who waits for that to end.
    waiting: Cell<Option<Waker>>,
    /// The peer waits for a word before it sends its body (RFC 9110 section 10.1.1).
    pub(super) expects: Cell<bool>,
    /// Something is still to be written, or couldn't be.
    pub(super) unwritten: Cell<bool>,
    /// Another message may follow the one that is being read.
    pub(super) keep: Cell<bool>,
}

struct Inner {
    io: Box<dyn Io>,
    rest: Bytes,
    decoder: Decoder,
}

/// What parses a head: its length and itself, or `None` if it isn't whole yet.
pub(super) type Parse<T> = fn(&Bytes) -> Result<Option<(usize, T)>, Error>;

/// Of requests that come before the answer to an earlier one, this much is read.
const AHEAD: usize = 64 * 1024;
/// The most that is read of a body at once.
const READ: usize = 32 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Wire {
    pub(super) fn new(io: impl Io) -> Rc<Self> {
        let inner = Inner { io: Box::new(io), rest: Bytes::new(), decoder: Decoder::Done };
        Rc::new(Self {
            inner: RefCell::new(inner),
            held: Cell::new(false),
            waiting: Cell::default(),
            expects: Cell::new(false),
            unwritten: Cell::new(false),
            keep: Cell::new(true),
        })
    }

    /// Reads until a head is whole. `None`: the peer ended before it began. `seen` is for this alone; 0 at first.
    pub(super) fn poll_head<T>(
        &self,
        cx: &mut Context<'_>,
        seen: &mut usize,
        limit: usize,
        parse: Parse<T>,
    ) -> Poll<Result<Option<T>, Error>> {
        let inner = &mut *self.inner.borrow_mut();
        loop {
            // A head that comes byte by byte isn't parsed for each.
            let new = &inner.rest[seen.saturating_sub(3)..];
            if inner.rest.len() > *seen
                && (*seen == 0 || ends_head(new))
                && let Some((length, head)) = parse(&inner.rest)?
            {
                inner.take(length);
                *seen = 0;
                return Poll::Ready(Ok(Some(head)));
            }
            *seen = inner.rest.len();
            if *seen > limit {
                return Poll::Ready(Err(Error::TooLarge));
            }
            if ready!(inner.poll_read(cx, 0))? == 0 {
                return Poll::Ready(if *seen == 0 { Ok(None) } else { Err(Error::Cut) });
            }
        }
    }

    /// Nothing has come that isn't taken.
    pub(super) fn is_blank(&self) -> bool {
        self.inner.borrow().rest.is_empty()
    }

    /// A body is to come. Says whether there is anything of it to wait for.
    pub(super) fn expect(&self, decoder: Decoder) -> bool {
        let comes = decoder != Decoder::Done;
        self.held.set(comes);
        self.inner.borrow_mut().decoder = decoder;
        comes
    }

    pub(super) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.expects.get() {
            let written = ready!(self.poll_write(cx, &[IoSlice::new(CONTINUE)]))?;
            self.expects.set(false);
            // Into a buffer that is empty; if there is no room for so little, there is no peer.
            if written < CONTINUE.len() {
                return Poll::Ready(Some(Err(Error::Cut)));
            }
        }
        let inner = &mut *self.inner.borrow_mut();
        let polled = inner.poll_frame(cx);
        if inner.decoder == Decoder::Done {
            self.release();
        }
        polled
    }

    /// The message that is being read has been read to its end.
    pub(super) fn is_read(&self) -> bool {
        self.inner.borrow().decoder == Decoder::Done
    }

    /// What is still to come of a body that said its length.
    pub(super) fn left(&self) -> Option<u64> {
        self.inner.borrow().decoder.left()
    }

    /// Nobody reads the body any more.
    pub(super) fn release(&self) {
        if self.held.replace(false)
            && let Some(waker) = self.waiting.take()
        {
            waker.wake();
        }
    }

    pub(super) fn poll_released(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.held.get() {
            return Poll::Ready(());
        }
        self.waiting.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Whether nobody reads a body that is still to come. What has come of it already is taken.
    pub(super) fn is_abandoned(&self) -> bool {
        if self.held.get() {
            return false;
        }
        let inner = &mut *self.inner.borrow_mut();
        loop {
            match inner.decoder.step(&mut inner.rest) {
                Ok(Step::Done) => return false,
                Ok(Step::More) | Err(_) => return true,
                Ok(Step::Data(_) | Step::Trailers(_)) => {}
            }
        }
    }

    /// Ready when the peer has gone. Whoever reads a body notices that by itself.
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_released(cx));
        let inner = &mut *self.inner.borrow_mut();
        while inner.rest.len() < AHEAD {
            match ready!(inner.poll_read(cx, 0)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Throws away what comes; ready at the end.
    pub(super) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<()> {
        let inner = &mut *self.inner.borrow_mut();
        loop {
            inner.rest = Bytes::new();
            match ready!(inner.poll_read(cx, 0)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Whether a connection on which nothing is to come is still open, as far as the event loop has heard.
    pub(super) fn is_open(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.rest.is_empty() && inner.poll_read(&mut Context::from_waker(Waker::noop()), 0).is_pending()
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let io = &mut self.inner.borrow_mut().io;
        let written = match pieces {
            [piece] => ready!(Pin::new(io).poll_write(cx, piece)),
            pieces => ready!(Pin::new(io).poll_write_vectored(cx, pieces)),
        };
        Poll::Ready(match written? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            written => Ok(written),
        })
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner.borrow_mut().io).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner.borrow_mut().io).poll_shutdown(cx)
    }

    /// The bare stream, for another protocol.
    pub(super) fn into_stream(self) -> Box<dyn Io> {
        let Inner { io, rest, .. } = self.inner.into_inner();
        if rest.is_empty() { io } else { Box::new(Prefixed::new(BytesMut::from(rest), io)) }
    }
}

fn ends_head(bytes: &[u8]) -> bool {
    let lines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    lines.map(|(at, _)| &bytes[at + 1..]).any(|next| matches!(next, [b'\n', ..] | [b'\r', b'\n', ..]))
}

// === impl Inner ===

impl Inner {
    fn take(&mut self, length: usize) {
        self.rest.advance(length);
        if self.rest.is_empty() {
            // Or it would keep alive what it was part of.
            self.rest = Bytes::new();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match self.decoder.step(&mut self.rest)? {
                Step::Data(data) => {
                    self.take(0);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Step::Trailers(trailers) => return Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Step::Done => {
                    self.take(0);
                    return Poll::Ready(None);
                }
                Step::More => {}
            }
            let room = if self.rest.is_empty() { self.decoder.room(READ) } else { 0 };
            if ready!(self.poll_read(cx, room))? == 0 {
                self.decoder.end()?;
            }
        }
    }

    /// Reads more: into a buffer of its own if there is `room` for a body, else by way of one that all share.
    fn poll_read(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        ready!(self.io.poll_fillable(cx))?;
        if room > 0 {
            let mut memory = BytesMut::with_capacity(room);
            let read = ready!(pin!(self.io.read_buf(&mut memory)).poll(cx))?;
            self.rest = memory.freeze();
            return Poll::Ready(Ok(read));
        }
        let mut chunk = Chunk::take(Size::Small);
        ready!(self.io.poll_fill(cx, &mut chunk))?;
        let read = chunk.len();
        let mut all = Vec::with_capacity(self.rest.len() + read);
        all.extend_from_slice(&self.rest);
        chunk.append_to(&mut all);
        self.rest = Bytes::from(all);
        Poll::Ready(Ok(read))
    }
}
