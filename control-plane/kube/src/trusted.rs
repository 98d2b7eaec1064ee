//! How far the mesh's roots have come: whether every proxy that is connected to any replica has acknowledged those that are
//! served now. Before that nothing may be signed by a new one.

use std::{path::PathBuf, sync::Arc};

use kube::Client;
use outrigger_model::{
    Holdings,
    held::{Answer, Counted, Question},
};
use tokio::sync::watch;

use crate::{
    cluster::Derived,
    peers::{Peers, ROOTS},
};

#[cfg(test)]
mod tests;

/// Counts here and at the other replicas.
pub struct TrustCount {
    peers: Peers,
    derived: watch::Receiver<Option<Arc<Derived>>>,
    holdings: Arc<dyn Holdings>,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trusted {
    /// Connected proxies.
    proxies: u32,
    /// Those that have the roots in force that this replica serves.
    current: u32,
    /// Replicas that don't answer, or don't serve the same roots.
    apart: usize,
}

// === impl TrustCount ===

impl TrustCount {
    /// `own` is the name of this replica's pod; `roots` (PEM) and the token are for calls to other replicas.
    pub fn new(
        client: Client,
        own: String,
        roots: watch::Receiver<Arc<str>>,
        token_file: PathBuf,
        derived: watch::Receiver<Option<Arc<Derived>>>,
        holdings: Arc<dyn Holdings>,
    ) -> Self {
        Self { peers: Peers::new(client, own, roots, token_file), derived, holdings }
    }

    /// What a new root still waits for; `None`: nothing.
    pub async fn missing(&self) -> Option<String> {
        self.count().await.map_or_else(|| Some("nothing is served yet".to_owned()), Trusted::missing)
    }

    async fn count(&self) -> Option<Trusted> {
        let derived = self.derived.borrow().clone()?;
        let question = Question { objects: vec![ROOTS.to_owned()] };
        let (mut own, answers, silent) = self.peers.everywhere(question, derived, Arc::clone(&self.holdings)).await;
        Some(Trusted::of(&own.remove(ROOTS)?, answers, silent))
    }
}

// === impl Trusted ===

impl Trusted {
    fn of(own: &Counted, answers: Vec<Answer>, silent: usize) -> Self {
        let mut trusted = Self { proxies: own.held.proxies, current: own.held.current, apart: silent };
        for mut answer in answers {
            match answer.objects.remove(ROOTS) {
                Some(other) if other.mark == own.mark => {
                    trusted.proxies += other.held.proxies;
                    trusted.current += other.held.current;
                }
                // Other roots, or an earlier version that doesn't know the question.
                _ => trusted.apart += 1,
            }
        }
        trusted
    }

    fn missing(self) -> Option<String> {
        let Self { proxies, current, apart } = self;
        let behind = proxies.saturating_sub(current);
        match (behind, apart) {
            (0, 0) => None,
            (0, apart) => {
                Some(format!("{apart} replicas of the controller don't answer, or don't have the same roots yet"))
            }
            (behind, _) => Some(format!("{behind} of {proxies} connected proxies haven't acknowledged it")),
        }
    }
}
