//! Checks messages of the control plane and compiles them. What isn't understood is refused, never guessed: a rule
//! that is dropped silently could open what its owner meant to close.

use std::{collections::BTreeSet, fmt, net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, Method};
use outrigger_wire::{SpiffeId, proto::config as wire};

use super::{
    AccessPolicy, AccessRule, CompileError, Ejection, EndpointSpec, Fallback, HashKey, Inbound, IpBlock, KeyMatch,
    PathMatch, Principal, Probe, Retry, RouteTable, Service, ServicePort, StringMatch, TrafficPolicy, Trust,
};
use crate::{host::host_of, path};

mod regexes;
mod route;

use regexes::regex;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const EJECTION_FAILURES: u32 = 5;
const EJECTION_BASE: Duration = Duration::from_secs(10);
const EJECTION_MAX_PERCENT: u32 = 50;
const RETRY_BUDGET_PERCENT: u32 = 20;
const RETRY_BACKOFF: Duration = Duration::from_millis(25);

/// A [`CompileError`] before the resource's name is known.
struct Problem {
    field: &'static str,
    problem: String,
}

type Checked<T> = Result<T, Problem>;

// === impl Service ===

impl Service {
    /// # Errors
    /// If any field isn't understood or out of range.
    pub fn compile(message: wire::Service) -> Result<Self, CompileError> {
        let name: Arc<str> = message.name.as_str().into();
        service(message).map_err(|problem| problem.of(&name))
    }

    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|known| known.port == port)
    }

    /// The most specific table: one for the caller's namespace before one for every caller, then one for this port
    /// before one for all ports.
    pub fn table(&self, caller_namespace: &str, port: u16) -> Option<&RouteTable> {
        let applies = |table: &&RouteTable| {
            (table.consumer_namespace.is_empty() || *table.consumer_namespace == *caller_namespace)
                && table.port.is_none_or(|of| of == port)
        };
        self.tables
            .iter()
            .filter(applies)
            .min_by_key(|table| (table.consumer_namespace.is_empty(), table.port.is_none()))
    }

    /// Every service that a table sends requests to, mirrors included.
    pub fn backend_services(&self) -> BTreeSet<Arc<str>> {
        let rules = self.tables.iter().flat_map(|table| &table.rules);
        let backends = rules.flat_map(|rule| {
            let of_backends = rule.backends.iter().flat_map(|backend| &backend.filters.mirrors);
            let mirrors = rule.filters.mirrors.iter().chain(of_backends).map(|mirror| &mirror.backend);
            rule.backends.iter().chain(mirrors)
        });
        backends.filter(|backend| !backend.invalid).map(|backend| backend.service.clone()).collect()
    }
}

fn service(message: wire::Service) -> Checked<Service> {
    let name = name("name", &message.name)?;
    let mut addresses = each(&message.addresses, |text| address("addresses", text))?;
    let direct = message.direct.map(|direct| endpoint(direct, &name)).transpose()?;
    if let Some(of_pod) = name.strip_prefix('@') {
        let of_pod = address("name", of_pod)?;
        if !addresses.contains(&of_pod) {
            addresses.push(of_pod);
        }
    }
    Ok(Service {
        addresses,
        ports: ports(message.ports)?,
        tables: message.route_tables.into_iter().map(route::table).collect::<Checked<_>>()?,
        policy: traffic_policy(message.traffic_policy.unwrap_or_default())?,
        direct,
        name,
    })
}

fn ports(messages: Vec<wire::ServicePort>) -> Checked<Vec<ServicePort>> {
    let mut ports: Vec<ServicePort> = Vec::with_capacity(messages.len());
    for message in messages {
        let port = port("ports.port", message.port)?;
        if ports.iter().any(|known| known.port == port) {
            return Err(problem("ports.port", format_args!("{port} is there twice")));
        }
        let protocol = known("ports.protocol", message.protocol)?;
        ports.push(ServicePort { port, name: message.name.into(), protocol });
    }
    Ok(ports)
}

// === impl EndpointSpec ===

impl EndpointSpec {
    /// # Errors
    /// If any field isn't understood or out of range.
    pub fn compile(message: wire::Endpoint) -> Result<Self, CompileError> {
        let resource = format!("{}/{}", message.service, message.workload);
        endpoint(message, "").map_err(|problem| problem.of(&resource))
    }

