use prost::Message;
use wire::{
    access_policy::Action,
    fallback::{OnControlPlaneLoss, OnSidecarFailure},
    traffic_policy::Balancer,
};

use super::*;
use crate::{Reach, fixtures::*, held::Marks, inputs::*};

/// A shop of three workloads behind two services, and the shared proxies.
fn shop() -> Inputs {
    Inputs {
        namespaces: vec![Namespace { name: "shop".to_owned(), mode: Some(Mode::Sidecar) }],
        services: vec![
            service("shop/front", "10.1.0.1", &[80]),
            service("shop/store", "10.1.0.2", &[5432]),
            service("outrigger-system/outrigger-shared", "10.1.0.3", &[15008]),
        ],
        workloads: vec![
            workload("shop/front-1", "10.2.0.1", None),
            workload("shop/store-1", "10.2.0.2", Some(Mode::None)),
            workload("shop/small-1", "10.2.0.3", Some(Mode::Shared)),
            workload("outrigger-system/shared-1", "10.2.0.4", None),
        ],
        endpoints: vec![
            endpoint("shop/front", "shop/front-1", &[(80, 8080)]),
            endpoint("shop/front", "shop/small-1", &[(80, 8081)]),
            endpoint("shop/store", "shop/store-1", &[(5432, 5432)]),
            endpoint("outrigger-system/outrigger-shared", "outrigger-system/shared-1", &[(15008, 15008)]),
        ],
        ..Inputs::default()
    }
}

fn snapshot(inputs: &Inputs) -> MeshSnapshot {
    let built = build(inputs, None);
    assert_eq!(built.problems, []);
    built.snapshot
}

fn get<M: Message + Default>(snapshot: &MeshSnapshot, type_url: &str, name: &str) -> Option<M> {
    let resource = snapshot.types[type_url].resources.get(name)?;
    Some(M::decode(resource.body.clone()).unwrap())
}

fn inbound(inputs: &Inputs, workload: &str) -> wire::Inbound {
    get(&snapshot(inputs), type_url::INBOUND, workload).unwrap()
}

fn traffic(qualified: &str, targets: Vec<PolicyTarget>, settings: TrafficSettings) -> TrafficPolicy {
    let (namespace, name) = qualified.split_once('/').unwrap();
    TrafficPolicy { namespace: namespace.to_owned(), name: name.to_owned(), created: None, targets, settings }
}

fn access(qualified: &str, selects: Selects) -> AccessPolicy {
    let (namespace, name) = qualified.split_once('/').unwrap();
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    AccessPolicy { namespace, name, selects, action: Action::Deny, rules: Vec::new() }
}

#[test]
fn enrolment_decides_identity() {
    let snapshot = snapshot(&shop());
    let table = [
        ("shop/front/front-1", "spiffe://cluster.local/ns/shop/sa/front-1-sa"),
        ("shop/front/small-1", "spiffe://cluster.local/ns/shop/sa/small-1-sa"),
        ("shop/store/store-1", ""),
        ("outrigger-system/outrigger-shared/shared-1", "spiffe://cluster.local/ns/outrigger-system/sa/shared-1-sa"),
    ];
    for (name, identity) in table {
        let endpoint: wire::Endpoint = get(&snapshot, type_url::ENDPOINT, name).unwrap();
        assert_eq!((endpoint.identity.as_str(), endpoint.meshed), (identity, !identity.is_empty()), "{name}");
        let inbound: Option<wire::Inbound> = get(&snapshot, type_url::INBOUND, &endpoint.workload);
        assert_eq!(inbound.map(|i| i.identity).unwrap_or_default(), identity, "{name}");
        let known = snapshot.workloads.get(endpoint.workload.as_str());
        assert_eq!(known.map_or("", |id| id), identity, "{name}");
    }
    assert_eq!(snapshot.shared_identities, [Arc::from("spiffe://cluster.local/ns/outrigger-system/sa/shared-1-sa")]);
}

