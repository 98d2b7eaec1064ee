use std::time::SystemTime;

use outrigger_wire::proto::{
    config as wire,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use prost::Message;
use prost_types::Any;

use super::{asked::MAX_ASKED, *};

const IP: &str = "10.96.0.1";
const OTHER_IP: &str = "10.96.0.2";

/// A state with what a stream and a store would keep for it.
struct Proxy {
    state: State,
    published: Snapshot,
    now: Instant,
}

impl Proxy {
    fn new(role: Role) -> Self {
        Self { state: State::new(role, "shop/front"), published: Snapshot::default(), now: Instant::now() }
    }

    fn ask(&mut self, addresses: &[&str]) -> Vec<DeltaDiscoveryRequest> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        let snapshot = self.state.ask(&addresses, &self.published, self.now);
        self.published = snapshot.unwrap_or_else(|| self.published.clone());
        self.state.requests(&self.published)
    }

    /// Applies a response; says whether anything was published, and what is asked for next.
    fn apply(&mut self, kind: Kind, resources: Vec<Resource>, removed: &[&str]) -> (bool, Vec<DeltaDiscoveryRequest>) {
        let applied = self.reply(kind, resources, removed);
        assert_eq!(applied.reply.error_detail, None);
        (applied.snapshot.is_some(), self.state.requests(&self.published))
    }

    fn reply(&mut self, kind: Kind, resources: Vec<Resource>, removed: &[&str]) -> Applied {
        let response = response(kind, resources, removed);
        let applied = self.state.apply(response, &self.published, self.now);
        assert_eq!((applied.reply.type_url.as_str(), applied.reply.response_nonce.as_str()), (kind.url(), "n"));
        if let Some(snapshot) = &applied.snapshot {
            self.published = snapshot.clone();
        }
        applied
    }

    fn expire(&mut self, after: Duration) -> bool {
        let snapshot = self.state.expire(&self.published, self.now + after);
        let published = snapshot.is_some();
        self.published = snapshot.unwrap_or_else(|| self.published.clone());
        published
    }

    /// `None`: unknown; `Some("")`: not meshed.
    fn lookup(&self, ip: &str) -> Option<&str> {
        let found = self.published.addresses.get(&ip.parse::<IpAddr>().unwrap())?;
        Some(found.as_ref().map_or("", |destination| &destination.service.name))
    }

    fn services(&self) -> BTreeSet<&str> {
        self.published.services.keys().map(|name| &**name).collect()
    }
}

fn response(kind: Kind, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: kind.url().into(),
        nonce: "n".into(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    }
}

fn resource(kind: Kind, name: &str, version: u32, aliases: &[&str], message: &impl Message) -> Resource {
    Resource {
        version: version.to_string(),
        resource: Some(Any { type_url: kind.url().into(), value: message.encode_to_vec() }),
        name: name.into(),
        aliases: aliases.iter().map(|ip| format!("@{ip}")).collect(),
        ttl: None,
    }
}

