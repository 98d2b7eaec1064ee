//! Isolation: the running program starts itself again in new network, mount and PID namespaces, with util-linux alone.
//!
//! Everything a machine makes lives in those namespaces: processes, devices, rules and files (on a tmpfs). The kernel
//! takes all of it away when the program ends, however it ends. Nothing here changes anything outside of them.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{self, Command},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::wait::{WaitStatus, wait},
    unistd::Pid,
};

use crate::net;

/// Says how far a process has come on its way into the machine.
const STAGE: &str = "OUTRIGGER_MACHINE";

/// What a machine needs, and the Debian package that has it.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
];

/// Proves that the kernel allows what a machine does, before anything is started for good.
const PROBE: &str = "mount -t tmpfs outrigger /run \
    && ip link add name bridge0 type bridge \
    && ip link add name veth0 type veth peer name veth1 \
    && nft add table inet outrigger";

/// The inside of the isolation, with an empty network.
#[derive(Debug)]
pub struct Machine {
    /// On a tmpfs of the machine's own.
    pub dir: PathBuf,
    /// Whether processes may run as another user; not so in a user namespace with a single mapping.
    pub many_users: bool,
}

/// Returns inside the machine. Outside it never returns but with the reason why there can't be a machine: the program
/// begins anew inside, with the same arguments, terminal and exit code.
pub fn enter() -> Result<Machine> {
    match env::var(STAGE).as_deref() {
        Ok("init") => reap(),
        Ok("inside") => Machine::open(),
        _ => isolate(),
    }
}

// === impl Machine ===

impl Machine {
    fn open() -> Result<Self> {
        let map = fs::read_to_string("/proc/self/uid_map").context("/proc/self/uid_map")?;
        // `/run` exists everywhere and nothing that we start looks for anything in it.
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "outrigger", "/run"]))?;
        let dir = PathBuf::from("/run/outrigger");
        fs::create_dir(&dir).context("the machine's directory")?;
        net::create_bridge()?;
        Ok(Self { dir, many_users: maps_many_users(&map) })
    }
}

/// Becomes `unshare`, whose child dies with it by the kernel's hand.
fn isolate() -> Result<Machine> {
    check_tools()?;
    let probe = unshare().args(["sh", "-c", PROBE]).output().context("unshare")?;
    if !probe.status.success() {
        bail!(
            "the kernel doesn't allow network namespaces here: {}\nrun it as root, in a container with --privileged, \
             or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces>0)",
            String::from_utf8_lossy(&probe.stderr).trim()
        );
    }
    let program = env::current_exe().context("this program's path")?;
    let error = unshare().arg(program).args(env::args_os().skip(1)).env(STAGE, "init").exec();
    Err(error).context("unshare")
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !nix::unistd::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--");
    if let Ok(path) = env::join_paths(tool_folders()) {
        command.env("PATH", path);
    }
    command
}

/// The first process of a PID namespace inherits its orphans, so it does nothing but bury them; when the program proper
/// has ended, its own end takes everything else along.
fn reap() -> ! {
    let program = env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let child = match Command::new(program).args(env::args_os().skip(1)).env(STAGE, "inside").spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("can't start inside of the namespaces: {error}");
            process::exit(1);
        }
    };
    let child = Pid::from_raw(i32::try_from(child.id()).unwrap_or(-1));
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => process::exit(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => process::exit(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => process::exit(1),
        }
    }
}

/// Users other than root often lack the last two, where `ip` and `nft` are.
fn tool_folders() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect()
}

fn check_tools() -> Result<()> {
    let folders = tool_folders();
    let missing: Vec<_> = TOOLS
        .iter()
        .filter(|(tool, _)| !folders.iter().any(|folder| folder.join(tool).is_file()))
        .map(|(tool, package)| format!("`{tool}` (Debian package {package})"))
        .collect();
    if !missing.is_empty() {
        bail!("missing: {}", missing.join(", "));
    }
    Ok(())
}

/// Lines of `/proc/PID/uid_map` are: first inside, first outside, how many.
fn maps_many_users(map: &str) -> bool {
    map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum::<u64>() > 1
}

/// A binary of this build: beside the running program, or one folder up for tests. What is in the folder that
/// `OUTRIGGER_BINARIES` names goes before it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let program = env::current_exe().context("this program's path")?;
    let named = env::var_os("OUTRIGGER_BINARIES").map(PathBuf::from);
    let folders = named.into_iter().chain(program.ancestors().skip(1).take(2).map(Path::to_path_buf));
    let candidates: Vec<_> = folders.map(|folder| folder.join(name)).collect();
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => bail!("{name} isn't beside {}: build the whole workspace first", program.display()),
    }
}

/// Runs a short command to its end; its error output is the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_maps() {
        assert!(maps_many_users("         0          0 4294967295\n"));
        assert!(!maps_many_users("         0       1000          1\n"));
        assert!(maps_many_users("0 1000 1\n1 100000 65536\n"));
        assert!(!maps_many_users(""));
    }
}