    /// The endpoint's port behind a service's port.
    pub fn target_port(&self, service_port: u16) -> u16 {
        self.ports.iter().find(|(port, _)| *port == service_port).map_or(service_port, |(_, target)| *target)
    }
}

/// `owner` is the service that the endpoint is embedded in, if it is.
fn endpoint(message: wire::Endpoint, owner: &str) -> Checked<EndpointSpec> {
    let service = if message.service.is_empty() { owner } else { &message.service };
    let identity = optional(&message.identity, |text| identity("identity", text))?;
    if message.meshed && identity.is_none() {
        return Err(problem("identity", "a meshed endpoint needs one"));
    }
    let target = |ports: wire::EndpointPort| Ok((port("ports.port", ports.port)?, port("ports.target", ports.target)?));
    Ok(EndpointSpec {
        service: name("service", service)?,
        workload: name("workload", &message.workload)?,
        address: address("address", &message.address)?,
        ports: message.ports.into_iter().map(target).collect::<Checked<_>>()?,
        identity,
        meshed: message.meshed,
        zone: message.zone.into(),
        weight: message.weight.max(1),
        draining: match known("state", message.state)? {
            wire::endpoint::State::Ready => false,
            wire::endpoint::State::Draining => true,
        },
    })
}

// === impl Inbound ===

impl Inbound {
    /// # Errors
    /// If any field isn't understood or out of range.
    pub fn compile(message: wire::Inbound) -> Result<Self, CompileError> {
        let workload = message.workload.clone();
        inbound(message).map_err(|problem| problem.of(&workload))
    }

    pub fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|known| known.port == port)
    }
}

fn inbound(message: wire::Inbound) -> Checked<Inbound> {
    let fallback = message.fallback.unwrap_or_default();
    Ok(Inbound {
        workload: name("workload", &message.workload)?,
        identity: identity("identity", &message.identity)?,
        addresses: each(&message.addresses, |text| address("addresses", text))?,
        strict: match known("mtls", message.mtls)? {
            wire::inbound::Mtls::Permissive => false,
            wire::inbound::Mtls::Strict => true,
        },
        ports: ports(message.ports)?,
        policies: message.policies.into_iter().map(access_policy).collect::<Checked<_>>()?,
        fallback: Fallback {
            on_sidecar_failure: known("fallback.on_sidecar_failure", fallback.on_sidecar_failure)?,
            on_fallback_failure: known("fallback.on_fallback_failure", fallback.on_fallback_failure)?,
            shared_service: optional(&fallback.shared_service, |text| name("fallback.shared_service", text))?,
            on_control_plane_loss: known("fallback.on_control_plane_loss", fallback.on_control_plane_loss)?,
            control_plane_loss_grace: Duration::from_millis(fallback.control_plane_loss_grace_ms),
        },
        acting_identities: each(&message.acting_identities, |text| identity("acting_identities", text))?,
        zone: message.zone.into(),
        probes: probes(message.probes)?,
    })
}

fn probes(messages: Vec<wire::Probe>) -> Checked<Vec<Probe>> {
    let mut probes = Vec::with_capacity(messages.len());
    for message in messages {
        let port = port("probes.port", message.port)?;
        let path = if message.grpc { Probe::GRPC_PATH } else { path::split_target(&message.path).0 };
        // A path that nobody could ask for opens nothing; it is a pod's own, and no reason to refuse all of the rest.
        if let Ok(path) = path::normalise(path) {
            probes.push(Probe { port, path: path.into(), grpc: message.grpc });
        }
    }
    Ok(probes)
}

fn access_policy(message: wire::AccessPolicy) -> Checked<AccessPolicy> {
    regexes::judge_policy(&message)?;
    Ok(AccessPolicy {
        name: message.name.into(),
        action: known("policies.action", message.action)?,
        rules: message.rules.into_iter().map(access_rule).collect::<Checked<_>>()?,
    })
}

fn access_rule(message: wire::AccessRule) -> Checked<AccessRule> {
    let paths = |paths: Vec<wire::PathMatch>| paths.into_iter().map(path_match).collect::<Checked<Vec<_>>>();
    let host = |text: &str| match host_of(text) {
        "" => Err(problem("policies.rules.hosts", "is empty")),
        host => Ok(host.to_ascii_lowercase().into()),
    };
    Ok(AccessRule {
        from: message.from.into_iter().map(principal).collect::<Checked<_>>()?,
        not_from: message.not_from.into_iter().map(principal).collect::<Checked<_>>()?,
        ports: message.ports.into_iter().map(|number| port("policies.rules.ports", number)).collect::<Checked<_>>()?,
        methods: each(&message.methods, method)?,
        paths: paths(message.paths)?,
        not_paths: paths(message.not_paths)?,
        hosts: each(&message.hosts, host)?,
        headers: message.headers.into_iter().map(header_match).collect::<Checked<_>>()?,
    })
}

