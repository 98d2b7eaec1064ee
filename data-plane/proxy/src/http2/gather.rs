//! Writes of one pass of the event loop, gathered.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
};

/// Held before a write waits for the socket. Four TLS records.
const LIMIT: usize = 64 * 1024;
/// A buffer that has grown beyond is given back when it is empty.
const KEPT: usize = 16 * 1024;

/// A stream that keeps what is written to it until [`poll`](Self::poll) has seen the task once more. Clones are the same
/// stream: one is the HTTP/2 connection's, one its driver's.
pub(super) struct Gathered<S>(Rc<Inner<S>>);

struct Inner<S> {
    stream: RefCell<S>,
    written: RefCell<Written>,
    /// Reads that brought something: a sign of life.
    reads: Cell<u64>,
    turn: Cell<Turn>,
}

/// Reads since others have had theirs. However much a peer sends, and whatever that costs (SETTINGS by which the window of
/// every stream changes, a few bytes each), what else this thread does isn't kept waiting.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    bytes: usize,
    /// When there had been more than is over soon, whatever it is.
    long: Option<Instant>,
}

/// Bytes of a turn that need no look at a clock, and how long one with more of them may last.
const SHORT: usize = 8 * 1024;
const TURN: Duration = Duration::from_micros(250);

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    /// So many of them have gone out.
    sent: usize,
    /// The task has been woken to write them.
    due: bool,
    failed: Option<io::Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    pub(super) fn new(stream: S) -> Self {
        let (written, reads, turn) = (RefCell::default(), Cell::default(), Cell::default());
        Self(Rc::new(Inner { stream: RefCell::new(stream), written, reads, turn }))
    }

    pub(super) fn reads(&self) -> u64 {
        self.0.reads.get()
    }

    /// Polls a connection whose stream this is. What it writes goes out when the tasks that are ready now have run, so
    /// that theirs goes with it.
    pub(super) fn poll<R>(&self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<R>) -> Poll<R> {
        let polled = poll(cx);
        if polled.is_ready() {
            return polled;
        }
        self.0.turn.take();
        let mut written = self.0.written.borrow_mut();
        if written.is_empty() {
            written.due = false;
        } else if !written.due {
            written.due = true;
            cx.waker().wake_by_ref();
        } else {
            match written.drain(&mut *self.0.stream.borrow_mut(), cx) {
                Poll::Ready(Ok(())) => written.due = false,
                Poll::Ready(Err(error)) => {
                    written.failed = Some(error);
                    cx.waker().wake_by_ref();
                }
                // Woken when the socket can take more.
                Poll::Pending => {}
            }
        }
        polled
    }
}

// === impl Turn ===

impl Turn {
    fn is_over(&mut self) -> bool {
        self.bytes > SHORT && self.long.get_or_insert_with(Instant::now).elapsed() > TURN
    }
}

// === impl Written ===

impl Written {
    fn is_empty(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// Whether there is room; makes some if there isn't.
    fn poll_room<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Err(error));
        }
        if self.bytes.len() < LIMIT { Poll::Ready(Ok(())) } else { self.drain(stream, cx) }
    }

    fn drain<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            let n = ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.sent = 0;
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        Pin::new(stream).poll_flush(cx)
    }
}

