//! The mesh and the nginx processes that are measured.

use std::{fs, io, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, Pod, PodSpec, Process, Proxies, Spec, probe};

use crate::measure::{self, Cpus, Memory};

const CALLER: &str = "bench/caller";
const CALLEE: &str = "bench/callee";
/// Not meshed: what every single hop leads to.
const PLAIN: &str = "bench/plain";
const HOP: &str = "bench/hop";
/// An nginx hop behind the same kind of redirection as a sidecar.
const CAPTURED: &str = "bench/captured";
const LIGHT: &str = "bench/light";
const SHARED: &str = "outrigger-system/shared-0";

const SERVICES: &str = include_str!("services.yaml");

pub(crate) struct Stage {
    mesh: Mesh,
    dir: std::path::PathBuf,
}

/// Something that a load is sent through.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) pod: &'static str,
    pub(crate) url: String,
    /// Of the proxies whose CPU time is counted.
    pub(crate) pids: Vec<u32>,
}

/// Process start to ready.
pub(crate) struct Starts {
    /// With an empty state folder: certificate and configuration come from the controller.
    pub(crate) fresh: Vec<Duration>,
    pub(crate) from_disk: Vec<Duration>,
}

impl Stage {
    pub(crate) fn start(machine: &Machine) -> Result<Self> {
        let dir = machine.dir.clone();
        let app = |name: &str| format!("/usr/sbin/nginx -c {}", dir.join(format!("{name}.conf")).display());
        let pods = vec![
            PodSpec::new(PLAIN).proxies(Proxies::None).port("http", 8080).app(&app("plain")),
            PodSpec::new(CALLEE).port("http", 8080).app(&app("callee")),
            PodSpec::new(CALLER),
            PodSpec::new(LIGHT).proxies(Proxies::Guard),
            PodSpec::new(HOP).proxies(Proxies::None),
            PodSpec::new(CAPTURED).proxies(Proxies::None),
        ];
        for backend in ["plain", "callee"] {
            let body = "x".repeat(1024);
            write_nginx(&dir, backend, "", &format!("return 200 {body};"))?;
        }
        let config = vec![("services.yaml".to_owned(), SERVICES.to_owned())];
        let mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
        let mut stage = Self { mesh, dir };
        stage.start_hops()?;
        for subject in stage.busy_subjects()?.iter().chain(&stage.serial_subjects()?) {
            let pod = stage.pod(subject.pod)?;
            probe::wait_until(subject.name, Duration::from_secs(10), || answers(pod, &subject.url))?;
        }
        Ok(stage)
    }

    fn start_hops(&mut self) -> Result<()> {
        let backend = self.pod(PLAIN)?.address();
        let upstream =
            format!("upstream app {{ server {backend}:8080; keepalive 64; keepalive_requests 1000000000; }}");
        let location = "proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                        proxy_set_header Host $host; proxy_set_header X-Request-ID $request_id;";
        for name in [HOP, CAPTURED] {
            let file = name.replace('/', "-");
            let conf = write_nginx(&self.dir, &file, &upstream, location)?;
            let pod = self.mesh.pod_mut(name)?;
            let mut command = pod.namespace.command("/usr/sbin/nginx");
            command.arg("-c").arg(conf);
            pod.apps.push(Process::spawn(name, command, &self.dir.join(format!("{file}.log")))?);
        }
        let rules = "add table ip bench; add chain ip bench out { type nat hook output priority -100; }; \
                     add rule ip bench out tcp dport 80 redirect to :8080";
        self.pod(CAPTURED)?.exec("nft", &[rules])?;
        Ok(())
    }

    pub(crate) fn pod(&self, name: &str) -> Result<&Pod> {
        self.mesh.pod(name)
    }

    pub(crate) fn busy_subjects(&self) -> Result<Vec<Subject>> {
        let mut subjects = self.hops()?;
        subjects.push(Subject {
            name: "nginx, captured",
            pod: CAPTURED,
            url: "http://10.96.0.50/".to_owned(),
            pids: measure::tree(self.pod(CAPTURED)?.apps[0].pid()),
        });
        subjects.extend(self.sidecars()?);
        subjects.push(Subject {
            name: "guard and shared proxy",
            pod: LIGHT,
            url: "http://10.96.0.50/".to_owned(),
            pids: vec![self.guard(LIGHT)?, self.sidecar(SHARED)?],
        });
        Ok(subjects)
    }

    /// The first one is the load without any proxy.
    pub(crate) fn serial_subjects(&self) -> Result<Vec<Subject>> {
        let url = format!("http://{}:8080/", self.pod(PLAIN)?.address());
        let mut subjects = vec![Subject { name: "no proxy", pod: HOP, url, pids: Vec::new() }];
        subjects.extend(self.hops()?);
        subjects.extend(self.sidecars()?);
        Ok(subjects)
    }

