//! A pod: its namespace, and the processes that live in it as containers would.

use std::{
    ffi::OsString,
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use outrigger_wire::names::{PROXY_UID, ports};

use crate::{
    machine::{Machine, binary, run},
    net::Namespace,
    now_us, probe,
    samples::Kill,
    spec::{PodSpec, Proxies},
};

/// Anything in a pod that isn't there by then won't come.
const START: Duration = Duration::from_secs(15);

/// A process and its log. It dies with its owner.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    child: Child,
    log: PathBuf,
}

/// What a pod's proxies must know of the mesh.
#[derive(Debug, Clone)]
pub struct Access {
    /// `HOST:PORT` of the controller.
    pub controller: String,
    pub root_cert: PathBuf,
    pub token: PathBuf,
}

#[derive(Debug)]
pub struct Pod {
    pub spec: PodSpec,
    /// Shared, so that it can be looked into while its processes come and go.
    pub namespace: Arc<Namespace>,
    dir: PathBuf,
    access: Access,
    many_users: bool,
    pub guard: Option<Process>,
    pub sidecar: Option<Process>,
    pub apps: Vec<Process>,
}

// === impl Process ===

impl Process {
    /// Starts `command` with its output in `log`, away from the terminal's signals: only we end it.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("a log")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf() })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()).context("a PID")?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<Kill> {
        let sent = now_us();
        self.child.kill().with_context(|| format!("SIGKILL to {}", self.name))?;
        self.child.wait().with_context(|| self.name.clone())?;
        Ok(Kill { sent, gone: now_us() })
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let what = format!("{} ends after SIGTERM", self.name);
        probe::wait_until(&what, limit, || !self.is_running())?;
        Ok(())
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for `text` in the log; an early end of the process is an error with its log.
    pub fn wait_log(&mut self, text: &str) -> Result<()> {
        let what = format!("{} says {text:?}", self.name);
        let mut ended = false;
        probe::wait_until(&what, START, || {
            ended = !self.is_running();
            ended || self.log().contains(text)
        })
        .with_context(|| self.tail())?;
        if ended && !self.log().contains(text) {
            bail!("{} has ended\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Pod ===

impl Pod {
    /// A namespace with addresses and nothing in it yet.
    pub fn create(machine: &Machine, spec: PodSpec, number: u16, access: Access) -> Result<Self> {
        let namespace = Arc::new(Namespace::create(number).with_context(|| spec.name.clone())?);
        let dir = machine.dir.join("pods").join(spec.name.replace('/', "."));
        let pod = Self {
            spec,
            namespace,
            dir,
            access,
            many_users: machine.many_users,
            guard: None,
            sidecar: None,
            apps: Vec::new(),
        };
        for folder in ["sidecar", "guard"] {
            let folder = pod.dir.join(folder);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
            pod.give(&folder)?;
        }
        Ok(pod)
    }

    pub fn address(&self) -> Ipv4Addr {
        self.namespace.v4
    }

    /// Makes the proxies' user the owner, where there is more than one user.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        if self.many_users {
            chown(path, Some(PROXY_UID), Some(PROXY_UID)).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// Installs the redirection, as the init container does.
    pub fn redirect(&self) -> Result<()> {
        let mut command = self.namespace.command(binary("outrigger-proxy")?);
        command.arg("redirect");
        if self.many_users {
            command.args(["--proxy-uid", &PROXY_UID.to_string()]);
        } else {
            command.args(["--proxy-mark", &PROXY_UID.to_string()]);
        }
        run(&mut command).with_context(|| format!("redirection of {}", self.spec.name))?;
        // Rules bring connection tracking with them.
        self.namespace.forget_soon()
    }

    pub fn start_guard(&mut self) -> Result<()> {
        self.guard = Some(self.proxy("guard", "guard")?);
        Ok(())
    }

    /// The sidecar; in a pod of the pool the shared proxy stands in its place.
    pub fn start_sidecar(&mut self) -> Result<()> {
        let mode = if self.spec.proxies == Proxies::Shared { "shared" } else { "sidecar" };
        self.sidecar = Some(self.proxy(mode, "sidecar")?);
        Ok(())
    }

    pub fn start_apps(&mut self) -> Result<()> {
        for (index, args) in self.spec.apps.clone().iter().enumerate() {
            let (program, args) = args.split_first().context("an app without a program")?;
            let program = if program.contains('/') { PathBuf::from(program) } else { binary(program)? };
            let mut command = self.namespace.command(program);
            command.args(args);
            let name = format!("{} app {index}", self.spec.name);
            self.apps.push(Process::spawn(&name, command, &self.dir.join(format!("app{index}.log")))?);
        }
        Ok(())
    }

    /// Kills the sidecar (or the shared proxy) as the kernel's OOM killer would.
    pub fn kill_sidecar(&mut self) -> Result<Kill> {
        self.sidecar.take().context("no sidecar to kill")?.kill()
    }

    /// Ends the sidecar as the platform does when it restarts one.
    pub fn terminate_sidecar(&mut self, limit: Duration) -> Result<()> {
        self.sidecar.take().context("no sidecar to end")?.terminate(limit)
    }

    pub fn sidecar(&self) -> Result<&Process> {
        self.sidecar.as_ref().with_context(|| format!("{} has no sidecar now", self.spec.name))
    }

    /// Waits until every proxy of the pod says that it is ready.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        let start = std::time::Instant::now();
        if self.guard.is_some() {
            self.wait_guard()?;
        }
        if self.sidecar.is_some() {
            self.wait_admin(ports::ADMIN, false)?;
        }
        Ok(start.elapsed())
    }

    pub fn wait_guard(&mut self) -> Result<()> {
        self.wait_admin(ports::GUARD_ADMIN, true)
    }

    /// Runs a short command in the pod and returns its standard output.
    pub fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        let mut command = self.namespace.command(program);
        let output = command.args(args).output().with_context(|| format!("{command:?}"))?;
        if !output.status.success() {
            bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Metrics of the sidecar (or shared proxy); none while it is down.
    pub fn metrics(&self) -> Vec<probe::Metric> {
        let page = probe::get(&self.namespace, ports::ADMIN, "/metrics");
        page.map(|page| probe::metrics(&page.body)).unwrap_or_default()
    }

    pub fn guard_metrics(&self) -> Vec<probe::Metric> {
        let page = probe::get(&self.namespace, ports::GUARD_ADMIN, "/metrics");
        page.map(|page| probe::metrics(&page.body)).unwrap_or_default()
    }

    /// Last lines of every process's log, for failures.
    pub fn tails(&self) -> String {
        let all = self.guard.iter().chain(&self.sidecar).chain(&self.apps);
        all.map(|process| format!("--- {}\n{}\n", process.name, process.tail())).collect()
    }

    fn wait_admin(&mut self, port: u16, guard: bool) -> Result<()> {
        let what = format!("readiness of {} on {port}", self.spec.name);
        let namespace = &self.namespace;
        let process = if guard { &mut self.guard } else { &mut self.sidecar };
        let process = process.as_mut().with_context(|| format!("{what}: not started"))?;
        let mut ended = false;
        let waited = probe::wait_until(&what, START, || {
            ended = !process.is_running();
            ended || probe::get(namespace, port, "/readyz").is_ok_and(|page| page.status == 200)
        });
        if ended {
            bail!("{} has ended\n{}", process.name, process.tail());
        }
        match waited {
            Ok(_) => Ok(()),
            Err(error) => bail!("{error}\n{}", process.tail()),
        }
    }

    fn proxy(&self, mode: &str, part: &str) -> Result<Process> {
        let health = if mode == "guard" { ports::GUARD_HEALTH } else { ports::HEALTH };
        let mut line: Vec<_> = self.spec.wrapper.iter().map(OsString::from).collect();
        line.push(binary("outrigger-proxy")?.into());
        let mut command = if self.many_users {
            let uid = PROXY_UID.to_string();
            let mut command = self.namespace.command("setpriv");
            command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]).args(line);
            command
        } else {
            let mut command = self.namespace.command(line.remove(0));
            command.args(line).env("OUTRIGGER_MARK", PROXY_UID.to_string());
            command
        };
        command
            .arg(mode)
            .env("OUTRIGGER_CONTROLLER", &self.access.controller)
            .env("OUTRIGGER_ROOT_CERT", &self.access.root_cert)
            .env("OUTRIGGER_TOKEN", &self.access.token)
            .env("OUTRIGGER_WORKLOAD", &self.spec.name)
            .env("OUTRIGGER_STATE_DIR", self.dir.join(part))
            .env("OUTRIGGER_HEALTH", format!("[::]:{health}"))
            .env("OUTRIGGER_WORKERS", self.spec.workers.to_string())
            .envs(&self.spec.env);
        if mode == "guard" {
            command.env("OUTRIGGER_CAPTURED", "true");
        }
        if self.spec.proxies == Proxies::Guard {
            command.env("OUTRIGGER_NO_SIDECAR", "true");
        }
        Process::spawn(&format!("{} {mode}", self.spec.name), command, &self.dir.join(format!("{part}.log")))
    }
}
