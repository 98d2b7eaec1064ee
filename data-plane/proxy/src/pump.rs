//! The one place where bytes are carried between two streams.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    chunk::{Appetite, Chunk, Size},
    splice::Pipe,
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
    pipe: Option<Pipe>,
    /// There was none to be had.
    no_pipe: bool,
    carried: u64,
}

#[derive(Default, Clone, Copy)]
enum State {
    #[default]
    Fill,
    Drain,
    /// What is carried is in the pipe.
    Splice,
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
                    if ready!(self.poll_pipe(cx, from, to))? {
                        continue;
                    }
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
                State::Splice => {
                    if let (Some(pipe), Some(to)) = (&mut self.pipe, to.bare()) {
                        ready!(pipe.poll_drain(cx, to))?;
                        if pipe.is_wasted() {
                            // Copies cost less, until they are large again.
                            self.pipe = None;
                            self.appetite = Appetite::default();
                        }
                    }
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

    /// Lets the kernel carry bulk between two bare sockets. `false`: there is none, or they aren't.
    fn poll_pipe<A: Io, B: Io>(&mut self, cx: &mut Context<'_>, from: &A, to: &B) -> Poll<io::Result<bool>> {
        let bulk = self.appetite.size() == Size::Large;
        let (true, Some(from), Some(_)) = (bulk, from.bare(), to.bare()) else { return Poll::Ready(Ok(false)) };
        if self.pipe.is_none() && !self.no_pipe {
            self.pipe = Pipe::new();
            self.no_pipe = self.pipe.is_none();
        }
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Ok(false)) };
        let moved = ready!(pipe.poll_fill(cx, from))?;
        self.carried += moved as u64;
        self.state = if moved > 0 { State::Splice } else { State::End };
        Poll::Ready(Ok(true))
    }
}

#[cfg(test)]
mod tests;
