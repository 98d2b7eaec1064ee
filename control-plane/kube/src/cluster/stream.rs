//! The watch of one kind: lists, then follows, for ever. What fails is tried again later, and says nothing about the
//! objects.
//!
//! kube's own `watcher` does this too, but hides bookmarks, so that a watch that hears nothing looks like one that has
//! nothing to hear; repeats for ever a watch that is refused with 410 or "too large resource version"; and has no word for
//! an API that isn't there.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt;
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::{Request, Status},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    WatchStatus,
    index::Update,
    kinds::{Item, KINDS, Kind},
    page,
    retry::Retry,
};

/// Objects per page of a list.
const PAGE: u32 = 500;

/// For a page, or the beginning of a watch.
const PATIENCE: Duration = Duration::from_secs(60);

/// API servers send bookmarks about every minute. A watch that is silent for longer may be dead: it is begun anew, from
/// where it was.
const SILENCE: Duration = Duration::from_secs(150);

/// A watch that ends sooner may end at once every time.
const SHORT: Duration = Duration::from_secs(1);

/// How often an API that isn't there is looked for.
const ABSENT_RETRY: Duration = Duration::from_secs(5);

/// How often in a row an API must be missing before the objects that were there are taken to be gone. When an API is
/// removed, its objects are before, and the watch tells so: this is for a watch that was down just then.
const ABSENT_TRIES: u32 = 3;

