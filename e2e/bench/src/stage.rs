//! The mesh, the peers and the backends that are measured, all of them up at once, each in a pod of its own.

use std::{io, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use outrigger_testbed::{Machine, Mesh, Pod, PodSpec, Process, Proxies, Spec, machine::binary, probe::wait_until};

use crate::{
    ask,
    data::Table,
    groups::memory,
    measure::{self, Cpus},
    peers::{
        Lane,
        envoy::{self, Place},
        haproxy,
        nginx::{self, BODY},
        pki,
    },
    subject::{Speech, Subject, Way},
};

pub(crate) const CALLER: &str = "bench/caller";
pub(crate) const CALLEE: &str = "bench/callee";
/// Not meshed: what every single hop leads to.
pub(crate) const PLAIN: &str = "bench/plain";
pub(crate) const NGINX: &str = "bench/nginx";
/// An nginx hop behind the same kind of redirection as a sidecar, which may have many connections.
pub(crate) const CAPTURED: &str = "bench/captured";
pub(crate) const HAPROXY: &str = "bench/haproxy";
pub(crate) const ENVOY: &str = "bench/envoy";
pub(crate) const ENVOY_CALLER: &str = "bench/envoy-caller";
pub(crate) const ENVOY_CALLEE: &str = "bench/envoy-callee";
/// A guard without a sidecar.
pub(crate) const LIGHT: &str = "bench/light";
/// A sidecar without a guard.
pub(crate) const ALONE: &str = "bench/alone";
/// With nothing in it.
pub(crate) const SPARE: &str = "bench/spare";
pub(crate) const SHARED: [&str; 2] = ["outrigger-system/shared-0", "outrigger-system/shared-1"];

const SERVICES: &str = include_str!("services.yaml");
const PLAIN_SERVICE: &str = "10.96.0.50";
const CALLEE_SERVICE: &str = "10.96.0.51";
/// For peers to answer for the first time.
const START: Duration = Duration::from_secs(10);
/// For a guard to give its sidecar the traffic back.
const BACK: Duration = Duration::from_secs(120);
/// What ten thousand connections and the listeners beside them need.
const FILES: u64 = 12_000;

pub(crate) struct Stage {
    pub(crate) mesh: Mesh,
    pub(crate) dir: PathBuf,
    /// Everyone's memory before any load.
    pub(crate) at_rest: Table,
}

// === impl Stage ===

impl Stage {
    pub(crate) fn start(machine: &Machine) -> Result<Self> {
        raise_files()?;
        let dir = machine.dir.clone();
        let mut pods = vec![
            with_backends(PodSpec::new(PLAIN).proxies(Proxies::None), &dir)?,
            with_backends(PodSpec::new(CALLEE), &dir)?,
            with_backends(PodSpec::new(ENVOY_CALLEE).proxies(Proxies::None), &dir)?,
            PodSpec::new(CALLER),
            PodSpec::new(LIGHT).proxies(Proxies::Guard),
            PodSpec::new(ALONE).proxies(Proxies::Sidecar),
        ];
        let peers = [NGINX, CAPTURED, HAPROXY, ENVOY, ENVOY_CALLER, SPARE];
        pods.extend(peers.map(|name| PodSpec::new(name).proxies(Proxies::None)));
        let config = vec![("services.yaml".to_owned(), SERVICES.to_owned())];
        let mesh = Mesh::start(machine, Spec { pods, config, shared: SHARED.len() })?;
        let mut stage = Self { mesh, dir, at_rest: Table::default() };
        stage.start_hops()?;
        stage.start_envoys()?;
        for way in Way::ALL {
            let subject = stage.subject(way, Speech::Http1)?;
            wait_until(&subject.name, START, || stage.answers(&subject)).with_context(|| stage.tail(way))?;
        }
        stage.at_rest = memory::at_rest(&stage)?;
        Ok(stage)
    }

    fn start_hops(&mut self) -> Result<()> {
        let backend = self.pod(PLAIN)?.address();
        for (name, connections) in [(NGINX, nginx::FEW), (CAPTURED, nginx::MANY)] {
            let conf = nginx::hop(&self.dir, &file(name), backend, connections, false)?;
            self.run(name, nginx::binary()?, |nginx| {
                nginx.arg("-c").arg(conf);
            })?;
        }
        let rules = "add table ip bench; add chain ip bench out { type nat hook output priority -100; }; \
                     add rule ip bench out tcp dport 80 redirect to :8080";
        self.pod(CAPTURED)?.exec("nft", &[rules])?;
        let conf = haproxy::hop(&self.dir, &file(HAPROXY), backend)?;
        self.run(HAPROXY, haproxy::binary()?, |haproxy| {
            haproxy.arg("-db").arg("-f").arg(conf);
        })
    }

    fn start_envoys(&mut self) -> Result<()> {
        let backend = self.pod(PLAIN)?.address();
        let callee = self.pod(ENVOY_CALLEE)?.address();
        let [of_caller, of_callee] = pki::write(&self.dir, [envoy::CALLER, envoy::CALLEE])?;
        for (name, place) in [
            (ENVOY, Place::Alone { backend }),
            (ENVOY_CALLEE, Place::Callee { files: of_callee }),
            (ENVOY_CALLER, Place::Caller { files: of_caller, callee }),
        ] {
            envoy::write(&self.dir, &file(name), &place)?;
            self.start_envoy(name)?;
        }
        Ok(())
    }

    /// Starts the Envoy of a pod with the settings that have been written for it.
    pub(crate) fn start_envoy(&mut self, pod: &str) -> Result<()> {
        let config = self.dir.join(format!("{}.json", file(pod)));
        self.run(pod, envoy::binary()?, |command| envoy::arguments(command, &config))
    }

    /// Adds a process to a pod.
    fn run(&mut self, pod: &str, program: PathBuf, arguments: impl FnOnce(&mut Command)) -> Result<()> {
        let log = self.dir.join(format!("{}.log", file(pod)));
        let pod = self.mesh.pod_mut(pod)?;
        let mut command = pod.namespace.command(program);
        arguments(&mut command);
        pod.apps.push(Process::spawn(&pod.spec.name.clone(), command, &log)?);
        Ok(())
    }

    pub(crate) fn pod(&self, name: &str) -> Result<&Pod> {
        self.mesh.pod(name)
    }

    pub(crate) fn subject(&self, way: Way, speech: Speech) -> Result<Subject> {
        let lane = speech.lane();
        let url = match way {
            Way::Direct => speech.url(self.pod(PLAIN)?.address(), lane.port()),
            Way::Nginx | Way::Haproxy | Way::Envoy | Way::EnvoyPair => speech.url("127.0.0.1", lane.port()),
            Way::Captured | Way::Sidecar | Way::Guard => speech.url(PLAIN_SERVICE, lane.service_port()),
            Way::SidecarPair => speech.url(CALLEE_SERVICE, lane.service_port()),
        };
        let guards = match way {
            Way::Sidecar => vec![self.guard(CALLER)?],
            Way::SidecarPair => vec![self.guard(CALLER)?, self.guard(CALLEE)?],
            Way::Direct | Way::Nginx | Way::Captured | Way::Haproxy | Way::Envoy | Way::Guard | Way::EnvoyPair => {
                Vec::new()
            }
        };
        Ok(Subject { name: way.name().to_owned(), pod: way.pod(), url, pids: self.pids(way)?, guards })
    }

    pub(crate) fn subjects(&self, ways: &[Way], speech: Speech) -> Result<Vec<Subject>> {
        ways.iter().map(|way| self.subject(*way, speech)).collect()
    }

    /// Those, and the first of them again as the control, in second place.
    pub(crate) fn controlled(&self, ways: &[Way], speech: Speech) -> Result<Vec<Subject>> {
        let mut subjects = self.subjects(ways, speech)?;
        let control = subjects.first().context("no subject")?.again();
        subjects.insert(1, control);
        Ok(subjects)
    }

    fn pids(&self, way: Way) -> Result<Vec<u32>> {
        Ok(match way {
            Way::Direct => Vec::new(),
            Way::Nginx | Way::Captured | Way::Haproxy | Way::Envoy => self.peer(way.pod())?,
            Way::Sidecar => vec![self.sidecar(CALLER)?],
            Way::Guard => vec![self.guard(LIGHT)?, self.sidecar(SHARED[0])?, self.sidecar(SHARED[1])?],
            Way::EnvoyPair => [self.peer(ENVOY_CALLER)?, self.peer(ENVOY_CALLEE)?].concat(),
            Way::SidecarPair => vec![self.sidecar(CALLER)?, self.sidecar(CALLEE)?],
        })
    }

    /// The processes of the peer that stands in a pod: what was started there last.
    pub(crate) fn peer(&self, pod: &str) -> Result<Vec<u32>> {
        let last = self.pod(pod)?.apps.last().with_context(|| format!("{pod}: no peer"))?;
        Ok(measure::tree(last.pid()))
    }

    pub(crate) fn sidecar(&self, pod: &str) -> Result<u32> {
        Ok(self.pod(pod)?.sidecar()?.pid())
    }

    pub(crate) fn guard(&self, pod: &str) -> Result<u32> {
        Ok(self.pod(pod)?.guard.as_ref().with_context(|| format!("{pod}: no guard"))?.pid())
    }

    pub(crate) fn backends(&self) -> Result<Vec<u32>> {
        let apps = [PLAIN, CALLEE, ENVOY_CALLEE].map(|name| Ok(self.pod(name)?.apps.iter().take(Lane::ALL.len())));
        let apps = apps.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(apps.into_iter().flatten().flat_map(|app| measure::tree(app.pid())).collect())
    }

    pub(crate) fn pin(&self, cpus: Cpus) -> Result<()> {
        for way in Way::ALL {
            self.pids(way)?.into_iter().try_for_each(|pid| measure::pin(pid, cpus.proxies()))?;
        }
        self.backends()?.into_iter().try_for_each(|pid| measure::pin(pid, Cpus::LOAD))
    }

    /// Whether a GET comes back through it.
    pub(crate) fn answers(&self, subject: &Subject) -> bool {
        subject.address().is_ok_and(|to| self.pod(subject.pod).is_ok_and(|pod| ask::answers(&pod.namespace, to)))
    }

    /// Waits until the guards leave the traffic to their sidecars.
    pub(crate) fn wait_carried_by(&self, subject: &Subject) -> Result<()> {
        if subject.guards.is_empty() {
            return Ok(());
        }
        let carried = || -> f64 {
            let guards = [CALLER, CALLEE].into_iter().filter_map(|name| self.pod(name).ok());
            let metrics = guards.flat_map(Pod::guard_metrics);
            metrics.filter(|metric| metric.name == "outrigger_fallback_connections_total").map(|it| it.value).sum()
        };
        // Whoever takes its connections takes those of every port. One that is answered has been counted.
        let services = [Way::Sidecar, Way::SidecarPair].map(|way| self.subject(way, Speech::Http1));
        let services = services.into_iter().collect::<Result<Vec<_>>>()?;
        wait_until(&format!("{} in the hands of its sidecars", subject.name), BACK, || {
            let before = carried();
            services.iter().all(|service| self.answers(service)) && carried() <= before
        })?;
        Ok(())
    }

    fn tail(&self, way: Way) -> String {
        self.pod(way.pod()).map(Pod::tails).unwrap_or_default()
    }

    pub(crate) fn hold(&self) -> Result<()> {
        for way in Way::ALL {
            let subject = self.subject(way, Speech::Http1)?;
            let pid = self.pod(subject.pod)?.guard.as_ref().map_or(0, Process::pid);
            println!("{}: from {} {} PIDs {:?}, guard {pid}", subject.name, subject.pod, subject.url, subject.pids);
        }
        io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ()).context("standard input")
    }
}

fn file(pod: &str) -> String {
    pod.replace('/', "-")
}

/// nginx for HTTP/1.1, our own backend for the rest, in the order of [`Lane::ALL`].
fn with_backends(pod: PodSpec, dir: &std::path::Path) -> Result<PodSpec> {
    let name = format!("{}-app", file(&pod.name));
    let nginx = format!("{} -c {}", nginx::binary()?.display(), nginx::backend(dir, &name)?.display());
    let mut pod = pod.app(&nginx).port(Lane::Http1.name(), Lane::Http1.port());
    let load = binary("outrigger-load")?;
    for (lane, kind) in [(Lane::Http2, "h2"), (Lane::Grpc, "grpc"), (Lane::Tcp, "tcp-echo")] {
        let listen = format!("--listen 0.0.0.0:{} --kind {kind} --size {BODY}", lane.port());
        pod = pod.app(&format!("{} serve {listen}", load.display())).port(lane.name(), lane.port());
    }
    Ok(pod)
}

/// As far as we may; whatever we start inherits it.
fn raise_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of open files")?;
    ensure!(hard >= FILES, "only {hard} files may be open: raise the hard limit to {FILES}, as by ulimit -Hn");
    Ok(())
}
