//! Access policies: which of them a workload must enforce. Their rules are passed on as they are; the verdict is the
//! proxy's. Never widens a policy: one that can't be applied as written is reported and selects nothing.

use outrigger_wire::{
    names::{self, type_url},
    proto::config as wire,
};
use wire::access_policy::Action;

use crate::{
    Affects, Finding, Reason,
    inputs::{AccessDefault, AccessPolicy, Selects},
    mesh::{Member, Mesh, namespace_of},
};

/// All access policies in order of their names.
pub(crate) struct AccessPolicies<'a> {
    policies: Vec<&'a AccessPolicy>,
    /// What denies everything that no policy allows, if the mesh is set so.
    default: Option<wire::AccessPolicy>,
}

// === impl AccessPolicies ===

impl<'a> AccessPolicies<'a> {
    pub(crate) fn collect(mesh: &Mesh<'a>, findings: &mut Vec<Finding>) -> Self {
        let mut policies: Vec<&AccessPolicy> = mesh.inputs.access_policies.iter().collect();
        policies.sort_by_key(|p| (&p.namespace, &p.name));
        for policy in &policies {
            let Selects::Services(services) = &policy.selects else { continue };
            for (index, service) in services.iter().enumerate() {
                let problem = if namespace_of(service) != policy.namespace {
                    format!("service {service} is in another namespace than the policy")
                } else if !mesh.services.contains_key(service) {
                    mesh.absence(service)
                } else {
                    continue;
                };
                findings.push(Finding::new(
                    &policy.origin(),
                    &format!("spec.targetRefs[{index}]"),
                    Reason::TargetNotFound,
                    format!("{problem}: nothing is selected by it"),
                    "name a service of the policy's namespace",
                ));
            }
        }
        let default = (mesh.inputs.mesh.access_default == AccessDefault::Deny).then(|| wire::AccessPolicy {
            name: mesh.inputs.mesh.origin.clone(),
            action: Action::Allow.into(),
            rules: Vec::new(),
        });
        Self { policies, default }
    }

    /// Policies that are for everyone. All others are noted where they are selected: each workload's are named by origin.
    pub(crate) fn note(&self, affects: &mut Affects) {
        let everywhere =
            self.policies.iter().filter(|p| p.namespace == names::SYSTEM_NAMESPACE && p.selects == Selects::All);
        for policy in everywhere {
            affects.all(&policy.origin(), type_url::INBOUND);
        }
    }

    pub(crate) fn of(&self, member: &Member<'_>) -> Vec<wire::AccessPolicy> {
        let selected = self.policies.iter().filter(|policy| selects(policy, member)).map(|policy| wire::AccessPolicy {
            name: policy.origin(),
            action: policy.action.into(),
            rules: policy.rules.clone(),
        });
        self.default.iter().cloned().chain(selected).collect()
    }
}

fn selects(policy: &AccessPolicy, member: &Member<'_>) -> bool {
    let workload = member.workload;
    let own = policy.namespace == workload.namespace;
    match &policy.selects {
        Selects::All => own || policy.namespace == names::SYSTEM_NAMESPACE,
        Selects::Labels(labels) => own && labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value)),
        Selects::Services(services) => own && services.iter().any(|service| member.services.contains(service.as_str())),
    }
}
