//! What a controller serves of everything that one call may touch, as messages and compiled as in a proxy.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use anyhow::{Context, Result};
use hyper::body::Bytes;
use outrigger_core::{
    Snapshot,
    config::{EndpointSpec, Inbound, Service},
};
use outrigger_wire::{names::address_alias, proto::config as wire};
use prost::Message;

use crate::controller::Controller;

/// Resources by name, joined as a proxy joins them.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) snapshot: Snapshot,
    /// The messages behind the snapshot's inbounds: their rules are asked one by one.
    pub(crate) inbounds: BTreeMap<String, wire::Inbound>,
    /// What wasn't understood, as the proxies would say it.
    pub(crate) refusals: Vec<String>,
}

/// Whence resources come: a controller, or a table in tests.
pub(crate) trait Source {
    async fn resource(&mut self, kind: &str, name: &str) -> Result<Option<Bytes>>;
    /// Names of all resources of a type.
    async fn names(&mut self, kind: &str) -> Result<Vec<String>>;
}

impl Source for Controller {
    async fn resource(&mut self, kind: &str, name: &str) -> Result<Option<Bytes>> {
        Self::resource(self, kind, name).await
    }

    async fn names(&mut self, kind: &str) -> Result<Vec<String>> {
        Self::names(self, kind).await
    }
}

// === impl Served ===

impl Served {
    /// Takes in what `workload` accepts; whether there is such a resource.
    pub(crate) async fn take_inbound(&mut self, source: &mut impl Source, workload: &str) -> Result<bool> {
        if self.snapshot.inbounds.contains_key(workload) {
            return Ok(true);
        }
        let Some(message) = fetch::<wire::Inbound>(source, "Inbound", workload).await? else { return Ok(false) };
        match Inbound::compile(message.clone()) {
            Ok(inbound) => self.snapshot.set_inbound(Arc::new(inbound)),
            Err(error) => {
                self.refusals.push(format!("Inbound {error}"));
                return Ok(false);
            }
        }
        self.inbounds.insert(workload.to_owned(), message);
        Ok(true)
    }

    /// Takes in a service by name or alias, everything that its routes lead to, and what its endpoints accept.
    /// The service's name, if there is one.
    pub(crate) async fn take_service(&mut self, source: &mut impl Source, name: &str) -> Result<Option<Arc<str>>> {
        let endpoints = source.names("Endpoint").await?;
        let Some(first) = self.one_service(source, name, &endpoints).await? else { return Ok(None) };
        let led_to = self.snapshot.services[&first].service.backend_services();
        for backend in led_to.iter().filter(|backend| **backend != first) {
            self.one_service(source, backend, &endpoints).await?;
        }
        let workloads: BTreeSet<_> = self
            .snapshot
            .services
            .values()
            .flat_map(|destination| destination.endpoints.iter())
            .filter(|endpoint| endpoint.spec.meshed)
            .map(|endpoint| endpoint.spec.workload.clone())
            .collect();
        for workload in workloads {
            self.take_inbound(source, &workload).await?;
        }
        Ok(Some(first))
    }

    /// The service that an app reaches at an address.
    pub(crate) async fn take_address(&mut self, source: &mut impl Source, address: IpAddr) -> Result<Option<Arc<str>>> {
        self.take_service(source, &address_alias(address)).await
    }

    async fn one_service(
        &mut self,
        source: &mut impl Source,
        name: &str,
        endpoints: &[String],
    ) -> Result<Option<Arc<str>>> {
        let Some(message) = fetch::<wire::Service>(source, "Service", name).await? else { return Ok(None) };
        let service = match Service::compile(message) {
            Ok(service) => Arc::new(service),
            Err(error) => {
                self.refusals.push(format!("Service {error}"));
                return Ok(None);
            }
        };
        let name = service.name.clone();
        let mut specs = Vec::new();
        for endpoint in endpoints.iter().filter(|endpoint| is_of(endpoint, &name)) {
            // One that went away since the names were listed is no endpoint any more.
            let Some(message) = fetch::<wire::Endpoint>(source, "Endpoint", endpoint).await? else { continue };
            match EndpointSpec::compile(message) {
                Ok(spec) => specs.push(spec),
                Err(error) => self.refusals.push(format!("Endpoint {error}")),
            }
        }
        self.snapshot.set_service(service, specs);
        Ok(Some(name))
    }
}

/// Whether a resource `NAMESPACE/SERVICE/WORKLOAD` is an endpoint of the service.
fn is_of(endpoint: &str, service: &str) -> bool {
    endpoint.strip_prefix(service).is_some_and(|rest| rest.starts_with('/'))
}

async fn fetch<M: Message + Default>(source: &mut impl Source, kind: &str, name: &str) -> Result<Option<M>> {
    let Some(body) = source.resource(kind, name).await? else { return Ok(None) };
    M::decode(body)
        .map(Some)
        .with_context(|| format!("{kind} {name}: not understood; is this terminal older than the controller?"))
}