/// A service with one rule that leads to `backends`, or with none.
pub(crate) fn service(name: &str, version: u32, addresses: &[&str], backends: &[&str]) -> Resource {
    let backend =
        |service: &&str| wire::Backend { service: (*service).into(), port: 80, weight: 1, ..Default::default() };
    let table = wire::RouteTable {
        entries: vec![wire::RouteEntry { r#match: Some(wire::RouteMatch::default()), rule: 0 }],
        rules: vec![wire::RouteRule {
            name: "HTTPRoute/shop/r#0".into(),
            backends: backends.iter().map(backend).collect(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let message = wire::Service {
        name: name.into(),
        addresses: addresses.iter().map(|ip| (*ip).into()).collect(),
        ports: vec![wire::ServicePort { port: 80, name: "http".into(), protocol: 1 }],
        route_tables: if backends.is_empty() { Vec::new() } else { vec![table] },
        ..Default::default()
    };
    resource(Kind::Service, name, version, addresses, &message)
}

pub(crate) fn endpoint(service: &str, pod: &str, version: u32, address: &str) -> Resource {
    let message = wire::Endpoint {
        service: service.into(),
        workload: format!("shop/{pod}"),
        address: address.into(),
        ports: vec![wire::EndpointPort { port: 80, target: 8080 }],
        ..Default::default()
    };
    resource(Kind::Endpoint, &format!("{service}/{pod}"), version, &[], &message)
}

pub(crate) fn inbound(workload: &str, version: u32, shared_service: &str) -> Resource {
    let message = wire::Inbound {
        workload: workload.into(),
        identity: "spiffe://cluster.local/ns/shop/sa/front".into(),
        addresses: vec!["10.0.0.9".into()],
        fallback: Some(wire::Fallback { shared_service: shared_service.into(), ..Default::default() }),
        ..Default::default()
    };
    resource(Kind::Inbound, workload, version, &[], &message)
}

pub(crate) fn trust(domain: &str, version: u32) -> Resource {
    let message =
        wire::Trust { trust_domain: domain.into(), roots: vec![b"der".to_vec().into()], ..Default::default() };
    resource(Kind::Trust, domain, version, &[], &message)
}

/// "+" subscribes, "-" unsubscribes; with the type's first letter.
fn told(requests: &[DeltaDiscoveryRequest]) -> Vec<String> {
    let mut told = Vec::new();
    for request in requests {
        let kind = &format!("{:?}", Kind::from_url(&request.type_url).unwrap())[..1];
        told.extend(request.resource_names_subscribe.iter().map(|name| format!("{kind}+{name}")));
        told.extend(request.resource_names_unsubscribe.iter().map(|name| format!("{kind}-{name}")));
    }
    told
}

#[test]
fn each_role_subscribes_to_its_own() {
    let mut sidecar = Proxy::new(Role::Sidecar);
    assert_eq!(told(&sidecar.ask(&[])), ["T+*", "I+shop/front"]);
    assert_eq!(told(&sidecar.ask(&[])), [""; 0], "once is enough");
    let mut shared = Proxy::new(Role::Shared);
    assert_eq!(told(&shared.ask(&[])), ["T+*", "I+*", "E+*", "S+*"]);

    let mut guard = Proxy::new(Role::Guard);
    guard.ask(&[]);
    let (published, next) = guard.apply(Kind::Inbound, vec![inbound("shop/front", 1, "outrigger-system/shared")], &[]);
    assert!(published && guard.published.own.is_some());
    assert_eq!(told(&next), ["E+outrigger-system/shared/*", "S+outrigger-system/shared"]);
    guard.apply(Kind::Service, vec![service("outrigger-system/shared", 1, &[IP], &[])], &[]);
    assert_eq!(guard.services(), [].into(), "its endpoints aren't known yet");
    guard.apply(Kind::Endpoint, vec![endpoint("outrigger-system/shared", "s-1", 1, "10.0.0.1")], &[]);
    assert_eq!(guard.services(), ["outrigger-system/shared"].into());
}

#[test]
fn a_service_appears_with_all_that_it_leads_to() {
    let mut proxy = Proxy::new(Role::Sidecar);
    assert_eq!(told(&proxy.ask(&[IP])), ["T+*", "I+shop/front", "S+@10.96.0.1"]);
    let (published, next) = proxy.apply(Kind::Service, vec![service("shop/a", 1, &[IP], &["shop/b", "shop/c"])], &[]);
    assert!(!published);
    assert_eq!(told(&next), ["E+shop/a/*", "E+shop/b/*", "E+shop/c/*", "S+shop/b", "S+shop/c"]);
    assert!(!proxy.apply(Kind::Endpoint, vec![endpoint("shop/b", "b-1", 1, "10.0.0.2")], &["shop/a/*", "shop/c/*"]).0);
    // c doesn't exist: known is known.
    let (published, next) = proxy.apply(Kind::Service, vec![service("shop/b", 1, &[OTHER_IP], &[])], &["shop/c"]);
    assert!(published && next.is_empty());
    assert_eq!(proxy.services(), ["shop/a", "shop/b"].into());
    assert_eq!((proxy.lookup(IP), proxy.lookup(OTHER_IP)), (Some("shop/a"), Some("shop/b")));
    assert_eq!(proxy.state.deadline(), None);
}

#[test]
fn a_changed_route_is_made_before_the_old_is_broken() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP]);
    proxy.apply(Kind::Service, vec![service("shop/a", 1, &[IP], &["shop/b"]), service("shop/b", 1, &[], &[])], &[]);
    proxy.apply(Kind::Endpoint, vec![endpoint("shop/b", "b-1", 1, "10.0.0.2")], &["shop/a/*"]);
    assert_eq!(proxy.services(), ["shop/a", "shop/b"].into());

    let (published, next) = proxy.apply(Kind::Service, vec![service("shop/a", 2, &[IP], &["shop/c"])], &[]);
    assert!(!published, "the old table stays until the new one is warm");
    assert_eq!(told(&next), ["E+shop/c/*", "S+shop/c"]);
    let (_, next) = proxy.apply(Kind::Service, vec![service("shop/c", 1, &[], &[])], &[]);
    assert!(next.is_empty());
    let (published, next) = proxy.apply(Kind::Endpoint, vec![endpoint("shop/c", "c-1", 1, "10.0.0.3")], &[]);
    assert!(published);
    assert_eq!(proxy.services(), ["shop/a", "shop/c"].into(), "swapped in one snapshot");
    assert_eq!(told(&next), ["E-shop/b/*", "S-shop/b"], "unsubscribed after that");
    assert_eq!((proxy.state.held(Kind::Service), proxy.state.held(Kind::Endpoint)), (2, 1));
}

#[test]
fn other_shared_proxies_are_known_before_the_former_are_let_go() {
    let mut guard = Proxy::new(Role::Guard);
    guard.ask(&[]);
    let answer = |guard: &mut Proxy, service_name: &str, address| {
        guard.apply(Kind::Service, vec![service(service_name, 1, &[], &[])], &[]);
        guard.apply(Kind::Endpoint, vec![endpoint(service_name, "s-1", 1, address)], &[]).1
    };
    let carries = |guard: &Proxy| guard.published.shared_proxies().map(|known| known.service.name.to_string());
    guard.apply(Kind::Inbound, vec![inbound("shop/front", 1, "mesh/all")], &[]);
    answer(&mut guard, "mesh/all", "10.0.0.1");
    assert_eq!(carries(&guard).as_deref(), Some("mesh/all"));

    let (published, next) = guard.apply(Kind::Inbound, vec![inbound("shop/front", 2, "mesh/own")], &[]);
    assert!(published, "its policies are in force at once");
    assert_eq!(told(&next), ["E+mesh/own/*", "S+mesh/own"]);
    assert_eq!(carries(&guard).as_deref(), Some("mesh/all"));
    guard.apply(Kind::Inbound, vec![inbound("shop/front", 3, "mesh/own")], &[]);
    assert_eq!(carries(&guard).as_deref(), Some("mesh/all"), "still, after another change");
    assert_eq!(told(&answer(&mut guard, "mesh/own", "10.0.0.2")), ["E-mesh/all/*", "S-mesh/all"]);
    assert_eq!((carries(&guard).as_deref(), guard.services()), (Some("mesh/own"), ["mesh/own"].into()));

    guard.apply(Kind::Inbound, vec![inbound("shop/front", 4, "")], &[]);
    assert_eq!((carries(&guard), guard.services()), (None, [].into()), "it is to have none");
}

#[test]
fn routes_may_lead_in_circles() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP]);
    let circle = vec![service("shop/a", 1, &[IP], &["shop/b"]), service("shop/b", 1, &[], &["shop/a", "shop/b"])];
    proxy.apply(Kind::Service, circle, &[]);
    assert!(proxy.apply(Kind::Endpoint, vec![], &["shop/a/*", "shop/b/*"]).0);
    assert_eq!(proxy.services(), ["shop/a", "shop/b"].into());
}

