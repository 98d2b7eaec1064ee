//! A request on its way out: route, policy, balance, send, and send again where that is safe.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use http::{Method, Request, Response, Version};
use outrigger_core::{
    Destination, Snapshot,
    balance::{Endpoint, Outcome, Picked, Unpicked},
    config::Backend,
    route::{CallerView, RequestView, hash_of},
};
use outrigger_wire::SpiffeId;

use super::{
    Arriving, Exchange, Quiet, Relay,
    error::RequestError,
    filters, head,
    send::{Plan, send},
    upgrade::Upgrade,
};
use crate::{pool::Target, telemetry::Direction, worker::Worker};

/// Where requests of one downstream connection come from and what they called.
pub(crate) struct Departure {
    pub(crate) worker: Rc<Worker>,
    pub(crate) caller: Caller,
    pub(crate) original: SocketAddr,
    pub(crate) quiet: Rc<Quiet>,
}

/// On whose behalf requests leave.
pub(crate) struct Caller {
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) address: IpAddr,
    /// A shared proxy acts for someone else and must say so to the destination.
    pub(crate) acting: bool,
}

/// What came of routing.
pub(super) enum Reply {
    Here(Response<Relay>),
    Upstream { response: Response<Arriving>, deadline: Option<Instant> },
}

/// Carries one request out and its answer back.
pub(crate) async fn forward(from: Rc<Departure>, mut request: Request<Arriving>) -> Response<Relay> {
    let mut exchange = from.begin(&mut request);
    let upgrade = Upgrade::take(&mut request, false);
    let request = exchange.relay(request);
    match route(&from, request, upgrade.as_ref(), &mut exchange).await {
        Ok(Reply::Here(response)) => exchange.here(response),
        Ok(Reply::Upstream { response, deadline }) => exchange.carry(response, upgrade, deadline),
        Err(error) => exchange.failed(&error),
    }
}

/// Answers a request that there is no room for.
pub(crate) async fn turned_away(
    from: Rc<Departure>,
    mut request: Request<Arriving>,
    why: RequestError,
) -> Response<Relay> {
    let mut exchange = from.begin(&mut request);
    if let Some(Some(destination)) = from.worker.engine.store.load().addresses.get(&from.original.ip()) {
        exchange.service = destination.service.name.clone();
    }
    exchange.failed(&why)
}

// === impl Departure ===

impl Departure {
    fn begin(&self, request: &mut Request<Arriving>) -> Box<Exchange> {
        let mut exchange = Exchange::begin(self.worker.clone(), &self.quiet, Direction::Outbound, request);
        exchange.caller = self.acts_for();
        Box::new(exchange)
    }

    /// For whom, if not for this proxy's own pod.
    pub(crate) fn acts_for(&self) -> Option<SpiffeId> {
        self.caller.acting.then(|| self.caller.identity.clone()).flatten()
    }
}

async fn route(
    from: &Rc<Departure>,
    mut request: Box<Request<Relay>>,
    upgrade: Option<&Upgrade>,
    exchange: &mut Exchange,
) -> Result<Reply, RequestError> {
    if request.method() == Method::CONNECT {
        return Err(RequestError::Connect);
    }
    head::one_host(&mut request)?;
    head::strip_hop_by_hop(request.headers_mut());
    head::strip_internal(request.headers_mut());
    head::normalise_path(&mut request)?;
    let snapshot = from.worker.engine.store.load_full();
    let Some(Some(destination)) = snapshot.addresses.get(&from.original.ip()) else {
        return Err(RequestError::NoEndpoint(exchange.service.clone()));
    };
    exchange.service = destination.service.name.clone();
    let port = from.original.port();
    let namespace = from.caller.identity.as_ref().map_or("", SpiffeId::namespace);
    let Some(table) = destination.service.table(namespace, port) else {
        let plan = Plan::new(destination, port, None, &request, exchange);
        return send(from, plan, request, upgrade, exchange).await;
    };
    let (rule, prefix, sticky) = {
        let view = view(from, &request);
        let selected = table.select(&view, &mut || from.worker.random()).ok_or(RequestError::NoRoute)?;
        let sticky = selected.rule.stickiness.as_ref().and_then(|key| hash_of(key, &view));
        (selected.rule, selected.prefix, sticky)
    };
    exchange.route = rule.name.clone();
    exchange.grpc |= rule.grpc && request.version() == Version::HTTP_2;
    if let Some(mut response) = filters::before(from, &rule.filters, &mut request, prefix, exchange).await? {
        filters::after(&rule.filters, response.headers_mut());
        return Ok(Reply::Here(response));
    }
    let backend = rule.backend(from.worker.random(), sticky).ok_or(RequestError::BadBackend)?;
    let (destination, port) = resolve(&snapshot, backend)?;
    if let Some(response) = filters::before(from, &backend.filters, &mut request, prefix, exchange).await? {
        return Ok(Reply::Here(response));
    }
    for filters in [&rule.filters, &backend.filters] {
        filters::mirror(from, &snapshot, filters, &mut request).await?;
    }
    let plan = Plan::new(destination, port, Some(rule), &request, exchange);
    let mut reply = send(from, plan, request, upgrade, exchange).await?;
    if let Reply::Upstream { response, .. } = &mut reply {
        filters::after(&backend.filters, response.headers_mut());
        filters::after(&rule.filters, response.headers_mut());
    }
    Ok(reply)
}

