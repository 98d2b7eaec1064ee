//! More at once than a service's policy allows: what is beyond is answered at once, what is within goes on, and nothing
//! of it is left over.

use std::{
    net::{Shutdown, SocketAddr},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use outrigger_testbed::{Load, LoadSpec, Machine, Mesh, Outcome, PodSpec, Spec, probe::wait_until};

use super::{CALLER, after_second, all_accept, flawless, service};
use crate::raw::{Message, PATIENCE, Server, Wire};

/// What holds its requests until it is told to answer.
const HELD: &str = "10.96.3.10";
/// Opaque bytes.
const OPAQUE: &str = "10.96.3.11";
/// The demo's app.
const APP: &str = "10.96.3.12";
const MAX: usize = 20;
const BEYOND: usize = 15;

/// A door that is opened once.
type Gate = Arc<(Mutex<bool>, Condvar)>;

pub(super) fn overload(machine: &Machine) -> Result<()> {
    let mesh = start(machine)?;
    // Each proxy counts for itself: a call that a shared proxy carried would leave place for one more in the sidecar.
    all_accept(&mesh, &[CALLER])?;
    requests(&mesh).context("requests")?;
    connections(&mesh).context("opaque connections")?;
    under_load(&mesh).context("under load")
}

fn requests(mesh: &Mesh) -> Result<()> {
    let logged = || flags(mesh, "overload");
    for round in 1..=2 {
        let (gate, arrived) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
        let _server = hold(mesh, &gate, &arrived)?;
        let within = many(mesh, MAX)?;
        wait_until("all that may be in flight", PATIENCE, || arrived.load(Ordering::Relaxed) == MAX)?;
        for _ in 0..BEYOND {
            let answer = Wire::open(mesh.pod(CALLER)?, address(HELD)?)?.ask("GET /", "")?.expect(503)?;
            ensure!(answer.text().contains("as much is in flight"), "{:?}", answer.text());
        }
        let grpc = "content-type: application/grpc\r\nte: trailers\r\n";
        let answer = Wire::open(mesh.pod(CALLER)?, address(HELD)?)?.ask("GET /a.B/C", grpc)?;
        ensure!(answer.header("grpc-status") == Some("8"), "not RESOURCE_EXHAUSTED: {answer:?}");
        wait_until("the flag in the log", PATIENCE, || logged() == round * (BEYOND + 1))?;
        ensure!(arrived.load(Ordering::Relaxed) == MAX, "more came than is allowed");
        open(&gate)?;
        for call in within {
            call.join().map_err(|_| anyhow!("a caller panicked"))??.expect(200)?;
        }
    }
    Ok(())
}

/// Where nothing can be looked into, connections are counted, and closed.
fn connections(mesh: &Mesh) -> Result<()> {
    let echo = |mut stream: std::net::TcpStream| -> Result<()> {
        let mut back = stream.try_clone()?;
        std::io::copy(&mut stream, &mut back)?;
        Ok(())
    };
    let _server = Server::in_pod(mesh.pod("shop/app")?, 7001, echo)?;
    let said = |wire: &mut Wire| -> Result<Vec<u8>> {
        wire.send("hello")?;
        wire.exactly(5)
    };
    let wire = || Wire::open(mesh.pod(CALLER)?, address(OPAQUE)?);
    for _ in 0..2 {
        let mut within = (0..MAX).map(|_| wire()).collect::<Result<Vec<_>>>()?;
        within.iter_mut().try_for_each(|wire| said(wire).map(drop)).context("within the limit")?;
        for _ in 0..BEYOND {
            ensure!(said(&mut wire()?).is_err(), "one too many is served");
        }
        within.iter_mut().try_for_each(|wire| said(wire).map(drop)).context("within the limit, afterwards")?;
        within.iter_mut().try_for_each(Wire::finish)?;
        within.iter_mut().try_for_each(|wire| wire.until_end().map(drop))?;
        wait_until("place for another", PATIENCE, || wire().and_then(|mut wire| said(&mut wire)).is_ok())?;
    }
    Ok(())
}

/// Five times as many calls as can be answered; then as few as before.
fn under_load(mesh: &Mesh) -> Result<()> {
    let load = |path: &str, rate: u32| {
        let target = format!("http://{APP}:80{path}").parse().map_err(anyhow::Error::msg)?;
        Load::start(mesh.pod(CALLER)?, &LoadSpec::new(target, rate))
    };
    // As many as the limit lets through in a second, each of which takes 200 ms.
    let capacity = 5 * u32::try_from(MAX)?;
    let too_many = load("/slow?ms=200", 5 * capacity)?;
    let from = outrigger_testbed::now_us();
    after_second(&too_many, from + 2_000_000)?;
    let samples = too_many.finish()?.between(from, from + 3_000_000);
    let (ok, outcomes) = (samples.ok().count(), samples.by_outcome());
    let shed = outcomes.get(&Outcome::Status(503)).copied().unwrap_or_default();
    println!("        {outcomes:?}, {} % of what is possible; answered within {:?}", ok / 3, samples.latency(0.99));
    ensure!(ok + shed == samples.len(), "{outcomes:?}");
    ensure!(shed >= samples.len() / 2, "only {shed} of {} were shed", samples.len());
    // Nobody waits for anybody, so the limit is always full; how full depends on the machine.
    ensure!(ok >= 3 * capacity as usize / 2, "only {ok} were answered");
    let few = load("/", 100)?;
    after_second(&few, outrigger_testbed::now_us())?;
    flawless(&few.finish()?).context("afterwards")
}

fn start(machine: &Machine) -> Result<Mesh> {
    let mut caller = PodSpec::new(CALLER);
    caller.env.insert("OUTRIGGER_ACCESS_LOG".to_owned(), "json".to_owned());
    let opaque =
        service("opaque", OPAQUE, "app: app").replace("targetPort: 8080", "targetPort: 7001\n    appProtocol: tcp");
    let services = [
        service("held", HELD, "app: app").replace("targetPort: 8080", "targetPort: 7002"),
        opaque,
        service("app", APP, "app: app"),
    ];
    let policy = format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: limit}}\nspec:\n\
         \x20 targetRefs: [{{kind: Namespace, name: shop}}]\n  connections: {{max: {MAX}}}\n"
    );
    let config = vec![("services.yaml".to_owned(), services.concat()), ("policy.yaml".to_owned(), policy)];
    let pods = vec![caller, PodSpec::new("shop/app").app("outrigger-testapp http")];
    Mesh::start(machine, Spec { pods, config, shared: 1 })
}

