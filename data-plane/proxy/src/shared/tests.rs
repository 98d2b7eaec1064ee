use outrigger_core::config::{EndpointSpec, Service};
use outrigger_wire::proto::config as wire;

use super::*;

fn identity(account: &str) -> String {
    format!("spiffe://cluster.local/ns/outrigger-system/sa/{account}")
}

/// A service, or a pod that is called by its own address, with one endpoint.
fn add(snapshot: &mut Snapshot, name: &str, address: &str, account: &str, direct: bool) {
    let endpoint = wire::Endpoint {
        service: name.into(),
        workload: "outrigger-system/pod".into(),
        address: "10.0.0.1".into(),
        identity: identity(account),
        meshed: true,
        ..Default::default()
    };
    let service = wire::Service {
        name: name.into(),
        addresses: vec![address.into()],
        ports: vec![wire::ServicePort { port: 15008, ..Default::default() }],
        direct: direct.then(|| endpoint.clone()),
        ..Default::default()
    };
    let endpoints = vec![EndpointSpec::compile(endpoint).unwrap()];
    snapshot.set_service(Arc::new(Service::compile(service).unwrap()), endpoints);
}

#[test]
fn what_leads_to_shared_proxies_of_any_pool_is_known() {
    let mut snapshot = Snapshot::default();
    let own = wire::Inbound {
        workload: "outrigger-system/shared-1".into(),
        identity: identity("outrigger-shared"),
        fallback: Some(wire::Fallback { shared_service: "outrigger-system/shared".into(), ..Default::default() }),
        acting_identities: vec![identity("outrigger-shared"), identity("pool")],
        ..Default::default()
    };
    snapshot.set_inbound(Arc::new(Inbound::compile(own).unwrap()));
    add(&mut snapshot, "outrigger-system/shared", "10.96.0.1", "outrigger-shared", false);
    add(&mut snapshot, "outrigger-system/pool", "10.96.0.2", "pool", false);
    add(&mut snapshot, "shop/catalog", "10.96.0.3", "catalog", false);
    add(&mut snapshot, "@10.0.1.1", "10.0.1.1", "pool", true);
    add(&mut snapshot, "@10.0.1.2", "10.0.1.2", "catalog", true);
    snapshot.set_absent("10.9.9.9".parse().unwrap());
    let me: SpiffeId = identity("outrigger-shared").parse().unwrap();
    let verdicts = |snapshot: &Snapshot| {
        ["10.96.0.1", "10.96.0.2", "10.96.0.3", "10.0.1.1", "10.0.1.2", "10.9.9.9", "10.9.9.8"]
            .map(|address| leads_to_shared_proxies(snapshot, Some(&me), address.parse().unwrap()))
    };
    // Before it has heard of itself it knows what it is by its certificate.
    assert_eq!(verdicts(&snapshot), [true, false, false, false, false, false, false]);
    snapshot.set_own("outrigger-system/shared-1");
    assert_eq!(verdicts(&snapshot), [true, true, false, true, false, false, false]);
}
