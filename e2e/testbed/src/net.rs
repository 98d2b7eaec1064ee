//! Devices and addresses: one bridge in the machine's namespace, one veth pair per pod.
//!
//! No redirection here; that is the mesh's own work. Virtual addresses of services lead to the bridge by each pod's
//! default route, so that `connect` finds a way and the proxies' rules can turn it.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};

use crate::machine::run;

/// The machine's own address, where the controller listens.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

const BRIDGE: &str = "outrigger";

/// A network namespace, alive as long as the process that holds it.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    file: File,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

pub(crate) fn create_bridge() -> Result<()> {
    let batch = format!(
        "link set lo up\n\
         link add name {BRIDGE} type bridge mcast_snooping 0\n\
         addr add {GATEWAY}/16 dev {BRIDGE}\n\
         addr add {GATEWAY_V6}/64 dev {BRIDGE} nodad\n\
         link set {BRIDGE} up\n"
    );
    ip_batch(Command::new("ip"), &batch)
}

/// Addresses of the pod with this number, from 1.
pub fn addresses(number: u16) -> (Ipv4Addr, Ipv6Addr) {
    // 250 to a block keeps clear of the gateway and of `.0` and `.255`, which look odd to some.
    let (block, host) = (1 + number / 250, 1 + number % 250);
    let v4 = Ipv4Addr::new(10, 77, u8::try_from(block).unwrap_or(u8::MAX), u8::try_from(host).unwrap_or(u8::MAX));
    (v4, Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, block, host))
}

/// One `ip` process for a whole list of commands: this is what makes a pod start in milliseconds.
fn ip_batch(mut ip: Command, batch: &str) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).context("ip -batch")?;
    }
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut errors).context("ip -batch")?;
    }
    if !child.wait().context("ip")?.success() {
        bail!("ip -batch: {}", errors.trim());
    }
    Ok(())
}

// === impl Namespace ===

impl Namespace {
    /// A new one with its own addresses, joined to the bridge.
    pub fn create(number: u16) -> Result<Self> {
        // `cat` ends at the end of its input, so the holder never outlives us; the line says that the namespace is made.
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare")?;
        let stdout = holder.stdout.take().context("the holder's output")?;
        BufReader::new(stdout).read_line(&mut String::new()).context("a namespace's holder")?;
        let pid = holder.id();
        let file = File::open(format!("/proc/{pid}/ns/net")).context("a pod's network namespace")?;
        let (v4, v6) = addresses(number);
        let namespace = Self { holder, file, v4, v6 };
        let device = format!("pod{number}");
        // The kernel takes its time to remove an earlier pod's; that there is none is well.
        let _ = run(Command::new("ip").args(["link", "del", &device]));
        run(Command::new("ip").args(["link", "add", &device, "master", BRIDGE, "up", "type", "veth"]).args([
            "peer",
            "name",
            "eth0",
            "netns",
            &pid.to_string(),
        ]))?;
        let batch = format!(
            "link set lo up\n\
             addr add {v4}/16 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {GATEWAY}\n\
             route add ::/0 via {GATEWAY_V6}\n"
        );
        ip_batch(namespace.command("ip"), &batch)?;
        namespace.forget_soon()?;
        Ok(namespace)
    }

    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// A command that will run inside. Its PID is the program's own, since nsenter becomes the program.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg("--").arg(program);
        command
    }

    /// Runs `inside` on a thread of its own that has entered the namespace. Sockets made there stay there.
    pub fn within<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| setns(&self.file, CloneFlags::CLONE_NEWNET).map(|()| inside()));
            match thread.join() {
                Ok(done) => done.context("setns"),
                Err(_) => bail!("a thread in a pod's namespace panicked"),
            }
        })
    }

    /// Keeps ended connections for a second rather than for minutes: load opens more of them than ports and the
    /// kernel's tables would hold. What the kernel doesn't have, it needs no setting for.
    pub fn forget_soon(&self) -> Result<()> {
        self.within(|| {
            for (setting, value) in [
                ("ipv4/tcp_tw_reuse", "1"),
                ("ipv4/ip_local_port_range", "20000 65535"),
                ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
                ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
            ] {
                let _ = fs::write(format!("/proc/sys/net/{setting}"), value);
            }
        })
    }

    /// A connection as the pod's app would open it.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&to, timeout)).map_err(io::Error::other)?
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_pod_has_its_own_addresses() {
        let all: HashSet<_> = (1..2000).map(addresses).collect();
        assert_eq!(all.len(), 1999);
        assert!(all.iter().all(|(v4, _)| *v4 != GATEWAY && !matches!(v4.octets()[3], 0 | 255)));
    }
}
