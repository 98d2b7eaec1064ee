//! One identity wants more of a shared proxy than its share: it is told so, and nobody else notices.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Load, LoadSpec, Machine, Mesh, Outcome, PodSpec, Proxies, Spec, probe::wait_until};

use super::{after_second, flawless, service};
use crate::raw::{PATIENCE, Wire};

const GREEDY: &str = "shop/greedy";
const MODEST: &str = "shop/modest";
const APP: &str = "10.96.3.10";
const OPAQUE: &str = "10.96.3.11";
const SHARE: usize = 20;
/// Fewer than those over its share that are still answered, if all were open at once.
const BEYOND: usize = 10;
/// Connections of a crowd, and how many of them come in a second.
const CROWD: usize = 10_000;
const CROWD_RATE: u32 = 1000;

pub(super) fn fair(machine: &Machine) -> Result<()> {
    let mesh = start(machine)?;
    let ask = |pod: &str| -> Result<Wire> {
        let mut wire = Wire::open(mesh.pod(pod)?, address(APP)?)?;
        wire.ask("GET /", "")?.expect(200)?;
        Ok(wire)
    };
    wait_until("answers through the shared proxy", PATIENCE, || ask(GREEDY).is_ok() && ask(MODEST).is_ok())?;
    for _ in 0..2 {
        let within = held(&ask).context("within its share")?;
        for _ in 0..BEYOND {
            let answer = Wire::open(mesh.pod(GREEDY)?, address(APP)?)?.ask("GET /", "")?.expect(503)?;
            ensure!(answer.text().contains("connections of this identity"), "{:?}", answer.text());
        }
        let grpc = "content-type: application/grpc\r\nte: trailers\r\n";
        let answer = Wire::open(mesh.pod(GREEDY)?, address(APP)?)?.ask("GET /a.B/C", grpc)?;
        ensure!(answer.header("grpc-status") == Some("8"), "not RESOURCE_EXHAUSTED: {answer:?}");
        let mut opaque = Wire::open(mesh.pod(GREEDY)?, address(OPAQUE)?)?;
        opaque.send("PING\r\n")?;
        ensure!(opaque.until_end().unwrap_or_default().is_empty(), "something that isn't HTTP was carried");
        ask(MODEST).context("another identity")?;
        drop(within);
        wait_until("place for another", PATIENCE, || ask(GREEDY).is_ok())?;
    }
    Ok(())
}

/// One identity comes with ten thousand connections through the one shared proxy, many times more than its share. What
/// another one's calls took before and meanwhile is said, not judged: on two processors all of that competes.
pub(super) fn crowd(machine: &Machine) -> Result<()> {
    let mesh = start(machine)?;
    let load = |pod: &str, path: &str, rate: u32| {
        let target = format!("http://{APP}:80{path}").parse().map_err(anyhow::Error::msg)?;
        Load::start(mesh.pod(pod)?, &LoadSpec::new(target, rate))
    };
    let modest = load(MODEST, "/", 100)?;
    wait_until("an answer", PATIENCE, || modest.since(0).ok().next().is_some())?;
    let quiet = outrigger_testbed::now_us();
    after_second(&modest, quiet + 2_000_000)?;
    let came = outrigger_testbed::now_us();
    let crowd = load(GREEDY, "/slow?ms=200", CROWD_RATE)?;
    wait_until("the crowd", PATIENCE * 2, || crowd.count() >= CROWD)?;
    let went = outrigger_testbed::now_us();
    let (crowd, modest) = (crowd.finish()?, modest.finish()?);
    let (before, meanwhile) = (modest.between(quiet, came), modest.between(came, went));
    println!(
        "        {} of the crowd: {:?}; another's p99 {:?} before, {:?} meanwhile",
        crowd.len(),
        crowd.by_outcome(),
        before.latency(0.99).unwrap_or_default(),
        meanwhile.latency(0.99).unwrap_or_default(),
    );
    let shed = crowd.by_outcome().get(&Outcome::Status(503)).copied().unwrap_or_default();
    // On a machine that has nothing to spare more of them are closed than told.
    ensure!(crowd.ok().count() >= SHARE && shed > 0, "{:?}", crowd.by_outcome());
    flawless(&before).and(flawless(&meanwhile)).context("another identity")
}

/// As many connections as its share, each of which has been answered on. What came before may take a moment to end.
fn held(ask: &impl Fn(&str) -> Result<Wire>) -> Result<Vec<Wire>> {
    let mut within = Vec::new();
    let full = wait_until("its share", PATIENCE, || {
        within.extend(ask(GREEDY).ok());
        within.len() == SHARE
    });
    full.map(|_| within)
}

/// Both callers are enrolled as `shared`: whatever they call goes through the one shared proxy.
fn start(machine: &Machine) -> Result<Mesh> {
    let mut shared = PodSpec::shared_proxy(0);
    shared.env.insert("OUTRIGGER_CONNECTIONS_PER_IDENTITY".to_owned(), SHARE.to_string());
    let opaque =
        service("opaque", OPAQUE, "app: app").replace("targetPort: 8080", "targetPort: 6379\n    appProtocol: tcp");
    let config = vec![("services.yaml".to_owned(), [service("app", APP, "app: app"), opaque].concat())];
    let caller = |name: &str| PodSpec::new(name).proxies(Proxies::Guard);
    let app = PodSpec::new("shop/app").app("outrigger-testapp http").app("outrigger-testapp store");
    let pods = vec![shared, caller(GREEDY), caller(MODEST), app];
    Mesh::start(machine, Spec { pods, config, shared: 0 })
}

fn address(ip: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse()?, 80))
}
