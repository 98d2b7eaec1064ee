//! MeshConfig, TrafficPolicy and AccessPolicy.

use outrigger_crds::{
    self as crds, AccessAction, AccessOperation, AccessSource, LoadBalancerType, MtlsMode, TrafficTargetKind,
};
use outrigger_model::inputs::{
    AccessDefault, AccessPolicy, MeshSettings, PolicyTarget, Selects, SharedPool, TrafficPolicy, TrafficSettings,
};
use outrigger_wire::proto::config as wire;
use wire::{
    access_policy::Action,
    fallback::{OnControlPlaneLoss, OnFallbackFailure, OnSidecarFailure},
    inbound::Mtls,
    principal::Kind,
    traffic_policy::Balancer,
};

use super::{created, matches, mesh_routes, names, number, qualified};
use crate::Settings;

/// The MeshConfig over the controller's own settings. There is at most one: it can only be named `default`.
pub(crate) fn mesh_settings(configs: &[&crds::MeshConfig], settings: &Settings) -> MeshSettings {
    let spec = configs.first().map(|config| config.spec.clone()).unwrap_or_default();
    let fallback = spec.fallback.unwrap_or_default();
    let defaults = MeshSettings::default();
    MeshSettings {
        trust_domain: spec.trust_domain.unwrap_or_else(|| settings.trust_domain.clone()),
        mtls: match spec.mtls.unwrap_or_default().mode {
            MtlsMode::Strict => Mtls::Strict,
            MtlsMode::Permissive => Mtls::Permissive,
        },
        on_sidecar_failure: on_sidecar_failure(fallback.on_sidecar_failure),
        on_fallback_failure: on_fallback_failure(fallback.on_fallback_failure),
        on_control_plane_loss: on_control_plane_loss(fallback.on_control_plane_loss),
        control_plane_loss_grace_ms: fallback
            .control_plane_loss_grace
            .map_or(defaults.control_plane_loss_grace_ms, crds::Duration::as_millis),
        shared_service: fallback.shared_proxy.map_or(defaults.shared_service, |shared| shared_service(&shared)),
        pools: fallback.pools.into_iter().map(shared_pool).collect(),
        access_default: match spec.access_default.unwrap_or_default() {
            crds::AccessDefault::Allow => AccessDefault::Allow,
            crds::AccessDefault::Deny => AccessDefault::Deny,
        },
        roots: settings.roots.clone(),
        anchor: settings.anchor.clone(),
        origin: defaults.origin,
    }
}

fn shared_pool(pool: crds::SharedPool) -> SharedPool {
    SharedPool { service: shared_service(&pool.shared_proxy), namespaces: pool.namespaces }
}

fn shared_service(shared: &crds::SharedProxy) -> String {
    format!("{}/{}", shared.namespace, shared.service)
}

pub(super) fn traffic_policy(object: &crds::TrafficPolicy) -> TrafficPolicy {
    let (namespace, name) = names(&object.metadata);
    let spec = &object.spec;
    let targets = spec.target_refs.iter().map(|target| match target.kind {
        TrafficTargetKind::Service => PolicyTarget::Service(qualified(None, &namespace, &target.name)),
        TrafficTargetKind::Namespace => PolicyTarget::Namespace(target.name.clone()),
        TrafficTargetKind::Mesh => PolicyTarget::Mesh,
    });
    let targets = targets.collect();
    let balancer = spec.load_balancer.as_ref();
    let connections = spec.connections.clone().unwrap_or_default();
    let settings = TrafficSettings {
        balancer: balancer.map(|balancer| match balancer.r#type {
            LoadBalancerType::LeastRequest => Balancer::LeastRequest,
            LoadBalancerType::RoundRobin => Balancer::RoundRobin,
            LoadBalancerType::Random => Balancer::Random,
            LoadBalancerType::ConsistentHash => Balancer::ConsistentHash,
        }),
        hash_on: balancer.and_then(|balancer| balancer.hash_on.as_ref()).map(matches::stickiness),
        max_connections: connections.max.map(number),
        connect_timeout_ms: connections.connect_timeout.map(crds::Duration::as_millis),
        request_timeout_ms: spec.request_timeout.map(crds::Duration::as_millis),
        ejection: spec.outlier_ejection.as_ref().map(ejection),
        retry_budget_percent: spec.retry_budget_percent.map(number),
        retry: spec.retry.as_ref().map(mesh_routes::retry),
        on_sidecar_failure: spec.on_sidecar_failure.map(on_sidecar_failure),
        on_fallback_failure: spec.on_fallback_failure.map(on_fallback_failure),
        on_control_plane_loss: spec.on_control_plane_loss.map(on_control_plane_loss),
        control_plane_loss_grace_ms: spec.control_plane_loss_grace.map(crds::Duration::as_millis),
    };
    TrafficPolicy { created: created(&object.metadata), targets, settings, namespace, name }
}

