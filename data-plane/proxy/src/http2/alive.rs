//! Whether the peer of a connection is still there: PING (RFC 9113 section 6.7), sent only into silence.

use std::{cell::Cell, future::poll_fn, task::Poll, time::Duration};

use h2::PingPong;
use tokio::{sync::Notify, time::timeout};

/// How long a peer may say nothing before it is asked, and how long it may then take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) silence: Duration,
    pub(super) answer: Duration,
}

/// Whether a peer has been heard of since somebody last doubted it.
pub(crate) struct Life {
    doubted: Cell<bool>,
    ask: Notify,
    heard: Notify,
}

/// Resolves when the peer is gone. `reads` grows with whatever it says.
pub(super) async fn gone(pings: Option<PingPong>, patience: Patience, life: &Life, reads: impl Fn() -> u64) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut heard = reads();
    loop {
        let asked = timeout(patience.silence, life.ask.notified()).await.is_ok();
        if !asked && reads() != heard {
            heard = reads();
            continue;
        }
        heard = reads();
        // The answer to an earlier one says nothing about now.
        poll_fn(|cx| Poll::Ready(pings.poll_pong(cx).is_ready())).await;
        // One that is under way still does as well. Any other error is the connection's, which says so itself.
        let _ = pings.send_ping(h2::Ping::opaque());
        let answered = poll_fn(|cx| {
            if reads() != heard {
                life.tell();
            }
            pings.poll_pong(cx)
        });
        let answered = timeout(patience.answer, answered).await;
        if answered.is_err() && reads() == heard {
            return;
        }
        life.tell();
        heard = reads();
    }
}

impl Life {
    pub(super) fn new() -> Self {
        Self { doubted: Cell::new(false), ask: Notify::new(), heard: Notify::new() }
    }

    pub(crate) fn doubt(&self) {
        self.doubted.set(true);
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.get()
    }

    /// Has the peer asked, and waits for whatever it says, or for the connection's end.
    pub(crate) async fn sign(&self) {
        self.ask.notify_one();
        if self.is_doubted() {
            self.heard.notified().await;
        }
    }

    pub(super) fn tell(&self) {
        self.doubted.set(false);
        self.heard.notify_waiters();
    }
}
