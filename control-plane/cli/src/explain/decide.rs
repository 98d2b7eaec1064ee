//! From what is served to what happens, in the order in which the proxies decide. Asks nobody, knows no clock but the
//! balancer's.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use http::{HeaderMap, Method};
use outrigger_core::{
    Destination,
    config::{Backend as Configured, Balancer, EndpointSpec, Inbound, Protocol, Retry, Rule, TrafficPolicy},
    retry::{SAFE_RETRIES, idempotent},
    route::{CallerView, Selected, hash_of},
};
use outrigger_wire::{SpiffeId, names::ports};

use super::{
    failure,
    gather::Served,
    report::{Alternative, Answer, Asked, Backend, Caller, Endpoint, Explanation, Retries, Route, Verdict},
    request::{self, Request},
    routing::{self, Way},
    summary, verdict,
};

/// The question, with its names resolved.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// `NAMESPACE/NAME` of the workload that calls.
    pub(crate) workload: String,
    /// Where that isn't in the mesh, and so has nothing that says it.
    pub(crate) address: Option<IpAddr>,
    /// What is called, if the mesh knows it.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) port: u16,
    pub(crate) authority: String,
    pub(crate) method: Option<Method>,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) notes: Vec<String>,
}

/// Who calls and what is known of that.
struct From<'a> {
    own: Option<&'a Inbound>,
    address: IpAddr,
}

/// One decision in the making.
struct Decision<'a> {
    served: &'a Served,
    call: &'a Call,
    from: From<'a>,
}

pub(crate) fn decide(served: &Served, call: &Call) -> Explanation {
    let own = served.snapshot.inbounds.get(&*call.workload).map(|inbound| &**inbound);
    let known = own.and_then(|own| own.addresses.first().copied()).or(call.address);
    let from = From { own, address: known.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) };
    let mut told = Decision { served, call, from }.explanation();
    if own.is_none() {
        told.notes.push("the caller isn't in the mesh: no routes, no mTLS, nobody to carry it".to_owned());
        if known.is_none() {
            told.notes.push("the caller's address isn't known; rules about addresses may say otherwise".to_owned());
        }
    }
    told.notes.extend(served.refusals.iter().map(|refusal| format!("refused by proxies: {refusal}")));
    told.on_sidecar_failure = failure::of(served, own, &told.backends);
    (told.allowed, told.summary) = summary::of(&told);
    told
}

// === impl From ===

impl From<'_> {
    fn view(&self) -> CallerView<'_> {
        CallerView { identity: self.own.map(|own| &own.identity), address: self.address }
    }

    fn namespace(&self) -> &str {
        self.own.map_or("", |own| own.identity.namespace())
    }

    fn zone(&self) -> &str {
        self.own.map_or("", |own| &own.zone)
    }
}

// === impl Decision ===

