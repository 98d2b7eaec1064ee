//! Picks endpoints for one request and sends it; again where that is safe and the budget allows.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderValue, Request, Response, Version};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use outrigger_core::{
    Destination,
    balance::{Endpoint, Outcome, Picked},
    config::{Protocol, Retry, Rule},
    retry::idempotent,
};
use outrigger_wire::names::{headers, ports};

use super::{
    Exchange, Relay,
    error::{RequestError, UNSENT},
    forward::{Departure, Reply, view},
    head,
    upgrade::Upgrade,
};
use crate::pool::{Failed, Lease, Target, UpstreamError, Via};

/// What all tries of one request share.
pub(super) struct Plan<'a> {
    destination: &'a Destination,
    port: u16,
    rule: Option<&'a Rule>,
    deadline: Option<Instant>,
    version: Version,
    /// Tries of a request that may have reached an app.
    attempts: u32,
}

/// How one try ended.
enum Tried {
    Answer(Response<Incoming>, Lease),
    /// Not one byte was sent.
    Unsent(Request<Relay>, RequestError),
    Broken(RequestError),
}

/// More tries of a request that was never sent, whatever its method.
const UNSENT_RETRIES: u32 = 3;
/// More tries of an idempotent request without a body whose connection broke, if the owner said nothing.
const SAFE_RETRIES: u32 = 1;
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

pub(super) async fn send(
    from: &Departure,
    plan: Plan<'_>,
    mut request: Request<Relay>,
    upgrade: Option<&Upgrade>,
    exchange: &mut Exchange,
) -> Result<Reply, RequestError> {
    let destination = plan.destination;
    let policy = &destination.service.policy;
    exchange.peer = destination.service.name.clone();
    destination.budget.request(Instant::now());
    let hash = policy.hash_on.as_ref().and_then(|key| outrigger_core::route::hash_of(key, &view(from, &request)));
    let attempts = if upgrade.is_some() { 0 } else { plan.attempts };
    let mut tried: Vec<Arc<Endpoint>> = Vec::new();
    let (mut unsent, mut sent) = (0, 0);
    loop {
        let zone = &from.worker.engine.zone;
        let mut random = || from.worker.random();
        let mut pick = |tried: &[_]| destination.endpoints.pick(policy, hash, &mut random, Instant::now(), tried, zone);
        // Where all have failed once, the next try may go to the same one again: its guard may have taken over.
        let picked = pick(&tried)
            .or_else(|| {
                tried.clear();
                pick(&[])
            })
            .ok_or_else(|| RequestError::NoEndpoint(destination.service.name.clone()))?;
        exchange.endpoint = Some(SocketAddr::new(picked.endpoint.spec.address, plan.target_port(&picked)));
        let mut replay = (sent < attempts).then(|| copy(&request));
        let budget = || destination.budget.try_retry(policy.retry_budget_percent, Instant::now());
        let tried_once = try_once(from, &plan, &picked, request, upgrade).await;
        let failed = match tried_once {
            Tried::Answer(response, lease) => {
                if replay.is_none() || !plan.worth_retrying(&response) || !budget() {
                    let failed = response.status().is_server_error();
                    let outcome = if failed { Outcome::Failure } else { Outcome::Success };
                    picked.record(outcome, Instant::now(), policy, &destination.endpoints);
                    exchange.picked = Some(picked);
                    exchange.head(&response);
                    exchange.lease = Some(lease);
                    return Ok(Reply::Upstream { response, deadline: plan.deadline });
                }
                sent += 1;
                replay.take()
            }
            Tried::Unsent(back, error) => {
                unsent += 1;
                if unsent > UNSENT_RETRIES || !budget() {
                    return Err(error);
                }
                Some(back)
            }
            Tried::Broken(error) => {
                sent += 1;
                if replay.is_none() || !budget() {
                    picked.record(Outcome::Failure, Instant::now(), policy, &destination.endpoints);
                    return Err(error);
                }
                replay.take()
            }
        };
        picked.record(Outcome::Failure, Instant::now(), policy, &destination.endpoints);
        let Some(again) = failed else { return Err(RequestError::Overload) };
        request = again;
        from.worker.engine.metrics.upstream(&destination.service.name).retries.inc();
        exchange.sent.set(0);
        tried.push(picked.endpoint.clone());
        plan.back_off(sent).await?;
    }
}

