//! A request on its way in: who calls, may it, hand it to the app.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::{Request, Response, Version};
use outrigger_core::{
    access::{AccessRequest, HttpView, Verdict},
    config::{Inbound, Protocol},
    route::CallerView,
};
use outrigger_wire::{
    SpiffeId,
    names::{headers, ports},
    tunnel,
};

use super::{Arriving, Exchange, Quiet, Relay, error::RequestError, head, upgrade::Upgrade};
use crate::{
    pool::{Answered, Silence, Target, Via},
    telemetry::Direction,
    worker::Worker,
};

/// Where requests of one connection arrive and who sent them.
pub(crate) struct Arrival {
    pub(crate) worker: Rc<Worker>,
    pub(crate) app: App,
    /// Whom TLS has authenticated: here, or at the guard that passed the stream on.
    pub(crate) peer: Option<SpiffeId>,
    /// The same as a name for metrics and logs.
    pub(crate) peer_name: Arc<str>,
    pub(crate) source: IpAddr,
    /// Plaintext that was captured on its way to this port; `None` if it came through the mesh port.
    pub(crate) captured: Option<u16>,
    pub(crate) quiet: Rc<Quiet>,
}

/// On whose behalf a call comes.
pub(crate) struct Effective {
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) address: IpAddr,
    /// A shared proxy says so.
    pub(crate) acted_for: bool,
}

impl Effective {
    /// For metrics and logs.
    pub(crate) fn name(&self, worker: &Worker) -> Arc<str> {
        self.identity.as_ref().map_or_else(unauthenticated, |identity| worker.series.name(identity.as_str()))
    }
}

static UNAUTHENTICATED: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("unauthenticated"));

/// Name of callers without an identity.
pub(crate) fn unauthenticated() -> Arc<str> {
    UNAUTHENTICATED.clone()
}

/// Whose app it is, and how it is reached.
pub(crate) enum App {
    /// The app beside this sidecar, at the address that was called.
    Here(IpAddr),
    /// Another pod's app, through that pod's mesh port.
    Through { workload: Arc<str>, identity: SpiffeId, address: IpAddr },
}

/// To the app itself; loopback or one hop.
pub(crate) const CONNECT: Duration = Duration::from_secs(3);

/// Carries one request to the app and its answer back.
pub(crate) async fn deliver(at: Rc<Arrival>, mut request: Request<Arriving>) -> Response<Relay> {
    let upgrade = Upgrade::take(&mut request, at.captured.is_none());
    let mut exchange = Box::new(Exchange::begin(at.worker.clone(), &at.quiet, Direction::Inbound, &mut request));
    let request = exchange.relay(request);
    match admit(&at, request, upgrade.as_ref(), &mut exchange).await {
        Ok(response) => exchange.carry(response, upgrade, None),
        Err(error) => exchange.failed(&error),
    }
}

async fn admit(
    at: &Rc<Arrival>,
    mut request: Box<Request<Relay>>,
    upgrade: Option<&Upgrade>,
    exchange: &mut Exchange,
) -> Result<Response<Arriving>, RequestError> {
    if request.method() == http::Method::CONNECT {
        return Err(RequestError::Connect);
    }
    let inbound = at.inbound().ok_or(RequestError::NotReady)?;
    exchange.service = inbound.workload.clone();
    exchange.peer = at.peer_name.clone();
    let claims = Claims::of(at, &inbound, &request)?;
    if claims.caller.acted_for {
        exchange.peer = claims.caller.name(&at.worker);
    }
    exchange.caller = claims.caller.identity.clone();
    head::one_host(&mut request)?;
    head::strip_hop_by_hop(request.headers_mut());
    head::strip_internal(request.headers_mut());
    head::normalise_path(&mut request)?;
    // A probe ends with its answer.
    let probe = upgrade.is_none() && is_probe(&inbound, &claims, &request);
    if !probe {
        at.authorise(&inbound, &claims, &request, exchange)?;
    }

    let declared = inbound.port(claims.port).map(|port| port.protocol);
    let http2 = upgrade.is_none() && (claims.version == Version::HTTP_2 || declared == Some(Protocol::Http2));
    let port = claims.port;
    if upgrade.is_some() {
        exchange.standing = Some(Box::new(Standing::new(at.clone(), claims, &request)));
    }
    head::for_app(&mut request, upgrade, http2)?;
    let target = at.app.target(port);
    exchange.endpoint = Some(SocketAddr::new(target.address.ip(), port));
    let sent = at.worker.pool.send(target, http2, request, CONNECT, Silence::Dial).await;
    let Answered { mut response, lease, .. } = sent.map_err(|failed| failed.error)?;
    head::strip_internal(response.headers_mut());
    exchange.head(&response);
    exchange.lease = lease;
    Ok(response)
}

/// Whether it is what the platform asks about health, with a path that has been normalised.
fn is_probe(inbound: &Inbound, claims: &Claims, request: &Request<Relay>) -> bool {
    claims.caller.identity.is_none()
        && !ports::is_own(claims.port)
        && inbound.is_probe(claims.port, request.method(), request.uri().path())
}

