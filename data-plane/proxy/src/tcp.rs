//! Opaque connections, and finding out which ones are.

use std::{
    cell::RefCell,
    collections::HashSet,
    error::Error,
    future::pending,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::BytesMut;
use outrigger_core::{
    Destination,
    access::{AccessRequest, Verdict},
    balance::{Outcome, Picked},
    config::{HashKey, Inbound, Protocol},
    detect::{Detected, detect as look},
    route::{CallerView, hash_of_caller},
};
use outrigger_wire::{
    SpiffeId,
    names::{alpn, ports},
    tunnel::{self, TcpHeader},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    http::{Arrival, CONNECT, Departure, Effective, RequestError, no_name},
    pool::{Target, UpstreamError, Via},
    pump::{Carried, pump},
    stream::{Io, Link, Prefixed},
    telemetry::{Direction, Record},
    worker::Worker,
};

/// How a connection begins.
pub(crate) enum Opening {
    Http(Detected, BytesMut),
    Opaque(BytesMut),
    /// The destination spoke first, or at least was dialled before the client did.
    ServerFirst {
        read: BytesMut,
        dialled: Dialled,
    },
}

/// A dialled destination.
pub(crate) struct Dialled {
    pub(crate) link: Prefixed<Link>,
    /// Its endpoint counts the connection while this lives.
    _picked: Option<Picked>,
    service: Arc<str>,
    endpoint: SocketAddr,
}

/// Destinations whose servers speak first, as this worker has seen.
#[derive(Default)]
pub(crate) struct ServerFirst(RefCell<HashSet<SocketAddr>>);

const SERVER_FIRST_MAX: usize = 1024;
/// What a client says first fits; more is read by whoever serves it.
const FIRST_READ: usize = 4 * 1024;
/// Endpoints tried for one opaque connection; no byte of it was sent to those that failed.
const TRIES: usize = 3;

/// Finds out what a client speaks. While it is silent, its destination is dialled, in case that one speaks first.
pub(crate) async fn detect<S, F, E>(
    worker: &Worker,
    stream: &mut S,
    original: SocketAddr,
    declared: Protocol,
    idle: Duration,
    dial: impl Fn() -> F,
) -> io::Result<Opening>
where
    S: Io,
    F: Future<Output = Result<Dialled, E>>,
    E: Into<Box<dyn Error + Send + Sync>>,
{
    let mut read = BytesMut::with_capacity(FIRST_READ);
    if worker.server_first.contains(original) && declared == Protocol::Auto {
        return Ok(Opening::Opaque(read));
    }
    let limits = &worker.engine.limits;
    let silence = if declared == Protocol::Auto { limits.detect } else { idle };
    match tokio::time::timeout(silence, stream.read_buf(&mut read)).await {
        Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(Ok(_)) => return decide(stream, read, limits.request_head).await,
        Ok(Err(error)) => return Err(error),
        Err(_) if declared != Protocol::Auto => return Err(io::ErrorKind::TimedOut.into()),
        Err(_) => {}
    }
    let mut dialled = tokio::select! {
        biased;
        spoke = stream.read_buf(&mut read) => {
            // A client that says nothing and closes its side may still want to hear what a server says first.
            if spoke? > 0 {
                return decide(stream, read, limits.request_head).await;
            }
            dial().await.map_err(io::Error::other)?
        }
        dialled = dial() => match dialled {
            Ok(dialled) => dialled,
            // HTTP has other ways to answer than this one.
            Err(_) => {
                let heard = tokio::time::timeout(idle, stream.read_buf(&mut read)).await;
                if heard.unwrap_or(Ok(0))? == 0 {
                    return Err(io::ErrorKind::ConnectionRefused.into());
                }
                return decide(stream, read, limits.request_head).await;
            }
        },
    };
    let mut greeting = BytesMut::with_capacity(FIRST_READ);
    tokio::select! {
        biased;
        spoke = stream.read_buf(&mut read) => {
            if spoke? == 0 {
                return Ok(Opening::ServerFirst { read, dialled });
            }
            match decide(stream, read, limits.request_head).await? {
                Opening::Opaque(read) => Ok(Opening::ServerFirst { read, dialled }),
                http => Ok(http),
            }
        }
        spoke = dialled.link.read_buf(&mut greeting) => {
            // A web server that gives up waiting says so, or closes: neither is a greeting.
            if spoke? > 0 && !greeting.starts_with(b"HTTP/") {
                worker.server_first.insert(original);
            }
            dialled.link = dialled.link.unread(greeting);
            Ok(Opening::ServerFirst { read, dialled })
        }
    }
}

async fn decide<S: Io>(stream: &mut S, mut read: BytesMut, limit: Duration) -> io::Result<Opening> {
    let until = Instant::now() + limit;
    loop {
        match look(&read) {
            kind @ (Detected::Http1 | Detected::Http2) => return Ok(Opening::Http(kind, read)),
            Detected::Tls | Detected::Opaque => return Ok(Opening::Opaque(read)),
            Detected::More => match tokio::time::timeout_at(until.into(), stream.read_buf(&mut read)).await {
                // Half a request line, and then nothing: not HTTP.
                Ok(Ok(0)) | Err(_) => return Ok(Opening::Opaque(read)),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
            },
        }
    }
}

/// Carries an opaque connection out.
pub(crate) async fn outbound<S: Io>(from: &Departure, stream: &mut S, destination: Option<&Destination>) {
    match dial_out(from, destination).await {
        Ok(dialled) => carry(from, stream, dialled).await,
        Err(error) => {
            let service = destination.map_or_else(no_name, |known| known.service.name.clone());
            from.worker.engine.log.write(Record {
                service: Some(service),
                endpoint: Some(from.original),
                caller: from.acts_for(),
                reason: error.flag(),
                ..Record::new(Direction::Outbound, "tcp", SystemTime::now())
            });
            tracing::debug!(%error, original = %from.original, "opaque connection failed");
        }
    }
}

/// Dials an endpoint of the destination; without one, the address that the app called.
pub(crate) async fn dial_out(from: &Departure, destination: Option<&Destination>) -> Result<Dialled, RequestError> {
    let pool = &from.worker.pool;
    let Some(destination) = destination else {
        let target = Target { address: from.original, via: Via::Plain };
        let link = pool.dial(target, alpn::TCP, Duration::from_secs(10)).await?;
        return Ok(Dialled::new(link, None, from.worker.series.name("external"), from.original));
    };
    let policy = &destination.service.policy;
    // What else could be hashed is of requests, which nobody sees here.
    let hash = match policy.hash_on {
        Some(HashKey::Caller) => Some(hash_of_caller(from.caller.view())),
        _ => None,
    };
    let mut tried = Vec::new();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (picked, _) = from.pick_untried(destination, from.original.port(), hash, &mut tried)?;
        let spec = &picked.endpoint.spec;
        let port = spec.target_port(from.original.port());
        let endpoint = SocketAddr::new(spec.address, port);
        let target = Target::of(spec, port);
        match pool.dial(target, alpn::TCP, policy.connect_timeout).await {
            Ok(mut link) => {
                if matches!(target.via, Via::Mesh(_)) {
                    let header = TcpHeader {
                        port,
                        caller: claim(from),
                        address: from.caller.acting.then_some(from.caller.address),
                    }
                    .encode();
                    link.write_all(&header).await.map_err(UpstreamError::Connect)?;
                }
                picked.record(Outcome::Success, Instant::now(), policy, &destination.endpoints);
                return Ok(Dialled::new(link, Some(picked), destination.service.name.clone(), endpoint));
            }
            Err(error) => {
                let error = RequestError::from(error);
                let outcome = if error.nobody_there() { Outcome::Unreachable } else { Outcome::Failure };
                picked.record(outcome, Instant::now(), policy, &destination.endpoints);
                tried.push(picked.endpoint.clone());
                if attempts >= TRIES {
                    return Err(error);
                }
            }
        }
    }
}

