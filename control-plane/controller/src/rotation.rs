//! A change of the mesh's root, from what the Secret holds to what proxies verify by: another root is trusted at once, signs
//! when all know it, and the one before leaves when nobody shows what it has signed. Every replica trusts; whoever leads
//! decides the rest, by `outrigger_kube::rotation`, and the others do as is published. Each step is taken back by putting
//! back what the Secret held. Never writes the Secret, but for what somebody has emptied.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use k8s_openapi::api::core::v1::Secret;
use outrigger_ca::{Authority, Signer};
use outrigger_kube::{
    acknowledged::Acknowledgements,
    lease::Leadership,
    rotation::{Decided, Evidence, Progress, Record, Stage, unsettled},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{
    root_secret::{self, Data, Loaded, RootError, RootSecret},
    serve::WORKLOAD_TTL,
};

/// Between two looks at the Secret, and at what is published.
const LOOK: Duration = Duration::from_secs(30);
/// As [`LOOK`], if one has failed.
const RETRY: Duration = Duration::from_secs(2);

/// What steps are decided by.
pub(crate) trait Witness: Send + Sync {
    /// What another root waits for before it may sign; `None`: every connected proxy knows it.
    fn roots(&self) -> impl Future<Output = Option<String>> + Send;
    /// Whose certificates are in use, with regard to the root `anchor`, if this replica signs by `signs`. `None`: it can't be
    /// known yet.
    fn certificates(&self, anchor: &str, signs: &str) -> impl Future<Output = Option<Evidence>> + Send;
    fn now(&self) -> SystemTime;
}

/// What has become of it, for everybody who passes it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) decided: Decided,
    pub(crate) stage: Stage,
    /// Another signer signs here.
    pub(crate) signs: bool,
}

/// What the Secret holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Offered {
    anchor: String,
    /// DER.
    roots: BTreeSet<Bytes>,
}

/// One replica's part.
pub(crate) struct Rotation<W, T> {
    root: RootSecret,
    authority: Arc<Authority>,
    /// The Secret's, as last read, and as last usable.
    data: Data,
    good: Data,
    uid: String,
    /// Of the good ones.
    offered: Offered,
    /// They sign here.
    signs: bool,
    /// Since when they are trusted here.
    trusted: Instant,
    progress: Progress,
    /// The term in which this replica decides: it has read what was decided before.
    term: Option<i64>,
    gone: bool,
    witness: W,
    tell: T,
}

// === impl Witness ===

impl Witness for Arc<Acknowledgements> {
    async fn roots(&self) -> Option<String> {
        Acknowledgements::roots(self).await
    }

