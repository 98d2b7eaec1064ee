//! Where the control thread publishes and workers read. Reading takes no lock.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

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
    /// Which root it leads to, as the authority calls it; "" if it didn't say.
    pub anchor: String,
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
    judgement: watch::Sender<u64>,
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
            judgement: watch::Sender::new(0),
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

    /// Resolves whenever a workload accepts something else than before; not with every endpoint that comes or goes, for
    /// each connection that isn't looked into waits here.
    pub fn judgements(&self) -> watch::Receiver<u64> {
        self.judgement.subscribe()
    }

    /// Makes `snapshot` the current one, then wakes who waits.
    pub fn publish(&self, mut snapshot: Snapshot) {
        let (generation, judgement) = (self.snapshot.load().generation + 1, snapshot.judgement);
        snapshot.generation = generation;
        self.snapshot.store(Arc::new(snapshot));
        self.changed.send_modify(|n| *n += 1);
        self.judgement.send_if_modified(|known| std::mem::replace(known, judgement) != judgement);
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
        match self.lookup(address) {
            Lookup::Unknown => {}
            known => return known,
        }
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

#[cfg(test)]
mod tests {
    use outrigger_wire::proto::config as wire;

    use super::*;
    use crate::config::Service;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn snapshot(known: bool) -> Snapshot {
        let mut snapshot = Snapshot::default();
        if known {
            let message = wire::Service {
                name: "shop/cart".into(),
                addresses: vec![ADDRESS.to_string()],
                ..wire::Service::default()
            };
            snapshot.set_service(Arc::new(Service::compile(message).unwrap()), vec![]);
        } else {
            snapshot.set_absent(ADDRESS);
        }
        snapshot
    }

    #[test]
    fn an_unknown_address_is_asked_for() {
        let (store, mut asked) = Store::new();
        assert!(matches!(store.lookup(ADDRESS), Lookup::Unknown));
        assert_eq!(asked.try_recv(), Ok(ADDRESS));
        store.publish(snapshot(false));
        assert!(matches!(store.lookup(ADDRESS), Lookup::NotMeshed));
        store.publish(snapshot(true));
        assert!(matches!(store.lookup(ADDRESS), Lookup::Known(found) if &*found.service.name == "shop/cart"));
        assert!(asked.try_recv().is_err());
        assert_eq!(store.load().generation, 2);
    }

    #[test]
    fn a_full_queue_blocks_nobody() {
        let (store, _asked) = Store::new();
        for _ in 0..2000 {
            assert!(matches!(store.lookup(ADDRESS), Lookup::Unknown));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_answer_or_the_limit() {
        let (store, _asked) = Store::new();
        let limit = Duration::from_secs(1);
        assert!(matches!(store.lookup_within(ADDRESS, limit).await, Lookup::Unknown));
        let publish = async {
            // First something else, which answers nothing.
            store.publish(Snapshot::default());
            tokio::task::yield_now().await;
            store.publish(snapshot(true));
        };
        let (found, ()) = tokio::join!(store.lookup_within(ADDRESS, limit), publish);
        assert!(matches!(found, Lookup::Known(_)));
    }

    #[test]
    fn judgements_are_those_of_what_workloads_accept() {
        let (store, _asked) = Store::new();
        let judgements = store.judgements();
        let judged = || judgements.has_changed().unwrap();
        let message = wire::Inbound {
            workload: "shop/cart".into(),
            identity: "spiffe://td/ns/shop/sa/cart".into(),
            ..wire::Inbound::default()
        };
        let inbound = Arc::new(crate::config::Inbound::compile(message).unwrap());
        assert!(!judged());
        store.publish(snapshot(true));
        assert!(!judged(), "a service decides nothing");
        let mut next = Snapshot::clone(&store.load());
        next.set_inbound(inbound);
        store.publish(next);
        assert!(judged());
    }

    #[tokio::test]
    async fn certificates_wake_and_show_no_secret() {
        let (store, _asked) = Store::new();
        let mut changes = store.changes();
        assert!(store.svid().is_none());
        let now = SystemTime::now();
        let id = SpiffeId::new("td", "shop", "cart").unwrap();
        store.publish_svid(Svid {
            id,
            chain: vec![],
            anchor: String::new(),
            key: b"secret".to_vec(),
            not_before: now,
            not_after: now,
        });
        changes.changed().await.unwrap();
        let shown = format!("{:?}", store.svid().unwrap());
        assert!(shown.contains("shop") && !shown.contains("key"), "{shown}");
    }
}