#[test]
fn services_have_aliases_and_workloads_are_services_of_their_own() {
    let mut inputs = shop();
    inputs.workloads[0].draining = true;
    inputs.services[0].ports[0].protocol = wire::Protocol::Http;
    let snapshot = snapshot(&inputs);
    let services = &snapshot.types[type_url::SERVICE];
    assert_eq!(services.aliases.get("@10.1.0.1").map(AsRef::as_ref), Some("shop/front"));
    let direct: wire::Service = get(&snapshot, type_url::SERVICE, "@10.2.0.1").unwrap();
    assert_eq!(direct.ports, [wire::ServicePort { port: 8080, name: String::new(), protocol: 1 }]);
    let endpoint = direct.direct.unwrap();
    assert_eq!((endpoint.workload.as_str(), endpoint.state()), ("shop/front-1", State::Draining));
    assert_eq!(inbound(&inputs, "shop/front-1").ports, direct.ports);
}

#[test]
fn an_address_belongs_to_one() {
    let mut inputs = shop();
    inputs.services[1].addresses = inputs.services[0].addresses.clone();
    inputs.workloads[0].addresses = inputs.services[0].addresses.clone();
    let built = build(&inputs, None);
    let objects: Vec<_> = built.problems.iter().map(|f| f.object.as_str()).collect();
    assert_eq!(objects, ["Service/shop/store", "Workload/shop/front-1"]);
    let services = &built.snapshot.types[type_url::SERVICE];
    assert_eq!(services.aliases.get("@10.1.0.1").map(AsRef::as_ref), Some("shop/front"));
    assert!(!services.resources.contains_key("@10.1.0.1"));
}

#[test]
fn a_workload_without_identity_stays_out() {
    let mut inputs = shop();
    inputs.workloads[0].service_account = "a/b".to_owned();
    let built = build(&inputs, None);
    assert_eq!(built.problems[0].field, "spec.serviceAccount");
    assert!(!built.snapshot.workloads.contains_key("shop/front-1"));
    let endpoint: wire::Endpoint = get(&built.snapshot, type_url::ENDPOINT, "shop/front/front-1").unwrap();
    assert!(!endpoint.meshed);
}

#[test]
fn traffic_policies_merge_field_by_field() {
    let mut inputs = shop();
    let number = |n: u32| TrafficSettings { max_connections: Some(n), ..TrafficSettings::default() };
    let front = vec![PolicyTarget::Service("shop/front".to_owned())];
    let hash = wire::Stickiness { key: Some(wire::stickiness::Key::Caller(true)) };
    inputs.traffic_policies = vec![
        traffic(
            "outrigger-system/mesh",
            vec![PolicyTarget::Mesh],
            TrafficSettings {
                balancer: Some(Balancer::ConsistentHash),
                hash_on: Some(hash),
                connect_timeout_ms: Some(7),
                ..number(1)
            },
        ),
        traffic(
            "shop/ns",
            vec![PolicyTarget::Namespace("shop".to_owned())],
            TrafficSettings { request_timeout_ms: Some(9), ..number(2) },
        ),
        traffic("shop/own", front, TrafficSettings { balancer: Some(Balancer::Random), ..number(3) }),
    ];
    let snapshot = snapshot(&inputs);
    let policy = |name: &str| {
        let service: wire::Service = get(&snapshot, type_url::SERVICE, name).unwrap();
        service.traffic_policy.unwrap()
    };
    let own = policy("shop/front");
    assert_eq!((own.balancer(), own.hash_on.clone()), (Balancer::Random, None));
    assert_eq!((own.max_connections, own.request_timeout_ms, own.connect_timeout_ms), (3, 9, 7));
    assert_eq!(own.source, "TrafficPolicy/shop/own");
    assert_eq!((policy("shop/store").max_connections, policy("@10.2.0.1").max_connections), (2, 2));
    let shared = policy("outrigger-system/outrigger-shared");
    assert_eq!((shared.max_connections, shared.balancer()), (1, Balancer::ConsistentHash));
    assert!(shared.hash_on.is_some());
}

