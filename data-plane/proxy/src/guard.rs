//! The guard: owns the pod's listening sockets and, while no sidecar accepts, carries what arrives through a shared
//! proxy. It works on connections alone: parses no HTTP, applies no policy but the owner's choice of what happens
//! without a sidecar, and holds nothing that grows.

use std::{future::Future, io, sync::Arc, time::Duration};

use outrigger_core::Store;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    chunk,
    handover::{Host, Names},
    listeners::{Ports, reset_at_end},
    memory, splice,
    telemetry::{FallbackReason, Listener, Metrics},
    tls::MeshTls,
};

pub(crate) mod capture;
mod carrier;
mod policy;
pub(crate) mod state;
mod throttle;
mod view;

use carrier::Carrier;
pub use state::{Authority, Cause, Patience};
pub use view::View;

/// What a guard needs.
pub struct GuardConfig {
    pub ports: Ports,
    /// Sockets per port and address family: as many as the sidecar has workers.
    pub workers: usize,
    pub store: Arc<Store>,
    pub tls: Arc<MeshTls>,
    pub metrics: Arc<Metrics>,
    /// SO_MARK of what the guard sends.
    pub mark: Option<u32>,
    /// Where the guard runs; empty if unknown.
    pub zone: String,
    pub names: Names,
    pub patience: Patience,
    /// Whether a sidecar is to be expected: `false` in pods that are enrolled without one.
    pub sidecar: bool,
    /// Connections carried at once; more are reset.
    pub connections: usize,
    /// Pipes through which the kernel moves bulk.
    pub pipes: usize,
    /// Says who accepts; `None` until the sockets are there.
    pub authority: watch::Sender<Option<Authority>>,
    /// Says whether the pod's traffic is captured; `None` where it isn't to be.
    pub captured: Option<watch::Sender<bool>>,
}

/// A guard that holds its sockets.
pub struct Guard {
    config: GuardConfig,
    host: Host,
}

/// What one listening socket's task needs.
struct Port {
    listener: Listener,
    socket: std::net::TcpListener,
    carrier: Arc<Carrier>,
    sidecar: bool,
}

/// How often memory is given up that nobody needs any more.
const TIDY: Duration = Duration::from_secs(5);

/// Pause after an accept error such as EMFILE, which would come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

/// Guards until `shutdown` resolves. Connections that are being carried then go on while the runtime does.
///
/// # Errors
/// When another guard is there, or a port can't be had.
pub async fn run(config: GuardConfig, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    let mut shutdown = std::pin::pin!(shutdown);
    let guard = tokio::select! {
        guard = Guard::start(config) => guard?,
        () = &mut shutdown => return Ok(()),
    };
    guard.run(shutdown).await
}

/// Gives up what carrying took, once nothing is carried any more.
async fn tidy(carrier: Arc<Carrier>) {
    let (mut ticks, mut busy) = (tokio::time::interval(TIDY), false);
    loop {
        ticks.tick().await;
        chunk::trim();
        if std::mem::replace(&mut busy, carrier.is_busy()) && !busy {
            let _ = memory::forget_program_pages().inspect_err(|error| tracing::debug!(%error, "own mappings"));
        }
    }
}

/// What a metric calls the cause.
fn reason(cause: Cause, sidecar: bool) -> FallbackReason {
    match cause {
        _ if !sidecar => FallbackReason::Shared,
        Cause::Absent | Cause::Died | Cause::Left => FallbackReason::SidecarDown,
        Cause::NotReady => FallbackReason::NotReady,
        Cause::Hung => FallbackReason::SidecarHung,
    }
}

// === impl Guard ===

impl Guard {
    /// Gets the listening sockets, see [`Host::start`].
    ///
    /// # Errors
    /// When another guard is there, or a port can't be had.
    pub async fn start(config: GuardConfig) -> io::Result<Self> {
        let host = Host::start(&config.names, config.ports, config.workers, config.patience).await?;
        Ok(Self { config, host })
    }

    /// The ports that are listened on.
    ///
    /// # Errors
    /// When a socket can't be asked.
    pub fn ports(&self) -> io::Result<Ports> {
        self.host.listeners().ports()
    }

    /// Guards until `shutdown` resolves.
    ///
    /// # Errors
    /// Without free descriptors at the start.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self { config, host } = self;
        splice::allow(config.pipes);
        let all = host.listeners().try_clone()?;
        let carrier = Arc::new(Carrier::new(&config, all.ports()?));
        let mut tasks = JoinSet::new();
        let ports = [(Listener::Outbound, all.outbound), (Listener::Inbound, all.inbound), (Listener::Mesh, all.mesh)];
        for (listener, sockets) in ports {
            for socket in sockets {
                let port = Port { listener, socket, carrier: carrier.clone(), sidecar: config.sidecar };
                tasks.spawn(port.serve(config.authority.subscribe()));
            }
        }
        tasks.spawn(tidy(carrier));
        if let Some(captured) = config.captured {
            tasks.spawn(capture::follow(captured));
        }
        tokio::select! {
            () = host.run(config.authority) => {}
            () = shutdown => {}
        }
        Ok(())
    }
}

// === impl Port ===

impl Port {
    /// Accepts while the guard has the authority. The socket is known to the event loop only meanwhile, so a sidecar's
    /// connections don't wake the guard.
    async fn serve(self, mut authority: watch::Receiver<Option<Authority>>) {
        loop {
            if authority.wait_for(|now| matches!(now, Some(Authority::Guard(_)))).await.is_err() {
                return;
            }
            let listener = match self.socket.try_clone().and_then(TcpListener::from_std) {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::error!(%error, "the guard can't listen");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            loop {
                let accepted = tokio::select! {
                    biased;
                    _ = authority.wait_for(|now| *now == Some(Authority::Sidecar)) => break,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, _)) => self.take(stream, *authority.borrow()),
                    Err(error) => {
                        tracing::warn!(%error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, authority: Option<Authority>) {
        let cause = match authority {
            Some(Authority::Guard(cause)) => cause,
            // A sidecar has taken over in between; what has been accepted is carried all the same.
            _ => Cause::NotReady,
        };
        let Some(slot) = self.carrier.slot() else {
            reset_at_end(&stream, true);
            return self.carrier.shed(self.listener);
        };
        // Without the option it is slower, not wrong.
        let _ = stream.set_nodelay(true);
        let (carrier, listener, reason) = (self.carrier.clone(), self.listener, reason(cause, self.sidecar));
        tokio::spawn(async move {
            carrier.carry(listener, stream, reason).await;
            drop(slot);
        });
    }
}
