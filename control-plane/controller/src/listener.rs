//! Accepting TCP connections, whatever peers do: nothing that one connection does ends the loop.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinError, JoinSet},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// Time for connections to finish once the listener is stopped.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause when the process is out of descriptors or memory: only time brings some back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Time that a peer who has asked for something has until it is known, however many there are: its token is looked at, which an
/// API server may take its time for.
const ANSWER: Duration = Duration::from_secs(5);
/// How often it is said that there are too many.
const SAY: Duration = Duration::from_secs(10);

/// Time for a peer to ask for something, once its connection is there. HTTP/1 has a timeout for headers; HTTP/2 waits for its
/// preface for ever, and sends pings only after it.
const SILENCE: Duration = Duration::from_secs(10);

/// How many connections one listener serves at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Of peers that have made themselves known. Where there are more, whoever comes waits in the kernel's queue.
    pub(crate) known: usize,
    /// Of others. For one more, whoever has been silent for longest goes; or has been there for longest, if all have asked.
    pub(crate) strangers: usize,
    /// Time that each of these has to ask for something, however many there are.
    pub(crate) grace: Duration,
}

/// A connection's own word on who is at its other end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guest(Arc<Word>);

#[derive(Debug, Default)]
struct Word {
    /// Cancelled by the first request.
    asked: CancellationToken,
    known: AtomicBool,
}

/// A connection of which nobody knows whose it is.
struct Stranger {
    guest: Guest,
    since: Instant,
    task: AbortHandle,
}

// === impl Guest ===

impl Guest {
    /// It has said something that has to be looked at.
    pub(crate) fn has_asked_now(&self) {
        self.0.asked.cancel();
    }

    /// Is over once it has.
    pub(crate) async fn asked(&self) {
        self.0.asked.cancelled().await;
    }

    /// Is over when the connection should be dropped, because it has asked for nothing; never if it has.
    pub(crate) async fn silence(&self) {
        if time::timeout(SILENCE, self.asked()).await.is_ok() {
            std::future::pending().await
        }
    }

    /// From now on the connection is one of the known.
    pub(crate) fn is_known_now(&self) {
        self.0.known.store(true, Ordering::Relaxed);
    }

    fn has_asked(&self) -> bool {
        self.0.asked.is_cancelled()
    }

    fn is_known(&self) -> bool {
        self.0.known.load(Ordering::Relaxed)
    }
}

/// Who goes first, and when.
fn first_to_go(strangers: &VecDeque<Stranger>, grace: Duration) -> Option<(usize, Instant)> {
    let silent = strangers.iter().position(|stranger| !stranger.guest.has_asked());
    let (at, patience) = silent.map_or((0, ANSWER), |at| (at, grace));
    strangers.get(at).map(|stranger| (at, stranger.since + patience))
}

/// Serves every connection in a task of its own until `stop`; then waits for those that are left.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    room: Room,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Guest) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    // In the order in which they came.
    let mut strangers = VecDeque::<Stranger>::new();
    let mut said: Option<Instant> = None;
    loop {
        strangers.retain(|stranger| !stranger.guest.is_known() && !stranger.task.is_finished());
        let leaves = if strangers.len() >= room.strangers { first_to_go(&strangers, room.grace) } else { None };
        let due = leaves.map(|(_, due)| due).filter(|due| *due > Instant::now());
        let known = connections.len().saturating_sub(strangers.len());
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => tell(ended),
            () = time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            accepted = listener.accept(), if due.is_none() && known < room.known => match accepted {
                Ok((stream, peer)) => {
                    if let Some(first) = leaves.and_then(|(at, _)| strangers.remove(at)) {
                        first.task.abort();
                        if said.is_none_or(|said| said.elapsed() > SAY) {
                            said = Some(Instant::now());
                            tracing::warn!(%peer, room.strangers, "too many peers don't say who they are: some are closed");
                        }
                    }
                    // Pushes are small and wanted at once; a socket that refuses this is about to fail anyway.
                    let _ = stream.set_nodelay(true);
                    let guest = Guest::default();
                    let task = connections.spawn(serve(stream, peer, guest.clone()));
                    strangers.push_back(Stranger { guest, since: Instant::now(), task });
                }
                Err(error) if is_exhausted(&error) => {
                    tracing::warn!(%error, "no connection can be accepted for now");
                    time::sleep(EXHAUSTED_PAUSE).await;
                }
                // The peer was gone before we looked.
                Err(error) => tracing::debug!(%error, "a connection was lost before it was accepted"),
            }
        }
    }
    drop(listener);
    let drained = time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(left = connections.len(), "connections are cut: they didn't end in time");
    }
}

fn tell(ended: Result<(), JoinError>) {
    if let Err(panicked) = ended
        && panicked.is_panic()
    {
        tracing::error!(%panicked, "a connection's task failed");
    }
}

fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS, ENOMEM on Linux.
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Answers each byte with itself; who says `k` is known, and who says `a` has asked.
    async fn echo(mut stream: TcpStream, guest: Guest) {
        while let Ok(byte) = stream.read_u8().await {
            match byte {
                b'a' => guest.has_asked_now(),
                b'k' => guest.is_known_now(),
                _ => {}
            }
            let _ = stream.write_u8(byte).await;
        }
    }

    async fn start(room: Room) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = |stream, _, guest| echo(stream, guest);
        tokio::spawn(accept(listener, room, CancellationToken::new(), serve));
        address
    }

    async fn ask(stream: &mut TcpStream, byte: u8) -> io::Result<u8> {
        stream.write_u8(byte).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn who_is_known_stays_and_the_oldest_stranger_goes() {
        let room = Room { known: 2, strangers: 3, grace: Duration::from_millis(100) };
        let address = start(room).await;
        let connect = async || TcpStream::connect(address).await.unwrap();

        let mut known = connect().await;
        assert_eq!(ask(&mut known, b'k').await.unwrap(), b'k');
        let mut strangers = Vec::new();
        for _ in 0..room.strangers + 2 {
            let mut stranger = connect().await;
            assert_eq!(ask(&mut stranger, b's').await.unwrap(), b's');
            strangers.push(stranger);
        }
        for gone in &mut strangers[..2] {
            assert_eq!(gone.read(&mut [0]).await.unwrap_or_default(), 0);
        }
        for there in &mut strangers[2..] {
            assert_eq!(ask(there, b's').await.unwrap(), b's');
        }
        assert_eq!(ask(&mut known, b'x').await.unwrap(), b'x');

        // There is room for as many known ones, and no more: who comes then waits for one of them to leave.
        assert_eq!(ask(&mut strangers[2], b'k').await.unwrap(), b'k');
        let mut late = connect().await;
        late.write_u8(b's').await.unwrap();
        assert_eq!(late.try_read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(known);
        assert_eq!(late.read_u8().await.unwrap(), b's');
    }

    #[tokio::test]
    async fn who_has_asked_stays_longer_than_who_is_silent() {
        let room = Room { known: 1, strangers: 2, grace: Duration::from_millis(100) };
        let address = start(room).await;
        let connect = async || TcpStream::connect(address).await.unwrap();

        let (mut first, mut silent) = (connect().await, connect().await);
        assert_eq!(ask(&mut first, b'a').await.unwrap(), b'a');
        let mut next = connect().await;
        assert_eq!(ask(&mut next, b'a').await.unwrap(), b'a');
        assert_eq!(silent.read(&mut [0]).await.unwrap_or_default(), 0);
        assert_eq!(ask(&mut first, b'x').await.unwrap(), b'x');
    }
}
