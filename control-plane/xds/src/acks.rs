//! Which proxy holds what: every connected stream's session, and counts by type that outlive streams.
//!
//! The sessions themselves are the acknowledgement state, so nothing is kept twice. Their locks are held for one step of
//! a stream or for one entry of a listing, never across an await.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use dashmap::DashMap;
use serde_json::{Map, Value, json};

use crate::{Session, Subscription, Variant};

mod held;
#[cfg(test)]
mod tests;

/// The registry.
#[derive(Debug, Default)]
pub struct Acks {
    next: AtomicU64,
    streams: DashMap<u64, Arc<Stream>>,
    counts: DashMap<&'static str, Counts>,
}

/// Of one type, since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub pushes: u64,
    pub nacks: u64,
}

/// A connected stream; it leaves the registry when its [`Entry`] is dropped.
#[derive(Debug)]
pub(crate) struct Stream {
    since: SystemTime,
    session: Mutex<Session>,
}

pub(crate) struct Entry {
    id: u64,
    acks: Arc<Acks>,
    stream: Arc<Stream>,
}

// === impl Acks ===

impl Acks {
    /// Connected streams: one for each proxy, but for those that just reconnect.
    pub fn connected(&self) -> usize {
        self.streams.len()
    }

    /// Counts by type URL.
    pub fn counts(&self) -> Vec<(&'static str, Counts)> {
        let mut counts: Vec<_> = self.counts.iter().map(|entry| (*entry.key(), *entry.value())).collect();
        counts.sort_unstable_by_key(|(type_url, _)| *type_url);
        counts
    }

    /// Every connected proxy with the versions in force there, for people.
    pub fn to_json(&self) -> Value {
        let mut streams: Vec<_> = self.streams.iter().map(|entry| (*entry.key(), Arc::clone(entry.value()))).collect();
        streams.sort_unstable_by_key(|(id, _)| *id);
        streams.iter().map(|(_, stream)| stream.to_json()).collect()
    }

    pub(crate) fn enter(self: &Arc<Self>, session: Session) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = Arc::new(Stream { since: SystemTime::now(), session: Mutex::new(session) });
        self.streams.insert(id, Arc::clone(&stream));
        Entry { id, acks: Arc::clone(self), stream }
    }

    pub(crate) fn count(&self, type_url: &'static str, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.entry(type_url).or_default());
    }
}

// === impl Stream ===

impl Stream {
    fn session(&self) -> MutexGuard<'_, Session> {
        // A step that panicked ends its stream; what it leaves behind is still good enough to be shown.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_json(&self) -> Value {
        let session = self.session();
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let types: Map<String, Value> =
            session.subscriptions().iter().map(|s| (s.type_url().to_owned(), subscription(s))).collect();
        json!({
            "node": session.node(),
            "workload": &*session.principal().workload,
            "identity": session.principal().identity.as_str(),
            "connected_since": since,
            "protocol": match session.variant() {
                Variant::Delta => "delta",
                Variant::StateOfTheWorld => "sotw",
            },
            "generation": session.generation(),
            "types": types,
        })
    }
}

fn subscription(subscription: &Subscription) -> Value {
    let resources: Map<String, Value> =
        subscription.accepted().map(|(name, version)| (name.to_string(), Value::from(&**version))).collect();
    let nack = subscription.nack().map(|nack| {
        let names: Vec<&str> = nack.names.iter().map(|name| &**name).collect();
        json!({ "names": names, "reason": nack.reason })
    });
    json!({ "resources": resources, "nack": nack })
}

// === impl Entry ===

impl Entry {
    pub(crate) fn session(&self) -> MutexGuard<'_, Session> {
        self.stream.session()
    }

    /// Its own among all streams of this process.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn acks(&self) -> &Acks {
        &self.acks
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.acks.streams.remove(&self.id);
    }
}
