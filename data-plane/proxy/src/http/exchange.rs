//! One request and its answer: what is known of it, and the one record it ends in.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, LazyLock},
    time::{Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, header, uri::PathAndQuery};
use http_body::Body;
use outrigger_core::balance::Picked;
use outrigger_wire::{SpiffeId, names::headers};

use super::{
    Arriving, Quiet, Relay, Standing,
    body::Upload,
    error::{RequestError, UNSENT},
    head,
    upgrade::Upgrade,
};
use crate::{
    pool::Lease,
    telemetry::{
        Direction, Record,
        trace::{self, TraceContext},
    },
    worker::Worker,
};

/// A request on its way. Dropped or ended, it is recorded.
pub(crate) struct Exchange {
    pub(crate) worker: Rc<Worker>,
    quiet: Rc<Quiet>,
    direction: Direction,
    started: Instant,
    /// If there is an access log.
    line: Option<Box<Line>>,
    pub(crate) grpc: bool,
    trace: TraceContext,
    pub(crate) service: Arc<str>,
    pub(crate) route: Arc<str>,
    /// Outbound: the backend's service. Inbound: the caller's identity.
    pub(crate) peer: Arc<str>,
    pub(crate) caller: Option<SpiffeId>,
    pub(crate) policy: Option<Arc<str>>,
    pub(crate) endpoint: Option<SocketAddr>,
    status: u16,
    grpc_status: Option<u16>,
    flag: &'static str,
    upload: Rc<Upload>,
    pub(crate) received: u64,
    pub(crate) picked: Option<Picked>,
    pub(crate) lease: Option<Lease>,
    /// Inbound: the request that changes its connection's protocol, as policies judged it.
    pub(crate) standing: Option<Box<Standing>>,
}

/// What the access log says of the request as it came.
struct Line {
    wall: SystemTime,
    method: Method,
    target: Option<PathAndQuery>,
    host: Option<HeaderValue>,
    protocol: &'static str,
}

static NONE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

/// The shared empty name.
pub(crate) fn no_name() -> Arc<str> {
    NONE.clone()
}

impl Line {
    fn of<B>(request: &Request<B>) -> Self {
        Self {
            wall: SystemTime::now(),
            method: request.method().clone(),
            target: request.uri().path_and_query().cloned(),
            host: request.headers().get(header::HOST).cloned(),
            protocol: match request.version() {
                http::Version::HTTP_2 => "http/2",
                http::Version::HTTP_10 => "http/1.0",
                _ => "http/1.1",
            },
        }
    }
}

impl Exchange {
    /// Begins the record, and passes the trace context on (W3C Trace Context).
    pub(crate) fn begin(
        worker: Rc<Worker>,
        quiet: &Rc<Quiet>,
        direction: Direction,
        request: &mut Request<Arriving>,
    ) -> Self {
        quiet.begin();
        let trace = trace::propagate(request.headers_mut());
        Self {
            direction,
            started: Instant::now(),
            line: worker.engine.log.enabled().then(|| Box::new(Line::of(request))),
            grpc: head::is_grpc(request.headers()),
            trace,
            service: no_name(),
            route: no_name(),
            peer: no_name(),
            caller: None,
            policy: None,
            endpoint: None,
            status: 0,
            grpc_status: None,
            flag: "",
            upload: Rc::default(),
            received: 0,
            picked: None,
            lease: None,
            standing: None,
            quiet: quiet.clone(),
            worker,
        }
    }

    /// The caller broke its upload off.
    pub(crate) fn upload_broke(&self) -> bool {
        self.upload.broke.get()
    }

