//! The configuration in force, as JSON for people and tools.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use outrigger_core::{
    Destination, Snapshot, Svid,
    config::{AccessPolicy, Answer, Backend, Inbound, RouteTable, Rule, Service, Trust},
};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Everything but the certificate.
pub(super) fn snapshot(snapshot: &Snapshot) -> Value {
    let mut services: Vec<_> = snapshot.services.values().map(|d| (&d.service.name, destination(d))).collect();
    services.sort_by(|a, b| a.0.cmp(b.0));
    let mut inbounds: Vec<_> = snapshot.inbounds.values().map(|i| (&i.workload, inbound(i))).collect();
    inbounds.sort_by(|a, b| a.0.cmp(b.0));
    let mut unmeshed: Vec<_> =
        snapshot.addresses.iter().filter(|(_, known)| known.is_none()).map(|(ip, _)| ip).collect();
    unmeshed.sort();
    json!({
        "generation": snapshot.generation,
        "own": snapshot.own.as_ref().map(|own| &*own.workload),
        "services": services.into_iter().map(|(_, value)| value).collect::<Vec<_>>(),
        "not_meshed": unmeshed,
        "inbounds": inbounds.into_iter().map(|(_, value)| value).collect::<Vec<_>>(),
        "trust": snapshot.trust.iter().map(trust).collect::<Vec<_>>(),
    })
}

/// Never the key.
pub(super) fn certificate(svid: Option<&Svid>) -> Value {
    svid.map_or(Value::Null, |svid| {
        json!({
            "identity": svid.id.as_str(),
            "not_before": unix_seconds(svid.not_before),
            "not_after": unix_seconds(svid.not_after),
            "chain": svid.chain.len(),
        })
    })
}

fn destination(destination: &Destination) -> Value {
    let mut value = service(&destination.service);
    value["endpoints"] = endpoints(destination);
    value
}

fn endpoints(destination: &Destination) -> Value {
    let now = Instant::now();
    let endpoints = destination.endpoints.iter().map(|endpoint| {
        let spec = &endpoint.spec;
        json!({
            "workload": &*spec.workload,
            "address": spec.address,
            "ports": spec.ports,
            "identity": spec.identity.as_ref().map(|id| id.as_str()),
            "meshed": spec.meshed,
            "zone": &*spec.zone,
            "weight": spec.weight,
            "draining": spec.draining,
            "in_flight": endpoint.in_flight(),
            "ejected": endpoint.ejected(now),
        })
    });
    endpoints.collect()
}

fn service(service: &Service) -> Value {
    let ports = service
        .ports
        .iter()
        .map(|port| json!({ "port": port.port, "name": &*port.name, "protocol": port.protocol.as_str_name() }));
    json!({
        "name": &*service.name,
        "addresses": service.addresses,
        "ports": ports.collect::<Vec<_>>(),
        "policy": { "source": &*service.policy.source, "settings": format!("{:?}", service.policy) },
        "routes": service.tables.iter().map(table).collect::<Vec<_>>(),
    })
}

fn table(table: &RouteTable) -> Value {
    let rules = table.rules.iter().enumerate().map(|(at, one)| {
        let entries = table.entries.iter().filter(|entry| entry.rule == at);
        let mut value = rule(one);
        value["matches"] = entries.map(|entry| format!("{:?}", entry.matches)).collect();
        value
    });
    json!({
        "consumer_namespace": &*table.consumer_namespace,
        "port": table.port,
        "rules": rules.collect::<Vec<_>>(),
    })
}

fn rule(rule: &Rule) -> Value {
    json!({
        "name": &*rule.name,
        "backends": rule.backends.iter().map(backend).collect::<Vec<_>>(),
        "answer": rule.filters.answer.as_ref().map(|answer| match answer {
            Answer::Redirect(redirect) => format!("redirect {}", redirect.status.as_u16()),
            Answer::Direct { status, .. } => format!("direct {}", status.as_u16()),
        }),
        "request_timeout_ms": rule.request_timeout.map(|limit| limit.as_millis()),
        "retries": rule.retry.as_ref().map(|retry| retry.attempts),
    })
}

fn backend(backend: &Backend) -> Value {
    json!({
        "service": &*backend.service,
        "port": backend.port,
        "weight": backend.weight,
        "invalid": backend.invalid,
    })
}

fn inbound(inbound: &Inbound) -> Value {
    json!({
        "workload": &*inbound.workload,
        "identity": inbound.identity.as_str(),
        "addresses": inbound.addresses,
        "strict": inbound.strict,
        "policies": inbound.policies.iter().map(policy).collect::<Vec<_>>(),
        "probes": inbound
            .probes
            .iter()
            .map(|probe| json!({ "port": probe.port, "path": &*probe.path, "grpc": probe.grpc }))
            .collect::<Vec<_>>(),
        "on_sidecar_failure": inbound.fallback.on_sidecar_failure.as_str_name(),
        "on_fallback_failure": inbound.fallback.on_fallback_failure.as_str_name(),
        "on_control_plane_loss": inbound.fallback.on_control_plane_loss.as_str_name(),
        "control_plane_loss_grace_ms": inbound.fallback.control_plane_loss_grace.as_millis() as u64,
        "shared_service": inbound.fallback.shared_service.as_deref(),
        "acting_identities": inbound.acting_identities.iter().map(|id| id.as_str()).collect::<Vec<_>>(),
    })
}

fn policy(policy: &AccessPolicy) -> Value {
    json!({
        "name": &*policy.name,
        "action": policy.action.as_str_name(),
        "rules": policy.rules.iter().map(|rule| format!("{rule:?}")).collect::<Vec<_>>(),
    })
}

fn trust(trust: &Trust) -> Value {
    let roots = trust.roots.iter().map(|root| {
        let root = CertificateDer::from(root.as_ref());
        X509Certificate::from_der(&root).map_or(Value::Null, |(_, root)| {
            json!({
                "subject": root.subject().to_string(),
                "serial": root.raw_serial_as_string(),
                "not_after": root.validity().not_after.timestamp(),
            })
        })
    });
    json!({ "trust_domain": &*trust.trust_domain, "roots": roots.collect::<Vec<_>>() })
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
