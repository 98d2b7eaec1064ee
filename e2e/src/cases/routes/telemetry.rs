//! What can be seen of requests afterwards: traces, metrics, the access log.

use std::{collections::BTreeSet, sync::mpsc};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, Pod, probe::wait_until};

use super::{SHOP, address, ask, mesh};
use crate::raw::{PATIENCE, Server, Wire, every};

const CALLER: &str = "shop/caller";
/// Service of the pod without an app.
const WITNESS: &str = "10.96.2.13";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine, &[])?;
    every(vec![
        ("trace context".to_owned(), trace(&mesh)),
        ("metrics".to_owned(), metrics(&mesh)),
        ("bounded labels".to_owned(), bounded(&mesh)),
        ("access log".to_owned(), access_log(&mesh)),
    ])
}

fn trace(mesh: &Mesh) -> Result<()> {
    let header = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\ntracestate: vendor=1\r\n");
    let said = ask(mesh, CALLER, SHOP, "GET /", &header)?.expect(200)?.json()?;
    let parent = said["headers"]["traceparent"].as_str().context("no traceparent")?.to_owned();
    ensure!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"), "{parent}");
    ensure!(said["headers"]["tracestate"] == "vendor=1", "{said}");
    // A caller who said nothing gets a trace of his own, and a bad one isn't passed on.
    for header in ["", "traceparent: 00-00000000000000000000000000000000-00f067aa0ba902b7-01\r\n"] {
        let said = ask(mesh, CALLER, SHOP, "GET /", header)?.expect(200)?.json()?;
        let parent = said["headers"]["traceparent"].as_str().unwrap_or_default().to_owned();
        ensure!(parent.len() == 55 && !parent.contains("-0000000000000000"), "{parent:?}");
    }
    Ok(())
}

fn sum(pod: &Pod, name: &str, label: &str, value: &str) -> f64 {
    let metrics = pod.metrics();
    let of = metrics.iter().filter(|metric| metric.name == name);
    of.filter(|metric| metric.labels.get(label).is_some_and(|found| found == value)).map(|metric| metric.value).sum()
}

fn metrics(mesh: &Mesh) -> Result<()> {
    let caller = mesh.pod(CALLER)?;
    let count = || sum(caller, "outrigger_http_requests_total", "code", "404");
    let (before, bytes) = (count(), sum(caller, "outrigger_http_request_bytes_total", "direction", "outbound"));
    let mut wire = Wire::open(caller, address(SHOP)?)?;
    for _ in 0..7 {
        wire.send("POST /status/404 HTTP/1.1\r\nhost: raw\r\ncontent-length: 100\r\n\r\n")?;
        wire.send([b'x'; 100])?;
        wire.message()?.expect(404)?;
    }
    wait_until("the counts of requests", PATIENCE, || count() - before >= 7.0)?;
    ensure!(count() - before == 7.0, "{} requests instead of 7", count() - before);
    let grown = sum(caller, "outrigger_http_request_bytes_total", "direction", "outbound") - bytes;
    ensure!(grown == 700.0, "{grown} bytes instead of 700");
    let names: BTreeSet<_> = caller.metrics().into_iter().map(|metric| metric.name).collect();
    for name in [
        "outrigger_http_request_duration_seconds_bucket",
        "outrigger_http_response_bytes_total",
        "outrigger_connections_opened_total",
        "outrigger_connections_active",
        "outrigger_fallback_connections_total",
        "outrigger_config_generation",
        "outrigger_certificate_expiry_timestamp_seconds",
    ] {
        ensure!(names.contains(name), "no {name} among {names:?}");
    }
    ensure!(sum(caller, "outrigger_connections_active", "listener", "outbound") >= 1.0, "our own connection");
    Ok(())
}

/// Whatever requests say of themselves, they make no series.
fn bounded(mesh: &Mesh) -> Result<()> {
    let (caller, server) = (mesh.pod(CALLER)?, mesh.pod("shop/catalog-v1")?);
    let mut wire = Wire::open(caller, address(SHOP)?)?;
    let mut one = |turn: usize| -> Result<()> {
        wire.send(format!(
            "GET /path/{turn}?q={turn} HTTP/1.1\r\nhost: host-{turn}.example\r\nuser-agent: a{turn}\r\n\r\n"
        ))?;
        wire.message()?.expect(200).map(|_| ())
    };
    // Both endpoints answer some of these, so that all series are there.
    (0..100).try_for_each(&mut one)?;
    let series = || (caller.metrics().len(), server.metrics().len());
    let before = series();
    ensure!(before.0 > 30 && before.1 > 30, "{before:?} series");
    (100..1100).try_for_each(&mut one)?;
    let after = series();
    // One that comes late is of the proxy's own; a thousand paths and hosts would show.
    ensure!(after.0 <= before.0 + 5 && after.1 <= before.1 + 5, "{before:?} series became {after:?}");
    Ok(())
}

fn access_log(mesh: &Mesh) -> Result<()> {
    let caller = mesh.pod(CALLER)?;
    let sidecar = caller.sidecar()?;
    let records = |path: &str| -> Vec<serde_json::Value> {
        let log = sidecar.log();
        let records = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        records.filter(|record| record["path"] == path).collect()
    };
    let mut wire = Wire::open(caller, address(SHOP)?)?;
    for _ in 0..10 {
        wire.ask("GET /logged?secret=1", &format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01\r\n"))?.expect(200)?;
    }
    wait_until("ten records", PATIENCE, || records("/logged").len() >= 10)?;
    let found = records("/logged");
    ensure!(found.len() == 10, "{} records of 10 requests", found.len());
    let record = &found[0];
    ensure!(record["status"] == 200 && record["method"] == "GET", "{record}");
    ensure!(record.to_string().contains(TRACE) && record.to_string().contains("shop/catalog"), "{record}");
    ensure!(!record.to_string().contains("secret"), "a query in the log: {record}");

    // A caller who goes away in the middle of the answer, or before it, leaves a record too, and only one.
    let mut wire = Wire::open(caller, address(SHOP)?)?;
    wire.send("GET /stream?chunks=200&ms=10 HTTP/1.1\r\nhost: raw\r\n\r\n")?;
    wire.head()?.expect(200)?;
    drop(wire);
    let (arrived, arrival) = mpsc::channel();
    let _silent = Server::in_pod(mesh.pod("shop/witness")?, 8080, move |stream| {
        let mut app = Wire::of(stream)?;
        arrived.send(app.head()?.first)?;
        app.until_end().map(|_| ())
    })?;
    let mut wire = Wire::open(caller, address(WITNESS)?)?;
    wire.send("GET /slow HTTP/1.1\r\nhost: raw\r\n\r\n")?;
    arrival.recv_timeout(PATIENCE).context("the request at the app")?;
    drop(wire);
    for path in ["/stream", "/slow"] {
        wait_until(&format!("a record of {path}"), PATIENCE, || !records(path).is_empty())?;
        let found = records(path);
        ensure!(found.len() == 1, "{found:?}");
        ensure!(found[0]["status"] == 499 || found[0].to_string().contains("downstream_gone"), "{found:?}");
    }
    Ok(())
}