/// What the proxy before us says, as far as it may be believed.
struct Claims {
    caller: Effective,
    port: u16,
    /// What the app's own caller spoke.
    version: Version,
}

impl Claims {
    fn of(at: &Arrival, inbound: &Inbound, request: &Request<Relay>) -> Result<Self, RequestError> {
        if let Some(port) = at.captured {
            return Ok(Self { caller: at.stranger(), port, version: request.version() });
        }
        let text = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let port = text(headers::PORT).and_then(|port| port.parse().ok()).ok_or(RequestError::NotFromMesh)?;
        let claimed = match text(headers::CALLER) {
            None => tunnel::Caller::Peer,
            Some("-") => tunnel::Caller::Anonymous,
            Some(id) => tunnel::Caller::Identity(id.parse().map_err(|_| RequestError::NotFromMesh)?),
        };
        let version = match text(headers::PROTO) {
            Some("1.0" | "1.1") => Version::HTTP_11,
            _ => Version::HTTP_2,
        };
        let address = text(headers::CALLER_ADDRESS).and_then(|address| address.parse().ok());
        Ok(Self { caller: at.caller(inbound, claimed, address), port, version })
    }
}

/// A request by which a connection changed its protocol. What is said on it then nobody sees, so policies judge the
/// request again when they change.
pub(crate) struct Standing {
    at: Rc<Arrival>,
    claims: Claims,
    request: Request<()>,
}

impl Standing {
    fn new<B>(at: Rc<Arrival>, claims: Claims, request: &Request<B>) -> Self {
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        Self { at, claims, request: copy }
    }

    /// Resolves once policies deny it, and says which one does.
    pub(super) async fn denied(&self) -> Option<Arc<str>> {
        self.at.denied(|inbound| self.at.judge(inbound, &self.claims, &self.request)).await
    }
}

impl Arrival {
    /// The configuration of the workload that is called; none before the control plane has said it once.
    pub(crate) fn inbound(&self) -> Option<Arc<Inbound>> {
        let snapshot = self.worker.engine.store.load();
        match &self.app {
            App::Here(_) => snapshot.own.clone(),
            App::Through { workload, .. } => snapshot.inbounds.get(workload).cloned(),
        }
    }

    /// Who sends plaintext.
    pub(crate) fn stranger(&self) -> Effective {
        Effective { identity: None, address: self.source, acted_for: false }
    }

    /// On whose behalf the peer calls. Only shared proxies are believed that it is somebody else's.
    pub(crate) fn caller(&self, inbound: &Inbound, claimed: tunnel::Caller, address: Option<IpAddr>) -> Effective {
        let may_act = self.peer.as_ref().is_some_and(|peer| inbound.acting_identities.contains(peer));
        let identity = match claimed {
            tunnel::Caller::Identity(id) if may_act => Some(id),
            tunnel::Caller::Anonymous if may_act => None,
            _ => return Effective { identity: self.peer.clone(), address: self.source, acted_for: false },
        };
        // A CIDR rule must judge the caller's address, whoever carries the call.
        Effective { identity, address: address.unwrap_or(self.source), acted_for: true }
    }

    fn authorise(
        &self,
        inbound: &Inbound,
        claims: &Claims,
        request: &Request<Relay>,
        exchange: &mut Exchange,
    ) -> Result<(), RequestError> {
        let verdict = self.judge(inbound, claims, request);
        for policy in &verdict.audits {
            self.worker.series.policy(&self.worker.engine.metrics, Some(policy)).audited.inc();
        }
        exchange.policy = verdict.policy.cloned();
        if verdict.allowed { Ok(()) } else { Err(RequestError::Denied(verdict.policy.cloned())) }
    }

    fn judge<'a, B>(&self, inbound: &'a Inbound, claims: &Claims, request: &Request<B>) -> Verdict<'a> {
        let http = HttpView {
            method: request.method(),
            path: request.uri().path(),
            host: head::host_of(request),
            headers: request.headers(),
        };
        // Plaintext of an opaque port comes here only because a probe might; what isn't one is judged as ever.
        let opaque =
            self.captured.is_some() && inbound.port(claims.port).is_some_and(|port| port.protocol == Protocol::Tcp);
        let asked = AccessRequest {
            caller: CallerView { identity: claims.caller.identity.as_ref(), address: claims.caller.address },
            port: claims.port,
            http: (!opaque).then_some(http),
        };
        if ports::is_own(claims.port) || (inbound.strict && claims.caller.identity.is_none()) {
            return Verdict { allowed: false, policy: None, audits: Vec::new() };
        }
        inbound.authorise(&asked)
    }
}

impl App {
    pub(crate) fn target(&self, port: u16) -> Target<'_> {
        match self {
            Self::Here(address) => Target { address: SocketAddr::new(*address, port), via: Via::Plain },
            Self::Through { identity, address, .. } => {
                Target { address: SocketAddr::new(*address, ports::MESH), via: Via::Deliver(identity, port) }
            }
        }
    }
}
