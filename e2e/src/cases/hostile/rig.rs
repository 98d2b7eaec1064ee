//! The mesh that is attacked, what is measured of its proxies, and the client that must not notice.

use std::{
    fs,
    io::{Read, Write},
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use outrigger_testbed::{
    Machine, Mesh, Pod, PodSpec, Process, Proxies, Spec,
    net::Namespace,
    probe::{PAUSE, wait_until},
};
use outrigger_wire::names::{alpn, ports};

pub(super) use crate::cases::SHARED;

use super::{
    backend::{self, Backend},
    peer::{Credentials, Peer},
};

pub(super) const SERVER: &str = "hostile/server";
pub(super) const CLIENT: &str = "hostile/client";
/// Enrolled without a sidecar: always carried by guard and shared proxy.
pub(super) const LONE: &str = "hostile/lone";
/// Not meshed, so nothing of what it sends is captured on its way out.
pub(super) const BARE: &str = "hostile/bare";

const SERVER_ADDRESS: [u8; 4] = [10, 96, 66, 1];
const LONE_ADDRESS: [u8; 4] = [10, 96, 66, 2];

/// Port 80: the echo app. Port 81: the raw backend, declared as HTTP, with routes. Port 82: the same, undeclared.
const CONFIG: &str = include_str!("hostile.yaml");

pub(super) struct Rig {
    pub(super) mesh: Mesh,
    state: PathBuf,
}

/// One process under attack. Sizes are resident memory in KiB.
pub(crate) struct Watch {
    name: String,
    pid: u32,
    idle: u64,
}

/// What the client that must not notice has seen.
pub(super) struct Served {
    pub(super) answered: usize,
    pub(super) slowest: Duration,
}

const MIB: u64 = 1024;
/// For one answer to the victim, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn server(port: u16) -> SocketAddr {
    (SERVER_ADDRESS, port).into()
}

pub(super) fn lone(port: u16) -> SocketAddr {
    (LONE_ADDRESS, port).into()
}

// === impl Rig ===

impl Rig {
    pub(super) fn start(machine: &Machine) -> Result<Self> {
        let app =
            |name: &str| PodSpec::new(name).app("outrigger-testapp http").port("http", 8080).port("raw", backend::PORT);
        let pods = vec![
            app(SERVER),
            app(LONE).proxies(Proxies::Guard),
            PodSpec::new(CLIENT),
            PodSpec::new(BARE).proxies(Proxies::None),
        ];
        let config = vec![("hostile.yaml".to_owned(), CONFIG.to_owned())];
        let mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
        let rig = Self { mesh, state: machine.dir.join("pods") };
        // Idle is after the first requests: connections and buffers that stay are there by then.
        for to in [server(80), lone(80)] {
            wait_until(&format!("a first answer of {to}"), Duration::from_secs(10), || {
                ask(rig.namespace(CLIENT), to).is_ok()
            })
            .with_context(|| rig.mesh.tails())?;
        }
        Ok(rig)
    }

    pub(super) fn pod(&self, name: &str) -> &Pod {
        self.mesh.pod(name).expect("the rig has it")
    }

    pub(super) fn namespace(&self, name: &str) -> &Namespace {
        &self.pod(name).namespace
    }

    /// The raw backend beside the pod's app.
    pub(super) fn backend(&self, pod: &str) -> Result<Backend> {
        Backend::start(&self.pod(pod).namespace)
    }

    /// What the client's sidecar proves its identity with.
    pub(super) fn credentials(&self) -> Result<Credentials> {
        Credentials::read(&self.state.join("hostile.client/sidecar/sidecar.svid"))
    }

    /// mTLS to a pod's mesh port, as the client's sidecar would open it.
    pub(super) fn mesh_peer(&self, pod: &str, protocol: &[u8]) -> Result<Peer> {
        let to = SocketAddr::from((self.pod(pod).address(), ports::MESH));
        let tcp = self.namespace(BARE).connect(to, PATIENCE).with_context(|| format!("mesh port of {pod}"))?;
        Peer::mesh(tcp, &self.credentials()?, protocol).with_context(|| format!("TLS with {pod}"))
    }