    /// For what is counted elsewhere than in a body; 0 before the request is sent again.
    pub(crate) fn set_sent(&self, bytes: u64) {
        self.upload.bytes.set(bytes);
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// The request with its body counted here. Boxed, because it goes through many hands.
    pub(crate) fn relay(&self, request: Request<Arriving>) -> Box<Request<Relay>> {
        Box::new(request.map(|body| {
            if body.is_end_stream() {
                Relay::Empty
            } else {
                Relay::Request { inner: body, upload: self.upload.clone() }
            }
        }))
    }

    /// Hands the answer on; the record ends with its body, or with the protocol that both sides changed to.
    pub(crate) fn carry(
        self: Box<Self>,
        mut response: Response<Arriving>,
        upgrade: Option<Upgrade>,
        deadline: Option<Instant>,
    ) -> Response<Relay> {
        let declined = match upgrade {
            Some(upgrade) if Upgrade::agreed(&response) => return upgrade.carry(response, self),
            declined => declined,
        };
        head::strip_hop_by_hop(response.headers_mut());
        // What proxies tell each other is none of an app's business. Of apps nothing of that kind comes here.
        if self.direction == Direction::Outbound && head::has_internal(response.headers()) {
            for name in [UNSENT, headers::STATUS] {
                response.headers_mut().remove(name);
            }
        }
        if let Some(upgrade) = declined {
            upgrade.decline(&mut response);
        }
        response.map(|body| Relay::answer(body, self, deadline))
    }

    /// Answers an error; this is its record.
    pub(crate) fn failed(mut self: Box<Self>, error: &RequestError) -> Response<Relay> {
        tracing::debug!(service = &*self.service, %error, side = ?error.side(), "request failed");
        self.flag = error.flag();
        if let RequestError::Denied(policy) = error {
            self.policy.clone_from(policy);
            self.worker.series.policy(&self.worker.engine.metrics, policy.as_ref()).denied.inc();
        }
        let mut response = error.answer(self.grpc);
        if self.direction == Direction::Outbound {
            response.headers_mut().remove(UNSENT);
        }
        self.here(response)
    }

    /// Answers without a backend; this is its record.
    pub(crate) fn here(mut self: Box<Self>, response: Response<Relay>) -> Response<Relay> {
        self.status = response.status().as_u16();
        self.see_grpc_status(response.headers());
        response
    }

    /// The answer's head has come.
    pub(crate) fn head(&mut self, response: &Response<Arriving>) {
        self.status = response.status().as_u16();
        self.see_grpc_status(response.headers());
    }

    pub(crate) fn see_grpc_status(&mut self, headers: &HeaderMap) {
        if self.grpc
            && let Some(status) = headers.get("grpc-status")
        {
            self.grpc_status = status.to_str().ok().and_then(|text| text.parse().ok());
        }
    }

    /// The answer was carried to its end.
    pub(crate) fn complete(mut self: Box<Self>) {
        if let Some(lease) = self.lease.take() {
            lease.give_back(&self.worker.pool);
        }
    }

    /// The answer ended early.
    pub(crate) fn broken(mut self: Box<Self>, flag: &'static str) {
        self.flag = flag;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let engine = &self.worker.engine;
        if self.status == 0 {
            // Nobody waited for the answer.
            self.status = 499;
            self.flag = "downstream_gone";
        }
        let now = Instant::now();
        self.quiet.end(now);
        let duration = now.saturating_duration_since(self.started);
        let names = [&self.service, &self.route, &self.peer];
        self.worker.series.http(&engine.metrics, self.direction, names, |series| {
            series.record(self.status, self.grpc_status, duration, self.upload.bytes.get(), self.received);
        });
        let Some(line) = self.line.take() else { return };
        let named = |name: &Arc<str>| (!name.is_empty()).then(|| name.clone());
        engine.log.write(Record {
            method: Some(line.method),
            path: line.target,
            host: line.host,
            status: Some(self.status),
            grpc_status: self.grpc_status,
            duration,
            received: self.upload.bytes.get(),
            sent: self.received,
            service: named(&self.service),
            route: named(&self.route),
            policy: self.policy.take(),
            endpoint: self.endpoint,
            caller: self.caller.take(),
            reason: self.flag,
            trace_id: Some(self.trace.trace_id),
            generation: engine.store.load().generation,
            ..Record::new(self.direction, line.protocol, line.wall)
        });
    }
}
