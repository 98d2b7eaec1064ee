//! A proxy that may have few descriptors allows itself no more connections than those carry: beyond that it sheds, and it
//! never runs out.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, net::Namespace, probe::wait_until};
use outrigger_wire::names::{alpn, ports};

use super::rig::{BARE, CLIENT, Rig, SERVER, SHARED, ask, meanwhile, server};

const DESCRIPTORS: usize = 600;
/// What `Limits::within` makes of them.
const CONNECTIONS: usize = 123;
const MANY: usize = 1000;
const LIMIT: Duration = Duration::from_secs(13);
/// And some more.
const STAND_IN: Duration = Duration::from_secs(40);
const CONNECT: Duration = Duration::from_secs(3);

pub(super) fn few(machine: &Machine) -> Result<()> {
    let mut rig = Rig::start(machine)?;
    rig.mesh.pod_mut(SERVER)?.spec.wrapper = vec!["prlimit".into(), format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")];
    rig.mesh.kill_sidecar(SERVER)?;
    rig.mesh.restart_sidecar(SERVER)?;
    let sidecar = rig.pod(SERVER).sidecar()?;
    ensure!(sidecar.log().contains("fewer connections at once than usual"), "{}", sidecar.tail());
    ensure!(metric(&rig, SERVER, "outrigger_connections_limit") == CONNECTIONS, "another limit");
    // A shared proxy has who has come by it call again, and what is called then is the sidecar.
    wait_until("everybody calls it directly", STAND_IN, || {
        ask(rig.namespace(CLIENT), server(80)).is_ok()
            && metric(&rig, SERVER, "outrigger_connections_active") > 0
            && metric(&rig, SHARED, "outrigger_connections_active") == 0
    })?;
    let raw = SocketAddr::from((rig.pod(SERVER).address(), 8080));
    let bare = rig.namespace(BARE);
    let pid = sidecar.pid();
    let used = || fs::read_dir(format!("/proc/{pid}/fd")).map_or(DESCRIPTORS, Iterator::count);
    let shed = || metric(&rig, SERVER, "outrigger_connections_shed_total");
    meanwhile(rig.namespace(CLIENT), server(80), || {
        let plaintext = flood(bare, raw, b"GET / HTTP/1.1\r\nhost: a\r\n")?;
        wait_until("most of plaintext is shed", LIMIT, || shed() >= MANY - CONNECTIONS)?;
        let most = used();
        // The rest of the room is the mesh's.
        rig.mesh_peer(SERVER, alpn::H2).context("a peer of the mesh, while strangers take what they may")?;
        let mesh = flood(bare, (rig.pod(SERVER).address(), ports::MESH).into(), b"\x16\x03\x01")?;
        wait_until("most handshakes are shed", LIMIT, || shed() >= 2 * (MANY - CONNECTIONS))?;
        let most = most.max(used());
        println!("        {most} descriptors at most, {} connections shed", shed());
        ensure!(most < DESCRIPTORS, "it has run out of descriptors");
        drop((plaintext, mesh));
        wait_until("strangers are served again", LIMIT, || ask(bare, raw).is_ok())
    })?;
    ensure!(!sidecar.log().contains("accept failed"), "it has run out of descriptors: {}", sidecar.tail());
    Ok(())
}

/// Those that are closed at once are as welcome as others.
fn flood(namespace: &Namespace, to: SocketAddr, opening: &[u8]) -> Result<Vec<TcpStream>> {
    let open = || -> std::io::Result<Vec<TcpStream>> {
        let mut all = Vec::new();
        for _ in 0..MANY {
            let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
            let _ = stream.write_all(opening);
            all.push(stream);
        }
        Ok(all)
    };
    namespace.within(open)?.with_context(|| format!("connections to {to}"))
}

/// All labels together.
pub(super) fn metric(rig: &Rig, pod: &str, name: &str) -> usize {
    let all = rig.pod(pod).metrics();
    all.iter().filter(|metric| metric.name == name).map(|metric| metric.value as usize).sum()
}