async fn try_once(
    from: &Departure,
    plan: &Plan<'_>,
    picked: &Picked,
    mut request: Request<Relay>,
    upgrade: Option<&Upgrade>,
) -> Tried {
    let spec = &picked.endpoint.spec;
    let port = plan.target_port(picked);
    let prepared = match (&spec.identity, spec.meshed) {
        (Some(identity), true) => for_mesh(from, plan.version, port, &mut request, upgrade).map(|()| {
            let target = Target { address: SocketAddr::new(spec.address, ports::MESH), via: Via::Mesh(identity) };
            (target, true)
        }),
        _ => {
            let declared = plan.destination.service.port(plan.port).map(|port| port.protocol);
            let http2 = upgrade.is_none() && (plan.version == Version::HTTP_2 || declared == Some(Protocol::Http2));
            head::for_app(&mut request, upgrade, http2)
                .map(|()| (Target { address: SocketAddr::new(spec.address, port), via: Via::Plain }, http2))
        }
    };
    let (target, http2) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Tried::Broken(error),
    };
    let connect = plan.destination.service.policy.connect_timeout;
    let sending = from.worker.pool.send(target, http2, request, connect);
    let sent = match plan.try_deadline(Instant::now()) {
        Some(at) => match tokio::time::timeout_at(at.into(), sending).await {
            Ok(sent) => sent,
            Err(_) => return Tried::Broken(RequestError::Timeout),
        },
        None => sending.await,
    };
    match sent {
        Ok((response, lease)) => Tried::Answer(response, lease),
        Err(Failed { error, request: Some(request) }) => Tried::Unsent(request, error.into()),
        Err(Failed { error, request: None }) => Tried::Broken(error.into()),
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
    }
    Ok(())
}

/// Sends a copy whose answer nobody reads.
pub(super) async fn for_mirror(
    from: &Departure,
    picked: &Picked,
    endpoint: SocketAddr,
    mut request: Request<Relay>,
) -> Result<(), RequestError> {
    let spec = &picked.endpoint.spec;
    let version = request.version();
    let (target, http2) = match (&spec.identity, spec.meshed) {
        (Some(identity), true) => {
            for_mesh(from, version, endpoint.port(), &mut request, None)?;
            (Target { address: SocketAddr::new(spec.address, ports::MESH), via: Via::Mesh(identity) }, true)
        }
        _ => {
            let http2 = version == Version::HTTP_2;
            head::for_app(&mut request, None, http2)?;
            (Target { address: endpoint, via: Via::Plain }, http2)
        }
    };
    let sent = from.worker.pool.send(target, http2, request, Duration::from_secs(1)).await;
    let (response, lease) = sent.map_err(|failed| failed.error)?;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(UpstreamError::from)?;
    }
    lease.give_back(&from.worker.pool);
    Ok(())
}

/// The same request again; only ones without a body are asked for.
fn copy(request: &Request<Relay>) -> Request<Relay> {
    let mut again = Request::new(Relay::Empty);
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
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
        let retry = rule.and_then(|rule| rule.retry.as_ref()).or(policy.retry.as_ref());
        let repeatable = request.body().is_end_stream()
            && (idempotent(request.method()) || retry.is_some_and(|retry| retry.non_idempotent));
        Self {
            destination,
            port,
            rule,
            deadline: limit.map(|limit| exchange.started() + limit),
            version: request.version(),
            attempts: if repeatable { retry.map_or(SAFE_RETRIES, |retry| retry.attempts) } else { 0 },
        }
    }

    fn target_port(&self, picked: &Picked) -> u16 {
        picked.endpoint.spec.target_port(self.port)
    }

    fn retry(&self) -> Option<&'a Retry> {
        self.rule.and_then(|rule| rule.retry.as_ref()).or(self.destination.service.policy.retry.as_ref())
    }

    /// One try's limit: the route's, and never past the whole request's.
    fn try_deadline(&self, now: Instant) -> Option<Instant> {
        let one = self.rule.and_then(|rule| rule.backend_timeout).map(|limit| now + limit);
        match (one, self.deadline) {
            (Some(one), Some(all)) => Some(one.min(all)),
            (one, all) => one.or(all),
        }
    }

    /// The proxy at the far end couldn't reach its app, or the owner named this status.
    fn worth_retrying(&self, response: &Response<Incoming>) -> bool {
        response.headers().contains_key(UNSENT)
            || self.retry().is_some_and(|retry| retry.codes.contains(&response.status().as_u16()))
    }

    /// Waits before the next try, if the owner wants that, but never past the deadline.
    async fn back_off(&self, sent: u32) -> Result<(), RequestError> {
        let base = self.retry().map_or(Duration::ZERO, |retry| retry.backoff);
        let pause = base.saturating_mul(1 << sent.saturating_sub(1).min(6)).min(BACK_OFF_MAX);
        if self.deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return Err(RequestError::Timeout);
        }
        if sent > 0 && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }
}
