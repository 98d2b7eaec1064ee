//! Everything that is measured under load: what a request, a connection or a byte costs, and how long it takes.

use anyhow::{Context, Result, ensure};

use crate::{
    data::{Table, Tables},
    load::Ask,
    measure::{Cpus, Plan},
    peers::nginx::BODY,
    stage::Stage,
    subject::{Speech, Subject, Way},
};

/// Requests under way, where CPU time is what is measured.
const MANY: u32 = 32;
/// They come over so many connections where each carries several.
const SHARED_BY: u32 = 4;
const SINGLE: [Way; 4] = [Way::Nginx, Way::Haproxy, Way::Envoy, Way::Sidecar];
const FIXED_RATE: f64 = 1000.0;
/// Percent of what the slowest can do.
pub(crate) const LOADS: [u32; 4] = [10, 30, 50, 70];
pub(crate) const OPEN: [Way; 5] = [Way::Nginx, Way::Envoy, Way::Sidecar, Way::EnvoyPair, Way::SidecarPair];

pub(super) fn http1(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let ways = [Way::Nginx, Way::Captured, Way::Haproxy, Way::Envoy, Way::Sidecar, Way::Guard];
    let busy = stage.controlled(&ways, Speech::Http1)?;
    let serial = serial(stage, &SINGLE, Speech::Http1)?;
    Ok(Tables::from([
        ("c32".to_owned(), loaded(stage, plan, "HTTP/1.1", &busy, Cpus::Apart, &many(plan))?),
        ("c1".to_owned(), loaded(stage, plan, "HTTP/1.1, serial", &serial, Cpus::Together, &one(plan))?),
    ]))
}

pub(super) fn pair(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let ways = [Way::Nginx, Way::EnvoyPair, Way::SidecarPair];
    let busy = stage.controlled(&ways, Speech::Http1)?;
    let serial = serial(stage, &ways, Speech::Http1)?;
    Ok(Tables::from([
        ("c32".to_owned(), loaded(stage, plan, "pairs", &busy, Cpus::Apart, &many(plan))?),
        ("c1".to_owned(), loaded(stage, plan, "pairs, serial", &serial, Cpus::Together, &one(plan))?),
    ]))
}

pub(super) fn http2(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let ways = [Way::Envoy, Way::Haproxy, Way::Sidecar];
    let busy = stage.controlled(&ways, Speech::Http2)?;
    let serial = serial(stage, &ways, Speech::Http2)?;
    Ok(Tables::from([
        ("c32".to_owned(), loaded(stage, plan, "HTTP/2", &busy, Cpus::Apart, &streams(plan))?),
        ("c1".to_owned(), loaded(stage, plan, "HTTP/2, serial", &serial, Cpus::Together, &one(plan))?),
    ]))
}

pub(super) fn grpc(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let mut tables = Tables::new();
    for (name, speech) in [("unary", Speech::Grpc), ("stream", Speech::GrpcStream)] {
        let single = stage.controlled(&[Way::Envoy, Way::Haproxy, Way::Sidecar], speech)?;
        let pairs = stage.controlled(&[Way::EnvoyPair, Way::SidecarPair], speech)?;
        for (table, subjects) in [(name.to_owned(), single), (format!("{name}-pair"), pairs)] {
            let what = format!("gRPC {table}");
            tables.insert(table, loaded(stage, plan, &what, &subjects, Cpus::Apart, &streams(plan))?);
        }
    }
    Ok(tables)
}

