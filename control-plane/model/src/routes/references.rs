//! Backends of a route: whether they exist and whether the route may name them. One that doesn't resolve stays, so
//! that its share of requests fails instead of going elsewhere.

use outrigger_wire::proto::config as wire;
use wire::filter::Kind;

use crate::{
    Finding, Reason,
    inputs::{Port, Route},
    mesh::{Mesh, namespace_of},
};

/// One rule of a route, as the origin of references.
pub(crate) struct Referrer<'a> {
    pub(crate) mesh: &'a Mesh<'a>,
    pub(crate) route: &'a Route,
    pub(crate) rule: usize,
}

// === impl Referrer ===

impl Referrer<'_> {
    pub(crate) fn field(&self, field: &str) -> String {
        format!("spec.rules[{}].{field}", self.rule)
    }

    /// The backend with its port, or marked invalid. Its filters aren't touched.
    pub(crate) fn backend(&self, field: &str, backend: &wire::Backend, findings: &mut Vec<Finding>) -> wire::Backend {
        self.resolved(field, backend, "its share is answered with 500", findings)
    }

    /// Filters with their mirrors resolved. Gateway API: a mirror that doesn't resolve is dropped.
    pub(crate) fn filters(
        &self,
        field: &str,
        filters: &[wire::Filter],
        findings: &mut Vec<Finding>,
    ) -> Vec<wire::Filter> {
        let mut kept = Vec::with_capacity(filters.len());
        for (index, filter) in filters.iter().enumerate() {
            let mut filter = filter.clone();
            if let Some(Kind::Mirror(mirror)) = &mut filter.kind {
                let field = format!("{field}[{index}].requestMirror");
                let asked = mirror.backend.take().unwrap_or_default();
                let backend = self.resolved(&field, &asked, "nothing is mirrored", findings);
                if backend.invalid {
                    continue;
                }
                mirror.backend = Some(backend);
            }
            kept.push(filter);
        }
        kept
    }

    fn resolved(
        &self,
        field: &str,
        backend: &wire::Backend,
        consequence: &str,
        findings: &mut Vec<Finding>,
    ) -> wire::Backend {
        let mut backend = backend.clone();
        // Whoever marked it so has told why.
        if backend.invalid {
            return backend;
        }
        match self.resolve(&backend) {
            Ok(port) => backend.port = port,
            Err((reason, message, remedy)) => {
                backend.invalid = true;
                let message = format!("{message}; {consequence}");
                findings.push(Finding::new(&self.route.origin(), &self.field(field), reason, message, remedy));
            }
        }
        backend
    }

    fn resolve(&self, backend: &wire::Backend) -> Result<u32, (Reason, String, &'static str)> {
        let name = &backend.service;
        let namespace = namespace_of(name);
        // Before anything else, so that an answer doesn't tell what exists in a namespace that grants nothing.
        if namespace != self.route.namespace && !self.granted(name) && !self.is_called_anyhow(name) {
            return Err((
                Reason::RefNotPermitted,
                format!("no ReferenceGrant in {namespace} permits service {name}"),
                "create a ReferenceGrant in the service's namespace",
            ));
        }
        let Some(service) = self.mesh.services.get(name) else {
            let external = self.mesh.inputs.external_names.contains(name);
            let reason = if external { Reason::InvalidKind } else { Reason::BackendNotFound };
            return Err((reason, self.mesh.absence(name), "name a service that exists"));
        };
        let missing = |message, remedy| Err((Reason::BackendNotFound, message, remedy));
        match (backend.port, service.ports.as_slice()) {
            (0, [Port { port, .. }]) => Ok(u32::from(*port)),
            (0, _) => missing(format!("service {name} doesn't have exactly one port"), "name a port"),
            (port, ports) if ports.iter().any(|p| u32::from(p.port) == port) => Ok(port),
            (port, _) => missing(format!("service {name} has no port {port}"), "name a port that the service has"),
        }
    }

    /// A consumer route may send its callers to the very service that they have called: it gives them nothing new. Not if
    /// it is a route of its own namespace's services as well, whose callers are others'.
    fn is_called_anyhow(&self, service: &str) -> bool {
        let parents = &self.route.parents;
        parents.iter().any(|parent| parent.service == service)
            && parents.iter().all(|parent| namespace_of(&parent.service) != self.route.namespace)
    }

    fn granted(&self, service: &str) -> bool {
        let Some((namespace, name)) = service.split_once('/') else { return false };
        let kind = self.route.kind;
        self.mesh.inputs.grants.iter().filter(|grant| grant.namespace == namespace).any(|grant| {
            let from = grant
                .from
                .iter()
                .any(|f| f.group == kind.group() && f.kind == kind.name() && f.namespace == self.route.namespace);
            from && grant.to.iter().any(|to| to.as_deref().is_none_or(|to| to == name))
        })
    }
}
