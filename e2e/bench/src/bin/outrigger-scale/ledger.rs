//! What all proxies have received, and when: written by every proxy as it reads, read by whoever measures.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use outrigger_wire::proto::discovery::DeltaDiscoveryResponse;
use serde::Serialize;

/// Shared by all proxies.
#[derive(Default)]
pub(crate) struct Ledger {
    messages: AtomicU64,
    bytes: AtomicU64,
    resources: AtomicU64,
    /// Connections that weren't made, or broke.
    failures: AtomicU64,
    last_failure: Mutex<String>,
    /// When each proxy had everything that it asked for.
    synced: Mutex<Vec<Instant>>,
    watched: RwLock<Watched>,
    receipts: Mutex<Vec<Receipt>>,
    /// Messages that had nothing to do with what is watched for.
    strays: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Counts {
    pub(crate) messages: u64,
    /// Of messages, as they are inside TLS and HTTP/2.
    pub(crate) bytes: u64,
    pub(crate) resources: u64,
    pub(crate) failures: u64,
}

/// What is told in receipts, each with the number of its change.
#[derive(Default)]
pub(crate) struct Watched {
    /// Names of resources.
    pub(crate) names: HashMap<String, usize>,
    pub(crate) kind: Option<(&'static str, usize)>,
}

/// A change has come to a proxy.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Receipt {
    pub(crate) proxy: usize,
    pub(crate) change: usize,
    pub(crate) at: Instant,
    pub(crate) bytes: usize,
}

// === impl Ledger ===

impl Ledger {
    /// What was counted so far.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            messages: self.messages.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            resources: self.resources.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }

    /// From now on, what is watched for is noted.
    pub(crate) fn watch(&self, watched: Watched) {
        *self.watched.write().unwrap_or_else(PoisonError::into_inner) = watched;
        lock(&self.receipts).clear();
        self.strays.store(0, Relaxed);
    }

    /// A change of this resource is about to be made; it counts instead of an earlier one of the same name.
    pub(crate) fn expect(&self, name: String, change: usize) {
        self.watched.write().unwrap_or_else(PoisonError::into_inner).names.insert(name, change);
    }

    /// The same of every resource of a kind.
    pub(crate) fn expect_kind(&self, kind: &'static str, change: usize) {
        self.watched.write().unwrap_or_else(PoisonError::into_inner).kind = Some((kind, change));
    }

    pub(crate) fn receipts(&self) -> Vec<Receipt> {
        lock(&self.receipts).clone()
    }

    pub(crate) fn strays(&self) -> u64 {
        self.strays.load(Relaxed)
    }

    /// Every proxy has to get everything once more.
    pub(crate) fn forget_synced(&self) {
        lock(&self.synced).clear();
    }

    /// Waits until so many proxies have everything; gives the moments, in order.
    pub(crate) fn wait_synced(&self, proxies: usize, patience: Duration) -> Result<Vec<Instant>> {
        let begun = Instant::now();
        let mut told = begun;
        loop {
            let synced = lock(&self.synced).len();
            if synced >= proxies {
                let mut moments = lock(&self.synced).clone();
                moments.sort_unstable();
                return Ok(moments);
            }
            if begun.elapsed() > patience {
                let (failures, last) = (self.failures.load(Relaxed), lock(&self.last_failure));
                bail!(
                    "{synced} of {proxies} proxies have everything after {patience:?}; {failures} connections failed, the \
                     last one: {last}"
                );
            }
            if told.elapsed() > Duration::from_secs(5) {
                told = Instant::now();
                eprintln!("  {synced} of {proxies} proxies have everything");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn note_synced(&self) {
        lock(&self.synced).push(Instant::now());
    }

    pub(crate) fn note_failure(&self, error: &anyhow::Error) {
        self.failures.fetch_add(1, Relaxed);
        *lock(&self.last_failure) = format!("{error:#}");
    }

    pub(crate) fn note(&self, proxy: usize, at: Instant, message: &DeltaDiscoveryResponse, bytes: usize) {
        self.messages.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.resources.fetch_add(message.resources.len() as u64, Relaxed);
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        let mut expected = false;
        if let Some((kind, change)) = watched.kind
            && message.type_url == kind
            && !message.resources.is_empty()
        {
            lock(&self.receipts).push(Receipt { proxy, change, at, bytes });
            expected = true;
        }
        if !watched.names.is_empty() {
            let names = message.resources.iter().map(|resource| &resource.name).chain(&message.removed_resources);
            for change in names.filter_map(|name| watched.names.get(name)) {
                lock(&self.receipts).push(Receipt { proxy, change: *change, at, bytes });
                expected = true;
            }
        }
        if !expected {
            self.strays.fetch_add(1, Relaxed);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Counts ===

impl std::ops::Sub for Counts {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            messages: self.messages - before.messages,
            bytes: self.bytes - before.bytes,
            resources: self.resources - before.resources,
            failures: self.failures - before.failures,
        }
    }
}
