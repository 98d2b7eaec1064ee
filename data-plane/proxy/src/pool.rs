//! Upstream connections of one worker: kept, shared, thrown away. HTTP/2 is one connection per peer, more only
//! while that one is full; HTTP/1 is a stack of idle connections per peer.

use std::{
    cell::{Cell, RefCell},
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use outrigger_core::{Map, config::EndpointSpec};
use outrigger_wire::{
    SpiffeId,
    names::{alpn, ports},
    tunnel::{Caller, TcpHeader},
};
use tokio::io::AsyncWriteExt;

use crate::{
    engine::Engine,
    http::{Arriving, Relay},
    http1,
    http2::{self, Full, Settings},
    listeners::{give_up_after, upstream_socket},
    stream::Link,
    sys::is_unacknowledged,
    telemetry::Side,
    tls::{connect, server_name},
};

/// Where bytes go, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) via: Via<'a>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Via<'a> {
    /// Straight to an app.
    Plain,
    /// mTLS to the mesh port of this identity's pod.
    Mesh(&'a SpiffeId),
    /// mTLS to the mesh port, there on to the app's port. Only shared proxies may.
    Deliver(&'a SpiffeId, u16),
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    #[error("connect: no answer within the limit")]
    ConnectTimeout,
    #[error("the peer acknowledges nothing any more")]
    Vanished,
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("no certificate of our own yet")]
    NoCertificate,
    #[error("HTTP/1.1: {0}")]
    Http1(#[from] http1::Error),
    #[error("HTTP/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("HTTP/2: {0}")]
    Refused(#[source] h2::Error),
    #[error("HTTP/2: the peer takes no requests")]
    Full,
}

/// What to do if the kept connections to a peer have gone silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Say so at once: there are others to ask.
    GiveUp,
    /// Dial anew.
    Dial,
}

/// A failed try.
pub(crate) struct Failed {
    pub(crate) error: UpstreamError,
    /// There if it can be sent again, because it is still whole.
    pub(crate) request: Option<Box<Request<Relay>>>,
    /// Nobody has worked on it: not one byte was sent, or the peer says so.
    pub(crate) unsent: bool,
}

pub(crate) struct Answered {
    pub(crate) response: Response<Arriving>,
    pub(crate) lease: Option<Lease>,
    /// What was asked, if that is still whole.
    pub(crate) request: Option<Box<Request<Relay>>>,
}

pub(crate) struct Pool {
    engine: Arc<Engine>,
    http1: RefCell<Map<Key, Vec<Idle>>>,
    http2: RefCell<Map<Key, Rc<Peer>>>,
}

/// Keeps the connection that an answer came on, if it is HTTP's still; give it back when the answer's body has been read.
pub(crate) enum Lease {
    Http1 { key: Key, connection: http1::Connection, epoch: u64 },
    Http2(#[allow(dead_code, reason = "counts the stream while it lives")] Stream),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    address: SocketAddr,
    /// 0: plain, 1: mesh, 2: deliver.
    via: u8,
    deliver_port: u16,
}

struct Idle {
    connection: http1::Connection,
    since: Instant,
    epoch: u64,
}

/// The HTTP/2 connections to one peer.
struct Peer {
    connections: RefCell<Vec<Rc<Http2>>>,
    /// Held while dialling, so that a burst makes one connection.
    dialling: tokio::sync::Semaphore,
}

/// One HTTP/2 connection.
struct Http2 {
    sender: SendRequest<Bytes>,
    connection: Rc<http2::Connection>,
    identity: Option<SpiffeId>,
    epoch: u64,
    streams: Cell<usize>,
    used: Cell<Instant>,
    pulse: Rc<Pulse>,
}

/// Whether the peer of a connection still acknowledges what it is sent.
struct Pulse {
    /// The socket, as long as it is open.
    socket: Cell<Option<RawFd>>,
    looked: Cell<Instant>,
    silent: Cell<bool>,
}

pub(crate) struct Stream(Rc<Http2>);

/// An HTTP/1 connection idle for longer is closed: many servers close theirs after a minute.
const IDLE_HTTP1: Duration = Duration::from_secs(50);
const IDLE_HTTP2: Duration = Duration::from_secs(600);
/// Idle HTTP/1 connections kept per peer.
const IDLE_MAX: usize = 512;
/// Streams on one connection before a second is opened; peers allow [`Limits::streams`](crate::Limits::streams).
const STREAMS: usize = 200;
const CONNECTIONS: usize = 16;
/// Between two looks at a connection's pulse.
const LOOK: Duration = Duration::from_millis(50);
/// A connection that nobody has used for so long may have lost its peer without a sign: who has other endpoints asks first.
const QUIET: Duration = Duration::from_millis(250);
/// The answer to that takes one round trip. Who owes it for so long gets no request.
const ASK: Duration = Duration::from_secs(1);
/// A peer of the mesh whose kernel has acknowledged nothing for so long is gone, and what waits for its answers fails.
const SILENCE: Duration = Duration::from_secs(3);

impl Pool {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { engine, http1: RefCell::default(), http2: RefCell::default() }
    }

    /// Sends one request as HTTP/2 or HTTP/1, on a kept connection if there is one.
    pub(crate) async fn send(
        &self,
        target: Target<'_>,
        http2: bool,
        request: Box<Request<Relay>>,
        connect: Duration,
        silence: Silence,
    ) -> Result<Answered, Failed> {
        if http2 {
            self.send_http2(target, request, connect, silence).await
        } else {
            self.send_http1(target, request, connect).await
        }
    }

    /// Dials, without keeping.
    pub(crate) async fn dial(
        &self,
        target: Target<'_>,
        name: &'static [u8],
        limit: Duration,
    ) -> Result<Link, UpstreamError> {
        // Boxed: rare, and by far the largest part of what every request's future would hold.
        let dialled = tokio::time::timeout(limit, Box::pin(dial(&self.engine, target, name))).await;
        dialled.unwrap_or(Err(UpstreamError::ConnectTimeout))
    }

    /// Closes what carries nothing now: others need the room.
    pub(crate) fn give_up_idle(&self) {
        self.http1.borrow_mut().clear();
        self.http2.borrow_mut().retain(|_, peer| {
            peer.connections.borrow_mut().retain(|it| it.streams.get() > 0);
            !peer.connections.borrow().is_empty() || Rc::strong_count(peer) > 1
        });
    }

    /// Closes what has been idle for long.
    pub(crate) fn sweep(&self) {
        let (now, epoch) = (Instant::now(), self.engine.tls.epoch());
        self.http1.borrow_mut().retain(|key, idle| {
            let fresh = |it: &Idle| key.via == 0 || it.epoch == epoch;
            idle.retain(|it| fresh(it) && now - it.since < IDLE_HTTP1 && it.connection.is_open());
            !idle.is_empty()
        });
        self.http2.borrow_mut().retain(|_, peer| {
            let mut connections = peer.connections.borrow_mut();
            connections
                .retain(|it| !it.connection.closed.get() && (it.streams.get() > 0 || now - it.used.get() < IDLE_HTTP2));
            !connections.is_empty() || Rc::strong_count(peer) > 1
        });
    }

    /// Connections, and streams on them.
    #[cfg(test)]
    pub(crate) fn http2_open(&self) -> (usize, usize) {
        let peers = self.http2.borrow();
        let all = || peers.values().flat_map(|peer| peer.connections.borrow().clone());
        (all().count(), all().map(|it| it.streams.get()).sum())
    }

    async fn send_http1(
        &self,
        target: Target<'_>,
        request: Box<Request<Relay>>,
        connect: Duration,
    ) -> Result<Answered, Failed> {
        let key = Key::of(target);
        let epoch = self.engine.tls.epoch();
        let mut request = request;
        loop {
            // One that was closed meanwhile gives the request back unsent.
            let kept = self.idle(key, epoch);
            let again = kept.is_some();
            let connection = match kept {
                Some(connection) => connection,
                None => match self.dial(target, target.via.alpn(), connect).await {
                    Ok(link) => http1::Connection::new(link),
                    Err(error) => return Err(Failed::unsent(error, request)),
                },
            };
            match http1::send(connection, request, self.engine.limits.header_bytes as usize).await {
                Ok(http1::Answer { response, connection, request }) => {
                    let lease = connection.map(|connection| Lease::Http1 { key, connection, epoch });
                    return Ok(Answered { response, lease, request });
                }
                Err(Failed { request: Some(back), unsent: true, .. }) if again => request = back,
                Err(failed) => return Err(failed),
            }
        }
    }

    /// The connection that was used last.
    fn idle(&self, key: Key, epoch: u64) -> Option<http1::Connection> {
        let mut all = self.http1.borrow_mut();
        let idle = all.get_mut(&key)?;
        while let Some(last) = idle.pop() {
            // Connections that were authenticated with an older identity or older roots are not used again.
            if (key.via == 0 || last.epoch == epoch) && last.connection.is_open() {
                return Some(last.connection);
            }
        }
        None
    }

    async fn send_http2(
        &self,
        target: Target<'_>,
        request: Box<Request<Relay>>,
        connect: Duration,
        silence: Silence,
    ) -> Result<Answered, Failed> {
        let mut request = request;
        // A peer that says GOAWAY is noticed by the next request, which comes back unsent; so does a stream that is refused.
        for last in [false, false, true] {
            let connection = match self.http2(target, connect, silence).await {
                Ok(connection) => connection,
                Err(error) => return Err(Failed::unsent(error, request)),
            };
            let stream = Stream::open(&connection);
            let state = &*connection.connection;
            // More than it allows: the last of them waits.
            let full = connection.streams.get() > state.allowed.get();
            let full = full.then_some(Full { connection: state, look: connect });
            match http2::send(&mut connection.sender.clone(), request, full).await {
                Ok(response) => {
                    return Ok(Answered { response, lease: Some(Lease::Http2(stream)), request: None });
                }
                Err(Failed { error: UpstreamError::Refused(_), request: Some(back), unsent: true })
                    if !last && state.allowed.get() > 0 =>
                {
                    request = back;
                }
                Err(Failed { error: UpstreamError::Http2(_), request: Some(back), unsent: true }) if !last => {
                    self.retire(target, &connection);
                    request = back;
                }
                Err(failed) => return Err(failed),
            }
        }
        Err(Failed::unsent(UpstreamError::ConnectTimeout, request))
    }

    /// Gives no more requests to a connection.
    fn retire(&self, target: Target<'_>, connection: &Rc<Http2>) {
        if let Some(peer) = self.http2.borrow().get(&Key::of(target)) {
            peer.connections.borrow_mut().retain(|it| !Rc::ptr_eq(it, connection));
        }
    }

    /// A connection with room for one more stream.
    async fn http2(&self, target: Target<'_>, limit: Duration, silence: Silence) -> Result<Rc<Http2>, UpstreamError> {
        let key = Key::of(target);
        let peer = self.http2.borrow_mut().entry(key).or_insert_with(|| Rc::new(Peer::new())).clone();
        let epoch = self.engine.tls.epoch();
        while let Some(connection) = peer.usable(target, epoch) {
            if silence == Silence::Dial || connection.is_alive().await {
                return Ok(connection);
            }
            if !connection.connection.closed.get() {
                return Err(UpstreamError::Vanished);
            }
        }
        if silence == Silence::GiveUp && peer.is_silent() {
            return Err(UpstreamError::Vanished);
        }
        let turn = tokio::time::timeout(limit, peer.dialling.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(UpstreamError::ConnectTimeout) };
        if let Some(connection) = peer.usable(target, epoch) {
            return Ok(connection);
        }
        if peer.connections.borrow().len() >= CONNECTIONS {
            return Err(UpstreamError::Full);
        }
        let link = self.dial(target, target.via.alpn(), limit).await?;
        // Proxies read whatever comes; an app may let its peers wait.
        if target.via.identity().is_some() {
            give_up_after(link.socket(), SILENCE);
        }
        let pulse = Rc::new(Pulse::of(&link));
        let settings =
            Settings { header_bytes: self.engine.limits.header_bytes, streams: STREAMS, asked: target.via.is_proxy() };
        let ended = pulse.clone();
        let (sender, connection) = http2::open(link, settings, move || ended.socket.set(None)).await?;
        let opened = Rc::new(Http2 {
            sender,
            connection,
            identity: target.via.identity().cloned(),
            epoch,
            streams: Cell::default(),
            used: Cell::new(Instant::now()),
            pulse,
        });
        peer.connections.borrow_mut().push(opened.clone());
        Ok(opened)
    }
}

async fn dial(engine: &Engine, target: Target<'_>, name: &'static [u8]) -> Result<Link, UpstreamError> {
    let socket = upstream_socket(target.address, engine.mark).map_err(UpstreamError::Connect)?;
    let stream = socket.connect(target.address).await.map_err(UpstreamError::Connect)?;
    let _ = stream.set_nodelay(true);
    let Some(identity) = target.via.identity() else { return Ok(Link::Plain(stream)) };
    let config = engine.tls.client(std::slice::from_ref(identity), name).ok_or(UpstreamError::NoCertificate)?;
    let connected = connect(config, server_name(target.address.ip()), stream).await;
    let series = engine.metrics.tls(Side::Client);
    if connected.is_ok() {
        series.handshakes.inc()
    } else {
        series.failures.inc()
    }
    let (mut stream, _) = connected.map_err(UpstreamError::Tls)?;
    if let Via::Deliver(_, port) = target.via {
        let header = TcpHeader { port, caller: Caller::Peer, address: None }.encode();
        stream.write_all(&header).await.map_err(UpstreamError::Tls)?;
    }
    Ok(Link::Tls(stream))
}

// === impl Failed, Target ===

impl Failed {
    pub(crate) fn unsent(error: UpstreamError, request: Box<Request<Relay>>) -> Self {
        Self { error, request: Some(request), unsent: true }
    }
}

impl<'a> Target<'a> {
    /// How an endpoint is reached: through its mesh port if it has a proxy, else straight at `port`.
    pub(crate) fn of(spec: &'a EndpointSpec, port: u16) -> Self {
        match &spec.identity {
            Some(identity) if spec.meshed => {
                Self { address: SocketAddr::new(spec.address, ports::MESH), via: Via::Mesh(identity) }
            }
            _ => Self { address: SocketAddr::new(spec.address, port), via: Via::Plain },
        }
    }
}

impl<'a> Via<'a> {
    fn identity(&self) -> Option<&'a SpiffeId> {
        match *self {
            Self::Plain => None,
            Self::Mesh(identity) | Self::Deliver(identity, _) => Some(identity),
        }
    }

    /// Whether HTTP is spoken with a proxy, and not with an app at the end of whatever is between.
    fn is_proxy(&self) -> bool {
        matches!(self, Self::Mesh(_))
    }

    pub(crate) fn alpn(&self) -> &'static [u8] {
        match self {
            Self::Plain | Self::Mesh(_) => alpn::H2,
            Self::Deliver(..) => alpn::DELIVER,
        }
    }
}

