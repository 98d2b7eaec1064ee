//! Who may call: the only policy, or the last of a hundred, lets the request in.

use std::hint::black_box;

use anyhow::{Result, ensure};
use http::Method;
use outrigger_core::{
    access::{AccessRequest, HttpView},
    config::Inbound,
    route::CallerView,
};
use outrigger_wire::proto::config as proto;
use proto::access_policy::Action;

use super::{Case, Once, wire};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::here("access/1", "one policy, which allows", 20_000, || last_of(1)),
        Case::here("access/100", "the last of 100 policies allows", 2_000, || last_of(100)),
    ]
}

/// Every fourth one denies something else; the last one is about this request.
pub(super) fn inbound(policies: usize) -> proto::Inbound {
    let policy = |index: usize| {
        let last = index + 1 == policies;
        let denies = !last && index.is_multiple_of(4);
        let caller = if last { "front".to_owned() } else { wire::word(index) };
        let rule = proto::AccessRule {
            from: vec![wire::from(&caller)],
            ports: vec![8080],
            methods: vec!["GET".to_owned(), "POST".to_owned()],
            paths: vec![wire::prefix("/api")],
            headers: vec![wire::key("x-tenant", "blue")],
            ..proto::AccessRule::default()
        };
        let action = if denies { Action::Deny } else { Action::Allow };
        proto::AccessPolicy {
            name: format!("AccessPolicy/shop/{}", wire::word(index)),
            action: action.into(),
            rules: vec![rule],
        }
    };
    proto::Inbound {
        workload: "shop/cart-0".to_owned(),
        identity: wire::identity("cart"),
        policies: (0..policies).map(policy).collect(),
        ..proto::Inbound::default()
    }
}

fn last_of(policies: usize) -> Result<Once> {
    let inbound = Inbound::compile(inbound(policies))?;
    let caller = wire::spiffe("front")?;
    let (method, headers) = (Method::GET, wire::headers(&[]));
    Ok(Box::new(move || {
        let request = AccessRequest {
            caller: CallerView { identity: Some(&caller), address: [10, 8, 0, 1].into() },
            port: 8080,
            http: Some(HttpView {
                method: &method,
                path: "/api/cart/items/42",
                host: "cart.shop:80",
                headers: &headers,
            }),
        };
        let verdict = black_box(inbound.authorise(black_box(&request)));
        ensure!(verdict.allowed && verdict.policy.is_some(), "the policy doesn't allow what it is about");
        Ok(())
    }))
}
