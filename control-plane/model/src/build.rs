//! Inputs to snapshot: one resource after another, each from facts only, so that equal inputs give equal bytes on every
//! replica. Order, versions and sharing are decided here; what a route or policy means is decided beside it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use outrigger_wire::{SpiffeId, names, names::type_url, proto::config as wire};
use wire::endpoint::State;

use crate::{
    Affects, Finding, Inputs, MeshSnapshot, Reason,
    access::AccessPolicies,
    inputs::{Addressing, EndpointState, Port, Service, Workload},
    mesh::{Member, Mesh},
    routes,
    snapshot::Draft,
    traffic::TrafficPolicies,
};

#[cfg(test)]
mod tests;

/// What came of the inputs.
#[derive(Debug)]
pub struct Built {
    /// Its generation is that of the previous snapshot if nothing changed.
    pub snapshot: MeshSnapshot,
    pub problems: Vec<Finding>,
    pub affects: Affects,
}

/// Origins by address.
pub(crate) type Owners<'a> = BTreeMap<IpAddr, &'a str>;

/// Derives what is served. Whatever equals its counterpart in `previous` is shared with it.
pub fn build(inputs: &Inputs, previous: Option<&MeshSnapshot>) -> Built {
    let mut problems = Vec::new();
    let mesh = Mesh::join(inputs, &mut problems);
    mesh.judge_pools(&mut problems);
    let traffic = TrafficPolicies::collect(&mesh, &mut problems);
    let access = AccessPolicies::collect(&mesh, &mut problems);

    let mut affects = Affects::default();
    affects.all(&inputs.mesh.origin, type_url::TRUST);
    affects.all(&inputs.mesh.origin, type_url::INBOUND);
    access.note(&mut affects);

    let mut services = services(&mesh, &traffic, &mut problems, &mut affects);
    let owners = owners(&mesh, &mut problems);
    traffic.note(&mesh, &owners, &mut affects);
    services.append(&mut direct_services(&mesh, &traffic, &owners));
    let types = BTreeMap::from([
        (type_url::TRUST, vec![trust(inputs)]),
        (type_url::INBOUND, inbounds(&mesh, &traffic, &access, &owners, &mut affects)),
        (type_url::ENDPOINT, endpoints(&mesh)),
        (type_url::SERVICE, services),
    ]);
    let shared_identities = mesh.shared_identities().into_iter().map(Arc::from).collect();
    let enrolled = mesh.members.iter().filter_map(|(name, member)| Some((name, member.identity.as_ref()?)));
    let workloads = enrolled.map(|(name, identity)| (name.as_str().into(), identity.as_str().into())).collect();
    problems.sort();
    problems.dedup();
    for (name, member) in &mesh.members {
        note_workload(name, member, &owners, &mut affects);
    }
    Built { snapshot: MeshSnapshot::assemble(types, shared_identities, workloads, previous), problems, affects }
}

/// What a Workload is in: its own resources, and its place behind each of its services. Pods have no status of ours.
fn note_workload(name: &str, member: &Member<'_>, owners: &Owners<'_>, affects: &mut Affects) {
    let workload = member.workload;
    if !workload.origin.starts_with("Workload/") {
        return;
    }
    if member.identity.is_some() {
        affects.add(&workload.origin, type_url::INBOUND, name);
    }
    for service in &member.services {
        affects.add(&workload.origin, type_url::ENDPOINT, &format!("{service}/{}", workload.name));
    }
    for address in own(owners, workload) {
        affects.add(&workload.origin, type_url::SERVICE, &names::address_alias(*address));
    }
}

fn trust(inputs: &Inputs) -> Draft {
    let trust_domain = inputs.mesh.trust_domain.clone();
    let (roots, anchor) = (inputs.mesh.roots.clone(), inputs.mesh.anchor.clone());
    Draft::new(trust_domain.clone(), Vec::new(), &wire::Trust { trust_domain, roots, anchor })
}

