//! Which rule a request gets, and who gets which route.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use outrigger_testbed::{Load, LoadSpec, Machine, Mesh, Outcome, Samples, probe::wait_until};

use super::{SHOP, address, ask, mesh, version};
use crate::raw::{PATIENCE, Wire, every};

const ROUTES: &str = include_str!("matches.yaml");

/// Request line, headers, and the rule that is to answer with which version.
const TABLE: &[(&str, &str, &str, &str)] = &[
    ("GET /api", "", "prefix", "v1"),
    ("GET /api/", "", "prefix", "v1"),
    ("GET /api/other", "", "prefix", "v1"),
    ("GET /api/deep", "", "longer-prefix", "v2"),
    ("GET /api/deep/more", "", "longer-prefix", "v2"),
    ("GET /api/deeper", "", "prefix", "v1"),
    ("GET /api/deep/exact", "", "exact", "v1"),
    ("PUT /api/deep/exact", "x-user: anna\r\n", "exact", "v1"),
    ("PUT /api/x", "", "method", "v2"),
    ("PUT /api/x?q=1", "x-user: anna\r\n", "method", "v2"),
    ("GET /api/x?q=1", "", "query", "v2"),
    ("GET /api/x?a=b&q=1", "", "query", "v2"),
    ("GET /api/x?q=2", "", "prefix", "v1"),
    ("GET /api/x", "x-user: anna\r\n", "header", "v2"),
    ("GET /api/x?q=1", "x-user: anna\r\n", "header", "v2"),
    ("GET /api/x", "x-user: annabel\r\n", "prefix", "v1"),
    ("GET /api/../api/deep/exact", "", "exact", "v1"),
    ("GET /item/42", "", "regex", "v2"),
];

/// Requests that no backend answers, and the status that they get.
const NOT_ANSWERED: &[(&str, u16)] = &[
    ("GET /apis", 404),
    ("GET /item/a", 404),
    ("GET /item/42/x", 404),
    ("GET /", 404),
    ("GET /nowhere", 500),
    ("GET /zero", 500),
];

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine, &[("matches.yaml", ROUTES)])?;
    let mut results = Vec::new();
    for (line, headers, rule, want) in TABLE {
        results.push((format!("{line} {headers:?}"), matched(&mesh, line, headers, rule, want)));
    }
    for (line, status) in NOT_ANSWERED {
        let answer = ask(&mesh, "shop/caller", SHOP, line, "").and_then(|answer| answer.expect(*status));
        results.push(((*line).to_owned(), answer.map(|_| ())));
    }
    results.push(("unmeshed backend".to_owned(), unmeshed(&mesh)));
    results.push(("90/10".to_owned(), split(&mesh)));
    results.push(("parentRef.port".to_owned(), other_port(&mesh)));
    results.push(("consumer route".to_owned(), consumer(&mesh)));
    results.push(("GRPCRoute".to_owned(), grpc(&mesh)));
    every(results)
}

fn matched(mesh: &Mesh, line: &str, headers: &str, rule: &str, want: &str) -> Result<()> {
    let answer = ask(mesh, "shop/caller", SHOP, line, headers)?;
    ensure!(version(&answer)? == want && answer.header("x-rule") == Some(rule), "{answer:?}");
    Ok(())
}

fn unmeshed(mesh: &Mesh) -> Result<()> {
    let answer = ask(mesh, "shop/caller", SHOP, "GET /legacy", "")?;
    ensure!(version(&answer)? == "old", "{answer:?}");
    Ok(())
}

/// 2,000 draws of 10 %: five standard deviations are 3.4 %.
fn split(mesh: &Mesh) -> Result<()> {
    let mut wire = Wire::open(mesh.pod("shop/caller")?, address(SHOP)?)?;
    let mut count = BTreeMap::<String, usize>::new();
    for _ in 0..2000 {
        *count.entry(version(&wire.ask("GET /split", "")?)?.to_owned()).or_default() += 1;
    }
    let second = count.get("v2").copied().unwrap_or_default();
    ensure!((132..=268).contains(&second), "{count:?}");
    Ok(())
}

/// The route names port 80, so calls to port 81 go where the service leads.
fn other_port(mesh: &Mesh) -> Result<()> {
    let mut other = address(SHOP)?;
    other.set_port(81);
    let answer = Wire::open(mesh.pod("shop/caller")?, other)?.ask("GET /no-such-rule", "")?;
    version(&answer).map(|_| ())
}

fn consumer(mesh: &Mesh) -> Result<()> {
    let answer = ask(mesh, "other/caller", SHOP, "GET /api", "")?.expect(301)?;
    ensure!(answer.header("location") == Some("http://consumer.example/api"), "{answer:?}");
    matched(mesh, "GET /api", "", "prefix", "v1")
}

fn grpc(mesh: &Mesh) -> Result<()> {
    let target = "grpc://10.96.2.14:9090".parse().map_err(anyhow::Error::msg)?;
    let mut spec = LoadSpec { keep_alive: true, ..LoadSpec::new(target, 100) };
    let samples = twenty(mesh, &spec)?;
    ensure!(samples.failed() == 0, "{:?}", samples.by_outcome());
    spec.headers.insert("x-gone", http::HeaderValue::from_static("yes"));
    // An invalid backend: a status of gRPC's own, not of HTTP's.
    let samples = twenty(mesh, &spec)?;
    ensure!(
        samples.by_outcome().keys().all(|outcome| matches!(outcome, Outcome::Grpc(13 | 14))),
        "{:?}",
        samples.by_outcome()
    );
    Ok(())
}

fn twenty(mesh: &Mesh, spec: &LoadSpec) -> Result<Samples> {
    let load = Load::start(mesh.pod("shop/caller")?, spec)?;
    wait_until("20 calls", PATIENCE, || load.samples().len() >= 20)?;
    load.finish()
}