    pub(super) fn mesh_http2(&self, pod: &str) -> Result<Peer> {
        self.mesh_peer(pod, alpn::H2)
    }

    /// As the client's app would open it: captured and carried by the client's sidecar.
    pub(super) fn app_peer(&self, to: SocketAddr) -> Result<Peer> {
        Ok(Peer::Plain(self.namespace(CLIENT).connect(to, PATIENCE)?))
    }

    pub(super) fn sidecar(&self, pod: &str) -> Result<Watch> {
        Watch::start(self.pod(pod).sidecar()?)
    }

    pub(super) fn guard(&self, pod: &str) -> Result<Watch> {
        Watch::start(self.pod(pod).guard.as_ref().context("no guard")?)
    }

    /// Every proxy that listens in one of the attacked pods.
    pub(super) fn all(&self) -> Result<Vec<Watch>> {
        Ok(vec![
            self.sidecar(SERVER)?,
            self.guard(SERVER)?,
            self.sidecar(CLIENT)?,
            self.guard(LONE)?,
            self.sidecar(SHARED)?,
        ])
    }
}

// === impl Watch ===

impl Watch {
    pub(crate) fn start(process: &Process) -> Result<Self> {
        Self::of(process.name.clone(), process.pid())
    }

    pub(super) fn of(name: String, pid: u32) -> Result<Self> {
        // The high-water mark begins anew (proc(5), clear_refs).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").with_context(|| format!("high-water mark of {name}"))?;
        let idle = resident(pid, "VmRSS")?;
        Ok(Self { name, pid, idle })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn idle(&self) -> u64 {
        self.idle
    }

    pub(super) fn now(&self) -> Result<u64> {
        resident(self.pid, "VmRSS")
    }

    /// That it lives and has never held more than twice its idle memory and `more` MiB.
    pub(super) fn within(&self, more: u64) -> Result<String> {
        let (now, peak) = (resident(self.pid, "VmRSS")?, resident(self.pid, "VmHWM")?);
        let said = format!("{}: idle {}, peak {}, now {} KiB", self.name, self.idle, peak, now);
        ensure!(peak <= 2 * self.idle + more * MIB, "{said}: more than twice its idle memory and {more} MiB");
        Ok(said)
    }
}

/// A dead process has no such line; a process that was restarted has another PID.
fn resident(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("the process has ended")?;
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().context(field.to_owned())
}

/// Reports and checks all of them.
pub(crate) fn check(watches: &[Watch], more: u64) -> Result<()> {
    for watch in watches {
        println!("        {}", watch.within(more)?);
    }
    Ok(())
}

/// Runs `attack` while a client in `namespace` asks `to`, each time over a connection of its own. Every one of its
/// requests must be answered, and it goes on until there has been at least one after the attack.
pub(super) fn meanwhile<T>(
    namespace: &Namespace,
    to: SocketAddr,
    attack: impl FnOnce() -> Result<T>,
) -> Result<(T, Served)> {
    let (done, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let victim = || -> Result<Duration> {
        let mut slowest = Duration::ZERO;
        loop {
            let last = done.load(Ordering::Relaxed);
            let start = Instant::now();
            ask(namespace, to).with_context(|| format!("the victim's request {}", answered.load(Ordering::Relaxed)))?;
            slowest = slowest.max(start.elapsed());
            answered.fetch_add(1, Ordering::Relaxed);
            if last {
                return Ok(slowest);
            }
            thread::sleep(PAUSE);
        }
    };
    thread::scope(|scope| {
        let victim = scope.spawn(victim);
        let attacked = attack();
        done.store(true, Ordering::Relaxed);
        let Ok(served) = victim.join() else { bail!("the victim panicked") };
        let served = Served { answered: answered.load(Ordering::Relaxed), slowest: served? };
        println!("        victim: {} answered, slowest {:?}", served.answered, served.slowest);
        Ok((attacked?, served))
    })
}

/// One plain request on a connection of its own.
pub(super) fn ask(namespace: &Namespace, to: SocketAddr) -> Result<()> {
    let mut stream = namespace.connect(to, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET / HTTP/1.1\r\nHost: victim\r\nConnection: close\r\n\r\n").context("write")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read")?;
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "answered {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}
