//! What can befall a proxy or a network, done from within the pod: to its processes by signals, as long as the pod shares
//! its process namespace, and to its packets by a table of its own in nftables. Every fault ends by itself, also if nobody
//! waits for it any more.

use std::{
    ffi::OsStr,
    fs,
    io::Write,
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Subcommand, ValueEnum};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{now_us, samples::Kill};

/// The period in which the kernel accounts for a container's processor time by default.
const PERIOD: Duration = Duration::from_millis(100);
/// Of each [`PERIOD`], what a starved process gets: a tenth of one processor.
const SHARE: Duration = Duration::from_millis(10);
/// A signal has had its effect by then.
const PATIENCE: Duration = Duration::from_secs(10);

const TABLE: &str = "inet outrigger-chaos";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum Fault {
    /// A proxy is killed (SIGKILL)
    Kill { proxy: Proxy },
    /// A proxy hangs (SIGSTOP) for a time
    Hang {
        proxy: Proxy,
        #[arg(long)]
        seconds: u64,
    },
    /// A proxy gets a tenth of one processor for a time
    Starve {
        proxy: Proxy,
        #[arg(long)]
        seconds: u64,
    },
    /// The pod's packets are lost for a time
    Cut {
        #[arg(long)]
        seconds: u64,
        /// How many of a hundred
        #[arg(long, default_value_t = 100)]
        percent: u8,
        /// Only those to and from this TCP port of others
        #[arg(long)]
        port: Option<u16>,
    },
}

/// A process of a pod, by the first argument of its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Proxy {
    Sidecar,
    Guard,
}

impl Fault {
    /// What [`App::Fault`](crate::command::App::Fault) has to be told.
    pub fn arguments(&self) -> Vec<String> {
        let words = match *self {
            Self::Kill { proxy } => format!("kill {}", proxy.name()),
            Self::Hang { proxy, seconds } => format!("hang {} --seconds {seconds}", proxy.name()),
            Self::Starve { proxy, seconds } => format!("starve {} --seconds {seconds}", proxy.name()),
            Self::Cut { seconds, percent, port } => {
                let port = port.map(|port| format!(" --port {port}")).unwrap_or_default();
                format!("cut --seconds {seconds} --percent {percent}{port}")
            }
        };
        ["fault"].into_iter().chain(words.split(' ')).map(str::to_owned).collect()
    }
}

impl Proxy {
    fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Guard => "guard",
        }
    }
}

/// Does it, and returns once it is over: with the time in which it took calls that were under way.
pub fn run(fault: Fault) -> Result<Kill> {
    match fault {
        Fault::Kill { proxy } => killed(process(proxy)?),
        Fault::Hang { proxy, seconds } => {
            let process = process(proxy)?;
            let sent = now_us();
            kill(process, Signal::SIGSTOP).context("SIGSTOP")?;
            wait("stopped", || is_stopped(process))?;
            let gone = now_us();
            thread::sleep(Duration::from_secs(seconds));
            kill(process, Signal::SIGCONT).context("SIGCONT")?;
            Ok(Kill { sent, gone })
        }
        Fault::Starve { proxy, seconds } => {
            let (sent, start) = (now_us(), Instant::now());
            starve(process(proxy)?, || start.elapsed() < Duration::from_secs(seconds))?;
            Ok(Kill { sent, gone: sent })
        }
        Fault::Cut { seconds, percent, port } => {
            let sent = now_us();
            nft(&cut(percent, port))?;
            thread::sleep(Duration::from_secs(seconds));
            nft(&format!("delete table {TABLE}\n"))?;
            Ok(Kill { sent, gone: sent })
        }
    }
}

/// Lets a process have a tenth of one processor for as long as that is wanted.
pub fn starve(process: Pid, wanted: impl Fn() -> bool) -> Result<()> {
    while wanted() {
        kill(process, Signal::SIGSTOP).context("SIGSTOP")?;
        thread::sleep(PERIOD - SHARE);
        kill(process, Signal::SIGCONT).context("SIGCONT")?;
        thread::sleep(SHARE);
    }
    Ok(())
}

/// Kills a process, and returns once it is gone.
pub fn killed(process: Pid) -> Result<Kill> {
    let sent = now_us();
    kill(process, Signal::SIGKILL).context("SIGKILL")?;
    let gone = PathBuf::from(format!("/proc/{process}"));
    wait("gone", || !gone.exists())?;
    Ok(Kill { sent, gone: now_us() })
}