    async fn certificates(&self, anchor: &str, signs: &str) -> Option<Evidence> {
        Acknowledgements::certificates(self, anchor, signs).await
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

// === impl Offered ===

impl Offered {
    pub(crate) fn of(signer: &Signer) -> Self {
        Self { anchor: signer.anchor().to_owned(), roots: signer.trusted() }
    }
}

// === impl Rotation ===

impl<W: Witness, T: Fn(&Authority, News)> Rotation<W, T> {
    pub(crate) fn new(root: RootSecret, loaded: Loaded, authority: Arc<Authority>, witness: W, tell: T) -> Self {
        let Loaded { offered, data, uid, progress } = loaded;
        let (good, signs) = (data.clone(), !authority.signs_by().is_empty());
        let (trusted, term, gone) = (Instant::now(), None, false);
        Self { root, authority, data, good, uid, offered, signs, trusted, progress, term, gone, witness, tell }
    }

    /// Follows the Secret and what is published, for ever.
    pub(crate) async fn run(mut self, mut leadership: watch::Receiver<Leadership>) {
        let (mut epoch, mut pause) = (None, LOOK);
        loop {
            // Who comes to lead looks at once: nothing is published before.
            let elected = async { leadership.wait_for(|now| now.epoch() != epoch).await.is_ok() };
            tokio::select! {
                () = time::sleep(pause) => {}
                elected = elected => if !elected {
                    time::sleep(pause).await;
                },
            }
            epoch = leadership.borrow().epoch();
            let looked = self.look(epoch).await;
            pause = if looked.is_ok() { LOOK } else { RETRY };
            if let Err(error) = looked {
                tracing::debug!(%error, "the root's Secret, or what is published, can't be looked at");
            }
        }
    }

    async fn look(&mut self, epoch: Option<i64>) -> Result<(), RootError> {
        let secret = self.root.get().await?;
        self.take(secret).await;
        let record = self.root.record(&self.uid).await?;
        if epoch.is_some() && epoch == self.term {
            self.lead(record).await;
        } else {
            self.obey(record);
            self.term = epoch;
        }
        let signs = self.sign();
        let decided = Decided { epoch: self.term.unwrap_or_default(), progress: self.progress.clone() };
        (self.tell)(&self.authority, News { decided, stage: self.stage(), signs });
        Ok(())
    }

    /// Takes in what the Secret holds now.
    async fn take(&mut self, secret: Option<Secret>) {
        let Some(secret) = secret else {
            if !self.gone {
                tracing::error!(secret = self.root.name(), "the root's Secret is gone: a restart would find no root");
            }
            self.gone = true;
            return;
        };
        self.gone = false;
        self.uid = secret.metadata.uid.clone().unwrap_or_default();
        let now = root_secret::data(&secret);
        if root_secret::is_empty(&now) {
            // By mistake, surely: proxies still trust what was in it, and nothing that a new root would sign.
            self.root.restore(secret, self.good.clone()).await;
        } else if now != self.data {
            self.data = now;
            match self.root.read(&self.data) {
                Ok(signer) => {
                    self.good.clone_from(&self.data);
                    self.authority.trust(&signer);
                    self.offered = Offered::of(&signer);
                    (self.signs, self.trusted) = (false, Instant::now());
                    tracing::info!(
                        secret = self.root.name(),
                        "the root's Secret has changed: what it holds is trusted"
                    );
                }
                Err(error) => tracing::error!(%error, "the root has changed; this process goes on with the one before"),
            }
        }
    }

    /// Does as is published. Where nothing is said, all that is trusted stays trusted.
    fn obey(&mut self, record: Option<Record>) {
        let Some(Record { mut roots, progress: Some(progress) }) = record else { return };
        self.progress = progress;
        roots.extend(self.offered.roots.iter().cloned());
        if self.authority.trust_only(&roots) {
            tracing::info!(secret = self.root.name(), roots = self.authority.roots().len(), "other roots are trusted");
        }
    }

    /// Decides one step, by what is published already.
    async fn lead(&mut self, record: Option<Record>) {
        let published = self.is_published(record);
        let before = (self.stage(), self.progress.waits.take());
        self.progress.secret.clone_from(&self.uid);
        self.progress.waits = match before.0 {
            Stage::Rest => None,
            Stage::Distribute => self.distribute(published).await,
            Stage::Retire => self.retire(published).await,
        };
        if self.progress.waits.is_some() && self.progress.waits != before.1 {
            let (step, waits) = (before.0.as_str(), self.progress.waits.as_deref());
            tracing::warn!(secret = self.root.name(), step, waits, "the change of the root waits");
        }
    }

    /// Lets another root sign. What it waits for, if it has to.
    async fn distribute(&mut self, published: bool) -> Option<String> {
        // First it is noted that the present one won't have been alone.
        let noted = self.progress.since.take().is_none();
        let unsettled = unsettled(self.trusted.elapsed(), published && noted);
        if unsettled.is_some() {
            return unsettled;
        }
        let missing = self.witness.roots().await;
        if missing.is_none() {
            self.progress.anchor.clone_from(&self.offered.anchor);
        }
        missing
    }

    /// Lets go of what the Secret no longer holds. What it waits for, if it has to.
    async fn retire(&mut self, published: bool) -> Option<String> {
        let signs = self.authority.signs_by();
        let Some(evidence) = self.witness.certificates(&self.progress.anchor, &signs).await else {
            return Some("it isn't known yet which pods there are".to_owned());
        };
        let now = self.witness.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let since = self.progress.since;
        if since.is_none() && evidence.apart == 0 {
            self.progress.since = Some(now);
        }
        let missing = evidence.missing(since, WORKLOAD_TTL, now);
        if missing.is_some() {
            return missing;
        }
        if since.is_none() || !published {
            return Some("what was decided before isn't published yet".to_owned());
        }
        self.authority.trust_only(&self.offered.roots);
        tracing::info!(secret = self.root.name(), "what the Secret no longer holds is no longer trusted");
        None
    }

    /// Whether a restarted replica would find what has been decided, and all that is trusted.
    fn is_published(&self, record: Option<Record>) -> bool {
        let Some(Record { roots, progress: Some(progress) }) = record else { return false };
        let same = progress.anchor == self.progress.anchor && progress.since == self.progress.since;
        same && roots.iter().eq(&self.authority.roots())
    }

    /// Signs by what the Secret holds, once that is decided. Whether that is news.
    fn sign(&mut self) -> bool {
        if self.signs || self.progress.anchor != self.offered.anchor {
            return false;
        }
        match self.root.read(&self.good) {
            Ok(signer) => {
                self.authority.take_over(signer);
                self.signs = true;
                tracing::info!(secret = self.root.name(), "what the Secret holds signs from now on");
            }
            Err(error) => tracing::error!(%error, "the root should sign, and can't"),
        }
        self.signs
    }

    fn stage(&self) -> Stage {
        let leftover = self.authority.roots().iter().any(|root| !self.offered.roots.contains(root));
        Stage::of(&self.progress, &self.offered.anchor, leftover)
    }
}