#[test]
fn failure_policy_follows_the_workload() {
    let on = |failure| TrafficSettings { on_sidecar_failure: Some(failure), ..TrafficSettings::default() };
    let mesh = traffic("outrigger-system/mesh", vec![PolicyTarget::Mesh], on(OnSidecarFailure::Closed));
    let namespace = traffic("shop/ns", vec![PolicyTarget::Namespace("shop".to_owned())], on(OnSidecarFailure::Direct));
    let front =
        traffic("shop/own", vec![PolicyTarget::Service("shop/front".to_owned())], on(OnSidecarFailure::Fallback));
    let table = [
        (vec![], OnSidecarFailure::Direct),
        (vec![mesh.clone()], OnSidecarFailure::Closed),
        (vec![mesh.clone(), namespace.clone()], OnSidecarFailure::Direct),
        (vec![mesh, namespace, front], OnSidecarFailure::Fallback),
    ];
    for (policies, expected) in table {
        let mut inputs = shop();
        inputs.mesh.on_sidecar_failure = OnSidecarFailure::Direct;
        inputs.traffic_policies = policies;
        let fallback = inbound(&inputs, "shop/front-1").fallback.unwrap();
        assert_eq!(fallback.on_sidecar_failure(), expected);
        assert_eq!(fallback.shared_service, "outrigger-system/outrigger-shared");
    }
}

fn pool_of_the_shop() -> Vec<SharedPool> {
    vec![SharedPool { namespaces: vec!["shop".to_owned()], service: "outrigger-system/pool".to_owned() }]
}

#[test]
fn a_namespace_with_a_pool_has_its_shared_proxies_and_no_others() {
    let mut inputs = shop();
    inputs.mesh.pools = pool_of_the_shop();
    inputs.services.push(service("outrigger-system/pool", "10.1.0.4", &[15008]));
    inputs.workloads.push(workload("outrigger-system/pool-1", "10.2.0.5", None));
    inputs.workloads.push(workload("elsewhere/app-1", "10.2.0.6", Some(Mode::Sidecar)));
    inputs.endpoints.push(endpoint("outrigger-system/pool", "outrigger-system/pool-1", &[(15008, 15008)]));
    // Whoever is called may be called by any of them.
    let all = ["pool-1-sa", "shared-1-sa"].map(|name| format!("spiffe://cluster.local/ns/outrigger-system/sa/{name}"));
    for (workload, shared) in [
        ("shop/front-1", "outrigger-system/pool"),
        ("shop/small-1", "outrigger-system/pool"),
        ("elsewhere/app-1", "outrigger-system/outrigger-shared"),
        ("outrigger-system/pool-1", "outrigger-system/outrigger-shared"),
        ("outrigger-system/shared-1", "outrigger-system/outrigger-shared"),
    ] {
        let inbound = inbound(&inputs, workload);
        assert_eq!(inbound.fallback.unwrap().shared_service, shared, "{workload}");
        assert_eq!(inbound.acting_identities, all, "{workload}");
    }
    // They are served everything.
    assert_eq!(snapshot(&inputs).shared_identities, all.map(Arc::from));
}

/// It is installed before the MeshConfig names it, and has to be ready by then.
#[test]
fn a_pool_that_nobody_uses_yet_is_in_the_mesh() {
    let mut inputs = shop();
    let mut pool = workload("outrigger-system/pool-1", "10.2.0.5", None);
    pool.service_account = "outrigger-shared".to_owned();
    inputs.workloads.push(pool);
    assert_eq!(
        inbound(&inputs, "outrigger-system/pool-1").identity,
        "spiffe://cluster.local/ns/outrigger-system/sa/outrigger-shared"
    );
}