/// On the wire 0 percent would be the default, so that a maximum of none is ejection turned off.
fn ejection(ejection: &crds::OutlierEjection) -> wire::Ejection {
    wire::Ejection {
        consecutive_failures: ejection.consecutive_failures.map_or(0, number),
        base_ms: ejection.base_ejection_time.map_or(0, crds::Duration::as_millis),
        max_percent: ejection.max_ejection_percent.map_or(0, number),
        disabled: ejection.disabled || ejection.max_ejection_percent == Some(0),
    }
}

pub(super) fn access_policy(object: &crds::AccessPolicy, trust_domain: &str) -> AccessPolicy {
    let (namespace, name) = names(&object.metadata);
    let spec = &object.spec;
    let selects = match &spec.selector {
        Some(selector) => Selects::Labels(selector.match_labels.clone()),
        None if spec.target_refs.is_empty() => Selects::All,
        None => {
            let targets = spec.target_refs.iter();
            Selects::Services(targets.map(|target| qualified(None, &namespace, &target.name)).collect())
        }
    };
    let action = match spec.action {
        AccessAction::Allow => Action::Allow,
        AccessAction::Deny => Action::Deny,
        AccessAction::Audit => Action::Audit,
    };
    let rules = spec.rules.iter().flat_map(|rule| access_rules(rule, trust_domain)).collect();
    AccessPolicy { selects, action, rules, namespace, name }
}

/// One rule per operation: on the wire, all conditions of a rule must hold.
fn access_rules(rule: &crds::AccessRule, trust_domain: &str) -> Vec<wire::AccessRule> {
    let principals = |sources: &[AccessSource]| -> Vec<_> {
        sources.iter().flat_map(|source| principals(source, trust_domain)).collect()
    };
    let callers =
        wire::AccessRule { from: principals(&rule.from), not_from: principals(&rule.not_from), ..Default::default() };
    // Nobody is any of nothing; on the wire it would be everyone.
    if callers.from.is_empty() && !rule.from.is_empty() {
        return Vec::new();
    }
    if rule.to.is_empty() {
        return vec![callers];
    }
    rule.to.iter().map(|operation| called(operation, callers.clone())).collect()
}

fn called(operation: &AccessOperation, callers: wire::AccessRule) -> wire::AccessRule {
    wire::AccessRule {
        ports: operation.ports.iter().map(|port| number(*port)).collect(),
        methods: operation.methods.clone(),
        paths: operation.paths.iter().map(|path| access_path(path)).collect(),
        not_paths: operation.not_paths.iter().map(|path| access_path(path)).collect(),
        hosts: operation.hosts.clone(),
        headers: matches::headers(&operation.headers),
        ..callers
    }
}

/// `/a` is exactly that path, `/a/*` is `/a` and everything below it.
fn access_path(path: &str) -> wire::PathMatch {
    use wire::path_match::Pattern;
    let pattern = match path.strip_suffix("/*") {
        Some("") => Pattern::Prefix("/".to_owned()),
        Some(prefix) => Pattern::Prefix(prefix.to_owned()),
        None => Pattern::Exact(path.to_owned()),
    };
    wire::PathMatch { pattern: Some(pattern) }
}

fn principals(source: &AccessSource, trust_domain: &str) -> Vec<wire::Principal> {
    let identities = source.identities.iter().map(|id| matches::principal(Kind::Identity(id.clone())));
    let namespaces = source.namespaces.iter().map(|name| matches::principal(Kind::Namespace(name.clone())));
    let accounts = source.service_accounts.iter().map(|account| matches::service_account(trust_domain, account));
    let blocks = source.cidrs.iter().map(|block| matches::principal(Kind::Cidr(block.clone())));
    let everyone = source.authenticated.filter(|yes| *yes).map(|yes| matches::principal(Kind::Authenticated(yes)));
    identities.chain(namespaces).chain(accounts).chain(blocks).chain(everyone).collect()
}

fn on_sidecar_failure(failure: crds::OnSidecarFailure) -> OnSidecarFailure {
    match failure {
        crds::OnSidecarFailure::Fallback => OnSidecarFailure::Fallback,
        crds::OnSidecarFailure::Closed => OnSidecarFailure::Closed,
        crds::OnSidecarFailure::Direct => OnSidecarFailure::Direct,
    }
}

fn on_fallback_failure(failure: crds::OnFallbackFailure) -> OnFallbackFailure {
    match failure {
        crds::OnFallbackFailure::Closed => OnFallbackFailure::Closed,
        crds::OnFallbackFailure::Direct => OnFallbackFailure::Direct,
    }
}

fn on_control_plane_loss(loss: crds::OnControlPlaneLoss) -> OnControlPlaneLoss {
    match loss {
        crds::OnControlPlaneLoss::Continue => OnControlPlaneLoss::Continue,
        crds::OnControlPlaneLoss::Closed => OnControlPlaneLoss::Closed,
    }
}
