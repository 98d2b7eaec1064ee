//! Peers that take their time, that are many, and that leave a proxy without file descriptors.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::Linger};
use outrigger_testbed::{Machine, net::Namespace, probe::wait_until};
use outrigger_wire::names::{PROXY_UID, alpn, ports};

use super::{
    peer::{Peer, session},
    rig::{BARE, CLIENT, LONE, Rig, SERVER, SHARED, ask, check, lone, meanwhile, server},
};

const MANY: usize = 500;
/// A proxy's limits for handshakes and request heads are 10 seconds.
const LIMIT: Duration = Duration::from_secs(13);
const CONNECT: Duration = Duration::from_secs(3);
const HALF_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

fn mesh(rig: &Rig, pod: &str) -> SocketAddr {
    (rig.pod(pod).address(), ports::MESH).into()
}

/// Opens `count` connections from inside of `namespace` and says `opening` on each.
fn open(namespace: &Namespace, to: SocketAddr, count: usize, opening: &[u8]) -> Result<Vec<Peer>> {
    let opened = namespace.within(|| {
        (0..count)
            .map(|_| {
                let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
                stream.write_all(opening)?;
                Ok(Peer::Plain(stream))
            })
            .collect::<std::io::Result<Vec<_>>>()
    })?;
    opened.with_context(|| format!("{count} connections to {to}"))
}

/// Connections of the mesh whose HTTP/2 doesn't go on.
fn begun(rig: &Rig, pod: &str, opening: &[u8]) -> Result<Vec<Peer>> {
    let begin = |_| -> Result<Peer> {
        let mut peer = rig.mesh_http2(pod)?;
        peer.write_all(opening)?;
        peer.flush()?;
        Ok(peer)
    };
    (0..20).map(begin).collect()
}

/// Handshakes and prefaces that never go on, at every kind of port, and request heads that never end: all are closed
/// within their limit, and others are served.
pub(super) fn half_open(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let watches = rig.all()?;
    let mut hello = Vec::new();
    session(None, alpn::H2)?.write_tls(&mut hello)?;
    let bare = rig.namespace(BARE);
    let start = Instant::now();
    let to_all = || -> Result<Vec<(&str, Vec<Peer>)>> {
        let half = &hello[..hello.len() / 2];
        let raw = SocketAddr::from((rig.pod(SERVER).address(), 8080));
        Ok(vec![
            ("silent, sidecar", open(bare, mesh(&rig, SERVER), MANY, b"")?),
            ("half a hello, sidecar", open(bare, mesh(&rig, SERVER), MANY, half)?),
            ("hello and no more, sidecar", open(bare, mesh(&rig, SERVER), 50, &hello)?),
            ("silent, guard", open(bare, mesh(&rig, LONE), MANY, b"")?),
            ("half a hello, guard", open(bare, mesh(&rig, LONE), MANY, half)?),
            ("silent, shared proxy", open(bare, mesh(&rig, SHARED), MANY, b"")?),
            ("half a hello, shared proxy", open(bare, mesh(&rig, SHARED), MANY, half)?),
            ("half a head, outbound", open(rig.namespace(CLIENT), server(80), MANY, b"GET / HTTP/1.1\r\nHost: a\r\n")?),
            ("half a method, outbound", open(rig.namespace(CLIENT), server(80), 50, b"GE")?),
            ("half a head, inbound", open(bare, raw, MANY, b"GET / HTTP/1.1\r\nHost:")?),
            ("half a preface, outbound", open(rig.namespace(CLIENT), server(80), 50, HALF_PREFACE)?),
            ("half a preface, inbound", open(bare, raw, 50, HALF_PREFACE)?),
            ("no preface, sidecar", begun(&rig, SERVER, b"")?),
            ("half a preface, sidecar", begun(&rig, SERVER, HALF_PREFACE)?),
            ("half a preface, shared proxy", begun(&rig, LONE, HALF_PREFACE)?),
        ])
    };
    let attack = || -> Result<Vec<String>> {
        let mut open = to_all()?;
        println!(
            "        {} connections in {:?}",
            open.iter().map(|(_, all)| all.len()).sum::<usize>(),
            start.elapsed()
        );
        let mut still = Vec::new();
        for (name, all) in &mut open {
            for peer in all {
                let left = LIMIT.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
                if !peer.is_closed_within(left)? {
                    still.push((*name).to_owned());
                }
            }
        }
        Ok(still)
    };
    let (mut still, _) = meanwhile(rig.namespace(CLIENT), server(80), attack)?;
    let count = still.len();
    still.dedup();
    println!("        all ended after {:?}, but {count}", start.elapsed());
    ensure!(count == 0, "{count} connections outlive the limit: {still:?}");
    ask(rig.namespace(CLIENT), lone(80)).context("through guard and shared proxy afterwards")?;
    check(&watches, 64)
}