fn services(
    mesh: &Mesh<'_>,
    traffic: &TrafficPolicies<'_>,
    problems: &mut Vec<Finding>,
    affects: &mut Affects,
) -> Vec<Draft> {
    let mut tables = routes::tables(mesh, problems, affects);
    let mut taken: BTreeMap<IpAddr, &Service> = BTreeMap::new();
    let mut drafts = Vec::with_capacity(mesh.services.len());
    for (name, service) in &mesh.services {
        let mut addresses = Vec::with_capacity(service.addresses.len());
        for address in &service.addresses {
            let first = taken.entry(*address).or_insert(service);
            if std::ptr::eq(*first, *service) {
                addresses.push(*address);
            } else {
                problems.push(address_taken(&service.origin, *address, &first.origin));
            }
        }
        let aliases = addresses.iter().map(|address| names::address_alias(*address)).collect();
        let message = wire::Service {
            name: name.clone(),
            addresses: addresses.iter().map(IpAddr::to_string).collect(),
            ports: service.ports.iter().map(service_port).collect(),
            route_tables: tables.remove(name).unwrap_or_default(),
            traffic_policy: traffic.service(name),
            direct: None,
        };
        drafts.push(Draft::new(name.clone(), aliases, &message));
    }
    drafts
}

/// Whose each address is, by origin: what the platform says counts before what somebody wrote.
fn owners<'a>(mesh: &Mesh<'a>, problems: &mut Vec<Finding>) -> Owners<'a> {
    let services = mesh.services.values().flat_map(|s| s.addresses.iter().map(|a| (*a, s.origin.as_str())));
    let mut owners: Owners<'a> = services.collect();
    let of = |addressing| mesh.members.iter().filter(move |(_, m)| m.workload.addressing == addressing);
    for (_, member) in of(Addressing::Assigned).chain(of(Addressing::Claimed)) {
        let workload = member.workload;
        for address in &workload.addresses {
            let owner = *owners.entry(*address).or_insert(&workload.origin);
            if owner != workload.origin {
                problems.push(address_taken(&workload.origin, *address, owner));
            }
        }
    }
    owners
}

pub(crate) fn own<'m>(owners: &'m Owners<'_>, workload: &'m Workload) -> impl Iterator<Item = &'m IpAddr> {
    workload.addresses.iter().filter(|address| owners.get(*address).is_some_and(|owner| *owner == workload.origin))
}

/// A service per workload address, for callers that use that instead of a service.
fn direct_services(mesh: &Mesh<'_>, traffic: &TrafficPolicies<'_>, owners: &Owners<'_>) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (name, member) in &mesh.members {
        let workload = member.workload;
        for address in own(owners, workload) {
            let alias = names::address_alias(*address);
            let state = if workload.draining { State::Draining } else { State::Ready };
            let direct = endpoint_of(alias.clone(), name, member, *address, state);
            let message = wire::Service {
                name: alias.clone(),
                addresses: vec![address.to_string()],
                ports: ports(mesh, name, member),
                route_tables: Vec::new(),
                traffic_policy: traffic.direct(&workload.namespace),
                direct: Some(direct),
            };
            drafts.push(Draft::new(alias, Vec::new(), &message));
        }
    }
    drafts
}

fn endpoints(mesh: &Mesh<'_>) -> Vec<Draft> {
    let drafts = mesh.endpoints.iter().filter_map(|((service, workload), input)| {
        let state = match input.state {
            EndpointState::Ready => State::Ready,
            EndpointState::Draining => State::Draining,
            EndpointState::Unready => return None,
        };
        // Only those whose workload exists are in the mesh's list.
        let member = mesh.members.get(*workload)?;
        let address = input.address.or_else(|| member.workload.addresses.first().copied())?;
        let ports: BTreeSet<_> = input.ports.iter().collect();
        let message = wire::Endpoint {
            ports: ports
                .into_iter()
                .map(|(port, target)| wire::EndpointPort { port: (*port).into(), target: (*target).into() })
                .collect(),
            ..endpoint_of((*service).to_owned(), workload, member, address, state)
        };
        Some(Draft::new(format!("{service}/{}", member.workload.name), Vec::new(), &message))
    });
    drafts.collect()
}

