//! The one place where bytes are carried between two streams.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    chunk::{Appetite, Chunk},
    stream::Io,
};

/// Bytes carried by one connection, as seen from the first stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the first stream to the second.
    pub(crate) sent: u64,
    /// From the second stream to the first.
    pub(crate) received: u64,
}

/// One direction.
#[derive(Default)]
struct Way {
    state: State,
    chunk: Chunk,
    appetite: Appetite,
    carried: u64,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Fill,
    Drain,
    /// The one side has ended; the other is told.
    End,
    Ended,
}

/// After so many bytes other connections have their turn.
const TURN: u64 = 1024 * 1024;

/// Carries bytes both ways until both sides have closed. Half-closes are passed on. Holds memory only while bytes are
/// under way in it.
///
/// # Errors
/// When either stream fails; what was carried until then is lost to the count.
pub(crate) async fn pump<A: Io, B: Io>(first: &mut A, second: &mut B) -> io::Result<Carried> {
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let sent = there.poll(cx, first, second)?;
        let received = back.poll(cx, second, first)?;
        match (sent, received) {
            (Poll::Ready(sent), Poll::Ready(received)) => Poll::Ready(Ok(Carried { sent, received })),
            _ => Poll::Pending,
        }
    })
    .await
}

// === impl Way ===

impl Way {
    fn poll<A: Io, B: Io>(&mut self, cx: &mut Context<'_>, from: &mut A, to: &mut B) -> Poll<io::Result<u64>> {
        let turn = self.carried + TURN;
        loop {
            match self.state {
                State::Fill if self.carried >= turn => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                State::Fill => {
                    ready!(from.poll_fillable(cx))?;
                    self.chunk = Chunk::take(self.appetite.size());
                    let filled = from.poll_fill(cx, &mut self.chunk)?;
                    if self.chunk.is_empty() {
                        self.chunk.release();
                        ready!(filled);
                        self.state = State::End;
                    } else {
                        self.appetite.learn(&self.chunk);
                        self.carried += self.chunk.len() as u64;
                        self.state = State::Drain;
                    }
                }
                State::Drain => {
                    ready!(to.poll_drain(cx, &mut self.chunk))?;
                    self.chunk.release();
                    self.state = State::Fill;
                }
                State::End => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(self.carried)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
