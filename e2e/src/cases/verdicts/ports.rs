//! Where the mesh's own processes listen: what is on this table, and nothing else. A listener more would be a door that
//! nobody has thought about.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec};
use outrigger_wire::names::ports;

use super::question::exchange;
use crate::cases::SHARED;

const POD: &str = "shop/front";
/// Not meshed.
const DAVE: &str = "out/dave";

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The pod's own processes.
    Loopback,
    /// Everybody, and the protocol sorts them out: captured traffic, mTLS, or health and metrics to be read.
    Open,
}

use Door::{Loopback, Open};

/// A sidecar accepts on its guard's sockets.
const CAPTURED: [(u16, Door); 3] = [(ports::OUTBOUND, Open), (ports::INBOUND, Open), (ports::MESH, Open)];
const SIDECAR: [(u16, Door); 2] = [(ports::ADMIN, Loopback), (ports::HEALTH, Open)];
const GUARD: [(u16, Door); 2] = [(ports::GUARD_ADMIN, Loopback), (ports::GUARD_HEALTH, Open)];
const SHARED_PROXY: [(u16, Door); 3] = [(ports::MESH, Open), (ports::ADMIN, Loopback), (ports::HEALTH, Open)];

type Listening = BTreeMap<u16, Door>;

pub(super) fn of_the_table(machine: &Machine) -> Result<()> {
    let pods = vec![PodSpec::new(POD), PodSpec::new(DAVE).proxies(Proxies::None)];
    let mesh = Mesh::start(machine, Spec { pods, shared: 1, ..Spec::default() })?;
    let pod = mesh.pod(POD)?;
    let guard = pod.guard.as_ref().context("no guard")?.pid();
    let controller = mesh.controller.as_ref().context("no controller")?;
    let table = |rows: &[&[(u16, Door)]]| rows.concat().into_iter().collect::<Listening>();
    for (who, pid, want) in [
        ("a sidecar", pod.sidecar()?.pid(), table(&[&CAPTURED, &SIDECAR])),
        ("a guard", guard, table(&[&CAPTURED, &GUARD])),
        ("a shared proxy", mesh.pod(SHARED)?.sidecar()?.pid(), table(&[&SHARED_PROXY])),
        // Embedded: without webhooks and health.
        ("a controller", controller.pid(), table(&[&[(ports::CONTROLLER, Open), (controller.admin.port(), Loopback)]])),
    ] {
        let found = listening(pid).with_context(|| who.to_owned())?;
        ensure!(found == want, "{who} listens on {found:?}, not on {want:?}");
    }
    // Through those that are open a stranger reads no configuration.
    for (name, ports) in [(POD, table(&[&CAPTURED, &SIDECAR, &GUARD])), (SHARED, table(&[&SHARED_PROXY]))] {
        for port in ports.into_keys() {
            let to = SocketAddr::new(mesh.pod(name)?.address().into(), port);
            let ask = "GET /config_dump HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let said = mesh.pod(DAVE)?.namespace.within(|| exchange(to, ask))?.unwrap_or_default();
            ensure!(!said.starts_with("HTTP/1.1 200"), "{name} port {port} told a stranger {said:?}");
        }
    }
    Ok(())
}

/// TCP ports that a process listens on. UDP sockets that are bound count as open ones.
fn listening(pid: u32) -> Result<Listening> {
    let mut sockets = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        sockets.extend(target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']')).map(str::to_owned));
    }
    let mut found = Listening::new();
    for (table, state) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).with_context(|| table.to_owned())?;
        for line in text.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            let (Some(local), Some(is), Some(inode)) = (words.get(1), words.get(3), words.get(9)) else { continue };
            if *is != state || !sockets.contains(*inode) {
                continue;
            }
            let (address, port) = local.split_once(':').context("no port")?;
            let door = if is_loopback(address) { Loopback } else { Open };
            found.insert(u16::from_str_radix(port, 16)?, door);
        }
    }
    ensure!(!found.is_empty(), "no listener of process {pid} was found: this proves nothing");
    Ok(found)
}

/// As the kernel writes addresses: words of the network's order, as this machine reads them.
fn is_loopback(address: &str) -> bool {
    let v4 = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
    let v6 = format!("{:024}{:08X}", 0, u32::from_ne_bytes([0, 0, 0, 1]));
    address.ends_with(&v4) || address == v6
}
