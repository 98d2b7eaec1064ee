//! Whether the peer of a connection is still there: PING (RFC 9113 section 6.7), sent only into silence, and to no app that
//! is called.

use std::{
    cell::{Cell, OnceCell},
    future::{Future, poll_fn},
    pin::pin,
    task::{Poll, Waker},
    time::Duration,
};

use h2::PingPong;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// How long a peer may say nothing before it is asked, and how long it may then take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) silence: Duration,
    pub(super) answer: Duration,
}

/// Whether a peer has been heard of since somebody last doubted it.
#[derive(Default)]
pub(crate) struct Life {
    doubted: Cell<bool>,
    asked: Cell<bool>,
    /// The task that drives the connection. It does so at every request, and had better not look for more than a flag.
    driver: OnceCell<Waker>,
    heard: Notify,
}

/// Resolves when the peer is gone. `reads` grows with whatever it says.
pub(super) async fn gone(pings: Option<PingPong>, patience: Patience, life: &Life, reads: impl Fn() -> u64) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let mut heard = reads();
    loop {
        let mut quiet = pin!(sleep(patience.silence));
        let asked = poll_fn(|cx| {
            if life.asked.take() {
                return Poll::Ready(true);
            }
            life.driver.get_or_init(|| cx.waker().clone());
            quiet.as_mut().poll(cx).map(|()| false)
        });
        let asked = asked.await;
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
    pub(crate) fn doubt(&self) {
        self.doubted.set(true);
    }

    pub(crate) fn is_doubted(&self) -> bool {
        self.doubted.get()
    }

    /// Has the peer asked, and waits for whatever it says, or for the connection's end.
    pub(crate) async fn sign(&self) {
        self.asked.set(true);
        if let Some(driver) = self.driver.get() {
            driver.wake_by_ref();
        }
        if self.is_doubted() {
            self.heard.notified().await;
        }
    }

    pub(super) fn tell(&self) {
        self.doubted.set(false);
        self.heard.notify_waiters();
    }
}
