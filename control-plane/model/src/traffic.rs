//! Traffic policies: which apply to a service or workload, and what they say together. Service before namespace before
//! mesh, the older before the younger, field by field. Never looks at routes.

use std::collections::BTreeMap;

use outrigger_wire::{
    names::{self, type_url},
    proto::config as wire,
};
use wire::{fallback::OnControlPlaneLoss, traffic_policy::Balancer};

use crate::{
    Affects, Finding, Reason,
    build::{Owners, own},
    inputs::{PolicyTarget, TrafficPolicy, TrafficSettings},
    mesh::{Member, Mesh, namespace_of},
};

/// All traffic policies by what they are for, in order of age.
pub(crate) struct TrafficPolicies<'a> {
    by_target: BTreeMap<&'a PolicyTarget, Vec<&'a TrafficPolicy>>,
}

// === impl TrafficPolicies ===

impl<'a> TrafficPolicies<'a> {
    pub(crate) fn collect(mesh: &Mesh<'a>, findings: &mut Vec<Finding>) -> Self {
        let mut policies: Vec<&TrafficPolicy> = mesh.inputs.traffic_policies.iter().collect();
        policies.sort_by_key(|p| age(p));
        let mut by_target: BTreeMap<_, Vec<&TrafficPolicy>> = BTreeMap::new();
        for policy in policies {
            for (index, target) in policy.targets.iter().enumerate() {
                let mut report = |reason, message, remedy| {
                    let field = format!("spec.targetRefs[{index}]");
                    findings.push(Finding::new(&policy.origin(), &field, reason, message, remedy));
                };
                if let Some((message, remedy)) = out_of_reach(mesh, policy, target) {
                    report(Reason::TargetNotFound, message, remedy);
                    continue;
                }
                let same = by_target.entry(target).or_default();
                if let Some(older) = same.first() {
                    report(
                        Reason::Overridden,
                        format!("{} is for the same target: what both set is taken from there", older.origin()),
                        "merge the two policies",
                    );
                }
                same.push(policy);
            }
        }
        Self { by_target }
    }

    /// What each policy has a say in, whether or not an older one has said it already.
    pub(crate) fn note(&self, mesh: &Mesh<'_>, owners: &Owners<'_>, affects: &mut Affects) {
        if self.by_target.is_empty() {
            return;
        }
        for policy in self.of(&PolicyTarget::Mesh) {
            affects.all(&policy.origin(), type_url::SERVICE);
            affects.all(&policy.origin(), type_url::INBOUND);
        }
        for name in mesh.services.keys() {
            for target in [PolicyTarget::Service(name.clone()), in_namespace(namespace_of(name))] {
                self.of(&target).iter().for_each(|policy| affects.add(&policy.origin(), type_url::SERVICE, name));
            }
        }
        for (name, member) in &mesh.members {
            let namespace = in_namespace(&member.workload.namespace);
            for policy in self.of(&namespace) {
                for address in own(owners, member.workload) {
                    affects.add(&policy.origin(), type_url::SERVICE, &names::address_alias(*address));
                }
            }
            if member.identity.is_none() {
                continue;
            }
            let services = member.services.iter().map(|service| PolicyTarget::Service((*service).to_owned()));
            for target in services.chain([namespace]) {
                self.of(&target).iter().for_each(|policy| affects.add(&policy.origin(), type_url::INBOUND, name));
            }
        }
    }

    /// What applies to calls of a service; `None` if nobody said anything.
    pub(crate) fn service(&self, service: &str) -> Option<wire::TrafficPolicy> {
        let targets =
            [PolicyTarget::Service(service.to_owned()), in_namespace(namespace_of(service)), PolicyTarget::Mesh];
        self.merge(&targets)
    }

    /// What applies to calls of a workload by its own address.
    pub(crate) fn direct(&self, namespace: &str) -> Option<wire::TrafficPolicy> {
        self.merge(&[in_namespace(namespace), PolicyTarget::Mesh])
    }

    /// How a workload's proxies behave when they fail.
    pub(crate) fn fallback(&self, mesh: &Mesh<'_>, member: &Member<'_>) -> wire::Fallback {
        let services = member.services.iter().map(|service| PolicyTarget::Service((*service).to_owned()));
        let mut own: Vec<&TrafficPolicy> = services.flat_map(|target| self.of(&target)).copied().collect();
        own.sort_by_key(|p| age(p));
        let namespace = in_namespace(&member.workload.namespace);
        let all = own.iter().chain(self.of(&namespace)).chain(self.of(&PolicyTarget::Mesh));
        let mut settings = TrafficSettings::default();
        all.for_each(|policy| settings.inherit(&policy.settings));
        let defaults = &mesh.inputs.mesh;
        let on_control_plane_loss = settings.on_control_plane_loss.unwrap_or(defaults.on_control_plane_loss);
        let grace = settings.control_plane_loss_grace_ms.unwrap_or(defaults.control_plane_loss_grace_ms);
        let closes = on_control_plane_loss == OnControlPlaneLoss::Closed;
        wire::Fallback {
            on_sidecar_failure: settings.on_sidecar_failure.unwrap_or(defaults.on_sidecar_failure).into(),
            on_fallback_failure: settings.on_fallback_failure.unwrap_or(defaults.on_fallback_failure).into(),
            on_control_plane_loss: on_control_plane_loss.into(),
            control_plane_loss_grace_ms: if closes { grace } else { 0 },
            shared_service: mesh.shared_service(&member.workload.namespace).unwrap_or_default().to_owned(),
        }
    }

