//! What the control plane does: everything that proxies are served, derived from fixed objects.

use std::{collections::BTreeMap, hint::black_box};

use anyhow::{Result, ensure};
use outrigger_model::{
    Inputs, build,
    inputs::{
        AccessPolicy, Endpoint, Mode, Namespace, PolicyTarget, Port, Route, RouteKind, RouteMatch, RouteParent,
        RouteRule, Selects, Service, TrafficPolicy, TrafficSettings, Workload,
    },
};
use outrigger_wire::proto::config as proto;
use proto::access_policy::Action;

use super::{Case, Once, wire};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::here("derive/all", "100 services, 300 workloads, 50 routes, 30 policies from nothing", 2, all),
        Case::here("derive/change", "the same after one workload has begun or ceased to drain", 2, change),
    ]
}

const SERVICES: usize = 100;
const WORKLOADS_EACH: usize = 3;
const ROUTES: usize = 50;
const POLICIES: usize = 20;

fn all() -> Result<Once> {
    let inputs = inputs();
    let problems = build(&inputs, None).problems;
    ensure!(problems.is_empty(), "the inputs have problems: {problems:?}");
    Ok(Box::new(move || {
        black_box(build(black_box(&inputs), None));
        Ok(())
    }))
}

fn change() -> Result<Once> {
    let mut inputs = inputs();
    let mut snapshot = build(&inputs, None).snapshot;
    Ok(Box::new(move || {
        let workload = &mut inputs.workloads[SERVICES];
        workload.draining = !workload.draining;
        let next = build(black_box(&inputs), Some(&snapshot)).snapshot;
        ensure!(next.generation == snapshot.generation + 1, "a change changed nothing");
        snapshot = next;
        Ok(())
    }))
}

fn inputs() -> Inputs {
    Inputs {
        namespaces: vec![Namespace { name: "shop".to_owned(), mode: Some(Mode::Sidecar) }],
        services: (0..SERVICES).map(service).collect(),
        workloads: (0..SERVICES * WORKLOADS_EACH).map(workload).collect(),
        endpoints: (0..SERVICES * WORKLOADS_EACH).map(endpoint).collect(),
        routes: (0..ROUTES).map(route).collect(),
        traffic_policies: (0..POLICIES / 2).map(traffic_policy).collect(),
        access_policies: (0..POLICIES).map(access_policy).collect(),
        ..Inputs::default()
    }
}

fn qualified(service: usize) -> String {
    format!("shop/{}", wire::word(service))
}

fn service(index: usize) -> Service {
    Service {
        origin: format!("Service/{}", qualified(index)),
        namespace: "shop".to_owned(),
        name: wire::word(index),
        addresses: vec![[10, 1, 0, u8::try_from(index + 1).unwrap_or(u8::MAX)].into()],
        ports: vec![Port { port: 80, name: "http".to_owned(), protocol: proto::Protocol::Http }],
    }
}

fn workload(index: usize) -> Workload {
    let name = format!("{}-{}", wire::word(index % SERVICES), index / SERVICES);
    let octet = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    Workload {
        origin: format!("Workload/shop/{name}"),
        namespace: "shop".to_owned(),
        service_account: wire::word(index % SERVICES),
        addresses: vec![[10, 2, octet(index / 250), octet(index % 250 + 1)].into()],
        labels: BTreeMap::from([("app".to_owned(), wire::word(index % SERVICES))]).into(),
        ports: vec![Port { port: 8080, name: "http".to_owned(), protocol: proto::Protocol::Http }],
        zone: ["a", "b", "c"][index % 3].to_owned(),
        name,
        ..Workload::default()
    }
}

fn endpoint(index: usize) -> Endpoint {
    let service = qualified(index % SERVICES);
    Endpoint {
        workload: format!("{service}-{}", index / SERVICES),
        service,
        ports: vec![(80, 8080)],
        ..Endpoint::default()
    }
}

/// Each splits the requests of a service between itself and its neighbour.
fn route(index: usize) -> Route {
    let rule = |at: usize| {
        let path = Some(wire::prefix(&format!("/api/{}", wire::word(at))));
        let request = proto::RouteMatch { path, ..proto::RouteMatch::default() };
        RouteRule {
            matches: vec![RouteMatch { request, grpc: None }],
            backends: vec![wire::to(&qualified(index), 80), wire::to(&qualified(index + 1), 80)],
            ..RouteRule::default()
        }
    };
    Route {
        kind: RouteKind::HttpRoute,
        namespace: "shop".to_owned(),
        name: wire::word(index),
        created: None,
        parents: vec![RouteParent { index: 0, service: qualified(index), port: None }],
        rules: (0..4).map(rule).collect(),
    }
}

fn traffic_policy(index: usize) -> TrafficPolicy {
    TrafficPolicy {
        namespace: "shop".to_owned(),
        name: wire::word(index),
        created: None,
        targets: vec![PolicyTarget::Service(qualified(index))],
        settings: TrafficSettings { request_timeout_ms: Some(500), ..TrafficSettings::default() },
    }
}

fn access_policy(index: usize) -> AccessPolicy {
    let rule = proto::AccessRule {
        from: vec![wire::from(&wire::word(index + 1))],
        paths: vec![wire::prefix("/api")],
        ..proto::AccessRule::default()
    };
    AccessPolicy {
        namespace: "shop".to_owned(),
        name: wire::word(index),
        selects: Selects::Labels(BTreeMap::from([("app".to_owned(), wire::word(index))])),
        action: Action::Allow,
        rules: vec![rule],
    }
}
