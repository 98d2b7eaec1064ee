//! Statuses of the objects that users write: what the leader says of them, and when.
//!
//! A round takes the newest view in, has the proxies of what is on its way counted (its own and other replicas'), and
//! queues what would change. Writes follow at a bounded rate, the latest wins. So a rollout to 10,000 proxies is a few
//! writes, and nothing is written that the API server has already.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    ops::ControlFlow,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use k8s_openapi::jiff::Timestamp;
use kube::{Client, runtime::events::Recorder};
use outrigger_model::{Holdings, held::Question};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{api::said, cluster::Derived, lease::Leadership, peers::Peers};
use board::Board;
use bucket::Bucket;
use conditions::Progress;
use subject::subjects;
use write::Outcome;

mod board;
pub(crate) mod bucket;
mod conditions;
pub(crate) mod events;
mod parents;
mod serving;
mod subject;
#[cfg(test)]
mod tests;
mod write;

/// Writes per second, and at once after a pause.
const RATE: (u32, u32) = (20, 50);

/// What the work needs.
pub(crate) struct Keeper {
    pub(crate) client: Client,
    pub(crate) views: watch::Receiver<Option<Arc<Derived>>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) holdings: Arc<dyn Holdings>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) recorder: Recorder,
}

type Counting = Pin<Box<dyn Future<Output = BTreeMap<String, Progress>> + Send>>;

/// Keeps the highest epoch that any status has, which a new leader's must exceed. For followers too.
pub(crate) async fn watch_epochs(mut views: watch::Receiver<Option<Arc<Derived>>>, floor: Arc<AtomicI64>) {
    loop {
        let highest = views
            .borrow_and_update()
            .as_ref()
            .and_then(|view| subjects(view).filter_map(|subject| subject.epoch()).max());
        floor.fetch_max(highest.unwrap_or(0), Ordering::Relaxed);
        if views.changed().await.is_err() {
            return;
        }
    }
}

// === impl Keeper ===

impl Keeper {
    /// Writes statuses while this replica leads; until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let epoch = self.leadership.borrow_and_update().epoch();
            if let Some(epoch) = epoch {
                if self.lead(epoch).await.is_break() {
                    return;
                }
            } else if self.leadership.changed().await.is_err() {
                return;
            }
        }
    }

    /// One term. Breaks if a source has ended.
    async fn lead(&mut self, epoch: i64) -> ControlFlow<()> {
        let mut board = Board::new(Instant::now());
        let mut bucket = Bucket::new(RATE.0, RATE.1, Instant::now());
        let mut counting: Option<Counting> = None;
        let mut write_at: Option<Instant> = None;
        self.views.mark_changed();
        loop {
            let now = Instant::now();
            let round_at = board.next_round(now);
            // Nothing is told before all is known.
            let ready = counting.is_none() && self.views.borrow().is_some();
            tokio::select! {
                changed = self.leadership.changed() => {
                    if changed.is_err() {
                        return ControlFlow::Break(());
                    }
                    if self.leadership.borrow().epoch() != Some(epoch) {
                        return ControlFlow::Continue(());
                    }
                }
                changed = self.views.changed() => {
                    if changed.is_err() {
                        return ControlFlow::Break(());
                    }
                    board.stir(Instant::now());
                }
                counts = until(&mut counting), if counting.is_some() => {
                    counting = None;
                    board.counted(counts);
                    self.assess(&mut board);
                }
                () = sleep_until(round_at), if ready => counting = self.round(&mut board),
                () = until_at(write_at), if board.has_writes() => {
                    if self.leadership.borrow().epoch() != Some(epoch) {
                        return ControlFlow::Continue(());
                    }
                    match bucket.take(Instant::now()) {
                        Err(wait) => write_at = Some(Instant::now() + wait),
                        Ok(()) if self.write(&mut board, epoch).await => {}
                        // Another leads, and this replica is about to hear of it.
                        Ok(()) => {
                            sleep(write::PATIENCE).await;
                            return ControlFlow::Continue(());
                        }
                    }
                }
            }
        }
    }

    /// Begins a round; what has to be counted is, beside other work.
    fn round(&self, board: &mut Board) -> Option<Counting> {
        let view = self.view()?;
        let objects = board.begin(&view, Instant::now());
        if objects.is_empty() {
            self.assess(board);
            return None;
        }
        let marks = objects.iter().filter_map(|origin| Some((origin.clone(), board.mark(origin)?.to_owned())));
        let marks: HashMap<String, String> = marks.collect();
        let (holdings, peers) = (Arc::clone(&self.holdings), Arc::clone(&self.peers));
        Some(Box::pin(count(objects, marks, view, holdings, peers)))
    }

    fn assess(&self, board: &mut Board) {
        if let Some(view) = self.view() {
            board.assess(&view, Instant::now(), Timestamp::now());
        }
    }

    fn view(&self) -> Option<Arc<Derived>> {
        self.views.borrow().clone()
    }

    /// Writes the next status. `false`: a later leader has written it, so this replica leads no more.
    async fn write(&self, board: &mut Board, epoch: i64) -> bool {
        let (Some((origin, told)), Some(view)) = (board.pop(), self.view()) else { return true };
        let Some(subject) = subject::find(&view, &origin) else { return true };
        let before = board.says(&subject);
        match write::write(&self.client, &subject, &told, &before, epoch).await {
            Outcome::Written(after) => {
                let events = events::of(&before.ours(), &after.ours());
                for event in events {
                    publish(&self.recorder, &event, &subject.reference()).await;
                }
                board.wrote(&subject, after, Instant::now());
            }
            Outcome::Moot => {}
            Outcome::Deposed => {
                tracing::warn!(%origin, epoch, "a later leader has written this status");
                return false;
            }
            Outcome::Failed(error) => {
                tracing::warn!(%origin, error, "the status can't be written");
                board.failed(&origin, Instant::now());
            }
        }
        true
    }
}

/// Events are worth a try, never a delay. Says whether it was written.
pub(crate) async fn publish(
    recorder: &Recorder,
    event: &kube::runtime::events::Event,
    on: &k8s_openapi::api::core::v1::ObjectReference,
) -> bool {
    match timeout(write::PATIENCE, recorder.publish(event, on)).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => {
            tracing::warn!(error = said(&error), reason = event.reason, "the event can't be written");
        }
        Err(_) => tracing::warn!(reason = event.reason, "the event isn't taken in time"),
    }
    false
}

/// Counts here and at the other replicas.
async fn count(
    objects: Vec<String>,
    marks: HashMap<String, String>,
    view: Arc<Derived>,
    holdings: Arc<dyn Holdings>,
    peers: Arc<Peers>,
) -> BTreeMap<String, Progress> {
    let (own, answers, unreachable) = peers.everywhere(Question { objects, anchor: None }, view, holdings).await;
    let mut all: BTreeMap<String, Progress> = BTreeMap::new();
    for (origin, counted) in own.into_iter().chain(answers.into_iter().flat_map(|answer| answer.objects)) {
        let Some(mark) = marks.get(&origin) else { continue };
        let progress = all.entry(origin).or_insert_with(|| Progress { unreachable, ..Progress::default() });
        progress.held.add(counted.at(mark));
    }
    all
}

async fn until(counting: &mut Option<Counting>) -> BTreeMap<String, Progress> {
    match counting {
        Some(counting) => counting.await,
        None => std::future::pending().await,
    }
}

async fn until_at(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at).await;
    }
}