impl Decision<'_> {
    fn explanation(&self) -> Explanation {
        let (call, from) = (self.call, &self.from);
        let destination = call.service.as_ref().and_then(|name| self.served.snapshot.services.get(name));
        let protocol = destination
            .and_then(|destination| destination.service.port(call.port))
            .map_or(Protocol::Auto, |port| port.protocol);
        let http = destination.is_some() && protocol != Protocol::Tcp;
        let mut told = Explanation {
            allowed: false,
            summary: String::new(),
            request: Asked { host: call.authority.clone(), port: call.port, method: None, path: None, query: None },
            caller: Caller {
                workload: call.workload.clone(),
                identity: from.own.map(|own| own.identity.to_string()),
                address: (!from.address.is_unspecified()).then_some(from.address),
                zone: from.zone().to_owned(),
            },
            destination: super::report::Destination {
                service: destination.map(|destination| destination.service.name.to_string()),
                addresses: destination.map(|destination| destination.service.addresses.clone()).unwrap_or_default(),
                protocol: protocol_name(protocol),
            },
            route: None,
            alternatives: Vec::new(),
            answer: None,
            backends: Vec::new(),
            on_sidecar_failure: Vec::new(),
            notes: call.notes.clone(),
        };
        let Some(destination) = destination else {
            told.notes
                .push("the mesh doesn't know the destination: bytes are passed on as they are, in plaintext".into());
            return told;
        };
        if destination.service.direct.is_none() && destination.service.port(call.port).is_none() {
            told.notes.push(format!("{} has no port {}", destination.service.name, call.port));
        }
        match http {
            true => self.http(destination, &mut told),
            false => {
                if call.method.is_some() {
                    told.notes
                        .push("the port is declared as TCP: methods, paths and headers aren't looked at".to_owned());
                }
                let whole = self.backend(destination, call.port, None, None, 1.0, 1);
                told.backends.push(whole);
            }
        }
        told
    }

    fn http(&self, destination: &Destination, told: &mut Explanation) {
        let call = self.call;
        let method = call.method.clone().unwrap_or(Method::GET);
        let request = match Request::new(method, &call.target, call.headers.clone(), &call.authority) {
            Ok(request) => request,
            Err(error) => {
                told.answer = Some(refused(400, format!("the path {error}")));
                return;
            }
        };
        told.request.method = Some(request.method.to_string());
        told.request.path = Some(request.path.clone());
        told.request.query.clone_from(&request.query);
        // Only a caller's own proxy routes.
        let table = self.from.own.and_then(|_| destination.service.table(self.from.namespace(), call.port));
        let Some(table) = table else {
            told.backends.push(self.backend(destination, call.port, None, Some(&request), 1.0, 1));
            return;
        };
        let mut ways = routing::ways(table, &request.view(self.from.view()));
        ways.retain(|way| way.share > 0.0);
        let most = (0..ways.len()).max_by(|&a, &b| ways[a].share.total_cmp(&ways[b].share).then(b.cmp(&a)));
        let Some(way) = most.map(|most| ways.remove(most)) else { return };
        told.alternatives = ways.iter().map(alternative).collect();
        let Way { selected: Some(selected), share } = way else {
            told.answer = Some(refused(404, "no rule of the destination's routes matches".to_owned()));
            return;
        };
        told.route = Some(route(&selected, share, &table.consumer_namespace));
        self.rule(selected, request, told);
    }

    /// Past the rule's filters to its backends.
    fn rule(&self, selected: Selected<'_>, mut request: Request, told: &mut Explanation) {
        let rule = selected.rule;
        let sticky = {
            let view = request.view(self.from.view());
            rule.stickiness.as_ref().and_then(|key| hash_of(key, &view))
        };
        told.answer = request.pass(&rule.filters, selected.prefix, self.call.port);
        if told.answer.is_some() {
            return;
        }
        if rule.total_weight == 0 {
            told.answer = Some(refused(500, format!("{} has no backend with a weight", rule.name)));
            return;
        }
        let stuck = sticky.and_then(|_| rule.backend(0, sticky)).map(std::ptr::from_ref);
        if stuck.is_some() {
            told.notes.push(format!("{} keeps requests of one key together: this one's backend is settled", rule.name));
        }
        for backend in rule.backends.iter().filter(|backend| backend.weight > 0) {
            let percent = match stuck {
                Some(stuck) if std::ptr::eq(stuck, backend) => 1.0,
                Some(_) => continue,
                None => f64::from(backend.weight) / f64::from(rule.total_weight),
            };
            told.backends.push(self.routed(rule, backend, request.clone(), selected.prefix, percent));
        }
    }

    fn routed(&self, rule: &Rule, to: &Configured, mut request: Request, prefix: Option<&str>, part: f64) -> Backend {
        let found = self.served.snapshot.services.get(&to.service).filter(|_| !to.invalid);
        let Some(destination) = found else {
            let why = if to.invalid {
                "the reference doesn't resolve or isn't permitted; see the route's status"
            } else {
                "there is no such service in the mesh"
            };
            return broken(to, part, why.to_owned());
        };
        if let Some(answer) = request.pass(&to.filters, prefix, self.call.port) {
            return broken(to, part, format!("answered with {}: {}", answer.status, answer.why));
        }
        self.backend(destination, to.port, Some(rule), Some(&request), part, to.weight)
    }

    /// A service's endpoints; `request` as it is by then, none where nobody looks at the bytes.
    fn backend(
        &self,
        destination: &Destination,
        port: u16,
        rule: Option<&Rule>,
        request: Option<&Request>,
        part: f64,
        weight: u32,
    ) -> Backend {
        let policy = &destination.service.policy;
        let view = request.map(|request| request.view(self.from.view()));
        let picks = routing::picks(destination, view.as_ref(), self.from.zone());
        let endpoints = destination.endpoints.iter().map(|endpoint| {
            let spec = &endpoint.spec;
            let picked = picks.get(&(spec.workload.clone(), spec.address)).copied().unwrap_or_default();
            self.endpoint(spec, spec.target_port(port), picked, request)
        });
        let limit = rule.and_then(|rule| rule.request_timeout).or(policy.request_timeout);
        Backend {
            service: destination.service.name.to_string(),
            port,
            weight,
            percent: percent(part),
            problem: destination.endpoints.is_empty().then(|| "it has no endpoint".to_owned()),
            balancer: balancer_name(policy.balancer),
            request_timeout_ms: limit.filter(|limit| !limit.is_zero()).map(|limit| limit.as_millis() as u64),
            connect_timeout_ms: policy.connect_timeout.as_millis() as u64,
            retries: retries(rule, policy, request),
            traffic_policy: policy.source.to_string(),
            endpoints: endpoints.collect(),
        }
    }

    fn endpoint(&self, spec: &EndpointSpec, port: u16, picked: f64, request: Option<&Request>) -> Endpoint {
        let meshed = spec.meshed && spec.identity.is_some();
        let mtls = meshed && self.from.own.is_some();
        Endpoint {
            workload: spec.workload.to_string(),
            address: spec.address,
            port,
            zone: spec.zone.to_string(),
            state: if spec.draining { "draining" } else { "ready" },
            meshed,
            identity: spec.identity.as_ref().map(SpiffeId::to_string),
            percent: percent(picked),
            transport: if mtls { "mtls" } else { "plaintext" },
            verdict: self.verdict(spec, port, mtls, request),
        }
    }

    fn verdict(&self, spec: &EndpointSpec, port: u16, mtls: bool, request: Option<&Request>) -> Verdict {
        if !spec.meshed {
            return verdict::outside();
        }
        let inbound = self.served.snapshot.inbounds.get(&spec.workload);
        let (Some(inbound), Some(message)) = (inbound, self.served.inbounds.get(&*spec.workload)) else {
            let reason = "its configuration isn't served: its proxy lets nobody in".to_owned();
            return Verdict { allowed: false, reason, ..verdict::outside() };
        };
        // Plaintext is read as the workload's own port is declared; through the mesh the caller's proxy has read it.
        let opaque = !mtls && inbound.port(port).is_some_and(|port| port.protocol == Protocol::Tcp);
        let http = request.filter(|_| !opaque).map(Request::http);
        let identity = if mtls { self.from.view().identity } else { None };
        let caller = CallerView { identity, address: self.from.address };
        let is_probe = |request: &Request| inbound.is_probe(port, &request.method, &request.path);
        if identity.is_none() && !ports::is_own(port) && request.is_some_and(is_probe) {
            return verdict::probe(inbound);
        }
        verdict::of(message, inbound, &verdict::question(caller, port, http))
    }
}

