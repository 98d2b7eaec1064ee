//! Picks endpoints for one request and sends it; again where that is safe and the budget allows.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, Version};
use http_body::Body;
use http_body_util::BodyExt;
use outrigger_core::{
    Destination,
    balance::{Endpoint, Outcome, Picked},
    config::{Protocol, Rule},
    retry::Tries,
};
use outrigger_wire::names::headers;

use super::{
    Arriving, Exchange, Relay,
    error::{RequestError, UNSENT},
    forward::{Departure, Reply, view},
    head,
    upgrade::Upgrade,
};
use crate::pool::{Answered, Failed, Silence, Target, Via};

/// What all tries of one request share.
pub(super) struct Plan<'a> {
    destination: &'a Destination,
    port: u16,
    rule: Option<&'a Rule>,
    deadline: Option<Instant>,
    version: Version,
}

/// How one try ended.
enum Tried {
    /// Its body may take until `deadline`.
    Answer { answered: Answered, deadline: Option<Instant> },
    /// Nobody has worked on it.
    Unsent(Box<Request<Relay>>, RequestError),
    /// With the request, if it may be sent again.
    Broken(RequestError, Option<Box<Request<Relay>>>),
    /// The request can't be sent to anybody.
    Refused(RequestError),
}

pub(super) async fn send(
    from: &Departure,
    plan: Plan<'_>,
    mut request: Box<Request<Relay>>,
    upgrade: Option<&Upgrade>,
    exchange: &mut Exchange,
) -> Result<Reply, RequestError> {
    let destination = plan.destination;
    let policy = &destination.service.policy;
    exchange.peer = destination.service.name.clone();
    destination.budget.request(Instant::now());
    let hash = policy.hash_on.as_ref().and_then(|key| outrigger_core::route::hash_of(key, &view(from, &request)));
    let mut tries = plan.tries(&request, upgrade);
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let mut silence = if destination.endpoints.len() > 1 { Silence::GiveUp } else { Silence::Dial };
    loop {
        let (picked, again) = from.pick_untried(destination, plan.port, hash, &mut tried)?;
        if again {
            silence = Silence::Dial;
        }
        exchange.endpoint = Some(SocketAddr::new(picked.endpoint.spec.address, plan.target_port(&picked)));
        let series = || from.worker.engine.metrics.upstream(&destination.service.name);
        let budget = || {
            let allowed = destination.budget.try_retry(policy.retry_budget_percent, Instant::now());
            if !allowed {
                series().retries_over_budget.inc();
            }
            allowed
        };
        let record = |outcome| picked.record(outcome, Instant::now(), policy, &destination.endpoints);
        let again = match try_once(from, &plan, &picked, request, upgrade, silence, &tries).await {
            Tried::Answer { answered: Answered { response, lease, request }, deadline } => match request {
                Some(again) if tries.answered(response.status(), is_unreached(&response), budget) => again,
                _ => {
                    record(if response.status().is_server_error() { Outcome::Failure } else { Outcome::Success });
                    exchange.picked = Some(picked);
                    exchange.head(&response);
                    exchange.lease = lease;
                    return Ok(Reply::Upstream { response, deadline });
                }
            },
            Tried::Unsent(back, error) => {
                series().connect_failures.inc();
                record(if error.nobody_there() { Outcome::Unreachable } else { Outcome::Failure });
                if !tries.unsent(silence == Silence::Dial || error.is_refusal(), budget) {
                    return Err(error);
                }
                request = back;
                series().retries.inc();
                exchange.set_sent(0);
                tried.push(picked.endpoint.clone());
                continue;
            }
            Tried::Refused(error) => return Err(error),
            // Whoever broke off its own upload says nothing about the endpoint.
            Tried::Broken(error, _) if exchange.upload_broke() => return Err(error),
            Tried::Broken(error, replay) => match replay {
                Some(again) if tries.broken(matches!(error, RequestError::Timeout), budget) => again,
                _ => {
                    record(Outcome::Failure);
                    return Err(error);
                }
            },
        };
        record(Outcome::Failure);
        request = again;
        series().retries.inc();
        exchange.set_sent(0);
        tried.push(picked.endpoint.clone());
        let pause = tries.pause(Instant::now(), from.worker.random()).ok_or(RequestError::Timeout)?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

async fn try_once(
    from: &Departure,
    plan: &Plan<'_>,
    picked: &Picked,
    mut request: Box<Request<Relay>>,
    upgrade: Option<&Upgrade>,
    silence: Silence,
    tries: &Tries<'_>,
) -> Tried {
    let spec = &picked.endpoint.spec;
    let port = plan.target_port(picked);
    let target = Target::of(spec, port);
    let declared = plan.destination.service.port(plan.port).map(|port| port.protocol);
    let wanted = upgrade.is_none() && (plan.version == Version::HTTP_2 || declared == Some(Protocol::Http2));
    let http2 = match prepare(from, target, plan.version, port, wanted, &mut request, upgrade) {
        Ok(http2) => http2,
        Err(error) => return Tried::Refused(error),
    };
    let connect = plan.destination.service.policy.connect_timeout;
    let deadline = tries.until(Instant::now());
    // HTTP/1 gives it back, if nobody stops waiting for that.
    let kept = (tries.repeatable() && (http2 || deadline.is_some())).then(|| copy(&request, Relay::Empty));
    let sending = from.worker.pool.send(target, http2, request, connect, silence);
    let sent = match deadline {
        Some(at) => match tokio::time::timeout_at(at.into(), sending).await {
            Ok(sent) => sent,
            Err(_) => return Tried::Broken(RequestError::Timeout, kept),
        },
        None => sending.await,
    };
    match sent {
        Ok(mut answered) => {
            let response = &mut answered.response;
            match target.via {
                Via::Plain => head::strip_internal(response.headers_mut()),
                Via::Mesh(_) | Via::Deliver(..) if upgrade.is_some() => Upgrade::restore(response),
                Via::Mesh(_) | Via::Deliver(..) => {}
            }
            answered.request = kept.or(answered.request);
            Tried::Answer { answered, deadline }
        }
        Err(Failed { error, request, unsent }) => match kept.or(request) {
            Some(request) if unsent => Tried::Unsent(request, error.into()),
            again => Tried::Broken(error.into(), again),
        },
    }
}

/// The proxy at the far end couldn't reach its app.
fn is_unreached(response: &Response<Arriving>) -> bool {
    head::has_internal(response.headers()) && response.headers().contains_key(UNSENT)
}

/// Gives a request the form that its target takes, and says whether that is HTTP/2; an app gets it if `wanted`.
fn prepare(
    from: &Departure,
    target: Target<'_>,
    version: Version,
    port: u16,
    wanted: bool,
    request: &mut Request<Relay>,
    upgrade: Option<&Upgrade>,
) -> Result<bool, RequestError> {
    match target.via {
        Via::Plain => head::for_app(request, upgrade, wanted).map(|()| wanted),
        Via::Mesh(_) | Via::Deliver(..) => for_mesh(from, version, port, request, upgrade).map(|()| true),
    }
}

/// Gives a request the form in which proxies exchange it: HTTP/2 with our headers.
fn for_mesh(
    from: &Departure,
    version: Version,
    port: u16,
    request: &mut Request<Relay>,
    upgrade: Option<&Upgrade>,
) -> Result<(), RequestError> {
    head::as_http2(request, "localhost")?;
    if let Some(upgrade) = upgrade {
        upgrade.as_extended_connect(request)?;
    }
    let headers = request.headers_mut();
    headers.insert(headers::PORT, HeaderValue::from(port));
    match version {
        Version::HTTP_10 => drop(headers.insert(headers::PROTO, HeaderValue::from_static("1.0"))),
        Version::HTTP_11 => drop(headers.insert(headers::PROTO, HeaderValue::from_static("1.1"))),
        _ => {}
    }
    if from.caller.acting {
        let caller = match &from.caller.identity {
            Some(identity) => HeaderValue::from_str(identity.as_str()).map_err(|_| RequestError::NotFromMesh)?,
            None => HeaderValue::from_static("-"),
        };
        headers.insert(headers::CALLER, caller);
        let address = HeaderValue::from_str(&from.caller.address.to_string()).map_err(|_| RequestError::NotFromMesh)?;
        headers.insert(headers::CALLER_ADDRESS, address);
    }
    Ok(())
}

/// Sends a copy whose answer nobody reads.
pub(super) async fn for_mirror(
    from: &Departure,
    picked: &Picked,
    endpoint: SocketAddr,
    connect: Duration,
    mut request: Box<Request<Relay>>,
) -> Result<(), RequestError> {
    let spec = &picked.endpoint.spec;
    let version = request.version();
    let target = Target::of(spec, endpoint.port());
    let http2 = prepare(from, target, version, endpoint.port(), version == Version::HTTP_2, &mut request, None)?;
    let sent = from.worker.pool.send(target, http2, request, connect, Silence::GiveUp).await;
    let Answered { response, lease, .. } = sent.map_err(|failed| failed.error)?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Err(error) = frame {
            tracing::debug!(%error, %endpoint, "a mirror's answer broke off");
            return Ok(());
        }
    }
    if let Some(lease) = lease {
        lease.give_back(&from.worker.pool);
    }
    Ok(())
}

/// The same request again, with a body of its own.
pub(crate) fn copy(request: &Request<Relay>, body: Relay) -> Box<Request<Relay>> {
    let mut again = Box::new(Request::new(body));
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    if let Some(protocol) = request.extensions().get::<h2::ext::Protocol>() {
        again.extensions_mut().insert(protocol.clone());
    }
    again
}

impl<'a> Plan<'a> {
    pub(super) fn new(
        destination: &'a Destination,
        port: u16,
        rule: Option<&'a Rule>,
        request: &Request<Relay>,
        exchange: &Exchange,
    ) -> Self {
        let policy = &destination.service.policy;
        let limit = rule.and_then(|rule| rule.request_timeout).or(policy.request_timeout);
        let limit = limit.filter(|limit| !limit.is_zero());
        Self {
            destination,
            port,
            rule,
            deadline: limit.map(|limit| exchange.started() + limit),
            version: request.version(),
        }
    }

    fn target_port(&self, picked: &Picked) -> u16 {
        picked.endpoint.spec.target_port(self.port)
    }

    fn tries(&self, request: &Request<Relay>, upgrade: Option<&Upgrade>) -> Tries<'a> {
        let retry = self.rule.and_then(|rule| rule.retry.as_ref()).or(self.destination.service.policy.retry.as_ref());
        let each = self.rule.and_then(|rule| rule.backend_timeout);
        let whole = upgrade.is_none() && request.body().is_end_stream();
        Tries::new(request.method(), whole, retry, each, self.deadline)
    }
}