#[test]
fn a_pool_that_is_not_there_is_told_and_no_other_takes_its_place() {
    let mut inputs = shop();
    inputs.mesh.pools = pool_of_the_shop();
    let built = build(&inputs, None);
    let told: Vec<_> = built.problems.iter().map(|it| (&*it.object, &*it.field, it.reason)).collect();
    assert_eq!(told, [("MeshConfig/default", "spec.fallback.pools[0].sharedProxy", Reason::TargetNotFound)]);
    let inbound: wire::Inbound = get(&built.snapshot, type_url::INBOUND, "shop/front-1").unwrap();
    assert_eq!(inbound.fallback.unwrap().shared_service, "");
}

#[test]
fn what_becomes_of_calls_without_a_control_plane_follows_the_workload_too() {
    let of = |loss, grace| TrafficSettings {
        on_control_plane_loss: loss,
        control_plane_loss_grace_ms: grace,
        ..TrafficSettings::default()
    };
    let (closed, goes_on) = (Some(OnControlPlaneLoss::Closed), Some(OnControlPlaneLoss::Continue));
    let mesh = |settings| traffic("outrigger-system/mesh", vec![PolicyTarget::Mesh], settings);
    let front = |settings| traffic("shop/own", vec![PolicyTarget::Service("shop/front".to_owned())], settings);
    for (policies, loss, grace) in [
        (vec![], OnControlPlaneLoss::Continue, 0),
        (vec![mesh(of(closed, None))], OnControlPlaneLoss::Closed, 600_000),
        (vec![mesh(of(closed, Some(0)))], OnControlPlaneLoss::Closed, 0),
        // Each is inherited on its own.
        (vec![mesh(of(closed, None)), front(of(None, Some(60_000)))], OnControlPlaneLoss::Closed, 60_000),
        (vec![mesh(of(closed, None)), front(of(goes_on, None))], OnControlPlaneLoss::Continue, 0),
    ] {
        let fallback = inbound(&Inputs { traffic_policies: policies, ..shop() }, "shop/front-1").fallback.unwrap();
        assert_eq!((fallback.on_control_plane_loss(), fallback.control_plane_loss_grace_ms), (loss, grace));
    }
}

#[test]
fn policies_out_of_reach_are_ignored_and_conflicts_reported() {
    let mut inputs = shop();
    let settings = |n: u32| TrafficSettings { max_connections: Some(n), ..TrafficSettings::default() };
    let front = || PolicyTarget::Service("shop/front".to_owned());
    inputs.traffic_policies = vec![
        traffic("shop/a", vec![front()], settings(1)),
        traffic("shop/b", vec![front()], settings(2)),
        traffic("shop/c", vec![PolicyTarget::Mesh], settings(3)),
        traffic("other/d", vec![front(), PolicyTarget::Namespace("shop".to_owned())], settings(4)),
        traffic("shop/e", vec![PolicyTarget::Service("shop/none".to_owned())], settings(5)),
    ];
    let built = build(&inputs, None);
    let found: Vec<_> = built.problems.iter().map(|f| format!("{} {}", f.object, f.field)).collect();
    assert_eq!(
        found,
        [
            "TrafficPolicy/other/d spec.targetRefs[0]",
            "TrafficPolicy/other/d spec.targetRefs[1]",
            "TrafficPolicy/shop/b spec.targetRefs[0]",
            "TrafficPolicy/shop/c spec.targetRefs[0]",
            "TrafficPolicy/shop/e spec.targetRefs[0]",
        ]
    );
    let service: wire::Service = get(&built.snapshot, type_url::SERVICE, "shop/front").unwrap();
    assert_eq!(service.traffic_policy.unwrap().max_connections, 1);
    let store: wire::Service = get(&built.snapshot, type_url::SERVICE, "shop/store").unwrap();
    assert_eq!(store.traffic_policy, None);
}

