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
    probe::{self, PAUSE, wait_until},
};
use outrigger_wire::names::{alpn, ports};

pub(super) use crate::cases::SHARED;

use super::{
    app,
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
const BARE_ADDRESS: [u8; 4] = [10, 96, 66, 3];

/// Port 80: the echo app. Port 81: the raw backend, declared as HTTP, with routes. Port 82: the same, undeclared.
/// Port 83: the attacker of HTTP/2.
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
    half: Duration,
    nearly_all: Duration,
}

/// Time of processors that processes have taken since it began.
pub(super) struct Spent {
    start: Instant,
    /// Names, identifiers and ticks.
    before: Vec<(String, u32, u64)>,
}

/// In which the kernel counts them (proc(5), `_SC_CLK_TCK`).
const TICKS_PER_SECOND: f64 = 100.0;

const MIB: u64 = 1024;
/// For one answer to the victim, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn server(port: u16) -> SocketAddr {
    (SERVER_ADDRESS, port).into()
}

pub(super) fn bare(port: u16) -> SocketAddr {
    (BARE_ADDRESS, port).into()
}

pub(super) fn lone(port: u16) -> SocketAddr {
    (LONE_ADDRESS, port).into()
}

// === impl Rig ===

impl Rig {
    pub(super) fn start(machine: &Machine) -> Result<Self> {
        let app = |name: &str| {
            let spec = PodSpec::new(name).app("outrigger-testapp http").port("http", 8080);
            spec.port("raw", backend::PORT).port("raw2", app::PORT)
        };
        let pods = vec![
            app(SERVER),
            app(LONE).proxies(Proxies::Guard),
            PodSpec::new(CLIENT),
            PodSpec::new(BARE).proxies(Proxies::None).port("raw2", app::PORT),
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

    /// Lines in logs of proxies that somebody should look at.
    pub(super) fn warnings(&self) -> usize {
        let proxies = self.mesh.pods().flat_map(|pod| pod.sidecar.iter().chain(&pod.guard));
        proxies.map(|proxy| proxy.log().matches(" WARN ").count()).sum()
    }

    /// That proxies are as if nothing had been: nothing is in flight, and nobody works.
    pub(super) fn at_rest(&self, watches: &[Watch]) -> Result<()> {
        const SOON: Duration = Duration::from_secs(10);
        const WHILE: Duration = Duration::from_millis(100);
        let in_flight = |pod: &str| -> Result<usize> {
            let dump = probe::get(self.namespace(pod), ports::ADMIN, "/config_dump")?.body;
            let all = dump.split("\"in_flight\":").skip(1);
            Ok(all.filter(|rest| !rest.trim_start().starts_with(['0'])).count())
        };
        for pod in [CLIENT, SERVER, SHARED] {
            wait_until(&format!("{pod}: nothing is in flight"), SOON, || in_flight(pod).is_ok_and(|open| open == 0))?;
        }
        // A heartbeat and what is scraped may cost one.
        let rests = || -> Result<bool> {
            let spent = Spent::begin(watches)?;
            thread::sleep(WHILE);
            Ok(spent.ticks()?.iter().all(|ticks| *ticks <= 1))
        };
        wait_until("no proxy works any more", SOON, || rests().unwrap_or(false)).map(drop)
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

// === impl Served, Spent ===

impl Served {
    fn of(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        let rank = |share: usize| all[(all.len() * share / 100).min(all.len() - 1)];
        Self { answered: all.len(), half: rank(50), nearly_all: rank(99), slowest: rank(100) }
    }
}

impl Spent {
    pub(super) fn begin(watches: &[Watch]) -> Result<Self> {
        let all = watches.iter().map(|watch| Ok((watch.name.clone(), watch.pid, ticks(watch.pid)?)));
        Ok(Self { start: Instant::now(), before: all.collect::<Result<_>>()? })
    }

    fn ticks(&self) -> Result<Vec<u64>> {
        self.before.iter().map(|(_, pid, before)| Ok(ticks(*pid)? - before)).collect()
    }

    /// As shares of one processor.
    pub(super) fn said(&self) -> Result<String> {
        let seconds = self.start.elapsed().as_secs_f64();
        let shares =
            self.before.iter().zip(self.ticks()?).map(|((name, ..), ticks)| {
                format!("{name} {:.0} %", ticks as f64 / TICKS_PER_SECOND / seconds * 100.0)
            });
        Ok(format!("{:.1} s, of a processor: {}", seconds, shares.collect::<Vec<_>>().join(", ")))
    }
}

/// In user and kernel mode: fields 14 and 15, behind a name that ends with the last parenthesis.
fn ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().context("ticks")).sum()
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
    let victim = || -> Result<Vec<Duration>> {
        let mut all = Vec::new();
        loop {
            let last = done.load(Ordering::Relaxed);
            let start = Instant::now();
            ask(namespace, to).with_context(|| format!("the victim's request {}", answered.load(Ordering::Relaxed)))?;
            all.push(start.elapsed());
            answered.fetch_add(1, Ordering::Relaxed);
            if last {
                return Ok(all);
            }
            thread::sleep(PAUSE);
        }
    };
    thread::scope(|scope| {
        let victim = scope.spawn(victim);
        let attacked = attack();
        done.store(true, Ordering::Relaxed);
        let Ok(served) = victim.join() else { bail!("the victim panicked") };
        let served = Served::of(served?);
        println!(
            "        victim: {} answered, p50 {:?}, p99 {:?}, slowest {:?}",
            served.answered, served.half, served.nearly_all, served.slowest
        );
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