#[test]
fn warm_up_is_limited() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP]);
    proxy.apply(Kind::Service, vec![service("shop/a", 1, &[IP], &["shop/b"])], &[]);
    assert_eq!(proxy.state.deadline(), Some(proxy.now + WARM_UP));
    // A newer version waits no longer than the first.
    proxy.now += Duration::from_secs(1);
    proxy.apply(Kind::Service, vec![service("shop/a", 2, &[IP], &["shop/b"])], &[]);
    assert!(!proxy.expire(WARM_UP - Duration::from_millis(1001)));
    assert!(proxy.expire(WARM_UP - Duration::from_millis(1000)));
    assert_eq!((proxy.lookup(IP), proxy.state.deadline()), (Some("shop/a"), None));
}

#[test]
fn an_address_outside_the_mesh_may_join_and_leave() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP, OTHER_IP]);
    assert_eq!(proxy.lookup(IP), None);
    let (published, next) = proxy.apply(Kind::Service, vec![], &["@10.96.0.1"]);
    assert!(published && next.is_empty(), "it stays subscribed");
    assert_eq!((proxy.lookup(IP), proxy.lookup(OTHER_IP)), (Some(""), None));

    proxy.apply(Kind::Service, vec![service("shop/a", 1, &[IP], &[])], &[]);
    assert_eq!(proxy.lookup(IP), Some(""), "until it is warm");
    proxy.apply(Kind::Endpoint, vec![], &["shop/a/*"]);
    assert_eq!(proxy.lookup(IP), Some("shop/a"));

    // The service goes by its name: its address is nobody's.
    let (_, next) = proxy.apply(Kind::Service, vec![], &["shop/a"]);
    assert_eq!((proxy.lookup(IP), proxy.services()), (Some(""), [].into()));
    assert_eq!(told(&next), ["E-shop/a/*"]);
}