// === impl Trust ===

impl Trust {
    /// # Errors
    /// If the trust domain isn't well-formed or has no root.
    pub fn compile(message: wire::Trust) -> Result<Self, CompileError> {
        let resource = message.trust_domain.clone();
        trust(message).map_err(|problem| problem.of(&resource))
    }
}

fn trust(message: wire::Trust) -> Checked<Trust> {
    // The rules of a trust domain are those of an identity's.
    SpiffeId::new(&message.trust_domain, "x", "x").map_err(|error| problem("trust_domain", error))?;
    if message.roots.is_empty() || message.roots.iter().any(|root| root.is_empty()) {
        return Err(problem("roots", "has none, or an empty one"));
    }
    Ok(Trust { trust_domain: message.trust_domain.into(), roots: message.roots, anchor: message.anchor.into() })
}

// === traffic policy ===

fn traffic_policy(message: wire::TrafficPolicy) -> Checked<TrafficPolicy> {
    let limit = |limit: u32| (limit > 0).then_some(limit);
    Ok(TrafficPolicy {
        balancer: known("traffic_policy.balancer", message.balancer)?,
        hash_on: message.hash_on.map(hash_key).transpose()?,
        max_connections: limit(message.max_connections),
        connect_timeout: duration(message.connect_timeout_ms).unwrap_or(CONNECT_TIMEOUT),
        request_timeout: duration(message.request_timeout_ms),
        ejection: ejection(message.ejection.unwrap_or_default())?,
        retry_budget_percent: match message.retry_budget_percent {
            0 => RETRY_BUDGET_PERCENT,
            percent => self::percent("traffic_policy.retry_budget_percent", percent)?,
        },
        retry: message.retry.map(retry).transpose()?,
        source: message.source.into(),
    })
}

fn ejection(message: wire::Ejection) -> Checked<Option<Ejection>> {
    let or = |number: u32, default: u32| if number == 0 { default } else { number };
    let ejection = Ejection {
        consecutive_failures: or(message.consecutive_failures, EJECTION_FAILURES),
        base: duration(message.base_ms).unwrap_or(EJECTION_BASE),
        max_percent: percent("traffic_policy.ejection.max_percent", or(message.max_percent, EJECTION_MAX_PERCENT))?,
    };
    Ok((!message.disabled).then_some(ejection))
}

fn retry(message: wire::Retry) -> Checked<Retry> {
    let code = |code: u32| match u16::try_from(code) {
        Ok(code @ 100..=599) => Ok(code),
        _ => Err(problem("retry.codes", format_args!("{code} is no HTTP status"))),
    };
    Ok(Retry {
        attempts: message.attempts,
        codes: message.codes.into_iter().map(code).collect::<Checked<_>>()?,
        backoff: duration(message.backoff_ms).unwrap_or(RETRY_BACKOFF),
        non_idempotent: message.non_idempotent,
    })
}

fn hash_key(message: wire::Stickiness) -> Checked<HashKey> {
    use wire::stickiness::Key;
    match message.key {
        Some(Key::Header(name)) => Ok(HashKey::Header(header_name("stickiness.header", &name)?)),
        Some(Key::Cookie(name)) if !name.is_empty() => Ok(HashKey::Cookie(name.into())),
        Some(Key::Caller(true)) => Ok(HashKey::Caller),
        Some(Key::Cookie(_) | Key::Caller(false)) | None => Err(problem("stickiness", "has no key")),
    }
}

// === matchers ===

fn path_match(message: wire::PathMatch) -> Checked<PathMatch> {
    use wire::path_match::Pattern;
    // Requests are normalised before they are matched; what they are matched with must be as well.
    let normal = |text: &str| match path::normalise(text) {
        Ok(path) => Ok(path.into_owned()),
        Err(error) => Err(problem("path", format_args!("{text:?} {error}"))),
    };
    Ok(match message.pattern {
        Some(Pattern::Exact(path)) => PathMatch::Exact(normal(&path)?.into()),
        Some(Pattern::Prefix(path)) if path == "*" => return Err(problem("path.prefix", "doesn't begin with a slash")),
        Some(Pattern::Prefix(path)) => PathMatch::Prefix(normal(&path)?.trim_end_matches('/').into()),
        Some(Pattern::Regex(pattern)) => PathMatch::Regex(regex("path.regex", &pattern)?),
        None => return Err(problem("path", "has no pattern")),
    })
}

