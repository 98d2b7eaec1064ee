//! Whether every proxy that is connected to any replica has acknowledged what must be known everywhere before something
//! else may happen: new roots, before anything is signed by one; that a pod is ending, before its app is told to. And which
//! roots their certificates lead to, before one of them leaves.

use std::{path::PathBuf, sync::Arc};

use kube::Client;
use outrigger_model::{
    Holdings,
    held::{Answer, Counted, Question, Signed},
};
use tokio::{sync::watch, task::spawn_blocking};

use crate::{
    cluster::Derived,
    peers::{DEPARTURE, Peers, ROOTS},
    rotation::{Evidence, expected},
};

#[cfg(test)]
mod tests;

/// Counts here and at the other replicas.
pub struct Acknowledgements {
    peers: Peers,
    derived: watch::Receiver<Option<Arc<Derived>>>,
    holdings: Arc<dyn Holdings>,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    /// Connected proxies.
    proxies: u32,
    /// Those that have in force what this replica serves.
    current: u32,
    /// Replicas that don't answer, or don't serve the same.
    apart: usize,
    /// What should leave is still called here.
    called: bool,
}

// === impl Acknowledgements ===

impl Acknowledgements {
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
    pub async fn roots(&self) -> Option<String> {
        let Some(derived) = self.derived.borrow().clone() else { return Some("nothing is served yet".to_owned()) };
        let known = self.count(vec![ROOTS.to_owned()], derived).await.pop();
        known.and_then(|known| known.missing("the same roots"))
    }

    /// Which certificates are in use, with regard to the root `anchor`; this replica's own proxies' count as signed by `signs`.
    /// `None` until it is known which pods there are.
    pub async fn certificates(&self, anchor: &str, signs: &str) -> Option<Evidence> {
        let derived = self.derived.borrow().clone()?;
        let question = Question { objects: Vec::new(), anchor: Some(anchor.to_owned()) };
        let own = spawn_blocking({
            let (holdings, anchor, by) = (Arc::clone(&self.holdings), anchor.to_owned(), signs.to_owned());
            move || {
                let certificates = holdings.certificates(&anchor);
                (Signed { by, certificates }, expected(derived.pods.values().map(AsRef::as_ref)))
            }
        });
        let ((answers, silent), own) = tokio::join!(self.peers.ask(&question), own);
        let (own, expected) = own.ok()?;
        let others = answers.into_iter().map(|answer| answer.certificates);
        let replicas: Vec<_> = std::iter::once(Some(own)).chain(others).collect();
        Some(Evidence::of(anchor, expected, &replicas, silent))
    }

    /// What each of these workloads (`NAMESPACE/NAME`) still waits for before nobody calls it any more, in their order.
    pub async fn departures(&self, workloads: &[Arc<str>]) -> Vec<Option<String>> {
        let Some(derived) = self.derived.borrow().clone() else {
            return vec![Some("nothing is served yet".to_owned()); workloads.len()];
        };
        let objects = workloads.iter().map(|workload| format!("{DEPARTURE}{workload}")).collect();
        let counted = self.count(objects, derived).await;
        counted.into_iter().map(|known| known.missing("the same endpoints")).collect()
    }

    /// Of each object, in their order.
    async fn count(&self, objects: Vec<String>, derived: Arc<Derived>) -> Vec<Known> {
        let question = Question { objects: objects.clone(), anchor: None };
        let (own, answers, silent) = self.peers.everywhere(question, derived, Arc::clone(&self.holdings)).await;
        let of = |object: &String| own.get(object).map(|own| Known::of(object, own, &answers, silent));
        objects.iter().map(|object| of(object).unwrap_or(Known { apart: 1, ..Known::default() })).collect()
    }
}

// === impl Known ===

impl Known {
    fn of(object: &str, own: &Counted, answers: &[Answer], silent: usize) -> Self {
        let mut known =
            Self { proxies: own.held.proxies, current: own.held.current, apart: silent, called: own.called };
        for answer in answers {
            match answer.objects.get(object) {
                Some(other) if other.mark == own.mark => {
                    known.proxies += other.held.proxies;
                    known.current += other.held.current;
                }
                // Something else, or an earlier version that doesn't know the question.
                _ => known.apart += 1,
            }
        }
        known
    }

    fn missing(self, what: &str) -> Option<String> {
        let Self { proxies, current, apart, called } = self;
        if called {
            return Some("the controller doesn't know yet that it ends".to_owned());
        }
        let behind = proxies.saturating_sub(current);
        match (behind, apart) {
            (0, 0) => None,
            (0, apart) => Some(format!("{apart} replicas of the controller don't answer, or don't have {what} yet")),
            (behind, _) => Some(format!("{behind} of {proxies} connected proxies haven't acknowledged it")),
        }
    }
}
