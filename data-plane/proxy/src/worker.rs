//! One thread per core: its own runtime, its own listening sockets, its own upstream pool. What it accepts it
//! finishes.

use std::{cell::RefCell, io, rc::Rc, sync::Arc, thread, time::Duration};

use futures_util::future::join_all;
use outrigger_wire::names::alpn;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::LocalSet,
};

use crate::{
    chunk,
    drain::Drain,
    engine::{Engine, Role},
    inbound,
    listeners::{Listeners, keep_alive},
    outbound,
    pool::Pool,
    series::SeriesCache,
    shared, splice, tcp,
    telemetry::Listener,
    tls::{Root, TlsStream},
};

/// The running workers.
#[derive(Clone)]
pub struct Workers {
    pulses: Arc<[mpsc::UnboundedSender<oneshot::Sender<()>>]>,
}

/// What one worker owns. Never leaves its thread.
pub(crate) struct Worker {
    pub(crate) engine: Arc<Engine>,
    pub(crate) pool: Pool,
    pub(crate) series: SeriesCache,
    pub(crate) server_first: tcp::ServerFirst,
    rng: RefCell<SmallRng>,
    pub(crate) drain: Drain,
    /// Raised with the worker's own, or when the root is retired.
    drains: RefCell<Vec<(Arc<Root>, Drain)>>,
}

#[derive(Debug, Clone, Copy)]
enum Port {
    Outbound,
    Inbound,
    Mesh,
}

impl Port {
    fn listener(self) -> Listener {
        match self {
            Self::Outbound => Listener::Outbound,
            Self::Inbound => Listener::Inbound,
            Self::Mesh => Listener::Mesh,
        }
    }
}

/// Pause after an accept error such as EMFILE, which would come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

impl Workers {
    /// Starts one thread per entry of `listeners`. They accept while `accept` is true, and finish what they have
    /// once `drain` is.
    ///
    /// # Errors
    /// If a thread or its runtime can't be made.
    pub fn start(
        engine: &Arc<Engine>,
        listeners: Vec<Listeners>,
        accept: &watch::Receiver<bool>,
        drain: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let mut pulses = Vec::new();
        for (index, listeners) in listeners.into_iter().enumerate() {
            let (pulse, pulsed) = mpsc::unbounded_channel();
            let (engine, accept, drain) = (engine.clone(), accept.clone(), drain.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                LocalSet::new().block_on(&runtime, run(engine, listeners, pulsed, accept, drain));
            })?;
            pulses.push(pulse);
        }
        Ok(Self { pulses: pulses.into() })
    }

    /// Resolves once every worker's event loop has come round.
    pub async fn beat(&self) {
        let answers: Vec<_> = self
            .pulses
            .iter()
            .map(|pulse| {
                let (answer, answered) = oneshot::channel();
                let _ = pulse.send(answer);
                answered
            })
            .collect();
        // A worker that is gone answers never: that is what a heartbeat is for.
        if join_all(answers).await.iter().any(Result::is_err) {
            std::future::pending::<()>().await;
        }
    }
}

impl Worker {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self {
            pool: Pool::new(engine.clone()),
            series: SeriesCache::default(),
            server_first: tcp::ServerFirst::default(),
            rng: RefCell::new(SmallRng::from_os_rng()),
            drain: Drain::default(),
            drains: RefCell::default(),
            engine,
        }
    }

    /// Raised when this connection is to end: with the worker, or with the root that vouches for its peer.
    pub(crate) fn drain_with(&self, stream: &TlsStream) -> Drain {
        let Some(root) = stream.root() else { return self.drain.clone() };
        let mut drains = self.drains.borrow_mut();
        if let Some((_, drain)) = drains.iter().find(|(known, _)| Arc::ptr_eq(known, root)) {
            return drain.clone();
        }
        let drain = Drain::default();
        if self.drain.is_raised() || root.is_retired() {
            drain.raise();
        } else {
            drains.push((root.clone(), drain.clone()));
        }
        drain
    }

    /// Has all connections end, or those alone whose peer nobody vouches for any more.
    fn end(&self, all: bool) {
        if all {
            self.drain.raise();
        }
        let ending = self.drains.borrow_mut().extract_if(.., |(root, _)| all || root.is_retired()).collect::<Vec<_>>();
        for (_, drain) in ending {
            drain.raise();
        }
    }

    pub(crate) fn random(&self) -> u32 {
        use rand::RngCore;
        self.rng.borrow_mut().next_u32()
    }
}

