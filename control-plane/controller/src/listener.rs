//! Accepting TCP connections, whatever peers do: nothing that one connection does ends the loop.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

/// Connections served at once by one listener; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Time for connections to finish once the listener is stopped.
const DRAIN: Duration = Duration::from_secs(5);
/// Pause when the process is out of descriptors or memory: only time brings some back.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Time for a peer to ask for something, once its connection is there. HTTP/1 has a timeout for headers; HTTP/2 waits for its
/// preface for ever, and sends pings only after it.
const SILENCE: Duration = Duration::from_secs(10);

/// Is over when a connection whose first request cancels `asked` should be dropped, and never if there was one.
pub(crate) async fn silence(asked: &CancellationToken) {
    if time::timeout(SILENCE, asked.cancelled()).await.is_ok() {
        std::future::pending().await
    }
}

/// Serves every connection in a task of its own until `stop`; then waits for those that are left.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    stop: CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(panicked) = ended {
                    tracing::error!(%panicked, "a connection's task failed");
                }
            }
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, peer)) => {
                    // Pushes are small and wanted at once; a socket that refuses this is about to fail anyway.
                    let _ = stream.set_nodelay(true);
                    connections.spawn(serve(stream, peer));
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

fn is_exhausted(error: &io::Error) -> bool {
    // EMFILE, ENFILE, ENOBUFS, ENOMEM on Linux.
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}
