//! The one place where bytes are carried between two streams.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};

/// Bytes carried by one connection, as seen from the first stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// From the first stream to the second.
    pub sent: u64,
    /// From the second stream to the first.
    pub received: u64,
}

const BUFFER: usize = 16 * 1024;

/// Carries bytes both ways until both sides have closed. Half-closes are passed on.
///
/// # Errors
/// When either stream fails; what was carried until then is lost to the count.
pub async fn pump<A, B>(first: &mut A, second: &mut B) -> io::Result<Carried>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (sent, received) = copy_bidirectional_with_sizes(first, second, BUFFER, BUFFER).await?;
    Ok(Carried { sent, received })
}
