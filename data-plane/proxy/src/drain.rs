//! The worker's own drain flag: waiting for it takes no lock, as a shared channel would on each wake-up.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

/// Waiters whose room is kept.
const ROOM: usize = 256;

/// Raised once, never lowered. For one thread.
#[derive(Clone, Default)]
pub(crate) struct Drain(Rc<Inner>);

#[derive(Default)]
struct Inner {
    raised: Cell<bool>,
    next: Cell<u64>,
    waiting: RefCell<HashMap<u64, Waker>>,
}

/// Resolves when the flag is raised.
pub(crate) struct Raised {
    flag: Rc<Inner>,
    /// Where the waker is, once there is one.
    key: Option<u64>,
}

impl Drain {
    pub(crate) fn raise(&self) {
        self.0.raised.set(true);
        for (_, waker) in self.0.waiting.take() {
            waker.wake();
        }
    }

    pub(crate) fn is_raised(&self) -> bool {
        self.0.raised.get()
    }

    pub(crate) fn raised(&self) -> Raised {
        Raised { flag: self.0.clone(), key: None }
    }
}

// === impl Raised ===

impl Future for Raised {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.flag.raised.get() {
            return Poll::Ready(());
        }
        // Only the first poll registers: a task's waker stays good for its whole life.
        if self.key.is_none() {
            let key = self.flag.next.get();
            self.flag.next.set(key + 1);
            self.flag.waiting.borrow_mut().insert(key, cx.waker().clone());
            self.key = Some(key);
        }
        Poll::Pending
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut waiting = self.flag.waiting.borrow_mut();
            waiting.remove(&key);
            // After many connections it would keep the room of all of them.
            if waiting.capacity() > ROOM && waiting.len() < waiting.capacity() / 8 {
                waiting.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn wakes_all_who_wait_and_forgets_those_who_left() {
        let drain = Drain::default();
        let mut left = Box::pin(drain.raised());
        assert!((&mut left).now_or_never().is_none());
        drop(left);
        assert!(drain.0.waiting.borrow().is_empty());
        let mut many: Vec<_> = (0..10_000).map(|_| Box::pin(drain.raised())).collect();
        assert!(many.iter_mut().all(|waits| waits.now_or_never().is_none()));
        drop(many);
        assert!(drain.0.waiting.borrow().capacity() <= ROOM);
        let mut waits = Box::pin(drain.raised());
        assert!((&mut waits).now_or_never().is_none());
        drain.raise();
        waits.await;
        drain.raised().await;
    }
}
