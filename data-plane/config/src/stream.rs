//! The delta xDS stream: connects, feeds responses to the [`State`], publishes, answers, saves; comes back when it
//! breaks. Decides nothing itself.

use std::{
    convert::Infallible,
    future::Future,
    net::IpAddr,
    path::PathBuf,
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_core::{Snapshot, Store};
use outrigger_wire::{
    names::{ANCHOR_METADATA, NOT_OLDER_THAN, type_url},
    proto::{
        discovery::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
        envoy::config::core::v3::{Locality, Node},
    },
};
use prost::Message;
use prost_types::{Struct, Value, value};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    Bootstrap, ClientStatus,
    backoff::Backoff,
    client::{self, ConnectError},
    saved::{self, SavedConfig},
    state::State,
    taster::Taster,
    trial::Records,
};

#[cfg(test)]
pub(crate) mod tests;

/// The first connects come quickly: a proxy that starts together with its controller is waited for.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A stream that lived this long was a good one.
const GOOD_STREAM: Duration = Duration::from_secs(10);
/// How long the controller may take to open a stream, or to read a request.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_RESPONSE: usize = 64 << 20;
/// Requests on their way.
const QUEUE: usize = 64;
/// Files of the state folder.
const CONFIG: &str = "config";
const TRIALS: &str = "trials";
/// Changes close together are saved together.
const SAVE_DELAY: Duration = Duration::from_millis(200);
/// Addresses taken from the workers' queue at once.
const ASKED_AT_ONCE: usize = 1024;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("ended by the controller")]
    Ended,
    #[error("the controller doesn't read")]
    Stuck,
    #[error("a quarantine is over")]
    Released,
}

struct Client {
    bootstrap: Arc<Bootstrap>,
    store: Arc<Store>,
    status: Arc<ClientStatus>,
    state: State,
    /// Of the store.
    changes: watch::Receiver<u64>,
    asked: mpsc::Receiver<IpAddr>,
    /// False once no worker is left to ask.
    asking: bool,
    /// When the state is to be saved.
    save_at: Option<Instant>,
    saver: Option<watch::Sender<SavedConfig>>,
    /// Resolves when this process is told to end; `None` from then on.
    told_to_end: Option<End>,
    /// Versions are to be had that were in quarantine when they came.
    released: bool,
    taster: Option<Taster>,
    link: Link,
}

/// How the controller is reached.
pub(crate) struct Link {
    connect: Box<dyn Fn(Arc<Bootstrap>) -> Connecting + Send + Sync>,
    /// Before the next try.
    backoff: Backoff,
}

type Connecting = Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send>>;

/// When a process is told to end.
type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One stream, as far as requests go.
struct Requests {
    queue: mpsc::Sender<DeltaDiscoveryRequest>,
    /// For the next request: the first, or one after something of it has changed.
    node: Option<Node>,
    /// What was last said there of the own certificate.
    anchor: String,
}

/// What happens besides responses.
enum Event {
    Asked(Vec<IpAddr>),
    /// A snapshot of ours, or a certificate.
    Published,
    WaitedEnough,
    Unheard,
    Save,
    Proven,
    Released,
    ToldToEnd,
}

/// Follows the control plane for ever.
pub(crate) async fn run(
    bootstrap: Arc<Bootstrap>,
    state: State,
    store: Arc<Store>,
    asked: mpsc::Receiver<IpAddr>,
    status: Arc<ClientStatus>,
    told_to_end: End,
    link: Link,
) {
    status.holds(&state);
    let saver = bootstrap.state_file(CONFIG).map(|path| {
        let (saver, saved) = watch::channel(SavedConfig::default());
        tokio::spawn(save(path, saved));
        saver
    });
    let taster = bootstrap.taster.clone().map(Taster::new);
    let mut client = Client {
        bootstrap,
        changes: store.changes(),
        store,
        status,
        state,
        asked,
        asking: true,
        save_at: None,
        saver,
        told_to_end: Some(told_to_end),
        released: false,
        taster,
        link,
    };
    loop {
        let start = Instant::now();
        client.state.lose(start);
        let Err(error) = client.follow().await;
        let was_connected = client.status.get().connected;
        client.status.disconnected(error.to_string());
        if was_connected && start.elapsed() >= GOOD_STREAM {
            client.link.backoff.restart(MIN_BACKOFF);
        }
        let wait = client.link.backoff.next();
        tracing::warn!(controller = client.bootstrap.controller, %error, ?wait, "no xDS stream");
        client.meanwhile(sleep(wait)).await;
    }
}