impl Caller {
    pub(crate) fn view(&self) -> CallerView<'_> {
        CallerView { identity: self.identity.as_ref(), address: self.address }
    }
}

impl Departure {
    /// An endpoint of the destination, by its policy.
    pub(crate) fn pick(
        &self,
        destination: &Destination,
        hash: Option<u64>,
        tried: &[Arc<Endpoint>],
    ) -> Result<Picked, Unpicked> {
        let engine = &self.worker.engine;
        let snapshot = engine.store.load();
        let zone = engine.zone(&snapshot);
        let mut random = || self.worker.random();
        destination.endpoints.pick(&destination.service.policy, hash, &mut random, Instant::now(), tried, zone)
    }

    /// As [`Self::pick`], of the endpoints that weren't tried. Where all have failed once, the next try may go to the same
    /// one again, whose guard may have taken over: `tried` begins anew then, and `true` says so.
    pub(crate) fn pick_untried(
        &self,
        destination: &Destination,
        port: u16,
        hash: Option<u64>,
        tried: &mut Vec<Arc<Endpoint>>,
    ) -> Result<(Picked, bool), RequestError> {
        let (picked, again) = match self.pick(destination, hash, tried) {
            Err(Unpicked::Nobody) if !tried.is_empty() => {
                tried.clear();
                (self.pick(destination, hash, &[]), true)
            }
            picked => (picked, false),
        };
        let picked = picked.map_err(|why| RequestError::unpicked(why, destination))?;
        Ok((if picked.trial { self.spared(destination, port, hash, tried, picked) } else { picked }, again))
    }

    /// Another endpoint than one that nobody could reach last time, if there is one: whether somebody is there again is
    /// found out beside the request.
    fn spared(
        &self,
        destination: &Destination,
        port: u16,
        hash: Option<u64>,
        tried: &mut Vec<Arc<Endpoint>>,
        trial: Picked,
    ) -> Picked {
        tried.push(trial.endpoint.clone());
        let other = match self.pick(destination, hash, tried) {
            Ok(other) if !other.trial => other,
            _ => {
                tried.pop();
                return trial;
            }
        };
        let (worker, service, endpoints) =
            (self.worker.clone(), destination.service.clone(), destination.endpoints.clone());
        tokio::task::spawn_local(async move {
            let spec = &trial.endpoint.spec;
            let target = Target::of(spec, spec.target_port(port));
            match worker.pool.dial(target, target.via.alpn(), service.policy.connect_timeout).await {
                Ok(_) => trial.endpoint.reached(),
                Err(_) => trial.record(Outcome::Unreachable, Instant::now(), &service.policy, &endpoints),
            }
        });
        other
    }
}

/// The service that a backend names.
pub(crate) fn resolve<'a>(snapshot: &'a Snapshot, backend: &Backend) -> Result<(&'a Destination, u16), RequestError> {
    if backend.invalid {
        return Err(RequestError::BadBackend);
    }
    let destination = snapshot.services.get(&backend.service).ok_or(RequestError::BadBackend)?;
    Ok((destination, backend.port))
}

/// What routes look at.
pub(crate) fn view<'a, B>(from: &'a Departure, request: &'a Request<B>) -> RequestView<'a> {
    RequestView {
        method: request.method(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
        caller: from.caller.view(),
    }
}