impl Key {
    fn of(target: Target<'_>) -> Self {
        let (via, deliver_port) = match target.via {
            Via::Plain => (0, 0),
            Via::Mesh(_) => (1, 0),
            Via::Deliver(_, port) => (2, port),
        };
        Self { address: target.address, via, deliver_port }
    }
}

// === impl Peer ===

impl Peer {
    fn new() -> Self {
        Self { connections: RefCell::default(), dialling: tokio::sync::Semaphore::new(1) }
    }

    fn usable(&self, target: Target<'_>, epoch: u64) -> Option<Rc<Http2>> {
        let mut connections = self.connections.borrow_mut();
        let identity = target.via.identity();
        // An address may have got another owner, and identity or roots may have changed: such connections end
        // when their last stream does. So do those whose peer takes no more requests.
        let takes_some = |it: &Http2| it.connection.allowed.get() > 0;
        connections.retain(|it| {
            !it.connection.closed.get()
                && it.identity.as_ref() == identity
                && (identity.is_none() || it.epoch == epoch)
                && (takes_some(it) || it.streams.get() > 0)
        });
        let now = Instant::now();
        // The first with room, so that others can become idle.
        let has_room = |it: &&Rc<Http2>| it.streams.get() < it.connection.allowed.get() && !it.pulse.is_silent(now);
        let chosen = match connections.iter().find(has_room) {
            Some(roomy) => roomy,
            None if connections.len() < CONNECTIONS => return None,
            None => connections.iter().filter(|it| takes_some(it)).min_by_key(|it| it.streams.get())?,
        };
        let used = chosen.used.replace(now);
        if target.via.is_proxy() && now.saturating_duration_since(used) >= QUIET {
            chosen.connection.life.doubt();
        }
        Some(chosen.clone())
    }