/// Why a list or watch didn't go well.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the API server answered: {0}")]
    Refused(Box<Status>),
    #[error("the API server can't be asked: {}", chain(.0))]
    Unreachable(#[source] kube::Error),
    #[error("the answer can't be read: {0}")]
    Unreadable(#[source] serde_json::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
}

/// What a list came to.
enum Listed {
    Objects {
        items: Vec<Item>,
        /// Where the watch begins.
        version: String,
        api: &'static str,
    },
    /// The API server says that it has no such API.
    Absent,
}

/// What ended a watch.
enum Ended {
    /// The API server, or silence: go on from the last version.
    Closed,
    /// The version is none that can be watched from.
    Expired,
    Failed(Failure),
}

/// One kind's watch.
pub(super) struct Stream {
    pub(super) client: Client,
    /// Index into [`KINDS`].
    pub(super) kind: usize,
    pub(super) updates: mpsc::Sender<(usize, Update)>,
    pub(super) status: WatchStatus,
}

// === impl Stream ===

impl Stream {
    /// Until nobody listens.
    pub(super) async fn run(self) {
        let mut retry = Retry::default();
        let mut absences = 0;
        let mut lists = 0;
        while !self.updates.is_closed() {
            match self.list().await {
                Ok(Listed::Objects { items, version, api }) => {
                    absences = 0;
                    lists += 1;
                    self.listed(items, &version, lists).await;
                    self.follow(api, version, &mut retry).await;
                }
                Ok(Listed::Absent) => {
                    absences += 1;
                    self.absent(absences).await;
                    sleep(ABSENT_RETRY).await;
                }
                Err(failure) => self.failed(&failure, &mut retry).await,
            }
        }
    }

    fn kind(&self) -> &'static Kind {
        &KINDS[self.kind]
    }

    async fn listed(&self, items: Vec<Item>, version: &str, lists: u64) {
        let objects = items.len();
        // Nobody listens any more: the loop ends.
        let _ = self.updates.send((self.kind, Update::Replaced(items))).await;
        if let Ok(version) = version.parse() {
            let _ = self.updates.send((self.kind, Update::Read(version))).await;
        }
        self.status.update(self.kind, |status| {
            status.synced = true;
            status.absent = false;
            status.heard = Some(Instant::now());
            status.relists = lists - 1;
            status.error.clear();
        });
        tracing::debug!(kind = self.kind().name, objects, "listed");
    }

    async fn absent(&self, absences: u32) {
        let before = self.status.kinds()[self.kind].clone();
        if before.objects > 0 && absences < ABSENT_TRIES {
            return;
        }
        if !before.absent {
            tracing::info!(kind = self.kind().name, "the API server has no such API; it is looked for");
            let _ = self.updates.send((self.kind, Update::Replaced(Vec::new()))).await;
        }
        self.status.update(self.kind, |status| {
            status.synced = true;
            status.absent = true;
            status.heard = Some(Instant::now());
            status.error.clear();
        });
    }

    async fn failed(&self, failure: &Failure, retry: &mut Retry) {
        let kind = self.kind().name;
        tracing::warn!(kind, error = %failure, "not watched at the moment; what was last known stays in force");
        self.status.update(self.kind, |status| {
            status.failures += 1;
            status.error = failure.to_string();
        });
        sleep(if failure.is_absence() { retry.away() } else { retry.refused() }).await;
    }

    /// Every object, page by page, in the first version of the API that is there.
    async fn list(&self) -> Result<Listed, Failure> {
        let kind = self.kind();
        for api in kind.versions {
            match self.pages(api, Some(PAGE)).await {
                Err(Failure::Refused(status)) if status.code == 404 && kind.optional => {}
                // A page's token has run out: in one piece, there is none.
                Err(Failure::Refused(status)) if status.code == 410 => return self.pages(api, None).await,
                result => return result,
            }
        }
        if self.is_absent().await? {
            return Ok(Listed::Absent);
        }
        Err(Failure::Refused(Status::failure("it lists none of the objects of an API that it has", "NotFound").boxed()))
    }

    async fn pages(&self, api: &'static str, limit: Option<u32>) -> Result<Listed, Failure> {
        let kind = self.kind();
        let request = Request::new(kind.path(api));
        let mut params = ListParams { limit, ..ListParams::default() };
        let mut items = Vec::new();
        loop {
            let list = if kind.metadata_only { request.list_metadata(&params) } else { request.list(&params) };
            let list = list.map_err(|error| Failure::Unreachable(kube::Error::BuildRequest(error)))?;
            let text = patiently(self.client.request_text(list)).await?;
            let mut page = page::parse(&text, kind, api).map_err(Failure::Unreadable)?;
            items.append(&mut page.items);
            params.continue_token = page.metadata.r#continue.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return Ok(Listed::Objects { items, version: page.metadata.resource_version, api });
            }
        }
    }

    /// Whether the API server itself says that it has no such API, in any version.
    async fn is_absent(&self) -> Result<bool, Failure> {
        let kind = self.kind();
        for api in kind.versions {
            match patiently(self.client.list_api_group_resources(api)).await {
                Ok(resources) if resources.resources.iter().any(|r| r.name == kind.plural) => return Ok(false),
                Ok(_) => {}
                Err(Failure::Refused(status)) if status.code == 404 => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(true)
    }

    /// Passes events on until a list is needed.
    async fn follow(&self, api: &'static str, mut version: String, retry: &mut Retry) {
        while !self.updates.is_closed() {
            let begun = Instant::now();
            let ended = self.watch(api, &mut version).await;
            match ended {
                Ended::Closed | Ended::Expired if begun.elapsed() < SHORT => {
                    sleep(retry.refused()).await;
                }
                Ended::Closed | Ended::Expired => retry.well(),
                Ended::Failed(_) => {}
            }
            match ended {
                Ended::Closed => {}
                Ended::Expired => return,
                Ended::Failed(failure) => {
                    self.failed(&failure, retry).await;
                    // Whatever it has against this watch, it may have for ever. Too busy, or broken, passes.
                    if matches!(failure, Failure::Refused(status) if !matches!(status.code, 429 | 500 | 503)) {
                        return;
                    }
                }
            }
        }
    }

    /// One watch.
    async fn watch(&self, api: &'static str, version: &mut String) -> Ended {
        let kind = self.kind();
        let request = Request::new(kind.path(api));
        // Not all kinds at one time.
        let params = WatchParams::default().timeout(240 + 4 * self.kind as u32);
        let watch =
            if kind.metadata_only { request.watch_metadata(&params, version) } else { request.watch(&params, version) };
        let events = match watch {
            Ok(watch) => patiently(self.client.request_events::<Value>(watch)).await,
            Err(error) => Err(Failure::Unreachable(kube::Error::BuildRequest(error))),
        };
        let mut events = match events {
            Ok(events) => pin!(events),
            Err(failure) => return failure.ended(),
        };
        self.heard();
        loop {
            let event = match timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => return Failure::from(error).ended(),
                Ok(None) | Err(_) => return Ended::Closed,
            };
            let update = match event {
                WatchEvent::Added(value) | WatchEvent::Modified(value) => Update::Applied(kind.read(api, value)),
                WatchEvent::Deleted(value) => Update::Deleted(kind.read(api, value)),
                WatchEvent::Bookmark(bookmark) => {
                    *version = bookmark.metadata.resource_version;
                    self.heard();
                    continue;
                }
                WatchEvent::Error(status) => return Failure::Refused(status).ended(),
            };
            self.heard();
            if let Update::Applied(item) | Update::Deleted(item) = &update
                && !item.version.is_empty()
            {
                // Somebody in between repeats what was told: it may be of an object that is gone, or another by now.
                if item.number().is_some_and(|told| version.parse().is_ok_and(|known: u64| told <= known)) {
                    continue;
                }
                version.clone_from(&item.version);
            }
            if self.updates.send((self.kind, update)).await.is_err() {
                return Ended::Closed;
            }
        }
    }

    fn heard(&self) {
        self.status.update(self.kind, |status| {
            status.heard = Some(Instant::now());
            status.error.clear();
        });
    }
}

/// The reason behind the reason.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    // Some repeat their cause.
    texts.dedup_by(|next, text| text.contains(next.as_str()));
    texts.join(": ")
}

async fn patiently<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
    match timeout(PATIENCE, request).await {
        Ok(answer) => answer.map_err(Failure::from),
        Err(_) => Err(Failure::Slow),
    }
}

// === impl Failure ===

impl Failure {
    /// Whether nobody is there to ask, or nobody who is ready: it starts, or something that it needs does.
    fn is_absence(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Slow => true,
            Self::Refused(status) => matches!(status.code, 500 | 502 | 503),
            Self::Unreadable(_) => false,
        }
    }

    /// What it means for a watch.
    fn ended(self) -> Ended {
        match self {
            Self::Refused(status) if status.code == 410 => Ended::Expired,
            failure => Ended::Failed(failure),
        }
    }
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            kube::Error::SerdeError(error) => Self::Unreadable(error),
            error => Self::Unreachable(error),
        }
    }
}