/// The state that was saved, or an empty one; and the snapshot, if any was saved.
pub(crate) fn restored(bootstrap: &Bootstrap, base: &Snapshot) -> (State, Option<Snapshot>) {
    let mut state = State::new(bootstrap.role, &bootstrap.workload);
    let saved = own(bootstrap, CONFIG, |saved: &SavedConfig| &saved.workload);
    let records = own(bootstrap, TRIALS, |records: &Records| &records.workload).unwrap_or_default();
    let none = SavedConfig::default();
    state.resume_trials(saved.as_ref().unwrap_or(&none), records, SystemTime::now(), Instant::now());
    for ((kind, name), reason) in state.trials.quarantined() {
        tracing::error!(type_url = kind.url(), name, reason, "a resource is in quarantine");
    }
    note_trials(bootstrap, &state);
    let snapshot = saved.and_then(|saved| state.restore(saved, base, Instant::now()));
    (state, snapshot)
}

/// What was saved, if it is this workload's and whole.
fn own<M: Message + Default>(bootstrap: &Bootstrap, file: &str, workload: impl Fn(&M) -> &str) -> Option<M> {
    let path = bootstrap.state_file(file)?;
    match saved::read::<M>(&path) {
        Ok(saved) => saved.filter(|saved| {
            let own = workload(saved) == bootstrap.workload;
            if !own {
                tracing::warn!(path = %path.display(), workload = workload(saved), "saved state is of another workload");
            }
            own
        }),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "saved state isn't usable");
            None
        }
    }
}

/// Notes what is on trial, before anything comes of it.
fn note_trials(bootstrap: &Bootstrap, state: &State) {
    let Some(path) = bootstrap.state_file(TRIALS) else { return };
    // Blocking, but small and in memory.
    if let Err(error) = saved::note(&path, &state.trials.to_records(&bootstrap.workload)) {
        tracing::warn!(path = %path.display(), %error, "configuration is taken in without a trial");
    }
}

/// Writes what it is given; skips what is overtaken while it writes.
async fn save(path: PathBuf, mut saved: watch::Receiver<SavedConfig>) {
    while saved.changed().await.is_ok() {
        let (path, config) = (path.clone(), saved.borrow_and_update().clone());
        let write = move || saved::write(&path, &config).map_err(|error| (path, error));
        let written = tokio::task::spawn_blocking(write).await;
        if let Ok(Err((path, error))) = written {
            tracing::warn!(path = %path.display(), %error, "configuration isn't saved");
        }
    }
}

// === impl Client ===

impl Client {
    /// One stream from its first byte to its last.
    async fn follow(&mut self) -> Result<Infallible, StreamError> {
        let (mut requests, mut responses) = self.open().await?;
        self.status.connected();
        let snapshot = self.state.find(&self.store.load_full());
        self.publish(snapshot);
        tracing::info!(controller = self.bootstrap.controller, "xDS stream is open");
        loop {
            let arrived = self.respond(&mut requests, &mut responses).await?;
            self.taste(&arrived).await;
            if self.told_to_end.is_some() && self.state.begin_trials(&arrived, Instant::now()) {
                note_trials(&self.bootstrap, &self.state);
            }
            let applied = self.state.apply(arrived, &self.store.load_full(), Instant::now());
            self.publish(applied.snapshot);
            self.status.updated(&self.state);
            self.save_at.get_or_insert_with(|| Instant::now() + SAVE_DELAY);
            if let Some(nack) = &applied.reply.error_detail {
                tracing::warn!(type_url = applied.reply.type_url, reason = nack.message, "resources are refused");
            }
            requests.send(applied.reply).await?;
        }
    }

    /// Quarantines what another process has died of.
    async fn taste(&mut self, arrived: &DeltaDiscoveryResponse) {
        let Some(mut taster) = self.taster.take() else { return };
        if let Some(new) = self.state.untried(arrived) {
            let deadly = self.meanwhile(taster.deadly(new)).await;
            if !deadly.is_empty() {
                self.state.condemn(&arrived.type_url, deadly, SystemTime::now());
                note_trials(&self.bootstrap, &self.state);
            }
        }
        self.taster = Some(taster);
    }

