//! Sending a message: its head and what there is of its body go out in one write.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    mem,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};

use super::{
    encode::{self, Framing, LAST_CHUNK},
    wire::Wire,
};

/// A message on its way out.
pub(super) struct Outgoing<B> {
    wire: Rc<Wire>,
    body: B,
    framing: Framing,
    /// There is nothing more to come of the body.
    over: bool,
    /// To be written: this from `at` on, then `bulk`, then `tail`.
    out: Vec<u8>,
    at: usize,
    bulk: Bytes,
    tail: &'static [u8],
    /// Some of it has been written.
    pub(super) begun: bool,
}

/// Why a message couldn't be sent.
#[derive(Debug)]
pub(super) enum Unsent {
    Peer(io::Error),
    /// Its body broke off on its way here.
    Source,
}

/// So much of a body is copied behind what is before it; more is written from where it is.
const COPY: usize = 4 * 1024;
/// The body isn't asked for more while so much is to be written.
const GATHER: usize = 16 * 1024;
const CRLF: &[u8] = b"\r\n";
const LAST: &[u8] = b"\r\n0\r\n\r\n";
/// The largest buffer that is kept for the next message.
const KEPT: usize = 32 * 1024;

thread_local! {
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A buffer for a head.
pub(super) fn scratch() -> Vec<u8> {
    SCRATCH.take()
}

fn keep(mut scratch: Vec<u8>) {
    if (1..=KEPT).contains(&scratch.capacity()) {
        scratch.clear();
        SCRATCH.set(scratch);
    }
}

impl<B> Outgoing<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) fn new(wire: Rc<Wire>, head: Vec<u8>, body: B, framing: Framing) -> Self {
        let over = framing == Framing::None;
        Self { wire, body, framing, over, out: head, at: 0, bulk: Bytes::new(), tail: &[], begun: false }
    }

    /// Sends it to its end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unsent>> {
        loop {
            let waits = self.gather(cx)?;
            while self.at < self.out.len() || !self.bulk.is_empty() || !self.tail.is_empty() {
                let written = ready!(self.poll_write(cx)).map_err(Unsent::Peer)?;
                self.begun = true;
                self.advance(written);
            }
            self.at = 0;
            keep(mem::take(&mut self.out));
            if self.over {
                return self.wire.poll_flush(cx).map_err(Unsent::Peer);
            }
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Takes what there is of the body. `true`: more comes later.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, Unsent> {
        while !self.over && self.bulk.is_empty() && self.out.len() - self.at < GATHER {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => self.end()?,
                Poll::Ready(Some(Err(_))) => return Err(Unsent::Source),
                Poll::Ready(Some(Ok(frame))) => {
                    self.take(frame)?;
                    if !self.over && self.body.is_end_stream() {
                        self.end()?;
                    }
                }
            }
        }
        Ok(false)
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), Unsent> {
        let data = match frame.into_data() {
            Ok(data) if data.is_empty() => return Ok(()),
            Ok(data) => data,
            Err(frame) => {
                if let (Framing::Chunked, Some(trailers)) = (self.framing, frame.trailers_ref()) {
                    encode::trailers(&mut self.out, trailers);
                    self.over = true;
                }
                return Ok(());
            }
        };
        let chunked = self.framing == Framing::Chunked;
        if let Framing::Sized(left) = &mut self.framing {
            // More than was said would be taken for the next message.
            *left = left.checked_sub(data.len() as u64).ok_or(Unsent::Source)?;
        }
        if chunked {
            encode::chunk_size(&mut self.out, data.len() as u64);
        }
        if data.len() > COPY {
            self.bulk = data;
            self.tail = if chunked { CRLF } else { &[] };
        } else {
            self.out.extend_from_slice(&data);
            if chunked {
                self.out.extend_from_slice(CRLF);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Unsent> {
        self.over = true;
        match self.framing {
            Framing::Sized(1..) => Err(Unsent::Source),
            Framing::Chunked if self.bulk.is_empty() => {
                self.out.extend_from_slice(LAST_CHUNK);
                Ok(())
            }
            Framing::Chunked => {
                self.tail = LAST;
                Ok(())
            }
            Framing::None | Framing::Sized(0) | Framing::ToEnd => Ok(()),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let pieces = [&self.out[self.at..], &self.bulk, self.tail].map(IoSlice::new);
        let from = pieces.iter().position(|piece| !piece.is_empty()).unwrap_or_default();
        let to = pieces.iter().rposition(|piece| !piece.is_empty()).unwrap_or_default();
        self.wire.poll_write(cx, &pieces[from..=to])
    }

    fn advance(&mut self, mut written: usize) {
        let n = written.min(self.out.len() - self.at);
        self.at += n;
        written -= n;
        let n = written.min(self.bulk.len());
        self.bulk.advance(n);
        self.tail = &self.tail[written - n..];
        if self.bulk.is_empty() {
            // Or it would keep its memory while the body waits.
            self.bulk = Bytes::new();
        }
    }
}

impl<B> Drop for Outgoing<B> {
    fn drop(&mut self) {
        keep(mem::take(&mut self.out));
    }
}