#[test]
fn access_policies_select_workloads() {
    let labels = BTreeMap::from([("app".to_owned(), "front".to_owned())]);
    let table = [
        (access("shop/p", Selects::All), true),
        (access("other/p", Selects::All), false),
        (access("outrigger-system/p", Selects::All), true),
        (access("shop/p", Selects::Labels(labels.clone())), true),
        (access("outrigger-system/p", Selects::Labels(labels.clone())), false),
        (access("shop/p", Selects::Labels([("app".to_owned(), "x".to_owned())].into())), false),
        (access("shop/p", Selects::Services(vec!["shop/front".to_owned()])), true),
        (access("shop/p", Selects::Services(vec!["shop/store".to_owned()])), false),
    ];
    for (policy, selected) in table {
        let mut inputs = shop();
        inputs.workloads[0].labels = Arc::new(labels.clone());
        inputs.access_policies = vec![policy.clone()];
        let names: Vec<_> = inbound(&inputs, "shop/front-1").policies.into_iter().map(|p| p.name).collect();
        assert_eq!(names == [policy.origin()], selected, "{policy:?}");
    }
}

#[test]
fn a_default_of_deny_is_an_allow_policy_without_rules() {
    let mut inputs = shop();
    inputs.mesh.access_default = AccessDefault::Deny;
    let policy =
        wire::AccessPolicy { name: "MeshConfig/default".to_owned(), action: Action::Allow.into(), rules: Vec::new() };
    assert_eq!(inbound(&inputs, "shop/front-1").policies, [policy]);
}

#[test]
fn order_of_inputs_does_not_matter() {
    let mut inputs = shop();
    inputs.access_policies = vec![access("shop/a", Selects::All), access("shop/b", Selects::All)];
    inputs.routes = vec![
        route(RouteKind::HttpRoute, "shop/a", "shop/front", vec![rule(vec![path("/")], &["shop/none:80"])]),
        route(RouteKind::MeshRoute, "shop/b", "shop/front", vec![rule(vec![path("/")], &["shop/store:5432"])]),
    ];
    let settings = TrafficSettings { max_connections: Some(1), ..TrafficSettings::default() };
    let front = || vec![PolicyTarget::Service("shop/front".to_owned())];
    inputs.traffic_policies = vec![traffic("shop/a", front(), settings.clone()), traffic("shop/b", front(), settings)];
    let first = build(&inputs, None);
    let mut shuffled = inputs.clone();
    for turn in 0..6 {
        shuffled.services.rotate_left(1);
        shuffled.workloads.rotate_left(turn % 3);
        shuffled.endpoints.reverse();
        shuffled.routes.reverse();
        shuffled.access_policies.rotate_left(1);
        shuffled.traffic_policies.rotate_left(1);
        let again = build(&shuffled, None);
        assert_eq!(again.snapshot, first.snapshot);
        assert_eq!(again.problems, first.problems);
        assert_eq!(again.affects, first.affects);
    }
}

#[test]
fn what_an_object_has_an_effect_on() {
    let mut inputs = shop();
    let settings = TrafficSettings::default;
    inputs.routes = vec![
        route(RouteKind::HttpRoute, "shop/r", "shop/front", vec![rule(vec![], &["shop/store:5432"])]),
        route(RouteKind::MeshRoute, "shop/none", "shop/none", vec![rule(vec![], &["shop/store:5432"])]),
    ];
    inputs.traffic_policies = vec![
        traffic("shop/front", vec![PolicyTarget::Service("shop/front".to_owned())], settings()),
        traffic("shop/all", vec![PolicyTarget::Namespace("shop".to_owned())], settings()),
        traffic("outrigger-system/mesh", vec![PolicyTarget::Mesh], settings()),
    ];
    inputs.access_policies = vec![
        access("shop/front", Selects::Services(vec!["shop/front".to_owned()])),
        access("outrigger-system/all", Selects::All),
    ];
    let affects = build(&inputs, None).affects;
    let table = [
        ("HTTPRoute/shop/r", "Service: shop/front"),
        ("MeshRoute/shop/none", ""),
        ("TrafficPolicy/shop/front", "Inbound: shop/front-1 shop/small-1; Service: shop/front"),
        (
            "TrafficPolicy/shop/all",
            "Inbound: shop/front-1 shop/small-1; Service: @10.2.0.1 @10.2.0.2 @10.2.0.3 shop/front shop/store",
        ),
        ("TrafficPolicy/outrigger-system/mesh", "Inbound: *; Service: *"),
        ("AccessPolicy/shop/front", "Inbound: shop/front-1 shop/small-1"),
        ("AccessPolicy/outrigger-system/all", "Inbound: *"),
        ("MeshConfig/default", "Inbound: *; Trust: *"),
        ("Workload/shop/front-1", "Endpoint: shop/front/front-1; Inbound: shop/front-1; Service: @10.2.0.1"),
        // Not enrolled.
        ("Workload/shop/store-1", "Endpoint: shop/store/store-1; Service: @10.2.0.2"),
    ];
    for (origin, expected) in table {
        let effects = affects.of(origin).iter().map(|(url, reach)| {
            let names = match reach {
                Reach::All => "*".to_owned(),
                Reach::Named(names) => names.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" "),
            };
            format!("{}: {names}", url.rsplit('.').next().unwrap())
        });
        assert_eq!(effects.collect::<Vec<_>>().join("; "), expected, "{origin}");
    }
}