    /// Connects and subscribes anew to everything that is wanted.
    async fn open(&mut self) -> Result<(Requests, Streaming<DeltaDiscoveryResponse>), StreamError> {
        let bootstrap = self.bootstrap.clone();
        let connecting = (self.link.connect)(bootstrap.clone());
        let channel = self.meanwhile(connecting).await?;
        let (queue, queued) = mpsc::channel(QUEUE);
        let anchor = self.anchor();
        let mut requests = Requests { queue, node: Some(node(&bootstrap, &anchor)), anchor };
        self.state.reset_subscriptions();
        self.released = false;
        // Before the call: a server may look at the first request before it answers.
        let wanted = self.state.requests(&self.store.load());
        requests.send_all(wanted).await?;
        let mut call = client::authorised(&bootstrap, ReceiverStream::new(queued))?;
        // One that can't be sent is none of ours.
        if let Ok(known) = self.state.known().parse() {
            call.metadata_mut().insert(NOT_OLDER_THAN, known);
        }
        let mut ads = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE);
        let opened = timeout(PATIENCE, ads.delta_aggregated_resources(call));
        let responses = self.meanwhile(opened).await.map_err(|_| StreamError::Stuck)?.map_err(StreamError::status)?;
        Ok((requests, responses.into_inner()))
    }

    /// The next response. Until it comes, new subscriptions go out as soon as they are wanted.
    async fn respond(
        &mut self,
        requests: &mut Requests,
        responses: &mut Streaming<DeltaDiscoveryResponse>,
    ) -> Result<DeltaDiscoveryResponse, StreamError> {
        loop {
            let wanted = self.state.requests(&self.store.load());
            requests.send_all(wanted).await?;
            requests.say(&self.bootstrap, self.anchor()).await?;
            tokio::select! {
                response = responses.message() => {
                    return response.map_err(StreamError::status)?.ok_or(StreamError::Ended);
                }
                event = self.event() => self.handle(event),
            }
            if self.released {
                // A new stream says what is held, and so gets what isn't.
                return Err(StreamError::Released);
            }
        }
    }

    /// Waits for `done` while asks, warm-ups and saves go on.
    async fn meanwhile<T>(&mut self, done: impl Future<Output = T>) -> T {
        let mut done = pin!(done);
        loop {
            tokio::select! {
                value = &mut done => return value,
                event = self.event() => self.handle(event),
            }
        }
    }

    /// Loses nothing if it is dropped.
    async fn event(&mut self) -> Event {
        let mut addresses = Vec::new();
        let (waited, save) = (self.state.deadline(), self.save_at);
        let unheard = self.state.close_at();
        let (proven, released) = (self.state.trials.deadline(), self.state.trials.release_at().map(instant));
        tokio::select! {
            asked = self.asked.recv_many(&mut addresses, ASKED_AT_ONCE), if self.asking => {
                self.asking = asked > 0;
                Event::Asked(addresses)
            }
            Ok(()) = self.changes.changed() => Event::Published,
            () = at(waited) => Event::WaitedEnough,
            () = at(unheard) => Event::Unheard,
            () = at(save) => Event::Save,
            () = at(proven) => Event::Proven,
            () = at(released) => Event::Released,
            () = or_never(self.told_to_end.as_mut()) => Event::ToldToEnd,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Asked(addresses) => {
                let snapshot = self.state.ask(&addresses, &self.store.load_full(), Instant::now());
                self.publish(snapshot);
            }
            Event::Published => {}
            Event::WaitedEnough => {
                let snapshot = self.state.expire(&self.store.load_full(), Instant::now());
                self.publish(snapshot);
            }
            Event::Unheard => {
                let (workloads, snapshot) = self.state.close(&self.store.load_full(), Instant::now());
                tracing::warn!(workloads, "no control plane: calls are refused, as owners want (onControlPlaneLoss)");
                self.publish(snapshot);
                self.status.closed(self.state.closed());
            }
            Event::Save => {
                self.save_at = None;
                if let Some(saver) = &self.saver {
                    saver.send_replace(self.state.save());
                }
            }
            Event::Proven => {
                self.state.prove(Instant::now());
                note_trials(&self.bootstrap, &self.state);
                self.status.holds(&self.state);
                self.save_at.get_or_insert_with(|| Instant::now() + SAVE_DELAY);
            }
            Event::Released => {
                self.released |= self.state.trials.release(SystemTime::now());
                note_trials(&self.bootstrap, &self.state);
            }
            Event::ToldToEnd => {
                self.told_to_end = None;
                self.state.trials.acquit();
                note_trials(&self.bootstrap, &self.state);
            }
        }
    }

    /// Which root the certificate leads to that this proxy shows now.
    fn anchor(&self) -> String {
        self.store.svid().map(|svid| svid.anchor.clone()).unwrap_or_default()
    }

    fn publish(&self, snapshot: Option<Snapshot>) {
        if let Some(snapshot) = snapshot {
            self.store.publish(snapshot);
        }
    }
}

