//! The controller as a process of its own, and what it takes of the machine.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    time::{ClockId, clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};
use outrigger_testbed::machine::binary;
use serde::{Deserialize, Serialize};

/// The real binary, fed by an API server.
pub(crate) struct Controller {
    child: Child,
    pub(crate) grpc: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
}

/// Memory in KiB, as `smaps_rollup` has it.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) rss_kib: u64,
    pub(crate) anon_kib: u64,
}

// === impl Controller ===

impl Controller {
    /// Starts it, where proxies expect it to be. It needn't be ready.
    pub(crate) fn start(kubeconfig: &Path, listen: Option<SocketAddr>, dir: &Path) -> Result<Self> {
        let log = dir.join("controller.log");
        let listen = listen.map_or("127.0.0.1:0".to_owned(), |address| address.to_string());
        let mut child = Command::new(binary("outrigger-controller")?)
            .args(["--kubernetes", "--pod-name", "outrigger-controller-1", "--log", "warn", "--listen", &listen])
            .args(["--admin", "127.0.0.1:0", "--webhook-listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"])
            .env("KUBECONFIG", kubeconfig)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::options().create(true).append(true).open(&log)?)
            .spawn()
            .context("outrigger-controller")?;
        let mut line = String::new();
        let addresses = (|| {
            BufReader::new(child.stdout.take().context("the controller's output")?).read_line(&mut line)?;
            let line: serde_json::Value = serde_json::from_str(&line).context("not JSON")?;
            let field =
                |name: &str| line[name].as_str().with_context(|| format!("no {name}"))?.parse().context("address");
            Ok::<(SocketAddr, SocketAddr), anyhow::Error>((field("grpc")?, field("admin")?))
        })();
        match addresses {
            Ok((grpc, admin)) => Ok(Self { child, grpc, admin, log }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(&log).unwrap_or_default();
                Err(error.context(format!("outrigger-controller said {line:?}\n{log}")))
            }
        }
    }

    /// Waits until it serves proxies.
    pub(crate) fn ready(&mut self, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        while !self.is_ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the controller has ended, {status}:\n{}", self.log());
            }
            if begun.elapsed() > patience {
                bail!("the controller isn't ready after {patience:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn is_ready(&self) -> bool {
        let ask = || {
            let mut stream = TcpStream::connect(self.admin)?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: controller\r\nconnection: close\r\n\r\n")?;
            let mut status = String::new();
            BufReader::new(stream).read_line(&mut status)?;
            Ok::<_, std::io::Error>(status.contains(" 200 "))
        };
        ask().unwrap_or(false)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What all its threads have run so far, those that have ended included.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let clock = clock_getcpuclockid(Pid::from_raw(self.child.id().cast_signed()))?;
        Ok(clock_gettime(clock)?.into())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let rollup =
            fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).context("the controller's memory")?;
        Ok(Memory { rss_kib: field(&rollup, "Rss:")?, anon_kib: field(&rollup, "Anonymous:")? })
    }

    /// The most that it has had in memory since [`forget_peak`](Self::forget_peak), in KiB.
    pub(crate) fn peak_kib(&self) -> Result<u64> {
        field(&fs::read_to_string(format!("/proc/{}/status", self.pid()))?, "VmHWM:")
    }

    pub(crate) fn forget_peak(&self) -> Result<()> {
        fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").context("the controller's peak of memory")
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("SIGKILL to the controller")?;
        self.child.wait().context("the controller")?;
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process, the simulation, has run so far.
pub(crate) fn own_cpu() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
    line.split_whitespace().next().context("no number")?.parse().with_context(|| name.to_owned())
}
