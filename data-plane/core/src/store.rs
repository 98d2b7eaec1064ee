//! Where the control thread publishes and workers read. Reading takes no lock.

use std::{net::IpAddr, sync::Arc, time::{Duration, SystemTime}};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use bytes::Bytes;
use outrigger_wire::SpiffeId;
use tokio::sync::{mpsc, watch};

use crate::{Destination, Snapshot};

/// A certificate with its key. `Debug` shows no secret.
pub struct Svid {
    pub id: SpiffeId,
    /// DER, leaf first.
    pub chain: Vec<Bytes>,
    /// PKCS #8 DER.
    pub key: Vec<u8>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// What is known of an address.
#[derive(Debug, Clone)]
pub enum Lookup {
    Known(Arc<Destination>),
    /// The control plane says that nothing of the mesh has this address.
    NotMeshed,
    /// No answer yet.
    Unknown,
}

/// The meeting point of the control thread and the workers.
pub struct Store {
    snapshot: ArcSwap<Snapshot>,
    svid: ArcSwapOption<Svid>,
    changed: watch::Sender<u64>,
    asks: mpsc::Sender<IpAddr>,
}

impl Store {
    /// An empty store, and where it says which addresses workers asked for.
    pub fn new() -> (Arc<Self>, mpsc::Receiver<IpAddr>) {
        let (asks, asked) = mpsc::channel(1024);
        let store = Self {
            snapshot: ArcSwap::default(),
            svid: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            asks,
        };
        (Arc::new(store), asked)
    }

    pub fn load(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    pub fn load_full(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The workload's current certificate.
    pub fn svid(&self) -> Option<Arc<Svid>> {
        self.svid.load_full()
    }

    /// Resolves whenever a snapshot or certificate was published.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Makes `snapshot` the current one, then wakes who waits.
    pub fn publish(&self, mut snapshot: Snapshot) {
        let generation = self.snapshot.load().generation + 1;
        snapshot.generation = generation;
        self.snapshot.store(Arc::new(snapshot));
        self.changed.send_modify(|n| *n += 1);
    }

    pub fn publish_svid(&self, svid: Svid) {
        self.svid.store(Some(Arc::new(svid)));
        self.changed.send_modify(|n| *n += 1);
    }

    /// What is known now. Asks for what isn't.
    pub fn lookup(&self, address: IpAddr) -> Lookup {
        match self.load().addresses.get(&address) {
            Some(Some(destination)) => Lookup::Known(destination.clone()),
            Some(None) => Lookup::NotMeshed,
            None => {
                // A full queue means that answers are on their way anyhow; the caller goes through the shared proxy.
                let _ = self.asks.try_send(address);
                Lookup::Unknown
            }
        }
    }

    /// As [`lookup`](Self::lookup), but waits for an answer, at most `limit`.
    pub async fn lookup_within(&self, address: IpAddr, limit: Duration) -> Lookup {
        let mut changes = self.changes();
        let answered = async {
            loop {
                match self.lookup(address) {
                    Lookup::Unknown => {}
                    known => return known,
                }
                if changes.changed().await.is_err() {
                    return Lookup::Unknown;
                }
            }
        };
        tokio::time::timeout(limit, answered).await.unwrap_or(Lookup::Unknown)
    }
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid").field("id", &self.id).field("not_after", &self.not_after).finish_non_exhaustive()
    }
}
