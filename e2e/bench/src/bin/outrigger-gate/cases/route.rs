//! Which rule a request meets: tables of several lengths, and a request that only the last rule wants.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use http::Method;
use outrigger_core::{
    config::Service,
    route::{CallerView, RequestView},
};

use super::{Case, Once, wire};

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::here("route/1", "a table of one rule", 20_000, || last_of(1)),
        Case::here("route/50", "the last of 50 rules, by path and header", 10_000, || last_of(50)),
        Case::here("route/1000", "the last of 1000 rules, by path and header", 500, || last_of(1000)),
        Case::here("route/none", "a path that none of 50 rules wants", 10_000, none_of_50),
    ]
}

fn last_of(rules: usize) -> Result<Once> {
    select(rules, format!("/api/{}/items/42", wire::word(rules - 1)), true)
}

fn none_of_50() -> Result<Once> {
    select(50, "/api/elsewhere/items/42".to_owned(), false)
}

fn select(rules: usize, path: String, found: bool) -> Result<Once> {
    let service = Service::compile(wire::service("shop/cart", rules))?;
    let caller = wire::spiffe("front")?;
    let (method, headers) = (Method::GET, wire::headers(&[]));
    Ok(Box::new(move || {
        let request = RequestView {
            method: &method,
            path: &path,
            query: Some("page=2"),
            headers: &headers,
            caller: CallerView { identity: Some(&caller), address: [10, 8, 0, 1].into() },
        };
        let table = service.table("shop", 80).context("the service has no table")?;
        let selected = table.select(black_box(&request), &mut || 7);
        ensure!(black_box(selected).is_some() == found, "{path} met the wrong rule");
        Ok(())
    }))
}