    fn of<'s>(&'s self, target: &PolicyTarget) -> &'s [&'a TrafficPolicy] {
        self.by_target.get(target).map_or(&[], Vec::as_slice)
    }

    /// The most specific target comes first.
    fn merge(&self, targets: &[PolicyTarget]) -> Option<wire::TrafficPolicy> {
        let mut policies = targets.iter().flat_map(|target| self.of(target));
        let first = policies.next()?;
        let mut settings = first.settings.clone();
        for policy in policies {
            settings.inherit(&policy.settings);
        }
        Some(settings.compile(first.origin()))
    }
}

fn age(policy: &TrafficPolicy) -> (bool, Option<i64>, &str, &str) {
    (policy.created.is_none(), policy.created, &policy.namespace, &policy.name)
}

fn in_namespace(namespace: &str) -> PolicyTarget {
    PolicyTarget::Namespace(namespace.to_owned())
}

/// A policy reaches its own namespace; one in the system namespace reaches everything.
fn out_of_reach(mesh: &Mesh<'_>, policy: &TrafficPolicy, target: &PolicyTarget) -> Option<(String, &'static str)> {
    let system = policy.namespace == names::SYSTEM_NAMESPACE;
    match target {
        PolicyTarget::Mesh if !system => Some((
            format!("only a policy in namespace {} can be for the whole mesh; it is ignored", names::SYSTEM_NAMESPACE),
            "move the policy, or target a service or the namespace",
        )),
        PolicyTarget::Namespace(namespace) if !system && *namespace != policy.namespace => Some((
            format!("namespace {namespace} is not the policy's own; the target is ignored"),
            "create the policy in that namespace",
        )),
        PolicyTarget::Service(service) if !system && namespace_of(service) != policy.namespace => Some((
            format!("service {service} is in another namespace than the policy; the target is ignored"),
            "create the policy in the service's namespace",
        )),
        PolicyTarget::Service(service) if !mesh.services.contains_key(service) => {
            Some((format!("{}; the target is ignored", mesh.absence(service)), "name a service that exists"))
        }
        PolicyTarget::Mesh | PolicyTarget::Namespace(_) | PolicyTarget::Service(_) => None,
    }
}

// === impl TrafficSettings ===

impl TrafficSettings {
    /// Takes what isn't set from `other`.
    fn inherit(&mut self, other: &Self) {
        // The hash key belongs to the balancer that it was written for.
        if self.balancer.is_none() {
            self.balancer = other.balancer;
            self.hash_on = self.hash_on.take().or_else(|| other.hash_on.clone());
        }
        self.max_connections = self.max_connections.or(other.max_connections);
        self.connect_timeout_ms = self.connect_timeout_ms.or(other.connect_timeout_ms);
        self.request_timeout_ms = self.request_timeout_ms.or(other.request_timeout_ms);
        self.ejection = self.ejection.or(other.ejection);
        self.retry_budget_percent = self.retry_budget_percent.or(other.retry_budget_percent);
        self.retry = self.retry.take().or_else(|| other.retry.clone());
        self.on_sidecar_failure = self.on_sidecar_failure.or(other.on_sidecar_failure);
        self.on_fallback_failure = self.on_fallback_failure.or(other.on_fallback_failure);
        self.on_control_plane_loss = self.on_control_plane_loss.or(other.on_control_plane_loss);
        self.control_plane_loss_grace_ms = self.control_plane_loss_grace_ms.or(other.control_plane_loss_grace_ms);
    }

    fn compile(self, source: String) -> wire::TrafficPolicy {
        wire::TrafficPolicy {
            balancer: self.balancer.unwrap_or_default().into(),
            hash_on: self.hash_on.filter(|_| self.balancer == Some(Balancer::ConsistentHash)),
            max_connections: self.max_connections.unwrap_or_default(),
            connect_timeout_ms: self.connect_timeout_ms.unwrap_or_default(),
            request_timeout_ms: self.request_timeout_ms.unwrap_or_default(),
            ejection: self.ejection,
            retry_budget_percent: self.retry_budget_percent.unwrap_or_default(),
            retry: self.retry,
            source,
        }
    }
}
