//! One thread per core: its own runtime, its own listening sockets, its own upstream pool. What it accepts it
//! finishes.

use std::{
    cell::{Cell, RefCell},
    io,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use outrigger_wire::names::alpn;
use rand::{SeedableRng, rngs::SmallRng};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::{JoinSet, LocalSet},
};

use crate::{
    chunk,
    drain::Drain,
    engine::{ActiveConnections, Admitted, Engine, Role},
    inbound,
    listeners::{Listeners, keep_alive},
    outbound,
    pool::Pool,
    pressure::Level,
    series::SeriesCache,
    shared, splice, tcp,
    telemetry::Listener,
    tls::Root,
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
    /// Those of connections whose peer this root vouches for, or nobody. Raised with the worker's own, when the root is
    /// retired, or when memory runs out; who comes then gets another.
    drains: RefCell<Vec<(Option<Arc<Root>>, Drain)>>,
    connections: RefCell<JoinSet<()>>,
    level: Cell<Level>,
    /// Those whose app is told that there is no memory.
    told: ActiveConnections,
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

/// Connections of its own app that a proxy without memory still answers.
const TOLD: usize = 64;

/// Pause after an accept error such as EMFILE, which would come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(5);

impl Workers {
    /// Starts one thread per entry of `listeners`. They accept while `accept` is true, and finish what they have
    /// once `drain` is. What they take goes by `memory`.
    ///
    /// # Errors
    /// If a thread or its runtime can't be made.
    pub fn start(
        engine: &Arc<Engine>,
        listeners: Vec<Listeners>,
        accept: &watch::Receiver<bool>,
        drain: &watch::Receiver<bool>,
        memory: &watch::Receiver<Level>,
    ) -> io::Result<Self> {
        let mut pulses = Vec::new();
        for (index, listeners) in listeners.into_iter().enumerate() {
            let (pulse, pulsed) = mpsc::unbounded_channel();
            let (engine, accept, drain, memory) = (engine.clone(), accept.clone(), drain.clone(), memory.clone());
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                LocalSet::new().block_on(&runtime, run(engine, listeners, pulsed, accept, drain, memory));
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
            connections: RefCell::default(),
            level: Cell::new(Level::Calm),
            told: ActiveConnections::default(),
            engine,
        }
    }

    /// Raised when connections are to end whose peer `root` vouches for.
    pub(crate) fn drain_with(&self, root: Option<&Arc<Root>>) -> Drain {
        let mut drains = self.drains.borrow_mut();
        let same = |known: &Option<Arc<Root>>| known.as_ref().map(Arc::as_ptr) == root.map(Arc::as_ptr);
        if let Some((_, drain)) = drains.iter().find(|(known, _)| same(known)) {
            return drain.clone();
        }
        let drain = Drain::default();
        if self.drain.is_raised() || root.is_some_and(|root| root.is_retired()) {
            drain.raise();
        } else {
            drains.push((root.cloned(), drain.clone()));
        }
        drain
    }

    /// Has connections end, by whom vouches for their peers.
    fn end(&self, which: impl Fn(Option<&Root>) -> bool) {
        let ending: Vec<_> = self.drains.borrow_mut().extract_if(.., |(root, _)| which(root.as_deref())).collect();
        for (_, drain) in ending {
            drain.raise();
        }
    }

    /// Takes no more than there is memory for.
    fn press(&self, level: Level) {
        self.level.set(level);
        if level == Level::Calm {
            return;
        }
        self.pool.give_up_idle();
        self.end(|_| true);
        if level == Level::Critical {
            self.connections.borrow_mut().abort_all();
        }
        chunk::trim();
    }

    /// Whether there is no memory for more.
    pub(crate) fn is_tight(&self) -> bool {
        self.level.get() > Level::Calm
    }

    /// The right to say so, as long as that doesn't take too much either.
    pub(crate) fn admit_told(&self) -> Option<Admitted> {
        self.engine.metrics.connection_shed();
        self.told.admit(TOLD)
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
    memory: watch::Receiver<Level>,
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
    tokio::task::spawn_local(end(worker.clone(), drain, memory));
    while let Some(answer) = pulsed.recv().await {
        let _ = answer.send(());
    }
}

/// Has connections end: with the root that vouches for their peers, when memory runs out, and when the process ends.
pub(crate) async fn end(worker: Rc<Worker>, mut drain: watch::Receiver<bool>, mut memory: watch::Receiver<Level>) {
    let mut retirements = worker.engine.tls.retirements();
    let mut watched = true;
    loop {
        tokio::select! {
            on = drain.wait_for(|on| *on) => {
                if on.is_ok() {
                    worker.drain.raise();
                    worker.end(|_| true);
                }
                return;
            }
            retired = retirements.changed() => match retired {
                Ok(()) => worker.end(|root| root.is_some_and(Root::is_retired)),
                Err(_) => return,
            },
            changed = memory.changed(), if watched => match changed {
                Ok(()) => {
                    let level = *memory.borrow_and_update();
                    worker.press(level);
                }
                Err(_) => watched = false,
            },
        }
    }
}

/// Closes pooled connections that nobody needs any more, and gives up memory likewise.
async fn sweep(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    loop {
        ticks.tick().await;
        worker.pool.sweep();
        while worker.connections.borrow_mut().try_join_next().is_some() {}
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

/// Starts the task of one connection, unless there are too many, or there is no memory for it.
fn take(worker: &Rc<Worker>, port: Port, stream: TcpStream) {
    // The pod's own app is told so.
    let room = !worker.is_tight() || matches!(port, Port::Outbound);
    let Some(admitted) = worker.engine.active.admit(worker.engine.limits.connections).filter(|_| room) else {
        worker.engine.metrics.connection_shed();
        return tracing::debug!(?port, "too many connections: closed");
    };
    let _ = stream.set_nodelay(true);
    keep_alive(&stream);
    let counted = worker.engine.metrics.connections(port.listener()).open();
    let mut connections = worker.connections.borrow_mut();
    while connections.try_join_next().is_some() {}
    let worker = worker.clone();
    connections.spawn_local(async move {
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