#[test]
fn an_address_may_move_between_services() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP]);
    proxy.apply(Kind::Service, vec![service("shop/a", 1, &[IP], &[])], &[]);
    proxy.apply(Kind::Endpoint, vec![], &["shop/a/*"]);
    proxy.apply(Kind::Service, vec![service("shop/b", 1, &[IP], &[])], &["shop/a"]);
    proxy.apply(Kind::Endpoint, vec![], &["shop/b/*"]);
    assert_eq!((proxy.lookup(IP), proxy.services()), (Some("shop/b"), ["shop/b"].into()));
    // By its alias alone: the service is no longer what the app calls.
    let (_, next) = proxy.apply(Kind::Service, vec![], &["@10.96.0.1"]);
    assert_eq!((proxy.lookup(IP), proxy.services()), (Some(""), [].into()));
    assert_eq!(told(&next), ["E-shop/b/*"]);
}

/// Additions go out before removals: the service that loses the address may go, and be heard of, after another has it.
#[test]
fn a_service_that_goes_does_not_take_along_what_another_has_by_then() {
    for role in [Role::Sidecar, Role::Shared] {
        for (before, aliases) in [("shop/a", &[IP][..]), ("@10.96.0.1", &[])] {
            let mut proxy = Proxy::new(role);
            let message = wire::Service { name: before.into(), addresses: vec![IP.into()], ..Default::default() };
            proxy.ask(&[IP]);
            proxy.apply(Kind::Endpoint, vec![], &["shop/a/*", "shop/b/*", "@10.96.0.1/*"]);
            proxy.apply(Kind::Service, vec![resource(Kind::Service, before, 1, aliases, &message)], &[]);
            proxy.expire(WARM_UP);
            proxy.ask(&[IP]);
            assert_eq!(proxy.lookup(IP), Some(before));
            proxy.apply(Kind::Service, vec![service("shop/b", 1, &[IP], &[])], &[]);
            proxy.apply(Kind::Service, vec![], &[before]);
            assert_ne!(proxy.lookup(IP), Some(""), "{role:?}: not in the mesh, while shop/b has it");
            proxy.expire(WARM_UP);
            assert_eq!(proxy.lookup(IP), Some("shop/b"), "{role:?} after {before}");
        }
    }
}