fn wait(what: &str, mut so: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !so() {
        ensure!(start.elapsed() < PATIENCE, "the process isn't {what} {PATIENCE:?} after its signal");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Whether the last of its threads has seen the signal, too.
fn is_stopped(process: Pid) -> bool {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let state = |stat: &str| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    let mut states = tasks.filter_map(|task| state(&fs::read_to_string(task.path().join("stat")).ok()?));
    states.all(|state| state == 'T')
}

/// The pod's proxy of this kind.
fn process(proxy: Proxy) -> Result<Pid> {
    let found = fs::read_dir("/proc").context("/proc")?.find_map(|entry| {
        let entry = entry.ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        is(proxy, &fs::read(entry.path().join("cmdline")).ok()?).then(|| Pid::from_raw(pid))
    });
    found.with_context(|| format!("no {proxy:?} runs here, or the pod doesn't share its process namespace"))
}

/// Whether a command line, as `/proc` has it, is such a proxy's.
fn is(proxy: Proxy, command_line: &[u8]) -> bool {
    let mut words = command_line.split(|byte| *byte == 0);
    let program = PathBuf::from(OsStr::from_bytes(words.next().unwrap_or_default()));
    program.file_name().is_some_and(|name| name == "outrigger-proxy") && words.next() == Some(proxy.name().as_bytes())
}

/// A table that drops packets before anything else sees them. One that an earlier run has left is replaced.
fn cut(percent: u8, port: Option<u16>) -> String {
    let some = if percent < 100 { format!("numgen random mod 100 < {percent} ") } else { String::new() };
    let (to, from) = match port {
        Some(port) => (format!("tcp dport {port} "), format!("tcp sport {port} ")),
        None => (String::new(), String::new()),
    };
    format!(
        "table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n\
         chain output {{ type filter hook output priority -400; oifname != \"lo\" {to}{some}drop; }}\n\
         chain input {{ type filter hook input priority -400; iifname != \"lo\" {from}{some}drop; }}\n}}\n"
    )
}

fn nft(script: &str) -> Result<()> {
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft")?;
    child.stdin.take().context("nft's input")?.write_all(script.as_bytes())?;
    let ended = child.wait()?;
    ensure!(ended.success(), "nft: {ended}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::command::App;

    #[derive(Parser)]
    struct Args {
        #[command(subcommand)]
        app: App,
    }

    #[test]
    fn a_fault_is_read_as_it_was_said() {
        for fault in [
            Fault::Kill { proxy: Proxy::Guard },
            Fault::Hang { proxy: Proxy::Sidecar, seconds: 5 },
            Fault::Starve { proxy: Proxy::Sidecar, seconds: 6 },
            Fault::Cut { seconds: 7, percent: 1, port: None },
            Fault::Cut { seconds: 7, percent: 100, port: Some(15010) },
        ] {
            let words = ["outrigger-testapp".to_owned()].into_iter().chain(fault.arguments());
            let read = Args::try_parse_from(words).expect("its own words").app;
            assert!(matches!(read, App::Fault(read) if read == fault), "{fault:?}");
        }
    }

    #[test]
    fn a_proxy_is_known_by_its_program_and_what_it_is_told_to_be() {
        let sidecar = b"/usr/local/bin/outrigger-proxy\0sidecar\0";
        assert!(is(Proxy::Sidecar, sidecar) && !is(Proxy::Guard, sidecar));
        assert!(is(Proxy::Guard, b"outrigger-proxy\0guard\0--no-sidecar\0"));
        for other in [&b"sh\0sidecar\0"[..], b"/outrigger-proxy", b"outrigger-proxy\0sidecars\0", b""] {
            assert!(!is(Proxy::Sidecar, other));
        }
    }

    #[test]
    fn what_is_cut_is_as_much_as_was_asked_for() {
        assert!(cut(100, None).contains("oifname != \"lo\" drop;"));
        let some = cut(5, Some(15010));
        assert!(some.contains("oifname != \"lo\" tcp dport 15010 numgen random mod 100 < 5 drop;"), "{some}");
        assert!(some.contains("iifname != \"lo\" tcp sport 15010 numgen random mod 100 < 5 drop;"), "{some}");
    }

    #[test]
    fn a_stopped_process_is_known_as_such() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(!is_stopped(pid));
        kill(pid, Signal::SIGSTOP).expect("it is ours");
        wait("stopped", || is_stopped(pid)).expect("it was told to");
        child.kill().expect("it is ours");
        child.wait().expect("it ends");
    }

    #[test]
    fn a_killed_process_is_gone_when_it_is_said_to_be() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let pid = Pid::from_raw(child.id().cast_signed());
        // Somebody has to take note of its end, as the container's runtime does.
        let waiter = thread::spawn(move || child.wait());
        let kill = killed(pid).expect("it is ours");
        assert!(kill.gone >= kill.sent && !PathBuf::from(format!("/proc/{pid}")).exists());
        assert!(waiter.join().expect("no panic").expect("it ended").code().is_none());
    }
}