#[test]
fn marks_follow_what_has_an_effect() {
    let mut inputs = shop();
    inputs.routes = vec![route(RouteKind::HttpRoute, "shop/r", "shop/front", vec![rule(vec![], &["shop/store:5432"])])];
    let marks = |inputs: &Inputs| {
        let built = build(inputs, None);
        let mut marks = Marks::new(&built.snapshot);
        ["HTTPRoute/shop/r", "MeshConfig/default"].map(|origin| marks.of(built.affects.of(origin)))
    };
    let before = marks(&inputs);
    inputs.mesh.mtls = wire::inbound::Mtls::Strict;
    let [route, mesh] = marks(&inputs);
    assert_eq!((route == before[0], mesh == before[1]), (true, false));
    inputs.routes[0].rules[0].request_timeout_ms = Some(1);
    assert_ne!(marks(&inputs)[0], before[0]);
}

#[test]
fn what_did_not_change_is_shared() {
    let mut inputs = shop();
    let first = snapshot(&inputs);
    let same = build(&inputs, Some(&first)).snapshot;
    assert_eq!(same.generation, first.generation);
    for (url, set) in &first.types {
        assert!(Arc::ptr_eq(set, &same.types[url]), "{url}");
    }

    inputs.workloads[0].weight = 5;
    let changed = build(&inputs, Some(&first)).snapshot;
    assert_eq!(changed.generation, first.generation + 1);
    for url in [type_url::INBOUND, type_url::TRUST] {
        assert!(Arc::ptr_eq(&first.types[url], &changed.types[url]), "{url}");
    }
    let changes = |url: &str| {
        let (before, after) = (&first.types[url].resources, &changed.types[url].resources);
        let changed = after.iter().filter(|(name, resource)| !Arc::ptr_eq(&before[*name], resource));
        changed.map(|(name, _)| name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(changes(type_url::ENDPOINT), ["shop/front/front-1"]);
    assert_eq!(changes(type_url::SERVICE), ["@10.2.0.1"]);

    inputs.workloads.remove(0);
    let fewer = build(&inputs, Some(&changed)).snapshot;
    assert!(!fewer.types[type_url::ENDPOINT].resources.contains_key("shop/front/front-1"));
    assert_eq!(fewer.generation, changed.generation + 1);
}

#[test]
fn versions_are_of_the_bytes() {
    let snapshot = snapshot(&shop());
    let trust = &snapshot.types[type_url::TRUST].resources["cluster.local"];
    // First 8 bytes of the SHA-256 of field 1 = "cluster.local".
    assert_eq!(trust.body.as_ref(), b"\x0a\x0dcluster.local");
    assert_eq!(trust.version.len(), 16);
    let versions: BTreeSet<_> =
        snapshot.types.values().flat_map(|t| t.resources.values()).map(|r| &r.version).collect();
    assert_eq!(versions.len(), snapshot.types.values().map(|t| t.resources.len()).sum::<usize>());
}
