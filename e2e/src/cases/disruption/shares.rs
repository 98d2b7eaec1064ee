//! One identity wants more of a shared proxy than its share: it is told so, and nobody else notices.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec, probe::wait_until};

use super::service;
use crate::raw::{PATIENCE, Wire};

const GREEDY: &str = "shop/greedy";
const MODEST: &str = "shop/modest";
const APP: &str = "10.96.3.10";
const OPAQUE: &str = "10.96.3.11";
const SHARE: usize = 20;
/// Fewer than those over its share that are still answered, if all were open at once.
const BEYOND: usize = 10;

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