/// A server that counts its requests and answers none of them before the gate is open.
fn hold(mesh: &Mesh, gate: &Gate, arrived: &Arc<AtomicUsize>) -> Result<Server> {
    let (gate, arrived) = (Arc::clone(gate), Arc::clone(arrived));
    Server::in_pod(mesh.pod("shop/app")?, 7002, move |stream| {
        let end = stream.try_clone()?;
        let mut wire = Wire::of(stream)?;
        wire.message()?;
        arrived.fetch_add(1, Ordering::Relaxed);
        let closed = gate.0.lock().map_err(|_| anyhow!("the gate"))?;
        drop(gate.1.wait_while(closed, |open| !*open).map_err(|_| anyhow!("the gate"))?);
        wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")?;
        Ok(end.shutdown(Shutdown::Both)?)
    })
}

fn open(gate: &Gate) -> Result<()> {
    *gate.0.lock().map_err(|_| anyhow!("the gate"))? = true;
    gate.1.notify_all();
    Ok(())
}

/// As many calls at once, each answered in its own time.
fn many(mesh: &Mesh, count: usize) -> Result<Vec<thread::JoinHandle<Result<Message>>>> {
    let one = |_| {
        let mut wire = Wire::open(mesh.pod(CALLER)?, address(HELD)?)?;
        Ok(thread::spawn(move || wire.ask("GET /", "")))
    };
    (0..count).map(one).collect()
}

/// How many lines of the caller's log have this flag.
fn flags(mesh: &Mesh, flag: &str) -> usize {
    let log = mesh.pod(CALLER).and_then(|pod| Ok(pod.sidecar()?.log())).unwrap_or_default();
    log.matches(&format!("\"{flag}\"")).count()
}

fn address(ip: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse()?, 80))
}
