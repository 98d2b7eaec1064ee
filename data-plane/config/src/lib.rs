//! Fills a proxy's [`Store`]: configuration over delta xDS, its certificate from the control plane's authority, and
//! both from disk while the control plane is away.
//!
//! Never on the request path: everything here runs on the control thread, converts before it publishes, and leaves
//! the last good state in force whatever the control plane sends or doesn't.

use std::{future::Future, net::IpAddr, path::PathBuf, sync::Arc};

use outrigger_core::Store;
use tokio::sync::mpsc;

mod backoff;
mod certificate;
mod client;
mod departure;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod poison;
mod saved;
mod state;
mod status;
mod stream;
mod taster;
mod trial;
mod trouble;

pub use departure::{Departure, departed};
use state::State;
pub use status::{CertificateStatus, ClientStatus, Refusal, Status};
use stream::Link;
pub use taster::taste;
pub use trouble::tell_uncaptured;

/// What a proxy is for; decides what it subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Its own `Inbound`, and services as its app calls them.
    Sidecar,
    /// Its own `Inbound` and the shared proxies.
    Guard,
    /// Everything.
    Shared,
}

/// Where the control plane is, and who asks.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    pub role: Role,
    /// `HOST:PORT`.
    pub controller: String,
    /// DNS SAN that the controller's certificate must have.
    pub controller_name: String,
    /// PEM of the roots that the controller's certificate is verified against; read again for each connection.
    pub root_cert: PathBuf,
    /// File of the bearer token; read again for each call.
    pub token: PathBuf,
    /// `NAMESPACE/NAME` of the workload that this proxy serves.
    pub workload: String,
    /// Where the last good state is kept; `None` keeps nothing.
    pub state_dir: Option<PathBuf>,
    /// Locality of this proxy; "" if it isn't known.
    pub zone: String,
    /// A program whose mode `taste` calls [`taste`]: new configuration is tried there first. `None` tries nothing.
    pub taster: Option<PathBuf>,
    /// SO_MARK of the connection to the controller; the pod's redirection lets it pass.
    pub mark: Option<u32>,
}

/// What [`restore`] found; [`run`] goes on from there.
pub struct Restored {
    pub config: bool,
    pub svid: bool,
    state: State,
}

/// Publishes what was saved, if anything, at once. To be called once in a process: if the one before died with new
/// configuration on trial, that is counted here.
pub fn restore(bootstrap: &Bootstrap, store: &Store) -> Restored {
    let (state, config) = stream::restored(bootstrap, store.load_full().as_ref());
    let svid = certificate::restored(bootstrap);
    let restored = Restored { config: config.is_some(), svid: svid.is_some(), state };
    if let Some(svid) = svid {
        store.publish_svid(svid);
    }
    if let Some(snapshot) = config {
        store.publish(snapshot);
    }
    restored
}

/// Runs for ever: renews the certificate and follows the xDS stream, each with its own connection, back-off and
/// jitter. `asked` is what [`Store::new`] returned. From `told_to_end` on the end of this process is no sign of anything.
pub async fn run(
    bootstrap: Bootstrap,
    restored: Restored,
    store: Arc<Store>,
    asked: mpsc::Receiver<IpAddr>,
    status: Arc<ClientStatus>,
    told_to_end: impl Future<Output = ()> + Send + 'static,
) {
    let bootstrap = Arc::new(bootstrap);
    tokio::join!(
        certificate::run(bootstrap.clone(), store.clone(), status.clone()),
        stream::run(bootstrap, restored.state, store, asked, status, Box::pin(told_to_end), Link::new()),
    );
}

/// As [`run`], but for the certificate, over a simulated network: `open` leads to the controller, `seed` decides how long is
/// waited before each try.
#[cfg(feature = "simulation")]
pub async fn simulate<S, F>(
    bootstrap: Bootstrap,
    restored: Restored,
    store: Arc<Store>,
    asked: mpsc::Receiver<IpAddr>,
    status: Arc<ClientStatus>,
    open: impl Fn() -> F + Clone + Send + Sync + 'static,
    seed: u64,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = std::io::Result<S>> + Send + 'static,
{
    let (link, never) = (Link::simulated(open, seed), Box::pin(std::future::pending()));
    stream::run(Arc::new(bootstrap), restored.state, store, asked, status, never, link).await;
}

// === impl Role ===

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Guard => "guard",
            Self::Shared => "shared",
        }
    }
}

// === impl Bootstrap ===

impl Bootstrap {
    /// Default of [`controller_name`](Self::controller_name).
    pub const CONTROLLER_NAME: &str = "outrigger-controller.outrigger-system.svc";

    /// Namespace of the workload.
    pub(crate) fn namespace(&self) -> &str {
        self.workload.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    fn state_file(&self, suffix: &str) -> Option<PathBuf> {
        // A sidecar and a guard of one pod may share the directory.
        Some(self.state_dir.as_ref()?.join(format!("{}.{suffix}", self.role.as_str())))
    }
}
