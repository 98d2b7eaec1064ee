//! How long a connection has been waiting for its next request. One timer per connection looks at it now and then: a timer
//! per request would cost more than its routing.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

/// For one connection.
#[derive(Default)]
pub(crate) struct Quiet {
    /// `None`: a request is being answered.
    since: Cell<Option<Instant>>,
    /// How long it may take from there: for the first request less than for others.
    limit: Cell<Duration>,
    idle: Cell<Duration>,
}

impl Quiet {
    /// The first request has begun already: its head must be there within `head`. The next one may take `idle`.
    pub(super) fn start(&self, now: Instant, head: Duration, idle: Duration) {
        self.since.set(Some(now));
        self.limit.set(head.min(idle));
        self.idle.set(idle);
    }

    pub(super) fn begin(&self) {
        self.since.set(None);
        self.limit.set(self.idle.get());
    }

    pub(super) fn end(&self, now: Instant) {
        self.since.set(Some(now));
    }

    /// When to look again; `None`: it has taken too long.
    pub(super) fn look(&self, now: Instant) -> Option<Instant> {
        let until = self.since.get().unwrap_or(now) + self.limit.get();
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_head_is_awaited_for_less_than_others_and_an_answer_for_ever() {
        let (head, idle) = (Duration::from_secs(10), Duration::from_secs(60));
        let (quiet, start) = (Quiet::default(), Instant::now());
        quiet.start(start, head, idle);
        assert_eq!(quiet.look(start), Some(start + head));
        assert_eq!(quiet.look(start + head), None);
        quiet.begin();
        let late = start + Duration::from_secs(3600);
        assert_eq!(quiet.look(late), Some(late + idle));
        quiet.end(late);
        assert_eq!(quiet.look(late + head), Some(late + idle));
        assert_eq!(quiet.look(late + idle), None);
    }
}
