//! Whether the peer of a connection is still there: PING (RFC 9113 section 6.7), sent only into silence.

use std::time::Duration;

use h2::PingPong;
use tokio::time::{sleep, timeout};

/// How long a peer may say nothing before it is asked, and how long it may then take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) silence: Duration,
    pub(super) answer: Duration,
}

/// Resolves when the peer is gone. `reads` grows with whatever it says.
pub(super) async fn gone(pings: Option<PingPong>, patience: Patience, reads: impl Fn() -> u64) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut heard = reads();
    loop {
        sleep(patience.silence).await;
        if reads() != heard {
            heard = reads();
            continue;
        }
        let answered = timeout(patience.answer, pings.ping(h2::Ping::opaque())).await;
        // An error is the connection's, which says so itself.
        if answered.is_err() && reads() == heard {
            return;
        }
        heard = reads();
    }
}
