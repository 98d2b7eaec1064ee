//! Who asks for what, so that a change wakes those whom it concerns and nobody else: the cost of a change is that of its
//! users, however many proxies there are.
//!
//! The newest snapshot, the asks and each stream's mail change under one lock. So a stream that takes its mail has all
//! that concerns it up to the snapshot that it gets with it, and one that asks for more misses nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use outrigger_model::MeshSnapshot;
use tokio::sync::{Notify, watch};

use crate::{
    changes::{Change, Changed, between},
    scope::globs_of,
};

#[cfg(test)]
mod tests;

/// What is different for one stream, by type.
pub(crate) type Mail = Vec<(&'static str, Changed)>;

/// Streams by what they ask for.
type Asks = HashMap<Box<str>, Vec<u64>>;

#[derive(Debug, Default)]
pub(crate) struct Hub {
    state: Mutex<State>,
    /// Generation of the newest snapshot.
    generation: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    snapshot: Arc<MeshSnapshot>,
    /// There won't be another snapshot.
    closed: bool,
    asks: HashMap<&'static str, Asks>,
    streams: HashMap<u64, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    mail: Mail,
    bell: Arc<Notify>,
}

// === impl Hub ===

impl Hub {
    /// Follows a source until it closes, and all streams with it.
    pub(crate) async fn follow(&self, mut snapshots: watch::Receiver<Arc<MeshSnapshot>>) {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.publish(snapshot);
            if snapshots.changed().await.is_err() {
                let mut state = self.state();
                state.closed = true;
                state.streams.values().for_each(|stream| stream.bell.notify_one());
                // Whoever waits for the first snapshot waits in vain.
                self.generation.send_replace(u64::MAX);
                return;
            }
        }
    }

    /// Waits until there is something to serve.
    pub(crate) async fn ready(&self) {
        // It is this hub that sends.
        let _ = self.generation.subscribe().wait_for(|generation| *generation > 0).await;
    }

    /// Waits until all is known here that whoever gave the token knew.
    pub(crate) async fn covers(&self, token: &str) {
        let covered = |_: &u64| {
            let state = self.state();
            state.closed || state.snapshot.progress.covers(token)
        };
        // It is this hub that sends.
        let _ = self.generation.subscribe().wait_for(covered).await;
    }

    /// Gives what rings when there is mail.
    pub(crate) fn join(&self, stream: u64) -> Arc<Notify> {
        Arc::clone(&self.state().streams.entry(stream).or_default().bell)
    }

    /// What it asked for is told by [`forget`](Self::forget).
    pub(crate) fn leave(&self, stream: u64) {
        self.state().streams.remove(&stream);
    }

    /// The newest snapshot, and what is different in it since the last time; `None` at the end.
    pub(crate) fn collect(&self, stream: u64) -> Option<(Arc<MeshSnapshot>, Mail)> {
        self.state().collect(stream)
    }

    /// As [`collect`](Self::collect), by a stream that from now on asks for `names` as well.
    pub(crate) fn ask<'n>(
        &self,
        stream: u64,
        type_url: &'static str,
        names: impl Iterator<Item = &'n str>,
    ) -> Option<(Arc<MeshSnapshot>, Mail)> {
        let mut state = self.state();
        let asks = state.asks.entry(type_url).or_default();
        for name in names {
            match asks.get_mut(name) {
                Some(streams) if streams.contains(&stream) => {}
                Some(streams) => streams.push(stream),
                None => drop(asks.insert(name.into(), vec![stream])),
            }
        }
        state.collect(stream)
    }

    /// A stream no longer asks for `names`.
    pub(crate) fn forget<'n>(&self, stream: u64, type_url: &'static str, names: impl Iterator<Item = &'n str>) {
        let mut state = self.state();
        let Some(asks) = state.asks.get_mut(type_url) else { return };
        for name in names {
            let Some(streams) = asks.get_mut(name) else { continue };
            streams.retain(|other| *other != stream);
            if streams.is_empty() {
                asks.remove(name);
            }
        }
    }

    pub(crate) fn publish(&self, snapshot: Arc<MeshSnapshot>) {
        // There is no other writer.
        let before = Arc::clone(&self.state().snapshot);
        let changed = between(&before, &snapshot);
        let generation = snapshot.generation;
        {
            let mut state = self.state();
            state.snapshot = snapshot;
            for (type_url, changed) in changed {
                state.tell(type_url, &changed);
            }
        }
        self.generation.send_replace(generation);
    }

    /// Whether nothing is left of any stream.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn is_forgotten(&self) -> bool {
        let state = self.state();
        state.streams.is_empty() && state.asks.values().all(HashMap::is_empty)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn collect(&mut self, stream: u64) -> Option<(Arc<MeshSnapshot>, Mail)> {
        let mail = self.streams.get_mut(&stream).map(|stream| std::mem::take(&mut stream.mail));
        (!self.closed).then(|| (Arc::clone(&self.snapshot), mail.unwrap_or_default()))
    }

    fn tell(&mut self, type_url: &'static str, changed: &Changed) {
        let Self { asks, streams, .. } = self;
        let Some(asks) = asks.get_mut(type_url) else { return };
        match changed {
            Changed::Many => {
                for stream in asks.values().flatten() {
                    if let Some(stream) = streams.get_mut(stream) {
                        stream.put(type_url, None);
                    }
                }
            }
            Changed::These(changes) => {
                for change in changes {
                    let names = [&*change.name, "*"].into_iter().chain(change.aliases.iter().map(AsRef::as_ref));
                    let globs: Vec<String> = globs_of(&change.name).collect();
                    for stream in
                        names.chain(globs.iter().map(String::as_str)).filter_map(|name| asks.get(name)).flatten()
                    {
                        if let Some(stream) = streams.get_mut(stream) {
                            stream.put(type_url, Some(change));
                        }
                    }
                }
            }
        }
    }
}

// === impl Stream ===

impl Stream {
    /// `None`: many.
    fn put(&mut self, type_url: &'static str, change: Option<&Arc<Change>>) {
        if self.mail.is_empty() {
            self.bell.notify_one();
        }
        let of_type = match self.mail.iter().position(|(of, _)| *of == type_url) {
            Some(at) => &mut self.mail[at].1,
            None => {
                self.mail.push((type_url, Changed::These(Vec::new())));
                let last = self.mail.len() - 1;
                &mut self.mail[last].1
            }
        };
        match change {
            Some(change) => of_type.add(change),
            None => *of_type = Changed::Many,
        }
    }
}
