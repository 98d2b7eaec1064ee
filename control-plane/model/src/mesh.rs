//! The inputs joined once: who is there, who is behind which service, who is enrolled. Decides no routing and no policy.

use std::collections::{BTreeMap, BTreeSet};

use outrigger_wire::{
    SpiffeId,
    names::{SHARED_NAME, SYSTEM_NAMESPACE},
};

use crate::{
    Finding, Inputs, Reason,
    inputs::{Addressing, Endpoint, Mode, Service, Workload},
};

pub(crate) struct Mesh<'a> {
    pub(crate) inputs: &'a Inputs,
    /// By `NAMESPACE/NAME`.
    pub(crate) services: BTreeMap<String, &'a Service>,
    /// By `NAMESPACE/NAME`.
    pub(crate) members: BTreeMap<String, Member<'a>>,
    /// Those whose service and workload exist, by (service, workload).
    pub(crate) endpoints: BTreeMap<(&'a str, &'a str), &'a Endpoint>,
}

/// A workload, enrolled or not.
pub(crate) struct Member<'a> {
    pub(crate) workload: &'a Workload,
    /// `None`: not in the mesh.
    pub(crate) identity: Option<SpiffeId>,
    /// Services that it is behind, in order of their names.
    pub(crate) services: BTreeSet<&'a str>,
}

// === impl Mesh ===

impl<'a> Mesh<'a> {
    pub(crate) fn join(inputs: &'a Inputs, findings: &mut Vec<Finding>) -> Self {
        let services: BTreeMap<_, _> = inputs.services.iter().map(|s| (qualified(&s.namespace, &s.name), s)).collect();
        let mut members: BTreeMap<_, _> = inputs
            .workloads
            .iter()
            .map(|workload| {
                let member = Member { workload, identity: None, services: BTreeSet::new() };
                (qualified(&workload.namespace, &workload.name), member)
            })
            .collect();
        let mut endpoints = BTreeMap::new();
        for endpoint in &inputs.endpoints {
            if let Some(member) = members.get_mut(&endpoint.workload)
                && services.contains_key(&endpoint.service)
            {
                member.services.insert(&endpoint.service);
                endpoints.insert((endpoint.service.as_str(), endpoint.workload.as_str()), endpoint);
            }
        }
        let modes: BTreeMap<&str, Mode> =
            inputs.namespaces.iter().filter_map(|n| Some((n.name.as_str(), n.mode?))).collect();
        let shared = inputs.mesh.shared_services();
        for member in members.values_mut() {
            let mode = member.workload.mode.or_else(|| modes.get(member.workload.namespace.as_str()).copied());
            // A shared proxy speaks mTLS by itself, whatever its labels say, and before anybody is told to use it.
            let enrolled = matches!(mode, Some(Mode::Sidecar | Mode::Shared))
                || !member.services.is_disjoint(&shared)
                || is_shared_proxy(&member.workload.namespace, &member.workload.service_account);
            if enrolled && member.workload.addressing != Addressing::Shared {
                member.identity = identity(inputs, member.workload, findings);
            }
        }
        Self { inputs, services, members, endpoints }
    }

    /// Why there is no such service.
    pub(crate) fn absence(&self, service: &str) -> String {
        if self.inputs.external_names.contains(service) {
            return format!("service {service} is an ExternalName, which leads out of the mesh");
        }
        format!("service {service} doesn't exist")
    }

    /// Name of the service of a namespace's shared proxies, if there is one.
    pub(crate) fn shared_service(&self, namespace: &str) -> Option<&'a str> {
        let settings = &self.inputs.mesh;
        let pool = settings.pools.iter().find(|pool| pool.namespaces.iter().any(|name| name == namespace));
        // Whoever has a pool that isn't there has none: the others' isn't theirs.
        let name = pool.map_or(&settings.shared_service, |pool| &pool.service);
        self.services.contains_key(name).then_some(name)
    }

    /// SPIFFE IDs of the shared proxies of all pools, in order: what one carries may be a call of any workload.
    pub(crate) fn shared_identities(&self) -> BTreeSet<&str> {
        let shared = self.inputs.mesh.shared_services();
        self.members
            .values()
            .filter(|member| !member.services.is_disjoint(&shared))
            .filter_map(|member| member.identity.as_ref().map(SpiffeId::as_str))
            .collect()
    }

    /// Pools that aren't there.
    pub(crate) fn judge_pools(&self, findings: &mut Vec<Finding>) {
        for (index, pool) in self.inputs.mesh.pools.iter().enumerate() {
            if !self.services.contains_key(&pool.service) {
                findings.push(Finding::new(
                    &self.inputs.mesh.origin,
                    &format!("spec.fallback.pools[{index}].sharedProxy"),
                    Reason::TargetNotFound,
                    format!("{}: the pool's namespaces have no shared proxy", self.absence(&pool.service)),
                    "install the pool, as by shared.pools of the chart, or remove it here",
                ));
            }
        }
    }
}

fn identity(inputs: &Inputs, workload: &Workload, findings: &mut Vec<Finding>) -> Option<SpiffeId> {
    SpiffeId::new(&inputs.mesh.trust_domain, &workload.namespace, &workload.service_account)
        .map_err(|error| {
            findings.push(Finding::new(
                &workload.origin,
                "spec.serviceAccount",
                Reason::Invalid,
                format!("no identity can be made of it: {error}; the workload stays out of the mesh"),
                "name a service account of letters, digits, '.', '-' and '_'",
            ));
        })
        .ok()
}

/// Whether who has this account is a shared proxy, of whatever pool.
pub fn is_shared_proxy(namespace: &str, account: &str) -> bool {
    namespace == SYSTEM_NAMESPACE && account == SHARED_NAME
}

/// `NAMESPACE/NAME`.
pub(crate) fn qualified(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// Namespace of a `NAMESPACE/NAME`.
pub fn namespace_of(qualified: &str) -> &str {
    qualified.split_once('/').map_or("", |(namespace, _)| namespace)
}