    /// Whether there are connections, and none of them shows a sign of life.
    fn is_silent(&self) -> bool {
        let (connections, now) = (self.connections.borrow(), Instant::now());
        !connections.is_empty() && connections.iter().all(|it| it.pulse.is_silent(now))
    }
}

// === impl Http2 ===

impl Http2 {
    /// Whether the peer has given a sign of life since it was last doubted. It is waited for, as long as the peer's kernel
    /// acknowledges what it is sent.
    async fn is_alive(&self) -> bool {
        let life = &self.connection.life;
        let start = Instant::now();
        while life.is_doubted() && !self.connection.closed.get() {
            let now = Instant::now();
            if self.pulse.is_silent(now) || now - start >= ASK {
                return false;
            }
            // Whatever comes first.
            let _ = tokio::time::timeout(LOOK, life.sign()).await;
        }
        !self.connection.closed.get()
    }
}

// === impl Pulse ===

impl Pulse {
    fn of(link: &Link) -> Self {
        let socket = Cell::new(Some(link.socket().as_raw_fd()));
        Self { socket, looked: Cell::new(Instant::now()), silent: Cell::new(false) }
    }

    /// The socket is closed a moment after its driver says so. Within that moment its number may be another socket's;
    /// the worst of it is a request that takes another way.
    fn is_silent(&self, now: Instant) -> bool {
        if now.saturating_duration_since(self.looked.get()) >= LOOK {
            self.looked.set(now);
            self.silent.set(self.socket.get().is_some_and(is_unacknowledged));
        }
        self.silent.get()
    }
}

impl Stream {
    fn open(connection: &Rc<Http2>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(connection.clone())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

// === impl Lease ===

impl Lease {
    /// The answer has been read to its end: its connection may carry the next request.
    pub(crate) fn give_back(self, pool: &Pool) {
        if let Self::Http1 { key, connection, epoch } = self {
            if !connection.is_reusable() {
                return;
            }
            let mut all = pool.http1.borrow_mut();
            let idle = all.entry(key).or_default();
            if idle.len() < IDLE_MAX {
                idle.push(Idle { connection, since: Instant::now(), epoch });
            }
        }
    }
}