#[test]
fn a_pod_called_by_its_own_address_needs_no_collection() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&["10.0.0.7"]);
    let direct = wire::Endpoint {
        service: "@10.0.0.7".into(),
        workload: "shop/b-1".into(),
        address: "10.0.0.7".into(),
        ..Default::default()
    };
    let message = wire::Service {
        name: "@10.0.0.7".into(),
        addresses: vec!["10.0.0.7".into()],
        direct: Some(direct),
        ..Default::default()
    };
    let (published, next) =
        proxy.apply(Kind::Service, vec![resource(Kind::Service, "@10.0.0.7", 1, &[], &message)], &[]);
    assert!(published && next.is_empty());
    assert_eq!(proxy.lookup("10.0.0.7"), Some("@10.0.0.7"));
    proxy.apply(Kind::Service, vec![], &["@10.0.0.7"]);
    assert_eq!((proxy.lookup("10.0.0.7"), proxy.services()), (Some(""), [].into()));
}

#[test]
fn endpoints_come_and_go() {
    let mut proxy = Proxy::new(Role::Sidecar);
    let count = |proxy: &Proxy| proxy.state.specs("shop/a").len();
    proxy.ask(&[IP]);
    proxy.apply(Kind::Service, vec![service("shop/a", 1, &[IP], &[])], &[]);
    let pod = |n: u32| endpoint("shop/a", &format!("a-{n}"), 1, &format!("10.0.0.{n}"));
    assert!(proxy.apply(Kind::Endpoint, vec![pod(1), pod(2), pod(3)], &[]).0);
    assert!(!proxy.apply(Kind::Endpoint, vec![pod(1)], &[]).0, "the version that is held changes nothing");
    assert!(proxy.apply(Kind::Endpoint, vec![pod(4)], &["shop/a/a-1", "shop/a/a-2"]).0);
    assert_eq!(count(&proxy), 2);
    assert!(proxy.apply(Kind::Endpoint, vec![], &["shop/a/*"]).0);
    assert_eq!((count(&proxy), proxy.lookup(IP)), (0, Some("shop/a")));
    // What nobody wants isn't kept.
    proxy.apply(Kind::Endpoint, vec![endpoint("shop/zzz", "z-1", 1, "10.0.0.5")], &[]);
    assert_eq!(proxy.state.held(Kind::Endpoint), 0);
}

#[test]
fn a_bad_resource_is_refused_alone() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP, OTHER_IP]);
    proxy.apply(Kind::Service, vec![service("shop/a", 1, &[IP], &[])], &[]);
    proxy.apply(Kind::Endpoint, vec![], &["shop/a/*", "shop/b/*"]);

    let mut bad = service("shop/a", 2, &["nonsense"], &[]);
    bad.aliases = vec![format!("@{IP}")];
    let applied = proxy.reply(Kind::Service, vec![bad, service("shop/b", 1, &[OTHER_IP], &[])], &[]);
    let detail = applied.reply.error_detail.unwrap();
    assert_eq!(detail.code, 3);
    assert!(detail.message.starts_with("shop/a: addresses: "), "{}", detail.message);
    assert_eq!(proxy.lookup(IP), Some("shop/a"), "the last good one stays");
    let versions = proxy.state.versions(Kind::Service);
    assert_eq!((versions["shop/a"].as_str(), versions["shop/b"].as_str()), ("1", "1"));
    assert_eq!(proxy.state.refusals().map(|refusal| refusal.name).collect::<Vec<_>>(), ["shop/a"]);

    proxy.apply(Kind::Service, vec![service("shop/a", 3, &[IP], &[])], &[]);
    assert_eq!(proxy.state.refusals().count(), 0);
}

#[test]
fn resources_that_are_refused() {
    let renamed = |mut resource: Resource, name: &str| {
        resource.name = name.into();
        resource
    };
    let body = |bytes: &[u8]| Some(Any { type_url: type_url::TRUST.into(), value: bytes.to_vec() });
    let table = [
        (Kind::Service, renamed(service("shop/a", 1, &[], &[]), "shop/b"), "shop/b: says that it is \"shop/a\""),
        (Kind::Endpoint, renamed(endpoint("shop/a", "a-1", 1, "10.0.0.1"), "shop/b/a-1"), "says that it is \"shop/a\""),
        (Kind::Endpoint, renamed(endpoint("shop/a", "a-1", 1, "10.0.0.1"), "shop/a"), "name isn't"),
        (Kind::Inbound, inbound("shop/other", 1, ""), "shop/other: is not of shop/front"),
        (Kind::Trust, service("shop/a", 1, &[], &[]), "is a \"type.googleapis.com/outrigger.config.v1alpha1.Service\""),
        (Kind::Trust, Resource { name: "td".into(), ..Default::default() }, "td: has no body"),
        (Kind::Trust, Resource { name: "td".into(), resource: body(b"\xff"), ..Default::default() }, "td: "),
    ];
    for (kind, resource, reason) in table {
        let mut proxy = Proxy::new(Role::Sidecar);
        let detail = proxy.reply(kind, vec![resource], &[]).reply.error_detail.unwrap();
        assert!(detail.message.contains(reason), "{:?} is not {reason:?}", detail.message);
    }
}