// === impl Link ===

impl Link {
    /// TLS to its name.
    pub(crate) fn new() -> Self {
        Self {
            connect: Box::new(|bootstrap| Box::pin(async move { client::connect(&bootstrap).await })),
            backoff: Backoff::new(FIRST_BACKOFF, MAX_BACKOFF),
        }
    }

    /// Over the bytes that `open` leads to, as they are; equal seeds wait equally long.
    #[cfg(feature = "simulation")]
    pub(crate) fn simulated<S, F>(open: impl Fn() -> F + Clone + Send + Sync + 'static, seed: u64) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = std::io::Result<S>> + Send + 'static,
    {
        let connect = move |bootstrap: Arc<Bootstrap>| {
            let open = open.clone();
            let connecting: Connecting = Box::pin(async move { client::connect_over(&bootstrap, open).await });
            connecting
        };
        Self { connect: Box::new(connect), backoff: Self::new().backoff.seeded(seed) }
    }
}

// === impl Requests ===

impl Requests {
    async fn send(&mut self, request: DeltaDiscoveryRequest) -> Result<(), StreamError> {
        let request = DeltaDiscoveryRequest { node: self.node.take(), ..request };
        match timeout(PATIENCE, self.queue.send(request)).await {
            Ok(sent) => sent.map_err(|_| StreamError::Ended),
            Err(_) => Err(StreamError::Stuck),
        }
    }

    /// Says what has changed of the own certificate: once it leads to no other root, the control plane may take those away.
    async fn say(&mut self, bootstrap: &Bootstrap, anchor: String) -> Result<(), StreamError> {
        if anchor == self.anchor {
            return Ok(());
        }
        self.node = Some(node(bootstrap, &anchor));
        self.anchor = anchor;
        // It asks for nothing new, and acknowledges nothing.
        self.send(DeltaDiscoveryRequest { type_url: type_url::TRUST.into(), ..Default::default() }).await
    }

    async fn send_all(&mut self, requests: Vec<DeltaDiscoveryRequest>) -> Result<(), StreamError> {
        for request in requests {
            self.send(request).await?;
        }
        Ok(())
    }
}

// === impl StreamError ===

impl StreamError {
    fn status(status: tonic::Status) -> Self {
        Self::Status(Box::new(status))
    }
}

fn node(bootstrap: &Bootstrap, anchor: &str) -> Node {
    let kind = Some(value::Kind::StringValue(anchor.to_owned()));
    let anchor = (!anchor.is_empty()).then(|| (ANCHOR_METADATA.to_owned(), Value { kind }));
    Node {
        id: format!("{}/{}", bootstrap.workload, bootstrap.role.as_str()),
        cluster: bootstrap.namespace().into(),
        locality: Some(Locality { zone: bootstrap.zone.clone(), ..Default::default() }),
        user_agent_name: "outrigger".into(),
        user_agent_version: env!("CARGO_PKG_VERSION").into(),
        metadata: Some(Struct { fields: anchor.into_iter().collect() }),
    }
}

/// About the same moment by the clock that waits.
fn instant(time: SystemTime) -> Instant {
    Instant::now() + time.duration_since(SystemTime::now()).unwrap_or_default()
}

async fn or_never(done: Option<&mut End>) {
    match done {
        Some(done) => done.await,
        None => std::future::pending().await,
    }
}

/// Never, if there is no time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