const SOME_WAVES: usize = 4;

/// Two thousand connections that do nothing, after a request each, and then leave; again and again, so that what isn't
/// given back adds up. How much the allocator keeps depends on how a wave's requests happened to overlap, so the later
/// waves are compared with the first few together, by what a connection could cost.
pub(super) fn idle(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let watches = rig.all()?;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut after_some = Vec::new();
    meanwhile(rig.namespace(CLIENT), server(80), || {
        for wave in 0..2 * SOME_WAVES {
            let both = [server(80), lone(80)].map(|to| open(rig.namespace(CLIENT), to, 1000, request));
            wait_until("they are all there", LIMIT, || active(&rig, CLIENT).is_some_and(|open| open >= 2000.0))?;
            drop(both.into_iter().collect::<Result<Vec<_>>>()?);
            for pod in [CLIENT, SERVER, SHARED] {
                wait_until(&format!("{pod} closes what its peers have left"), LIMIT, || {
                    active(&rig, pod).is_some_and(|open| open < 50.0)
                })?;
            }
            if wave + 1 == SOME_WAVES {
                after_some = rig.all()?;
            }
        }
        Ok(())
    })?;
    check(&watches, 160)?;
    for (first, again) in watches.iter().zip(&after_some) {
        let (some, all) = (again.idle(), first.now()?);
        // A connection that was forgotten would cost several times as much.
        let allowed = some + 4 * SOME_WAVES as u64 * 2000;
        ensure!(all < allowed, "every wave costs memory: {some} KiB after {SOME_WAVES}, {all} after twice as many");
    }
    Ok(())
}

/// Connections that a pod's sidecar has accepted and not ended.
fn active(rig: &Rig, pod: &str) -> Option<f64> {
    let metrics = rig.pod(pod).metrics();
    let active = metrics.iter().filter(|metric| metric.name == "outrigger_connections_active");
    active.map(|metric| metric.value).reduce(|all, one| all + one)
}

/// Without file descriptors a proxy accepts no more; with some again it goes on.
pub(super) fn descriptors(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let watches = rig.all()?;
    let namespace = rig.namespace(CLIENT);
    let bare = rig.namespace(BARE);
    for (name, watch, from, to, opening) in [
        ("sidecar, outbound", &watches[2], namespace, server(80), &b"GET / HTTP/1.1\r\n"[..]),
        ("sidecar, mesh port", &watches[0], bare, mesh(&rig, SERVER), b""),
        ("guard, mesh port", &watches[3], bare, mesh(&rig, LONE), b""),
        ("shared proxy", &watches[4], bare, mesh(&rig, SHARED), b""),
    ] {
        let used = fs::read_dir(format!("/proc/{}/fd", watch.pid())).context("descriptors")?.count();
        limit(watch.pid(), used + 20, machine.many_users)?;
        let all = open(from, to, 300, opening).context(name)?;
        wait_until(&format!("{name}: no descriptors left"), Duration::from_secs(5), || {
            fs::read_dir(format!("/proc/{}/fd", watch.pid())).is_ok_and(|all| all.count() >= used + 19)
        })?;
        drop(all);
        for to in [server(80), lone(80)] {
            wait_until(&format!("{name}: {to} is served again"), Duration::from_secs(10), || {
                ask(namespace, to).is_ok()
            })
            .with_context(|| rig.mesh.tails())?;
        }
        println!("        {name}: served again with {} descriptors at most", used + 20);
    }
    // Peers that reset before they are accepted (ECONNABORTED), or right after.
    meanwhile(namespace, server(80), || {
        for _ in 0..20 {
            for peer in open(bare, mesh(&rig, SERVER), 100, b"\x16\x03\x01")? {
                // Its end is a reset then.
                setsockopt(peer.tcp(), Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
            }
        }
        Ok(())
    })?;
    check(&watches, 16)
}

/// The limit of a running process, by util-linux.
fn limit(pid: u32, descriptors: usize, many_users: bool) -> Result<()> {
    let uid = PROXY_UID.to_string();
    // The kernel lets a process limit its own kind.
    let mut command = Command::new(if many_users { "setpriv" } else { "prlimit" });
    if many_users {
        command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--", "prlimit"]);
    }
    let status = command.args(["--pid", &pid.to_string(), &format!("--nofile={descriptors}:")]).status();
    ensure!(status.context("prlimit (util-linux)")?.success(), "prlimit of {pid}");
    Ok(())
}
