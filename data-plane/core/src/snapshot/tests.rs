use outrigger_wire::proto::config as wire;

use super::*;

fn service(name: &str, addresses: &[&str]) -> Arc<Service> {
    let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
    Arc::new(Service::compile(wire::Service { name: name.into(), addresses, ..wire::Service::default() }).unwrap())
}

fn spec(workload: &str) -> EndpointSpec {
    let message = wire::Endpoint {
        service: "shop/cart".into(),
        workload: workload.into(),
        address: "10.0.0.1".into(),
        ..wire::Endpoint::default()
    };
    EndpointSpec::compile(message).unwrap()
}

fn inbound(workload: &str, addresses: &[&str]) -> Arc<Inbound> {
    let message = wire::Inbound {
        workload: workload.into(),
        identity: "spiffe://td/ns/shop/sa/x".into(),
        addresses: addresses.iter().map(|&address| address.to_owned()).collect(),
        ..wire::Inbound::default()
    };
    Arc::new(Inbound::compile(message).unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Names of the services that addresses lead to.
fn at<'a>(snapshot: &'a Snapshot, address: &str) -> Option<Option<&'a str>> {
    snapshot.addresses.get(&ip(address)).map(|known| known.as_ref().map(|known| &*known.service.name))
}

#[test]
fn addresses_follow_their_service() {
    let mut snapshot = Snapshot::default();
    snapshot.set_absent(ip("10.1.0.1"));
    assert_eq!(at(&snapshot, "10.1.0.1"), Some(None));
    snapshot.set_service(service("shop/cart", &["10.1.0.1", "10.1.0.2"]), vec![]);
    assert_eq!(at(&snapshot, "10.1.0.1"), Some(Some("shop/cart")));
    snapshot.set_service(service("shop/cart", &["10.1.0.2", "10.1.0.3"]), vec![]);
    assert_eq!(at(&snapshot, "10.1.0.1"), None);
    assert_eq!(at(&snapshot, "10.1.0.3"), Some(Some("shop/cart")));
    // Another service takes an address over; what the first does then leaves it alone.
    snapshot.set_service(service("shop/new", &["10.1.0.2"]), vec![]);
    snapshot.set_endpoints("shop/cart", vec![spec("shop/a")]);
    assert_eq!(at(&snapshot, "10.1.0.2"), Some(Some("shop/new")));
    snapshot.remove_service("shop/cart");
    assert_eq!(at(&snapshot, "10.1.0.2"), Some(Some("shop/new")));
    assert_eq!(at(&snapshot, "10.1.0.3"), None);
    snapshot.remove_service("shop/new");
    snapshot.set_absent(ip("10.9.9.9"));
    snapshot.forget_address(ip("10.9.9.9"));
    assert!(snapshot.addresses.is_empty() && snapshot.services.is_empty());
}

#[test]
fn live_state_survives_and_the_last_snapshot_stays_as_it_was() {
    let mut first = Snapshot::default();
    first.set_service(service("shop/cart", &["10.1.0.1"]), vec![spec("shop/a")]);
    let mut next = first.clone();
    next.set_endpoints("shop/cart", vec![spec("shop/a"), spec("shop/b")]);
    next.set_service(service("shop/cart", &["10.1.0.2"]), vec![spec("shop/a"), spec("shop/b")]);
    let (before, after) = (&first.services["shop/cart"], &next.services["shop/cart"]);
    assert_eq!((before.endpoints.len(), after.endpoints.len()), (1, 2));
    assert!(Arc::ptr_eq(&before.budget, &after.budget));
    assert!(Arc::ptr_eq(before.endpoints.iter().next().unwrap(), after.endpoints.iter().next().unwrap()));
    assert_eq!(at(&first, "10.1.0.1"), Some(Some("shop/cart")));
    assert!(Arc::ptr_eq(next.addresses[&ip("10.1.0.2")].as_ref().unwrap(), after));
    next.set_endpoints("shop/unknown", vec![spec("shop/a")]);
    assert_eq!(next.services.len(), 1);
}

#[test]
fn a_pod_called_by_its_own_address_is_its_only_endpoint() {
    let direct = wire::Endpoint { workload: "shop/a".into(), address: "10.0.0.1".into(), ..wire::Endpoint::default() };
    let message = wire::Service { name: "@10.0.0.1".into(), direct: Some(direct), ..wire::Service::default() };
    let mut snapshot = Snapshot::default();
    snapshot.set_service(Arc::new(Service::compile(message).unwrap()), vec![spec("shop/b")]);
    snapshot.set_endpoints("@10.0.0.1", vec![]);
    assert_eq!(at(&snapshot, "10.0.0.1"), Some(Some("@10.0.0.1")));
    let endpoints: Vec<_> = snapshot.services["@10.0.0.1"].endpoints.iter().map(|e| &*e.spec.workload).collect();
    assert_eq!(endpoints, ["shop/a"]);
}

#[test]
fn own_inbound_whichever_comes_first() {
    let mut snapshot = Snapshot::default();
    snapshot.set_own("shop/a");
    snapshot.set_inbound(inbound("shop/b", &["10.0.0.2"]));
    assert!(snapshot.own.is_none());
    snapshot.set_inbound(inbound("shop/a", &["10.0.0.1"]));
    assert_eq!(&*snapshot.own.as_ref().unwrap().workload, "shop/a");
    snapshot.set_inbound(inbound("shop/a", &["10.0.0.3"]));
    assert_eq!(snapshot.own.as_ref().unwrap().addresses, [ip("10.0.0.3")]);
    assert_eq!(snapshot.inbound_addresses.len(), 2);
    assert!(!snapshot.inbound_addresses.contains_key(&ip("10.0.0.1")));
    snapshot.set_own("shop/b");
    assert_eq!(&*snapshot.own.as_ref().unwrap().workload, "shop/b");
    snapshot.remove_inbound("shop/b");
    assert!(snapshot.own.is_none() && snapshot.inbound_addresses.len() == 1);
}
