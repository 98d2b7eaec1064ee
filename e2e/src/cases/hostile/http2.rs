//! HTTP/2 floods, against a mesh port with a certificate of the mesh, and from an app through its own sidecar.

use std::{io::Write, iter, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, probe::wait_until};

use super::{
    backend::{self, Backend},
    frames::{
        Attack, CANCEL, END_HEADERS, END_STREAM, Ended, NEWEST, attack, field, frame, indexed_field, kind, opening,
        request, streams,
    },
    peer::Peer,
    rig::{CLIENT, LONE, Rig, SERVER, SHARED, Spent, Watch, check, lone, meanwhile, server},
};

/// A way on which an attacker's HTTP/2 reaches proxies.
pub(super) struct Way {
    pub(super) name: &'static str,
    pub(super) open: fn(&Rig) -> Result<Peer>,
    /// The proxies that parse or carry it.
    pub(super) watched: fn(&Rig) -> Result<Vec<Watch>>,
    /// The pod whose app does the work, and whose victims' requests go the same way.
    pub(super) server: &'static str,
    /// Where the app speaks HTTP/1.1 and tells when its caller has gone.
    pub(super) port: u16,
    pub(super) hold: &'static str,
    stall: &'static str,
}

pub(super) const WAYS: [Way; 3] = [
    Way {
        name: "mesh port of a sidecar",
        open: |rig| rig.mesh_http2(SERVER),
        watched: |rig| Ok(vec![rig.sidecar(SERVER)?]),
        server: SERVER,
        port: backend::PORT,
        hold: "/hold",
        stall: "/stall",
    },
    Way {
        name: "mesh port of a guard, and its shared proxy",
        open: |rig| rig.mesh_http2(LONE),
        watched: |rig| Ok(vec![rig.guard(LONE)?, rig.sidecar(SHARED)?]),
        server: LONE,
        port: backend::PORT,
        hold: "/hold",
        stall: "/stall",
    },
    Way {
        name: "an app through its own sidecar",
        open: |rig| rig.app_peer(server(80)),
        watched: |rig| Ok(vec![rig.sidecar(CLIENT)?, rig.sidecar(SERVER)?]),
        server: SERVER,
        port: 8080,
        hold: "/slow?ms=60000",
        stall: "/slow?ms=60000",
    },
];

const FLOOD: usize = 100_000;
/// Frames in one write.
const BATCH: usize = 500;
/// A window that grows beyond 2^31-1 is an error of its stream (RFC 9113 section 6.9.1): the proxy resets it.
const OVERFLOW: [u8; 4] = [0x7f, 0xff, 0xff, 0xff];
/// Fewer than any limit on what is pending.
const FEW: usize = 10;
/// MiB that a flood may cost beyond twice the idle memory: 256 streams with their windows and buffers at both ends.
pub(super) const ALLOWED: u64 = 24;

/// Lines that an attack may cost.
const WARNINGS: usize = 50;

/// RFC 9113 section 7.
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// Streams that are opened and reset at once (CVE-2023-44487), streams that the proxy is made to reset
/// (CVE-2025-8671), and both with nobody who reads the proxy's frames.
pub(super) fn resets(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let backends = [(SERVER, rig.backend(SERVER)?), (LONE, rig.backend(LONE)?)];
    let cancelled = |block: &[u8], stream: u32| {
        [frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, block), frame(kind::RST_STREAM, 0, stream, &CANCEL)]
            .concat()
    };
    let erroneous = |block: &[u8], stream: u32| {
        let opened = frame(kind::HEADERS, END_HEADERS, stream, block);
        [opened, frame(kind::WINDOW_UPDATE, 0, stream, &OVERFLOW)].concat()
    };
    type Flood<'a> = (&'a str, &'a dyn Fn(&[u8], u32) -> Vec<u8>, usize, bool);
    let floods: [Flood<'_>; 6] = [
        ("opened and reset", &cancelled, BATCH, true),
        ("opened and reset, few at once", &cancelled, FEW, true),
        ("opened and reset, answers unread", &cancelled, BATCH, false),
        ("reset by the proxy", &erroneous, BATCH, true),
        ("reset by the proxy, few at once", &erroneous, FEW, true),
        ("reset by the proxy, answers unread", &erroneous, BATCH, false),
    ];
    for way in &WAYS {
        for (flood, pair, batch, listens) in &floods {
            let block = request("GET", way.hold, way.port);
            // Few at once take their time, each batch waits for its answers.
            let count = if *batch == FEW { 2_000 } else { FLOOD };
            let batches = batches(*batch, count, |stream| pair(&block, stream));
            let Attack { sent, ended, .. } = under_attack(&rig, way, flood, batches, *listens)?;
            ensure!(
                matches!(ended, Ended::GoAway(ENHANCE_YOUR_CALM) | Ended::Closed) || sent > count / batch,
                "{}: {flood}: neither closed nor carried: {ended:?} after {sent}",
                way.name
            );
        }
        if way.port == backend::PORT
            && let Some((_, backend)) = backends.iter().find(|(pod, _)| *pod == way.server)
        {
            let_go(&rig, way, backend, &|stream| frame(kind::RST_STREAM, 0, stream, &CANCEL))?;
            let_go(&rig, way, backend, &|stream| frame(kind::WINDOW_UPDATE, 0, stream, &OVERFLOW))?;
        }
    }
    Ok(())
}