/// What is true of a workload as an endpoint of whichever service.
fn endpoint_of(service: String, name: &str, member: &Member<'_>, address: IpAddr, state: State) -> wire::Endpoint {
    wire::Endpoint {
        service,
        workload: name.to_owned(),
        address: address.to_string(),
        ports: Vec::new(),
        identity: member.identity.as_ref().map(SpiffeId::to_string).unwrap_or_default(),
        meshed: member.identity.is_some(),
        zone: member.workload.zone.clone(),
        weight: member.workload.weight,
        state: state.into(),
    }
}

fn inbounds(
    mesh: &Mesh<'_>,
    traffic: &TrafficPolicies<'_>,
    access: &AccessPolicies<'_>,
    owners: &Owners<'_>,
    affects: &mut Affects,
) -> Vec<Draft> {
    let acting: Vec<String> = mesh.shared_identities().into_iter().map(str::to_owned).collect();
    let drafts = mesh.members.iter().filter_map(|(name, member)| {
        let identity = member.identity.as_ref()?;
        let policies = access.of(member);
        for policy in &policies {
            affects.add(&policy.name, type_url::INBOUND, name);
        }
        let message = wire::Inbound {
            workload: name.clone(),
            identity: identity.to_string(),
            addresses: own(owners, member.workload).map(IpAddr::to_string).collect(),
            mtls: mesh.inputs.mesh.mtls.into(),
            ports: ports(mesh, name, member),
            policies,
            fallback: Some(traffic.fallback(mesh, member)),
            acting_identities: acting.clone(),
            labels: member.workload.labels.iter().map(|(key, value)| format!("{key}={value}")).collect(),
            zone: member.workload.zone.clone(),
            probes: probes(&member.workload.probes),
        };
        Some(Draft::new(name.clone(), Vec::new(), &message))
    });
    drafts.collect()
}

/// In one order on every replica, each once.
fn probes(all: &[wire::Probe]) -> Vec<wire::Probe> {
    let mut probes = all.to_vec();
    probes.sort_by(|a, b| (a.port, a.grpc, &a.path).cmp(&(b.port, b.grpc, &b.path)));
    probes.dedup();
    probes
}

/// Ports of a workload: its own, and those that services send to. A protocol that the workload doesn't say is taken from
/// the first service that does, so that both ends of a connection agree on it.
fn ports(mesh: &Mesh<'_>, name: &str, member: &Member<'_>) -> Vec<wire::ServicePort> {
    let mut ports: BTreeMap<u16, wire::ServicePort> =
        member.workload.ports.iter().map(|port| (port.port, service_port(port))).collect();
    for service in &member.services {
        let (Some(input), Some(endpoint)) = (mesh.services.get(*service), mesh.endpoints.get(&(*service, name))) else {
            continue;
        };
        for (port, target) in &endpoint.ports {
            let Some(outside) = input.ports.iter().find(|p| p.port == *port) else { continue };
            let inside = ports
                .entry(*target)
                .or_insert_with(|| wire::ServicePort { port: (*target).into(), ..wire::ServicePort::default() });
            if inside.protocol() == wire::Protocol::Auto {
                inside.set_protocol(outside.protocol);
            }
        }
    }
    ports.into_values().collect()
}

fn service_port(port: &Port) -> wire::ServicePort {
    wire::ServicePort { port: port.port.into(), name: port.name.clone(), protocol: port.protocol.into() }
}

fn address_taken(object: &str, address: IpAddr, owner: &str) -> Finding {
    Finding::new(
        object,
        "spec.addresses",
        Reason::Conflicted,
        format!("address {address} belongs to {owner}; calls of it go there"),
        "give each object addresses of its own",
    )
}