/// Whom a shared proxy acts for.
fn claim(from: &Departure) -> tunnel::Caller {
    match &from.caller.identity {
        _ if !from.caller.acting => tunnel::Caller::Peer,
        Some(identity) => tunnel::Caller::Identity(identity.clone()),
        None => tunnel::Caller::Anonymous,
    }
}

/// Carries an opaque connection whose destination has been dialled.
pub(crate) async fn carry<S: Io>(from: &Departure, stream: &mut S, dialled: Dialled) {
    let names = [dialled.service.clone(), no_name(), no_name()];
    pump_counted(&from.worker, Direction::Outbound, names, from.acts_for(), stream, dialled, pending()).await;
}

/// Carries an opaque connection in, if it may.
pub(crate) async fn inbound<S: Io>(at: &Arrival, stream: &mut S, port: u16, header: Option<TcpHeader>) {
    let Some(inbound) = at.inbound() else { return };
    let (claimed, address) = header.map_or((tunnel::Caller::Peer, None), |header| (header.caller, header.address));
    let caller = at.caller(&inbound, claimed, address);
    let verdict = judge_opaque(&inbound, &caller, port);
    at.count(&verdict);
    if !verdict.allowed {
        return at.worker.engine.log.write(Record {
            service: Some(inbound.workload.clone()),
            source: Some(SocketAddr::new(caller.address, 0)),
            caller: caller.identity,
            reason: "denied",
            ..Record::new(Direction::Inbound, "tcp", SystemTime::now())
        });
    }
    match dial_app(at, port).await {
        Ok(dialled) => {
            let names = [inbound.workload.clone(), no_name(), caller.name(&at.worker)];
            carry_while_allowed(at, &caller, names, stream, dialled).await;
        }
        Err(error) => tracing::debug!(%error, port, "the app can't be reached"),
    }
}