/// Nobody waits for the answer of a stream that was reset, so no app may go on making it; the connection lives.
fn let_go(rig: &Rig, way: &Way, backend: &Backend, reset: &dyn Fn(u32) -> Vec<u8>) -> Result<()> {
    const HELD: usize = 50;
    const SOON: Duration = Duration::from_secs(5);
    wait_until(&format!("{}: the flood's work is cancelled", way.name), SOON, || backend.held() == 0)?;
    let mut peer = (way.open)(rig)?;
    let block = request("GET", way.hold, way.port);
    let open = streams().take(HELD).flat_map(|id| frame(kind::HEADERS, END_STREAM | END_HEADERS, id, &block));
    peer.write_all(&[opening(), open.collect()].concat())?;
    peer.flush()?;
    wait_until(&format!("{}: the app works on {HELD}", way.name), SOON, || backend.held() == HELD)?;
    peer.write_all(&streams().take(HELD).flat_map(reset).collect::<Vec<_>>())?;
    peer.flush()?;
    wait_until(&format!("{}: the app's work is cancelled", way.name), SOON, || backend.held() == 0)?;
    Ok(())
}

/// A header section that never ends (RUSTSEC-2024-0332).
pub(super) fn continuation(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let few = field("x-filler", &"a".repeat(1000));
    let fillers = [("one field each", few.clone()), ("16 KiB each", few.repeat(16)), ("empty", Vec::new())];
    for way in &WAYS {
        for (name, filler) in &fillers {
            let opening = frame(kind::HEADERS, 0, 1, &request("GET", "/", way.port));
            let more = frame(kind::CONTINUATION, 0, 1, filler);
            let batches = iter::once(opening).chain(iter::repeat_n(more.repeat(16), FLOOD / 16));
            let Attack { sent, ended, .. } = under_attack(&rig, way, name, batches, true)?;
            ensure!(matches!(ended, Ended::GoAway(_) | Ended::Closed), "{}: {ended:?} after {sent}", way.name);
        }
    }
    Ok(())
}

/// A million empty DATA frames to an app that reads nothing (RUSTSEC-2026-0258).
pub(super) fn empty_data(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let _backends = [rig.backend(SERVER)?, rig.backend(LONE)?];
    for way in &WAYS {
        for (name, data) in [("empty", &b""[..]), ("one byte", b"x")] {
            let opening = frame(kind::HEADERS, END_HEADERS, 1, &request("POST", way.stall, way.port));
            let batch = frame(kind::DATA, 0, 1, data).repeat(5000);
            let batches = iter::once(opening).chain(iter::repeat_n(batch, 200));
            under_attack(&rig, way, name, batches, true)?;
        }
    }
    Ok(())
}

/// One large field, put into the table once and named thousands of times by a byte each (CVE-2026-47774).
pub(super) fn hpack_bomb(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    for way in &WAYS {
        for name in ["cookie", "x-bomb"] {
            let large = indexed_field(name, &"b".repeat(3900));
            let first = [request("GET", "/", way.port), large].concat();
            let bomb = [request("GET", "/", way.port), vec![NEWEST; 15_000]].concat();
            let open = |stream, block: &[u8]| frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, block);
            let batches = iter::once(open(1, &first)).chain(streams().skip(1).take(2000).map(|id| open(id, &bomb)));
            under_attack(&rig, way, name, batches, true)?;
        }
    }
    Ok(())
}

/// So many streams in batches.
fn batches(batch: usize, count: usize, one: impl Fn(u32) -> Vec<u8>) -> impl Iterator<Item = Vec<u8>> {
    let mut ids = streams();
    iter::from_fn(move || Some(ids.by_ref().take(batch).flat_map(&one).collect())).take(count / batch)
}

/// Attacks while a victim goes the same way; checks processes and memory afterwards.
fn under_attack(
    rig: &Rig,
    way: &Way,
    attack_name: &str,
    batches: impl Iterator<Item = Vec<u8>>,
    listens: bool,
) -> Result<Attack> {
    const LINGER: Duration = Duration::from_secs(1);
    let to = if way.server == LONE { lone(80) } else { server(80) };
    let watches = (way.watched)(rig)?;
    let batches = iter::once(opening()).chain(batches);
    let assault = || attack(&mut (way.open)(rig)?, batches, listens, LINGER);
    held_against(rig, &format!("{}: {attack_name}", way.name), &watches, to, assault)
}

/// What an attack does to proxies and to others, and that nothing is left of it.
pub(super) fn held_against(
    rig: &Rig,
    name: &str,
    watches: &[Watch],
    victims_go_to: SocketAddr,
    assault: impl FnOnce() -> Result<Attack>,
) -> Result<Attack> {
    let (spent, warned) = (Spent::begin(watches)?, rig.warnings());
    let (attack, _) = meanwhile(rig.namespace(CLIENT), victims_go_to, assault)?;
    println!(
        "        {name}: {:?} after {} batches, {} KiB; {}",
        attack.ended,
        attack.sent,
        attack.bytes >> 10,
        spent.said()?
    );
    check(watches, ALLOWED)?;
    rig.at_rest(watches).with_context(|| name.to_owned())?;
    // Or a log grows by more than what is sent.
    let warned = rig.warnings() - warned;
    ensure!(warned <= WARNINGS, "{name}: {warned} warnings");
    Ok(attack)
}