async fn run(
    engine: Arc<Engine>,
    listeners: Listeners,
    mut pulsed: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    accept: watch::Receiver<bool>,
    drain: watch::Receiver<bool>,
) {
    splice::allow(engine.limits.pipes);
    let worker = Rc::new(Worker::new(engine));
    let ports =
        [(Port::Outbound, listeners.outbound), (Port::Inbound, listeners.inbound), (Port::Mesh, listeners.mesh)];
    for (port, sockets) in ports {
        for socket in sockets {
            tokio::task::spawn_local(listen(worker.clone(), port, socket, accept.clone()));
        }
    }
    tokio::task::spawn_local(sweep(worker.clone()));
    tokio::task::spawn_local(end(worker.clone(), drain));
    while let Some(answer) = pulsed.recv().await {
        let _ = answer.send(());
    }
}

/// Has connections end: with the root that vouches for their peers, and all of them when the process does.
pub(crate) async fn end(worker: Rc<Worker>, mut drain: watch::Receiver<bool>) {
    let mut retirements = worker.engine.tls.retirements();
    loop {
        tokio::select! {
            on = drain.wait_for(|on| *on) => return if on.is_ok() { worker.end(true) },
            retired = retirements.changed() => if retired.is_ok() { worker.end(false) } else { return },
        }
    }
}

/// Closes pooled connections that nobody needs any more, and gives up memory likewise.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        worker.pool.sweep();
        chunk::trim();
    }
}

/// Accepts on one socket while it may, and closes it when draining begins. The socket is known to the event loop
/// only meanwhile: a waiting process must not be woken for another's connections.
async fn listen(worker: Rc<Worker>, port: Port, socket: std::net::TcpListener, mut accept: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            () = worker.drain.raised() => return,
            may = accept.wait_for(|may| *may) => if may.is_err() { return },
        }
        let listener = match socket.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, ?port, "can't listen");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        loop {
            let accepted = tokio::select! {
                biased;
                () = worker.drain.raised() => return,
                _ = accept.wait_for(|may| !*may) => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => take(&worker, port, stream),
                Err(error) => {
                    tracing::warn!(%error, ?port, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Starts the task of one connection, unless there are too many.
fn take(worker: &Rc<Worker>, port: Port, stream: TcpStream) {
    let Some(admitted) = worker.engine.active.admit(worker.engine.limits.connections) else {
        worker.engine.metrics.connection_shed();
        return tracing::debug!(?port, "too many connections: closed");
    };
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let counted = worker.engine.metrics.connections(port.listener()).open();
    let worker = worker.clone();
    tokio::task::spawn_local(async move {
        match (port, worker.engine.role) {
            (Port::Outbound, _) => outbound::accept(&worker, stream).await,
            (Port::Inbound, _) => inbound::accept_plain(&worker, stream).await,
            (Port::Mesh, Role::Sidecar) => inbound::accept_mesh(&worker, stream).await,
            (Port::Mesh, Role::Shared) => shared::accept(&worker, stream).await,
        }
        drop((admitted, counted));
    });
}

/// ALPN names by which mesh connections are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MeshProtocol {
    Http2,
    Tcp,
    Deliver,
    Guard,
}

impl MeshProtocol {
    pub(crate) fn of(name: Option<&[u8]>) -> Option<Self> {
        match name? {
            alpn::H2 => Some(Self::Http2),
            alpn::TCP => Some(Self::Tcp),
            alpn::DELIVER => Some(Self::Deliver),
            alpn::GUARD => Some(Self::Guard),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'a, F: Future>(_: impl Fn(&'a Rc<Worker>, TcpStream) -> F) -> usize {
        size_of::<F>()
    }

    /// Each connection holds one for as long as it lives.
    #[test]
    fn tasks_of_connections_are_small() {
        assert!(size(outbound::accept) <= 4608, "{}", size(outbound::accept));
        assert!(size(inbound::accept_plain) <= 4608, "{}", size(inbound::accept_plain));
        assert!(size(inbound::accept_mesh) <= 4608, "{}", size(inbound::accept_mesh));
        assert!(size(shared::accept) <= 5120, "{}", size(shared::accept));
    }
}