#[test]
fn a_new_stream_says_what_is_held() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP, OTHER_IP]);
    proxy.apply(Kind::Trust, vec![trust("cluster.local", 7)], &[]);
    proxy.apply(Kind::Service, vec![service("shop/a", 3, &[IP], &["shop/b"])], &["@10.96.0.2"]);
    proxy.apply(Kind::Service, vec![service("shop/b", 4, &[], &[])], &[]);
    proxy.apply(Kind::Endpoint, vec![endpoint("shop/b", "b-1", 5, "10.0.0.2")], &["shop/a/*"]);

    proxy.state.reset_subscriptions();
    let requests = proxy.ask(&[]);
    assert_eq!(
        told(&requests),
        ["T+*", "I+shop/front", "E+shop/a/*", "E+shop/b/*", "S+@10.96.0.1", "S+@10.96.0.2", "S+shop/b"]
    );
    let versions = |n: usize| {
        let mut versions: Vec<_> = requests[n].initial_resource_versions.iter().collect();
        versions.sort();
        format!("{versions:?}")
    };
    assert_eq!(versions(0), r#"[("cluster.local", "7")]"#);
    assert_eq!(versions(1), "[]");
    assert_eq!(versions(2), r#"[("shop/b/b-1", "5")]"#);
    assert_eq!(versions(3), r#"[("shop/a", "3"), ("shop/b", "4")]"#);
    // Gone meanwhile.
    assert!(proxy.apply(Kind::Endpoint, vec![], &["shop/b/b-1"]).0);
    assert_eq!(proxy.state.held(Kind::Endpoint), 0);
}

#[test]
fn the_oldest_absent_addresses_make_room() {
    let mut proxy = Proxy::new(Role::Sidecar);
    let ip = |n: usize| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
    let all: Vec<String> = (0..MAX_ASKED).map(ip).collect();
    proxy.ask(&all.iter().map(String::as_str).collect::<Vec<_>>());
    proxy.apply(Kind::Service, vec![], &["@10.0.0.5", "@10.0.0.3"]);

    assert_eq!(told(&proxy.ask(&[&ip(5000)])), [format!("S+@{}", ip(5000)), "S-@10.0.0.3".into()]);
    assert_eq!((proxy.lookup("10.0.0.3"), proxy.lookup("10.0.0.5")), (None, Some("")));
    assert_eq!(told(&proxy.ask(&[&ip(5001)]))[1], "S-@10.0.0.5");
    assert_eq!(told(&proxy.ask(&[&ip(5002)]))[1], "S-@10.0.0.0", "the oldest, when none is absent");
    assert!(proxy.ask(&[&ip(5002)]).is_empty());
}

#[test]
fn a_shared_proxy_knows_what_isn_t_there() {
    let mut proxy = Proxy::new(Role::Shared);
    assert_eq!(told(&proxy.ask(&[IP])).len(), 4);
    assert_eq!(proxy.lookup(IP), None, "nothing has come yet");
    proxy.apply(Kind::Service, vec![service("shop/a", 1, &[OTHER_IP], &["shop/gone"])], &[]);
    proxy.apply(Kind::Endpoint, vec![endpoint("shop/a", "a-1", 1, "10.0.0.1")], &[]);
    assert_eq!(proxy.lookup(OTHER_IP), Some("shop/a"));
    assert!(proxy.ask(&[IP]).is_empty());
    assert_eq!(proxy.lookup(IP), Some(""));

    proxy.apply(Kind::Service, vec![service("shop/b", 1, &[IP], &[])], &[]);
    assert_eq!(proxy.lookup(IP), Some("shop/b"));
    proxy.apply(Kind::Service, vec![], &["shop/b"]);
    proxy.ask(&[IP]);
    assert_eq!((proxy.lookup(IP), proxy.services()), (Some(""), ["shop/a"].into()));

    proxy.apply(Kind::Inbound, vec![inbound("shop/front", 1, ""), inbound("shop/other", 1, "")], &[]);
    proxy.apply(Kind::Inbound, vec![], &["shop/front", "shop/other"]);
    assert!(proxy.published.own.is_some() && !proxy.published.inbounds.contains_key("shop/other"));
}

#[test]
fn policies_and_trust_outlive_a_control_plane_that_forgets_them() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[]);
    proxy.apply(Kind::Trust, vec![trust("cluster.local", 1), trust("old.local", 1)], &[]);
    proxy.apply(Kind::Inbound, vec![inbound("shop/front", 1, "")], &[]);
    proxy.apply(Kind::Trust, vec![], &["old.local"]);
    assert_eq!(proxy.published.trust.len(), 1);
    proxy.apply(Kind::Trust, vec![], &["cluster.local"]);
    proxy.apply(Kind::Inbound, vec![], &["shop/front"]);
    assert!(proxy.published.trust.len() == 1 && proxy.published.own.is_some());
    assert!(proxy.state.versions(Kind::Trust).is_empty() && proxy.state.versions(Kind::Inbound).is_empty());
}