// === impl Gathered ===

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut turn = self.0.turn.get();
        let is_over = turn.is_over();
        self.0.turn.set(turn);
        if is_over {
            // Woken once all that is ready has run and the sockets have been asked again; at once would be too early.
            return pin!(yield_now()).poll(cx).map(Ok);
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.0.reads.set(self.0.reads.get() + 1);
            turn.bytes += buf.filled().len() - before;
            self.0.turn.set(turn);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut written = self.0.written.borrow_mut();
        ready!(written.poll_room(&mut *self.0.stream.borrow_mut(), cx))?;
        written.bytes.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = self.0.written.borrow_mut();
        ready!(written.poll_room(&mut *self.0.stream.borrow_mut(), cx))?;
        let mut n = 0;
        for buf in bufs {
            written.bytes.extend_from_slice(buf);
            n += buf.len();
        }
        Poll::Ready(Ok(n))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done by [`Gathered::poll`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.written.borrow_mut().failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (mut written, mut stream) = (self.0.written.borrow_mut(), self.0.stream.borrow_mut());
        ready!(written.drain(&mut *stream, cx))?;
        Pin::new(&mut *stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::poll_fn};

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Remembers each write, and takes none while it is blocked.
    #[derive(Default)]
    struct Recorder {
        writes: VecDeque<Vec<u8>>,
        broken: bool,
        /// Has always more to read.
        talks: bool,
    }

    impl AsyncRead for Recorder {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if !self.talks {
                return Poll::Pending;
            }
            let room = buf.initialize_unfilled().len();
            buf.advance(room);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Recorder {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.writes.push_back(buf.to_vec());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Polls as a driver would, until nothing wakes it any more.
    async fn settle(gathered: &Gathered<Recorder>) {
        for _ in 0..3 {
            let _ = poll_fn(|cx| Poll::Ready(gathered.poll(cx, |_| Poll::<()>::Pending))).await;
        }
    }

    #[tokio::test]
    async fn what_is_written_in_one_pass_goes_out_at_once() {
        let gathered = Gathered::new(Recorder::default());
        let mut stream = gathered.clone();
        let first = poll_fn(|cx| {
            Poll::Ready(gathered.poll(cx, |cx| {
                assert!(Pin::new(&mut stream).poll_write(cx, b"one ").is_ready());
                Poll::<()>::Pending
            }))
        });
        assert!(first.await.is_pending());
        assert!(gathered.0.stream.borrow().writes.is_empty(), "written before the other tasks had their turn");
        stream.write_all(b"two").await.unwrap();
        stream.flush().await.unwrap();
        settle(&gathered).await;
        assert_eq!(gathered.0.stream.borrow().writes, [b"one two".to_vec()]);
    }

    /// Else a peer that never stops has the thread for itself.
    #[tokio::test]
    async fn who_always_has_more_to_say_lets_others_have_their_turn() {
        let gathered = Gathered::new(Recorder { talks: true, ..Recorder::default() });
        let mut stream = gathered.clone();
        let mut heard = 0;
        for _ in 0..3 {
            let turn = poll_fn(|cx| {
                Poll::Ready(gathered.poll(cx, |cx| {
                    let mut room = [0; 1024];
                    for _ in 0..10_000_000 {
                        ready!(Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut room)))?;
                    }
                    Poll::Ready(Ok::<_, io::Error>(()))
                }))
            });
            assert!(turn.await.is_pending());
            assert!(gathered.reads() > heard + 8, "a turn is too short for anything");
            heard = gathered.reads();
        }
    }

    #[tokio::test]
    async fn bulk_does_not_wait_for_its_turn_and_its_buffer_is_given_back() {
        let gathered = Gathered::new(Recorder::default());
        let mut stream = gathered.clone();
        stream.write_all(&vec![7; LIMIT]).await.unwrap();
        stream.write_all(b"more").await.unwrap();
        assert_eq!(gathered.0.stream.borrow().writes.len(), 1);
        settle(&gathered).await;
        assert_eq!(gathered.0.stream.borrow().writes.iter().map(Vec::len).sum::<usize>(), LIMIT + 4);
        assert!(gathered.0.written.borrow().bytes.capacity() <= KEPT);
    }

    #[tokio::test]
    async fn a_shutdown_sends_what_waits_and_a_failure_reaches_the_writer() {
        let gathered = Gathered::new(Recorder::default());
        let mut stream = gathered.clone();
        stream.write_all(b"last words").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(gathered.0.stream.borrow().writes.len(), 1);
        stream.write_all(b"x").await.unwrap();
        gathered.0.stream.borrow_mut().broken = true;
        settle(&gathered).await;
        assert_eq!(stream.flush().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