fn route(selected: &Selected<'_>, share: f64, consumer: &str) -> Route {
    Route {
        rule: selected.rule.name.to_string(),
        matched: routing::described(selected.matched),
        percent: percent(share),
        consumer_namespace: (!consumer.is_empty()).then(|| consumer.to_owned()),
        filters: request::described(&selected.rule.filters),
        backend_timeout_ms: selected.rule.backend_timeout.map(|limit| limit.as_millis() as u64),
    }
}

fn alternative(way: &Way<'_>) -> Alternative {
    Alternative { rule: way.selected.map(|selected| selected.rule.name.to_string()), percent: percent(way.share) }
}

fn refused(status: u16, why: String) -> Answer {
    Answer { status, why, location: None, intended: false }
}

/// A share that no endpoint gets.
fn broken(to: &Configured, part: f64, problem: String) -> Backend {
    Backend {
        service: to.service.to_string(),
        port: to.port,
        weight: to.weight,
        percent: percent(part),
        problem: Some(problem),
        balancer: balancer_name(Balancer::LeastRequest),
        request_timeout_ms: None,
        connect_timeout_ms: 0,
        retries: Retries::default(),
        traffic_policy: String::new(),
        endpoints: Vec::new(),
    }
}

fn retries(rule: Option<&Rule>, policy: &TrafficPolicy, request: Option<&Request>) -> Retries {
    let Some(request) = request else { return Retries::default() };
    let retry: Option<&Retry> = rule.and_then(|rule| rule.retry.as_ref()).or(policy.retry.as_ref());
    Retries {
        attempts: retry.map_or(SAFE_RETRIES, |retry| retry.attempts),
        codes: retry.map(|retry| retry.codes.clone()).unwrap_or_default(),
        method_allows: idempotent(&request.method) || retry.is_some_and(|retry| retry.non_idempotent),
    }
}

/// With one decimal.
fn percent(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Auto => "auto",
        Protocol::Http => "http",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    }
}

fn balancer_name(balancer: Balancer) -> &'static str {
    match balancer {
        Balancer::LeastRequest => "least-request",
        Balancer::RoundRobin => "round-robin",
        Balancer::Random => "random",
        Balancer::ConsistentHash => "consistent-hash",
    }
}