#[test]
fn what_is_saved_comes_back_whole() {
    let mut before = Proxy::new(Role::Sidecar);
    before.ask(&[IP, OTHER_IP]);
    before.apply(Kind::Trust, vec![trust("cluster.local", 1)], &[]);
    before.apply(Kind::Inbound, vec![inbound("shop/front", 1, "outrigger-system/shared")], &[]);
    let held = vec![service("shop/a", 3, &[IP], &["shop/b"]), service("outrigger-system/shared", 1, &[], &[])];
    before.apply(Kind::Service, held, &["shop/b", "@10.96.0.2"]);
    // The shared service's endpoints are still awaited.
    before.apply(Kind::Endpoint, vec![endpoint("shop/a", "a-1", 5, "10.0.0.2")], &["shop/b/*"]);

    let saved = SavedConfig::decode(before.state.save().encode_to_vec().as_slice()).unwrap();
    let mut after = Proxy::new(Role::Sidecar);
    after.published = after.state.restore(saved.clone(), &after.published, after.now).unwrap();
    assert_eq!((after.lookup(IP), after.lookup(OTHER_IP)), (Some("shop/a"), Some("")));
    assert_eq!(after.services(), ["outrigger-system/shared", "shop/a"].into());
    assert_eq!((after.published.trust.len(), after.published.own.is_some()), (1, true));
    before.state.reset_subscriptions();
    assert_eq!(told(&after.ask(&[])), told(&before.ask(&[])));
    for kind in Kind::ALL {
        assert_eq!(after.state.versions(kind), before.state.versions(kind));
    }
    let (again, sort) = (after.state.save(), |mut asked: Vec<String>| {
        asked.sort();
        asked
    });
    assert_eq!((again.responses, sort(again.asked)), (saved.responses, sort(saved.asked)));
}

/// Takes resources in as the stream does.
fn taste(proxy: &mut Proxy, kind: Kind, resources: Vec<Resource>) -> Option<String> {
    proxy.state.begin_trials(&response(kind, resources.clone(), &[]), proxy.now);
    proxy.reply(kind, resources, &[]).reply.error_detail.map(|refused| refused.message)
}

/// The process is gone; the next one finds what it left on disk.
fn die(proxy: &Proxy) -> Proxy {
    let (saved, records) = (proxy.state.save(), proxy.state.trials.to_records("shop/front"));
    let mut next = Proxy::new(proxy.state.role);
    next.state.resume_trials(&saved, records, SystemTime::now(), next.now);
    if let Some(snapshot) = next.state.restore(saved, &next.published, next.now) {
        next.published = snapshot;
    }
    next
}