    /// nginx, and the same again as the control.
    fn hops(&self) -> Result<Vec<Subject>> {
        let pids = measure::tree(self.pod(HOP)?.apps[0].pid());
        let hop = |name| Subject { name, pod: HOP, url: "http://127.0.0.1:8080/".to_owned(), pids: pids.clone() };
        Ok(vec![hop("nginx"), hop("nginx again (control)")])
    }

    fn sidecars(&self) -> Result<Vec<Subject>> {
        let (caller, callee) = (self.sidecar(CALLER)?, self.sidecar(CALLEE)?);
        Ok(vec![
            Subject { name: "sidecar", pod: CALLER, url: "http://10.96.0.50/".to_owned(), pids: vec![caller] },
            Subject {
                name: "pair of sidecars, mTLS",
                pod: CALLER,
                url: "http://10.96.0.51/".to_owned(),
                pids: vec![caller, callee],
            },
        ])
    }

    fn sidecar(&self, pod: &str) -> Result<u32> {
        Ok(self.pod(pod)?.sidecar.as_ref().with_context(|| format!("{pod}: no sidecar"))?.pid())
    }

    fn guard(&self, pod: &str) -> Result<u32> {
        Ok(self.pod(pod)?.guard.as_ref().with_context(|| format!("{pod}: no guard"))?.pid())
    }

    pub(crate) fn backends(&self) -> Result<Vec<u32>> {
        let apps = [self.pod(PLAIN)?, self.pod(CALLEE)?].into_iter().flat_map(|pod| &pod.apps);
        Ok(apps.flat_map(|app| measure::tree(app.pid())).collect())
    }

    pub(crate) fn pin(&self, cpus: Cpus) -> Result<()> {
        let subjects = self.busy_subjects()?;
        for pid in subjects.iter().flat_map(|subject| &subject.pids) {
            measure::pin(*pid, cpus.proxies())?;
        }
        self.backends()?.into_iter().try_for_each(|pid| measure::pin(pid, Cpus::LOAD))
    }

    pub(crate) fn memory(&self) -> Result<Vec<(&'static str, Memory)>> {
        let nginx = measure::tree(self.pod(HOP)?.apps[0].pid());
        let worker = nginx.last().copied().context("nginx has no worker")?;
        let pids = [
            ("sidecar", self.sidecar(CALLER)?),
            ("guard", self.guard(CALLER)?),
            ("guard of a pod without sidecar", self.guard(LIGHT)?),
            ("shared proxy", self.sidecar(SHARED)?),
            ("nginx worker", worker),
        ];
        pids.into_iter().map(|(name, pid)| Ok((name, Memory::of(pid)?))).collect()
    }

    pub(crate) fn starts(&mut self, times: usize) -> Result<Starts> {
        let state = self.dir.join("pods").join(CALLER.replace('/', ".")).join("sidecar");
        let mut starts = Starts { fresh: Vec::new(), from_disk: Vec::new() };
        for _ in 0..times {
            self.mesh.kill_sidecar(CALLER)?;
            for file in fs::read_dir(&state).context("the sidecar's state")?.flatten() {
                fs::remove_file(file.path())?;
            }
            starts.fresh.push(self.mesh.restart_sidecar(CALLER)?);
            self.mesh.kill_sidecar(CALLER)?;
            starts.from_disk.push(self.mesh.restart_sidecar(CALLER)?);
        }
        Ok(starts)
    }

    pub(crate) fn hold(&self) -> Result<()> {
        for subject in self.busy_subjects()? {
            println!("{}: from {} {} PIDs {:?}", subject.name, subject.pod, subject.url, subject.pids);
        }
        io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ()).context("standard input")
    }
}

fn answers(pod: &Pod, url: &str) -> bool {
    let host = url.trim_start_matches("http://").trim_end_matches('/');
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    address.parse().is_ok_and(|to| probe::get_from(&pod.namespace, to, "/").is_ok_and(|page| page.status == 200))
}

/// One worker, no access log, connections kept for as long as the load lasts.
fn write_nginx(dir: &Path, name: &str, upstream: &str, location: &str) -> Result<std::path::PathBuf> {
    ensure!(Path::new("/usr/sbin/nginx").is_file(), "nginx is missing (Debian package nginx-light)");
    let own = dir.join(name);
    let conf = format!(
        "daemon off; user root; worker_processes 1; pid {own}.pid; error_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; {upstream}\n\
         server {{ listen 8080 reuseport; location / {{ {location} }} }} }}\n",
        own = own.display()
    );
    let path = dir.join(format!("{name}.conf"));
    fs::write(&path, conf).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Runs a program in a pod on one CPU.
pub(crate) fn pinned(pod: &Pod, cpu: usize, program: &str) -> Command {
    let mut command = pod.namespace.command("taskset");
    command.args(["-c", &cpu.to_string(), program]);
    command
}
