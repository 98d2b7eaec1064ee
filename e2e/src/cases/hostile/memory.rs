//! Peers that ask for much and read none of it, until the proxy's cgroup has hardly any memory left: it ends them instead of being
//! ended, and serves others.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Process, probe::wait_until};
use outrigger_wire::names::PROXY_UID;

use super::{
    few::metric,
    frames::{END_HEADERS, END_STREAM, PREFACE, frame, kind, request, streams},
    peer::Peer,
    rig::{CLIENT, Rig, SERVER, ask, server},
};
use crate::raw::Server;

const LIMIT: u64 = 64 << 20;
/// Together they could hold 100 MiB.
const PEERS: usize = 4;
const STREAMS: usize = 64;
const PORT: u16 = 9001;
/// As much comes for each of them at once, and how often: slower than a proxy looks at its memory.
const PIECE: usize = 4 * 1024;
const PAUSE: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(40);

/// A cgroup with a limit of memory, of either version.
struct Cgroup(PathBuf);

pub(super) fn memory(machine: &Machine) -> Result<()> {
    let mut rig = Rig::start(machine)?;
    let cgroup = Cgroup::new(machine.many_users).context("a cgroup with a limit of memory")?;
    let procs = cgroup.0.join("cgroup.procs");
    let enter = format!("echo $$ > {} && exec \"$@\"", procs.display());
    rig.mesh.pod_mut(SERVER)?.spec.wrapper = ["sh", "-c", &enter, "sh"].map(str::to_owned).to_vec();
    rig.mesh.kill_sidecar(SERVER)?;
    rig.mesh.restart_sidecar(SERVER)?;
    let sidecar = rig.pod(SERVER).sidecar()?;
    let inside = fs::read_to_string(&procs)?;
    ensure!(inside.lines().any(|pid| pid == sidecar.pid().to_string()), "the sidecar isn't in its cgroup: {inside:?}");
    wait_until("the sidecar to accept again", PATIENCE, || {
        ask(rig.namespace(CLIENT), server(80)).is_ok() && metric(&rig, SERVER, "outrigger_http_requests_total") > 0
    })?;

    let _app = Server::in_pod(rig.pod(SERVER), PORT, trickle)?;
    let mut peers = (0..PEERS).map(|_| greedy(&rig)).collect::<Result<Vec<_>>>()?;
    let level = || metric(&rig, SERVER, "outrigger_memory_level");
    wait_until("memory to run out", PATIENCE, || level() > 0).with_context(|| sidecar.tail())?;
    wait_until("memory to be there again", PATIENCE, || level() == 0 && said(sidecar, "there is memory again"))
        .with_context(|| sidecar.tail())?;
    ensure!(said(sidecar, "memory runs out: connections are shed"), "it says nothing: {}", sidecar.tail());
    for peer in &mut peers {
        ensure!(peer.is_closed_within(PATIENCE)?, "who reads nothing is served on");
    }
    for _ in 0..20 {
        ask(rig.namespace(CLIENT), server(80)).context("others, afterwards")?;
    }
    for line in sidecar.log().lines().filter(|line| line.contains("memory")) {
        println!("        {line}");
    }
    ensure!(Path::new(&format!("/proc/{}", sidecar.pid())).exists(), "the sidecar was killed");
    Ok(())
}

fn said(process: &Process, words: &str) -> bool {
    process.log().contains(words)
}

/// A peer of the mesh with as many answers open as it may have, none of which it reads.
fn greedy(rig: &Rig) -> Result<Peer> {
    let mut peer = rig.mesh_http2(SERVER)?;
    // Windows as large as they can be.
    let window = [[0, 4].as_slice(), &0x7fff_ffff_u32.to_be_bytes()].concat();
    let more = frame(kind::WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 0xffff).to_be_bytes());
    peer.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &window), &more].concat())?;
    for stream in streams().take(STREAMS) {
        let head = request("GET", "/", PORT);
        peer.write_all(&frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &head))?;
    }
    peer.flush()?;
    Ok(peer)
}

/// An answer without end, a little at a time.
fn trickle(mut stream: TcpStream) -> Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")?;
    loop {
        stream.write_all(&[b'x'; PIECE])?;
        thread::sleep(PAUSE);
    }
}

// === impl Cgroup ===

impl Cgroup {
    fn new(many_users: bool) -> Result<Self> {
        let mounted = Path::new("/sys/fs/cgroup");
        let name = format!("outrigger-e2e-{}", std::process::id());
        let first = mounted.join("memory");
        let (folder, limit) = if first.exists() {
            (first.join(name), "memory.limit_in_bytes")
        } else {
            fs::write(mounted.join("cgroup.subtree_control"), "+memory").context("cgroup.subtree_control")?;
            (mounted.join(name), "memory.max")
        };
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let cgroup = Self(folder);
        fs::write(cgroup.0.join(limit), LIMIT.to_string()).context(limit)?;
        if many_users {
            // The proxies' user enters it.
            chown(cgroup.0.join("cgroup.procs"), Some(PROXY_UID), Some(PROXY_UID))?;
        }
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Who is in it is let go: a folder with processes can't be removed.
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            let _ = fs::write(self.0.with_file_name("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}