/// Carries a plaintext connection in whose app has been dialled; that was asked before.
pub(crate) async fn carry_in<S: Io>(at: &Arrival, inbound: &Inbound, stream: &mut S, dialled: Dialled) {
    let caller = at.stranger();
    at.count(&judge_opaque(inbound, &caller, dialled.endpoint.port()));
    let names = [inbound.workload.clone(), no_name(), at.peer_name.clone()];
    carry_while_allowed(at, &caller, names, stream, dialled).await;
}

/// Nobody sees requests on it that could be judged one by one, so the connection itself is, whenever policies change.
async fn carry_while_allowed<S: Io>(
    at: &Arrival,
    caller: &Effective,
    names: [Arc<str>; 3],
    stream: &mut S,
    dialled: Dialled,
) {
    let port = dialled.endpoint.port();
    let denied = at.denied(|inbound| judge_opaque(inbound, caller, port));
    pump_counted(&at.worker, Direction::Inbound, names, caller.identity.clone(), stream, dialled, denied).await;
}

/// Dials the app.
pub(crate) async fn dial_app(at: &Arrival, port: u16) -> Result<Dialled, UpstreamError> {
    let target = at.app.target(port);
    let link = at.worker.pool.dial(target, alpn::DELIVER, CONNECT).await?;
    Ok(Dialled::new(link, None, no_name(), SocketAddr::new(target.address.ip(), port)))
}

/// Whether this caller may talk to the port with nobody looking at its requests. Only asks: nothing is counted.
pub(crate) fn judge_opaque<'a>(inbound: &'a Inbound, caller: &Effective, port: u16) -> Verdict<'a> {
    if ports::is_own(port) || (inbound.strict && caller.identity.is_none()) {
        return Verdict { allowed: false, policy: None, audits: Vec::new() };
    }
    let view = CallerView { identity: caller.identity.as_ref(), address: caller.address };
    inbound.authorise(&AccessRequest { caller: view, port, http: None })
}

impl Arrival {
    /// Resolves once policies deny what they have allowed, and says which one does; that is counted. While there is no
    /// configuration nothing has changed.
    pub(crate) async fn denied(&self, judge: impl Fn(&Inbound) -> Verdict<'_>) -> Option<Arc<str>> {
        let mut judgements = self.worker.engine.store.judgements();
        loop {
            if let Some(inbound) = self.inbound() {
                let verdict = judge(&inbound);
                if !verdict.allowed {
                    self.worker.series.policy(&self.worker.engine.metrics, verdict.policy).denied.inc();
                    return verdict.policy.cloned();
                }
            }
            if judgements.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }

    /// Counts what came of a connection, once.
    fn count(&self, verdict: &Verdict<'_>) {
        let (series, metrics) = (&self.worker.series, &self.worker.engine.metrics);
        for policy in &verdict.audits {
            series.policy(metrics, Some(policy)).audited.inc();
        }
        if !verdict.allowed {
            series.policy(metrics, verdict.policy).denied.inc();
        }
    }
}

async fn pump_counted<S: Io>(
    worker: &Worker,
    direction: Direction,
    names: [Arc<str>; 3],
    caller: Option<SpiffeId>,
    stream: &mut S,
    mut dialled: Dialled,
    denied: impl Future<Output = Option<Arc<str>>>,
) {
    let (wall, started) = (SystemTime::now(), Instant::now());
    let series = worker.series.tcp(&worker.engine.metrics, direction, &names);
    let counted = series.open();
    let (flag, carried, policy) = tokio::select! {
        biased;
        policy = denied => ("denied", Carried::default(), policy),
        carried = pump(stream, &mut dialled.link) => match carried {
            Ok(carried) => ("", carried, None),
            Err(_) => ("reset", Carried::default(), None),
        },
    };
    counted.close(carried.sent, carried.received);
    let [service, _, _] = names;
    worker.engine.log.write(Record {
        service: Some(service),
        endpoint: Some(dialled.endpoint),
        caller,
        policy,
        duration: started.elapsed(),
        received: carried.sent,
        sent: carried.received,
        reason: flag,
        ..Record::new(direction, "tcp", wall)
    });
}

// === impl Dialled, ServerFirst ===

impl Dialled {
    fn new(link: Link, picked: Option<Picked>, service: Arc<str>, endpoint: SocketAddr) -> Self {
        Self { link: Prefixed::new(BytesMut::new(), link), _picked: picked, service, endpoint }
    }
}

impl ServerFirst {
    fn contains(&self, destination: SocketAddr) -> bool {
        self.0.borrow().contains(&destination)
    }

    fn insert(&self, destination: SocketAddr) {
        let mut known = self.0.borrow_mut();
        if known.len() >= SERVER_FIRST_MAX {
            known.clear();
        }
        known.insert(destination);
    }
}