#[test]
fn what_kills_twice_is_gone_back_from() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP]);
    let version = |number| vec![service("shop/a", number, &[IP], &[])];
    assert_eq!(taste(&mut proxy, Kind::Service, version(1)), None);
    proxy.state.prove(proxy.now + crate::trial::TRIAL);
    assert_eq!(taste(&mut proxy, Kind::Service, version(2)), None);
    // One death may have been anything's.
    let mut proxy = die(&proxy);
    assert_eq!(proxy.state.services.version("shop/a"), Some("2"));
    // So it is on trial again, and what it replaced is still known.
    proxy = die(&proxy);
    assert_eq!(proxy.state.services.version("shop/a"), Some("1"));
    assert_eq!(proxy.lookup(IP), Some("shop/a"));
    assert_eq!(proxy.state.refusals().next().map(|refusal| refusal.name).as_deref(), Some("shop/a"));
    // The control plane sends it again; so does the next one.
    for _ in 0..2 {
        let refused = taste(&mut proxy, Kind::Service, version(2)).unwrap();
        assert!(refused.starts_with("shop/a: quarantined: the proxy died 2 times"), "{refused}");
        proxy = die(&proxy);
        assert_eq!(proxy.state.services.version("shop/a"), Some("1"));
    }
    assert_eq!(taste(&mut proxy, Kind::Service, version(3)), None);
    assert_eq!((proxy.state.services.version("shop/a"), proxy.state.refusals().count()), (Some("3"), 0));
}

#[test]
fn who_is_killed_before_anything_is_saved_goes_back_too() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP]);
    taste(&mut proxy, Kind::Service, vec![service("shop/a", 1, &[IP], &[])]);
    proxy.state.prove(proxy.now + crate::trial::TRIAL);
    for _ in 0..2 {
        // It dies of taking it in.
        let poison = response(Kind::Service, vec![service("shop/a", 2, &[IP], &[])], &[]);
        assert!(proxy.state.begin_trials(&poison, proxy.now));
        proxy = die(&proxy);
    }
    assert!(taste(&mut proxy, Kind::Service, vec![service("shop/a", 2, &[IP], &[])]).is_some());
    assert_eq!(proxy.state.services.version("shop/a"), Some("1"));
}

#[test]
fn without_a_version_before_a_sidecar_lets_go_of_what_shared_proxies_know() {
    for (role, left) in [(Role::Sidecar, [1, 1, 1]), (Role::Guard, [2, 1, 1]), (Role::Shared, [2, 1, 1])] {
        let mut proxy = Proxy::new(role);
        proxy.ask(&[IP]);
        taste(&mut proxy, Kind::Trust, vec![trust("cluster.local", 1)]);
        taste(&mut proxy, Kind::Inbound, vec![inbound("shop/front", 1, "mesh/shared")]);
        let services = vec![service("shop/a", 1, &[IP], &[]), service("mesh/shared", 1, &[], &[])];
        taste(&mut proxy, Kind::Service, services);
        for _ in 0..3 {
            proxy = die(&proxy);
        }
        let held = [Kind::Service, Kind::Inbound, Kind::Trust].map(|kind| proxy.state.held(kind));
        assert_eq!(held, left, "{role:?}");
        // The shared proxies, which it still knows, carry what it can't.
        assert_eq!(proxy.lookup(IP), (role != Role::Sidecar).then_some("shop/a"), "{role:?}");
    }
}

#[test]
fn endpoints_are_not_on_trial() {
    let mut proxy = Proxy::new(Role::Sidecar);
    proxy.ask(&[IP]);
    taste(&mut proxy, Kind::Service, vec![service("shop/a", 1, &[IP], &[])]);
    for version in 1..3 {
        let endpoints = response(Kind::Endpoint, vec![endpoint("shop/a", "a-1", version, "10.0.0.1")], &[]);
        assert!(!proxy.state.begin_trials(&endpoints, proxy.now));
        proxy.apply(Kind::Endpoint, endpoints.resources, &[]);
    }
    assert!(proxy.state.endpoints.before(Kind::Endpoint.url()).is_empty());
}
