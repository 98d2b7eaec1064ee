//! No resolver answers. Proxies know by heart what they carry: they don't ask for it, not even when they start again.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use http::{HeaderMap, HeaderValue, header::HOST};
use outrigger_testbed::{Load, LoadSpec, Machine, PodSpec, net::GATEWAY, now_us, probe::wait_until};
use outrigger_wire::names::ports;

use super::{CALLER, SHOP, after_second, all_accept, answered_by, flawless, mesh_of, route};
use crate::raw::PATIENCE;

const CONTROLLER: &str = "controller.mesh.test";
/// A proxy that can't find its controller tries again every half a minute, at most.
const AGAIN: Duration = Duration::from_secs(60);

/// Answers every question with the controller's address, until it is told to be silent.
struct Resolver {
    silent: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub(super) fn down(machine: &Machine) -> Result<()> {
    let resolver = Resolver::start(machine)?;
    let mut caller = PodSpec::new(CALLER);
    // The controller is all that proxies look up.
    caller.env.insert("OUTRIGGER_CONTROLLER".to_owned(), format!("{CONTROLLER}:{}", ports::CONTROLLER));
    let mut mesh = mesh_of(machine, caller)?;
    let asked = resolver.asked.load(Ordering::Relaxed);
    ensure!(asked >= 2, "guard and sidecar found their controller with {asked} questions");

    let target = format!("http://{SHOP}:80/").parse().map_err(anyhow::Error::msg)?;
    let headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("app.shop.svc.cluster.local"))]);
    let load = Load::start(mesh.pod(CALLER)?, &LoadSpec { headers, ..LoadSpec::new(target, 200) })?;
    answered_by(&load, "v3", 0)?;
    resolver.silent.store(true, Ordering::Relaxed);
    let (begin, before) = (now_us(), resolver.asked.load(Ordering::Relaxed));
    after_second(&load, begin)?;
    let killed = mesh.kill_sidecar(CALLER)?;
    after_second(&load, killed.gone)?;
    mesh.restart_sidecar(CALLER)?;
    all_accept(&mesh, &[CALLER]).context("started without DNS")?;
    let back = now_us();
    after_second(&load, back)?;
    let questions = || resolver.asked.load(Ordering::Relaxed) - before;
    wait_until("a question for the controller", PATIENCE, || questions() > 0)?;
    let open = |part: &str| mesh.pod(CALLER).ok()?.sidecar().ok().map(|it| it.log().matches(part).count());
    let streams = open("xDS stream is open").context("no log")?;
    ensure!(streams == 1, "{streams} streams: the new sidecar has found a controller, so that DNS isn't down");

    resolver.silent.store(false, Ordering::Relaxed);
    wait_until("a stream to the controller", AGAIN, || open("xDS stream is open") == Some(2))?;
    let changed = mesh.write("route.yaml", &route("v2"))?;
    answered_by(&load, "v2", changed)?;
    let samples = load.finish()?;
    let seen = samples.deaths(&[killed]);
    println!(
        "        {} calls: {} refused, {} failed, {} under way in the killed one; {} questions without an answer; p99 {:?}",
        samples.len(),
        seen.refused,
        seen.failed_new,
        seen.in_flight,
        questions(),
        samples.latency(0.99).unwrap_or_default(),
    );
    ensure!(seen.refused == 0 && seen.failed_new == 0, "{seen:?}");
    flawless(&samples.between(back, u64::MAX))
}

// === impl Resolver ===

impl Resolver {
    /// For all processes of the machine, until it is dropped.
    fn start(machine: &Machine) -> Result<Self> {
        let socket = UdpSocket::bind((GATEWAY, 53)).context("a resolver")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let file = machine.dir.join("resolv.conf");
        fs::write(&file, format!("nameserver {GATEWAY}\noptions timeout:1 attempts:1\n"))?;
        // Mounts are the machine's own.
        let mounted = Command::new("mount").arg("--bind").arg(&file).arg("/etc/resolv.conf").status()?;
        ensure!(mounted.success(), "mount over /etc/resolv.conf");
        let [silent, stop] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let asked = Arc::new(AtomicUsize::new(0));
        let mut resolver = Self { silent: silent.clone(), asked: asked.clone(), stop: stop.clone(), thread: None };
        resolver.thread = Some(thread::spawn(move || {
            let mut packet = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, peer)) = socket.recv_from(&mut packet) else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                if let Some(answer) = answer(&packet[..length], GATEWAY)
                    && !silent.load(Ordering::Relaxed)
                {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        }));
        Ok(resolver)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = Command::new("umount").arg("/etc/resolv.conf").status();
    }
}

/// The question given back with one address, or with none where IPv6 is asked for (RFC 1035 section 4.1).
fn answer(question: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let name = question.get(12..)?.iter().position(|&length| length == 0)?;
    let end = 12 + name + 5;
    let wants_v4 = question.get(end - 4..end)? == [0, 1, 0, 1];
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
    answer.extend(&question[12..end]);
    if wants_v4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