fn string_match(field: &'static str, message: Option<wire::StringMatch>) -> Checked<StringMatch> {
    use wire::string_match::Pattern;
    Ok(match message.and_then(|message| message.pattern) {
        Some(Pattern::Exact(text)) => StringMatch::Exact(text.into()),
        Some(Pattern::Prefix(text)) => StringMatch::Prefix(text.into()),
        Some(Pattern::Regex(pattern)) => StringMatch::Regex(regex(field, &pattern)?),
        Some(Pattern::Present(present)) => StringMatch::Present(present),
        None => return Err(problem(field, "has no pattern")),
    })
}

fn header_match(message: wire::KeyMatch) -> Checked<KeyMatch<HeaderName>> {
    Ok(KeyMatch {
        name: header_name("headers.name", &message.name)?,
        value: string_match("headers.value", message.value)?,
    })
}

fn key_match(field: &'static str, message: wire::KeyMatch) -> Checked<KeyMatch<Box<str>>> {
    if message.name.is_empty() {
        return Err(problem(field, "has no name"));
    }
    Ok(KeyMatch { name: message.name.into(), value: string_match(field, message.value)? })
}

fn principal(message: wire::Principal) -> Checked<Principal> {
    use wire::principal::Kind;
    match message.kind {
        Some(Kind::Identity(text)) => Ok(Principal::Identity(identity("principal.identity", &text)?)),
        Some(Kind::Namespace(namespace)) if !namespace.is_empty() => Ok(Principal::Namespace(namespace.into())),
        Some(Kind::Authenticated(true)) => Ok(Principal::Authenticated),
        Some(Kind::Cidr(text)) => {
            let block: IpBlock = text.parse().map_err(|error| problem("principal.cidr", error))?;
            Ok(Principal::Cidr(block))
        }
        Some(Kind::Namespace(_) | Kind::Authenticated(false)) | None => Err(problem("principal", "names nobody")),
    }
}

// === scalars ===

fn method(text: &str) -> Checked<Method> {
    text.parse().map_err(|_| problem("method", format_args!("{text:?} is no HTTP method")))
}

fn header_name(field: &'static str, text: &str) -> Checked<HeaderName> {
    text.parse().map_err(|_| problem(field, format_args!("{text:?} is no header name")))
}

fn port(field: &'static str, number: u32) -> Checked<u16> {
    match u16::try_from(number) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(problem(field, format_args!("{number} is no port; ports are 1 to 65535"))),
    }
}

fn percent(field: &'static str, number: u32) -> Checked<u32> {
    if number <= 100 { Ok(number) } else { Err(problem(field, format_args!("{number} is more than 100"))) }
}

fn name(field: &'static str, text: &str) -> Checked<Arc<str>> {
    if text.is_empty() { Err(problem(field, "is empty")) } else { Ok(text.into()) }
}

fn address(field: &'static str, text: &str) -> Checked<IpAddr> {
    let parsed: Result<IpAddr, _> = text.parse();
    parsed.map(|address| address.to_canonical()).map_err(|_| problem(field, format_args!("{text:?} is no IP address")))
}

fn identity(field: &'static str, text: &str) -> Checked<SpiffeId> {
    text.parse().map_err(|error| problem(field, format_args!("{text:?}: {error}")))
}

/// An enum's value, if this version knows it.
fn known<T: TryFrom<i32>>(field: &'static str, number: i32) -> Checked<T> {
    T::try_from(number).map_err(|_| problem(field, format_args!("{number} is not known to this version")))
}

/// Milliseconds; 0 is "not set".
fn duration(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Checked<T>) -> Checked<Option<T>> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn each<T>(texts: &[String], parse: impl Fn(&str) -> Checked<T>) -> Checked<Vec<T>> {
    texts.iter().map(|text| parse(text)).collect()
}

// === impl Problem ===

fn problem(field: &'static str, problem: impl fmt::Display) -> Problem {
    Problem { field, problem: problem.to_string() }
}

impl Problem {
    fn of(self, resource: &str) -> CompileError {
        CompileError { resource: resource.to_owned(), field: self.field, problem: self.problem }
    }
}

#[cfg(test)]
mod tests;
