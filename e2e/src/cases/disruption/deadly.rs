//! A request that kills the sidecar which carries it, and a pod that kills its own: neither gets further through a shared
//! proxy than through sidecars.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Spec, probe::wait_until};

use super::{CALLER, SHARED, all_accept, service};
use crate::raw::{Message, PATIENCE, Server, Wire};

const APP: &str = "shop/app";
const HELD: &str = "10.96.3.10";
const LIMITED: &str = "10.96.3.11";
/// In flight to the limited service, by its policy.
const MAX: usize = 3;
/// An idempotent request without a body is sent once more, if its connection breaks, and not more often.
const TRIES: usize = 2;

const POLICY: &str = "---
apiVersion: outrigger.dev/v1alpha1
kind: TrafficPolicy
metadata: {namespace: shop, name: limited}
spec:
  targetRefs: [{kind: Service, name: limited}]
  connections: {max: 3}
";

type Call = thread::JoinHandle<Result<Message>>;

/// What came to the app; it answers nothing.
struct Silent {
    _server: Server,
    arrived: Arc<AtomicUsize>,
    arrivals: Receiver<()>,
}

/// The proxy that carries a request dies of it, as it would if the request were poisonous: what is sent again would kill the
/// next one. So that is bounded, and never happens to what isn't idempotent.
pub(super) fn requests(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine)?;
    for (victim, line, most) in [
        (CALLER, "GET /", 1),
        (CALLER, "POST /", 1),
        (APP, "POST /", 1),
        // The callee's sidecar dies: to its caller that is a connection that broke.
        (APP, "GET /", TRIES),
    ] {
        all_accept(&mesh, &[CALLER, APP])?;
        for pod in [CALLER, APP] {
            mesh.proven(pod)?;
        }
        let shared = pid(&mesh)?;
        let silent = Silent::start(&mesh)?;
        let call = call(&mesh, HELD, line)?;
        silent.arrivals.recv_timeout(PATIENCE).context("the request")?;
        mesh.kill_sidecar(victim)?;
        if most > 1 {
            // The second proxy that has it is a shared one: whoever dies there has nobody after it.
            silent.arrivals.recv_timeout(PATIENCE).context("the request, again")?;
            mesh.kill_sidecar(SHARED)?;
        }
        let answer = call.join().map_err(|_| anyhow!("a caller panicked"))?;
        let failed = answer.as_ref().map_or(true, |answer| answer.status() == Some(502));
        ensure!(failed, "{line} that killed {victim}: {answer:?}");
        let arrived = silent.arrived.load(Ordering::Relaxed);
        ensure!(arrived == most, "{line} that killed {victim} came to the app {arrived} times, not {most}");
        if most > 1 {
            mesh.restart_sidecar(SHARED)?;
        } else {
            ensure!(pid(&mesh)? == shared, "the shared proxy died, too");
        }
        mesh.restart_sidecar(victim)?;
    }
    Ok(())
}

/// A pod whose own sidecar is dead may have as much in flight as before.
pub(super) fn own_sidecar(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine)?;
    all_accept(&mesh, &[CALLER, APP])?;
    let silent = Silent::start(&mesh)?;
    let calls = full(&mesh, &silent).context("by its sidecar")?;
    mesh.kill_sidecar(CALLER)?;
    for call in calls {
        let answer = call.join().map_err(|_| anyhow!("a caller panicked"))?;
        ensure!(answer.is_err(), "{answer:?} of a sidecar that is dead");
    }
    full(&mesh, &silent).context("by the shared proxy").map(drop)
}

/// As many as its service allows are in flight, and what is beyond is refused.
fn full(mesh: &Mesh, silent: &Silent) -> Result<Vec<Call>> {
    let before = silent.arrived.load(Ordering::Relaxed);
    let calls = (0..MAX).map(|_| call(mesh, LIMITED, "POST /")).collect::<Result<Vec<_>>>()?;
    for _ in 0..MAX {
        silent.arrivals.recv_timeout(PATIENCE).context("what is within the limit")?;
    }
    for _ in 0..MAX {
        Wire::open(mesh.pod(CALLER)?, address(LIMITED)?)?.ask("GET /", "")?.expect(503)?;
    }
    ensure!(silent.arrived.load(Ordering::Relaxed) == before + MAX, "more came than is allowed");
    Ok(calls)
}

fn start(machine: &Machine) -> Result<Mesh> {
    let services = [service("held", HELD, "app: app"), service("limited", LIMITED, "app: app"), POLICY.to_owned()];
    let config = vec![("services.yaml".to_owned(), services.concat())];
    let pods = vec![PodSpec::new(CALLER), PodSpec::new(APP)];
    let mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
    // Nobody listens there yet, which is an answer, too.
    for ip in [HELD, LIMITED] {
        let answered = || Wire::open(mesh.pod(CALLER)?, address(ip)?)?.ask("GET /", "");
        wait_until("the service to be known", PATIENCE, || answered().is_ok())?;
    }
    Ok(mesh)
}

fn address(ip: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse()?, 80))
}

/// Of the shared proxy.
fn pid(mesh: &Mesh) -> Result<u32> {
    Ok(mesh.pod(SHARED)?.sidecar()?.pid())
}

fn call(mesh: &Mesh, ip: &str, line: &'static str) -> Result<Call> {
    let mut wire = Wire::open(mesh.pod(CALLER)?, address(ip)?)?;
    Ok(thread::spawn(move || wire.ask(line, "content-length: 0\r\n")))
}

// === impl Silent ===

impl Silent {
    fn start(mesh: &Mesh) -> Result<Self> {
        let (arrived, (sender, arrivals)) = (Arc::new(AtomicUsize::new(0)), channel());
        let counted = arrived.clone();
        let each = move |stream: TcpStream| hold(stream, &counted, &sender);
        Ok(Self { _server: Server::in_pod(mesh.pod(APP)?, 8080, each)?, arrived, arrivals })
    }
}

fn hold(stream: TcpStream, arrived: &AtomicUsize, arrivals: &Sender<()>) -> Result<()> {
    let mut wire = Wire::of(stream)?;
    wire.head()?;
    arrived.fetch_add(1, Ordering::Relaxed);
    arrivals.send(())?;
    wire.until_end().map(drop)
}
