//! A pod has no port left to connect from. What is kept goes on, what would need another port is told so, and nobody
//! notices afterwards.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU16, Ordering},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{
    Machine, Mesh, Pod, PodSpec, now_us,
    probe::{get_here, wait_until},
};
use outrigger_wire::names::ports;
use tokio::net::TcpSocket;

use super::{super::protocols::http2::alone, CALLER, SHARED, after_second, all_accept, flawless, load, mesh_of};
use crate::raw::{Message, PATIENCE, Wire};

/// Of the versions' own services.
const V1: &str = "10.96.3.11";
const V2: &str = "10.96.3.12";
const V3: &str = "10.96.3.13";
const RANGE: &str = "net/ipv4/ip_local_port_range";
/// Nothing else uses these.
const FEW: std::ops::Range<u16> = 10_000..10_008;
static NEXT: AtomicU16 = AtomicU16::new(9000);

/// All ports that the kernel may choose in a pod.
struct Taken<'a> {
    pod: &'a Pod,
    before: String,
    _held: Vec<TcpListener>,
}

pub(super) fn none(machine: &Machine) -> Result<()> {
    let mut caller = PodSpec::new(CALLER);
    caller.env.insert("OUTRIGGER_ACCESS_LOG".to_owned(), "json".to_owned());
    let mut mesh = mesh_of(machine, caller)?;
    all_accept(&mesh, &[CALLER, "shop/app-v2"])?;
    of_the_caller(&mesh).context("the caller's")?;
    of_the_callee(&mesh).context("a callee's")?;
    of_the_guard(&mut mesh).context("the caller's, without a sidecar")?;
    of_the_shared_proxy(&mut mesh).context("the shared proxy's")
}

fn of_the_caller(mesh: &Mesh) -> Result<()> {
    let pod = mesh.pod(CALLER)?;
    let mut warm = open(pod, V1)?;
    warm.ask("GET /", "")?.expect(200)?;
    let taken = Taken::all_of(pod)?;
    for _ in 0..20 {
        warm.ask("GET /", "")?.expect(200)?;
        let answer = ask(pod, V2)?.expect(503)?;
        ensure!(answer.text().contains("connect"), "{:?}", answer.text());
    }
    let flagged = || pod.sidecar().is_ok_and(|it| it.log().matches("\"upstream_connect\"").count() == 20);
    wait_until("the flag in the log", PATIENCE, flagged)?;
    ready(pod)?;
    taken.free(V2)
}

/// Others of its service answer.
fn of_the_callee(mesh: &Mesh) -> Result<()> {
    let load = load(mesh, 300, false, 20)?;
    after_second(&load, now_us())?;
    let taken = Taken::all_of(mesh.pod("shop/app-v2")?)?;
    let from = now_us();
    after_second(&load, from)?;
    drop(taken);
    let samples = load.finish()?;
    println!("        a callee's: {:?}, p99 {:?}", samples.by_version(), samples.latency(0.99));
    flawless(&samples)
}

fn of_the_guard(mesh: &mut Mesh) -> Result<()> {
    mesh.kill_sidecar(CALLER)?;
    {
        let pod = mesh.pod(CALLER)?;
        let taken = Taken::all_of(pod)?;
        for _ in 0..20 {
            ensure!(ask(pod, V1).is_err(), "carried without a port");
        }
        taken.free(V1)?;
    }
    // It has nothing to reach its control plane from, and starts with what it has.
    mesh.pod_mut(CALLER)?.start_sidecar()?;
    let pod = mesh.pod(CALLER)?;
    let taken = Taken::all_of(pod)?;
    wait_until("a sidecar that has started without a port", PATIENCE, || ready(pod).is_ok())
        .with_context(|| pod.tails())?;
    taken.free(V1)?;
    all_accept(mesh, &[CALLER])
}

fn of_the_shared_proxy(mesh: &mut Mesh) -> Result<()> {
    mesh.kill_sidecar(CALLER)?;
    let (pod, shared) = (mesh.pod(CALLER)?, mesh.pod(SHARED)?);
    ask(pod, V1)?.expect(200)?;
    let taken = Taken::all_of(shared)?;
    for _ in 0..20 {
        ask(pod, V1)?.expect(200).context("by a kept connection")?;
        ask(pod, V3)?.expect(503)?;
    }
    drop(taken);
    let start = Instant::now();
    wait_until("an answer with ports again", PATIENCE, || ask(pod, V3).is_ok_and(|it| it.status() == Some(200)))?;
    println!("        {SHARED}: answered {:?} after there were ports", start.elapsed());
    mesh.restart_sidecar(CALLER).map(drop)
}

/// By the kubelet's way in, which takes no port of the pod's.
fn ready(pod: &Pod) -> Result<()> {
    for port in [ports::HEALTH, ports::GUARD_HEALTH] {
        let page = get_here((pod.address(), port).into(), "/readyz")?;
        ensure!(page.status == 200, "{port}: {page:?}");
    }
    Ok(())
}

fn ask(pod: &Pod, service: &str) -> Result<Message> {
    open(pod, service)?.ask("GET /", "")
}

/// From a port that the kernel wouldn't choose.
fn open(pod: &Pod, service: &str) -> Result<Wire> {
    let to = SocketAddr::new(service.parse()?, 80);
    let stream = pod.namespace.within(|| {
        alone(async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::UNSPECIFIED, NEXT.fetch_add(1, Ordering::Relaxed)).into())?;
            socket.connect(to).await?.into_std()
        })
    })???;
    stream.set_nonblocking(false)?;
    Wire::of(stream)
}

// === impl Taken ===

impl<'a> Taken<'a> {
    fn all_of(pod: &'a Pod) -> Result<Self> {
        let (before, held) = pod.namespace.within(|| -> Result<_> {
            let before = fs::read_to_string(format!("/proc/sys/{RANGE}")).context(RANGE)?;
            let held = FEW.map(|port| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).collect::<Result<_, _>>()?;
            fs::write(format!("/proc/sys/{RANGE}"), format!("{} {}", FEW.start, FEW.end - 1)).context(RANGE)?;
            let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, ports::GUARD_ADMIN)).err();
            ensure!(refused.is_some(), "there are ports left");
            Ok((before, held))
        })??;
        Ok(Self { pod, before, _held: held })
    }

    /// Gives them back, and says when a service that couldn't be called is again.
    fn free(self, service: &str) -> Result<()> {
        let pod = self.pod;
        drop(self);
        let start = Instant::now();
        wait_until("an answer with ports again", PATIENCE, || {
            ask(pod, service).is_ok_and(|it| it.status() == Some(200))
        })?;
        println!("        {}: answered {:?} after there were ports", pod.spec.name, start.elapsed());
        Ok(())
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let back = self.pod.namespace.within(|| fs::write(format!("/proc/sys/{RANGE}"), &self.before));
        // The pod is gone then.
        drop(back);
    }
}
