//! More than an app can do, and no policy that bounds it. The app answers as much as it can, what it sheds is told so, its
//! sidecars' memory stays within a bound, and they are reachable; afterwards nobody notices anything.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Load, LoadSpec, Machine, Mesh, Outcome, PodSpec, Spec, now_us, probe};
use outrigger_wire::names::ports;

use super::{
    super::hostile::rig::{Watch, check},
    CALLER, after_second, all_accept, flawless, service,
};
use crate::raw::{Server, Wire};

const BUSY: &str = "10.96.3.10";
const SLOW: &str = "10.96.3.11";
const APP: &str = "shop/app";
/// Requests that the busy app works on at once, and how long each takes it.
const HANDS: usize = 4;
const WORK: Duration = Duration::from_millis(40);
/// What it can do in a second.
const PEAK: u32 = 100;
/// Of each round, in which callers ask for a multiple of that.
const ROUND_US: u64 = 2_000_000;

pub(super) fn unlimited(machine: &Machine) -> Result<()> {
    let mesh = start(machine)?;
    all_accept(&mesh, &[CALLER, APP])?;
    let sidecars = [CALLER, APP].map(|pod| Watch::start(mesh.pod(pod)?.sidecar()?)).into_iter();
    let sidecars = sidecars.collect::<Result<Vec<_>>>()?;
    busy(&mesh).context("an app that sheds")?;
    crowded(&mesh).context("an app that takes its time")?;
    check(&sidecars, 64)
}

fn busy(mesh: &Mesh) -> Result<()> {
    let (working, asked) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counts = (Arc::clone(&working), Arc::clone(&asked));
    let _server = Server::in_pod(mesh.pod(APP)?, 7001, move |stream| work(stream, &counts.0, &counts.1))?;
    let mut peak = 0;
    for times in [1, 2, 10] {
        let before = asked.load(Ordering::Relaxed);
        let load = load(mesh, BUSY, "/", times * PEAK)?;
        let from = now_us();
        while !over(&load, from + ROUND_US) {
            reachable(mesh)?;
        }
        let samples = load.finish()?;
        let came = asked.load(Ordering::Relaxed) - before;
        let round = samples.between(from, from + ROUND_US);
        let (good, outcomes) = (round.ok().count(), round.by_outcome());
        println!(
            "        {times} times as many: {outcomes:?}, answered within {:?}; {came} of {} came to the app",
            round.latency(0.99),
            samples.len()
        );
        let shed = outcomes.get(&Outcome::Status(503)).copied().unwrap_or_default();
        ensure!(good + shed == round.len(), "{outcomes:?}");
        peak = peak.max(good);
        // How much of it is answered depends on what else the machine does; what is repeated doesn't.
        ensure!(good >= peak / 2, "{good} answered, of {peak} that are possible");
        ensure!(
            came <= samples.len() + samples.len() / 4,
            "{came} requests of {}: an overload is made worse",
            samples.len()
        );
    }
    afterwards(mesh, BUSY)
}

/// As many at once as come in two seconds.
fn crowded(mesh: &Mesh) -> Result<()> {
    let load = load(mesh, SLOW, "/slow?ms=2000", 1000)?;
    let from = now_us();
    while !over(&load, from + 1_000_000) {
        reachable(mesh)?;
    }
    let most = mesh.pod(CALLER)?.metrics();
    let most: f64 = most.iter().filter(|it| it.name == "outrigger_connections_active").map(|it| it.value).sum();
    let samples = load.finish()?;
    println!("        {most} at once: {:?}, answered within {:?}", samples.by_outcome(), samples.latency(0.99));
    flawless(&samples)?;
    afterwards(mesh, SLOW)
}

fn over(load: &Load, until: u64) -> bool {
    load.samples().0.last().is_some_and(|sample| sample.scheduled > until)
}

/// Both sidecars, for whoever wants to know about them.
fn reachable(mesh: &Mesh) -> Result<()> {
    for pod in [CALLER, APP] {
        for (port, path) in [(ports::ADMIN, "/metrics"), (ports::HEALTH, "/readyz")] {
            let page = probe::get(&mesh.pod(pod)?.namespace, port, path).with_context(|| format!("{pod} {path}"))?;
            ensure!(page.status == 200, "{pod} {path}: {}", page.status);
        }
    }
    Ok(())
}

fn afterwards(mesh: &Mesh, of: &str) -> Result<()> {
    let few = load(mesh, of, "/", PEAK / 2)?;
    after_second(&few, now_us())?;
    flawless(&few.finish()?).context("afterwards")
}

fn load(mesh: &Mesh, of: &str, path: &str, rate: u32) -> Result<Load> {
    let target = format!("http://{of}:80{path}").parse().map_err(anyhow::Error::msg)?;
    let timeout = Duration::from_secs(20);
    Load::start(mesh.pod(CALLER)?, &LoadSpec { timeout, ..LoadSpec::new(target, rate) })
}

/// One request after the other, each by a free hand; without one it is refused at once.
fn work(stream: TcpStream, working: &AtomicUsize, asked: &AtomicUsize) -> Result<()> {
    let mut wire = Wire::of(stream)?;
    loop {
        let nonce = wire.message()?.header("x-nonce").unwrap_or_default().to_owned();
        asked.fetch_add(1, Ordering::Relaxed);
        let place = working.fetch_add(1, Ordering::Relaxed);
        let status = if place < HANDS {
            thread::sleep(WORK);
            "200 OK"
        } else {
            "503 Service Unavailable"
        };
        working.fetch_sub(1, Ordering::Relaxed);
        wire.send(format!("HTTP/1.1 {status}\r\nx-nonce: {nonce}\r\ncontent-length: 0\r\n\r\n"))?;
    }
}

fn start(machine: &Machine) -> Result<Mesh> {
    let services = [
        service("busy", BUSY, "app: app").replace("targetPort: 8080", "targetPort: 7001"),
        service("slow", SLOW, "app: app"),
    ];
    let pods = vec![PodSpec::new(CALLER), PodSpec::new(APP).app("outrigger-testapp http")];
    Mesh::start(machine, Spec { pods, config: vec![("services.yaml".to_owned(), services.concat())], shared: 1 })
}