pub(super) fn tcp(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let plan = plan.fewer();
    let mut tables = Tables::new();
    for (table, ways) in [
        ("plain", [Way::Envoy, Way::Haproxy, Way::Sidecar].as_slice()),
        ("mtls", [Way::EnvoyPair, Way::SidecarPair].as_slice()),
    ] {
        let mut all = Table::default();
        for (size, connections, cpus) in [
            (1, 1, Cpus::Together),
            (1024, MANY, Cpus::Apart),
            (64 * 1024, SHARED_BY, Cpus::Apart),
            (1024 * 1024, SHARED_BY, Cpus::Apart),
        ] {
            let subjects = stage.controlled(ways, Speech::Tcp)?;
            let ask = Ask { size, ..Ask::closed(connections, plan.seconds()) };
            all.merge(
                &size.to_string(),
                loaded(stage, &plan, &format!("TCP {table}, {size} B"), &subjects, cpus, &ask)?,
            );
        }
        let subjects = stage.controlled(ways, Speech::TcpBulk)?;
        let ask = Ask { size: 64 * 1024, ..one(&plan) };
        let what = format!("TCP {table}, one stream");
        all.merge("bulk", loaded(stage, &plan, &what, &subjects, Cpus::Apart, &ask)?);
        tables.insert(table.to_owned(), all);
    }
    Ok(tables)
}

pub(super) fn connections(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let ask = Ask { fresh: true, ..Ask::closed(8, plan.seconds()) };
    let plain = stage.controlled(&SINGLE, Speech::Http1)?;
    let handshakes = stage.controlled(&[Way::EnvoyPair, Way::SidecarPair], Speech::Tcp)?;
    let small = Ask { size: 1, ..ask };
    Ok(Tables::from([
        ("plain".to_owned(), loaded(stage, plan, "new connections", &plain, Cpus::Apart, &ask)?),
        ("mtls".to_owned(), loaded(stage, plan, "handshakes", &handshakes, Cpus::Apart, &small)?),
    ]))
}

pub(super) fn fixed(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let ways = [SINGLE.as_slice(), &[Way::EnvoyPair, Way::SidecarPair]].concat();
    let subjects = stage.controlled(&ways, Speech::Http1)?;
    let ask = Ask { rate: Some(FIXED_RATE), ..many(plan) };
    let table = loaded(stage, plan, "1,000 requests/s", &subjects, Cpus::Apart, &ask)?;
    Ok(Tables::from([("r1000".to_owned(), table)]))
}

/// The same rates for all, by what the slowest one can do.
pub(super) fn open_loop(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let plan = plan.fewer();
    let subjects = stage.subjects(&OPEN, Speech::Http1)?;
    let once = Plan { rounds: 1, ..plan };
    let capacity = loaded(stage, &once, "capacity", &subjects, Cpus::Apart, &many(&plan))?;
    let rates = subjects.iter().filter_map(|subject| capacity.of(&subject.name, "rate")?.first().copied());
    let slowest = rates.fold(f64::INFINITY, f64::min);
    ensure!(slowest.is_finite(), "no capacity was measured");
    let mut tables = Tables::from([("capacity".to_owned(), capacity)]);
    for percent in LOADS {
        let rate = (slowest * f64::from(percent) / 100.0).round();
        let ask = Ask { rate: Some(rate), seconds: 2.0 * plan.seconds(), warmup: 0.5, ..many(&plan) };
        let what = format!("{percent} % load, {rate} requests/s");
        let table = plan.mirrored(&what, &subjects, |subject| plan.steady(stage, subject, &ask))?;
        tables.insert(format!("p{percent}"), table);
    }
    Ok(tables)
}

fn loaded(stage: &Stage, plan: &Plan, what: &str, subjects: &[Subject], cpus: Cpus, ask: &Ask) -> Result<Table> {
    stage.pin(cpus).context("pinning to CPUs")?;
    plan.mirrored(what, subjects, |subject| plan.steady(stage, subject, ask))
}

/// The load without a proxy, then the control, then the rest.
fn serial(stage: &Stage, ways: &[Way], speech: Speech) -> Result<Vec<Subject>> {
    let mut subjects = vec![stage.subject(Way::Direct, speech)?];
    subjects.extend(stage.controlled(ways, speech)?);
    Ok(subjects)
}

fn many(plan: &Plan) -> Ask {
    Ask { size: BODY, ..Ask::closed(MANY, plan.seconds()) }
}

fn one(plan: &Plan) -> Ask {
    Ask::closed(1, plan.seconds())
}

/// As many requests under way, over few connections.
fn streams(plan: &Plan) -> Ask {
    Ask { streams: MANY / SHARED_BY, ..Ask::closed(SHARED_BY, plan.seconds()) }
}
