//! Bytes that mean nothing, at every door; headers between proxies that lie; names without end; and the same for the
//! controller.

use std::{
    io::{Read, Write},
    iter,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use outrigger_testbed::{
    Machine,
    probe::{self, wait_until},
};
use outrigger_wire::{
    names::{alpn, ports},
    tunnel::{Caller, GuardHeader, TcpHeader},
};

use super::{
    frames::{Attack, CANCEL, END_HEADERS, END_STREAM, Ended, PREFACE, attack, frame, kind, opening, request, streams},
    peer::{Peer, session},
    rig::{BARE, CLIENT, LONE, Rig, SERVER, SHARED, Watch, ask, check, lone, meanwhile, server},
};

const CONNECT: Duration = Duration::from_secs(3);

/// The same bytes in every run (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).unwrap_or_default()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next().to_be_bytes()[0]).collect()
    }
}

/// A ClientHello in two records, cut at every byte, at the mesh ports of sidecar, guard and shared proxy
/// (RUSTSEC-2024-0399): every handshake succeeds.
pub(super) fn split_client_hello(machine: &Machine) -> Result<()> {
    const RECORD_HEAD: usize = 5;
    let rig = Rig::start(machine)?;
    let watches = rig.all()?;
    let credentials = rig.credentials()?;
    for (pod, protocol) in [(SERVER, alpn::H2), (LONE, alpn::H2), (SHARED, alpn::GUARD)] {
        let to = SocketAddr::from((rig.pod(pod).address(), ports::MESH));
        let mut length = usize::MAX;
        let mut cut = 1;
        while cut < length {
            let mut session = session(Some(&credentials), protocol)?;
            let mut record = Vec::new();
            session.write_tls(&mut record)?;
            let message = &record[RECORD_HEAD..];
            length = message.len();
            let (first, second) = message.split_at(cut);
            let mut tcp = rig.namespace(BARE).connect(to, CONNECT)?;
            for part in [first, second] {
                let size = u16::try_from(part.len()).context("a short hello")?.to_be_bytes();
                tcp.write_all(&[&record[..3], &size, part].concat())?;
            }
            Peer::tls(tcp, session).with_context(|| format!("{pod}: cut at {cut} of {length}"))?;
            // Every byte of what is peculiar to the message, then the long key share by steps.
            cut += if cut < 64 { 1 } else { 7 };
        }
        println!("        {pod}: a hello of {length} bytes in two records");
    }
    check(&watches, 16)
}

/// Random bytes, and well-known beginnings with random ends, at all ports of all proxies: redirected and not.
pub(super) fn bytes(machine: &Machine) -> Result<()> {
    const ROUNDS: usize = 60;
    let rig = Rig::start(machine)?;
    let watches = rig.all()?;
    let at = |pod: &str, port| SocketAddr::from((rig.pod(pod).address(), port));
    let mut doors: Vec<(&str, SocketAddr)> = vec![(CLIENT, server(80)), (CLIENT, server(81)), (CLIENT, server(82))];
    doors.extend([
        (CLIENT, lone(80)),
        (BARE, at(SERVER, 8080)),
        (BARE, at(LONE, 8080)),
        (BARE, at(SHARED, ports::MESH)),
    ]);
    for pod in [SERVER, LONE] {
        doors.extend([ports::OUTBOUND, ports::INBOUND, ports::MESH].map(|port| (BARE, at(pod, port))));
        doors.extend([ports::ADMIN, ports::GUARD_ADMIN].map(|port| (BARE, at(pod, port))));
    }
    let openings: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        PREFACE,
        b"\x16\x03\x01\x02\x00\x01",
        b"\x16\x03\x03\xff\xff",
        b"\0\0\0\x04",
    ];
    let mut random = Random(88_172_645_463_325_252);
    meanwhile(rig.namespace(CLIENT), server(80), || {
        for (from, to) in &doors {
            for round in 0..ROUNDS {
                // Where nobody listens, as at an admin port from outside, a refusal is as good.
                let Ok(mut stream) = rig.namespace(from).connect(*to, CONNECT) else { break };
                let length = random.below(20_000);
                let garbage = [openings[round % openings.len()], &random.bytes(length)].concat();
                // The proxy may close as early as it likes.
                let _ = stream.write_all(&garbage);
            }
        }
        Ok(())
    })?;
    // Nobody may come in by the ports that only redirection leads to, nor see an admin interface from outside.
    for pod in [SERVER, LONE] {
        for port in [ports::OUTBOUND, ports::INBOUND, ports::ADMIN, ports::GUARD_ADMIN] {
            ensure!(ask(rig.namespace(BARE), at(pod, port)).is_err(), "{pod}: port {port} answers strangers");
        }
    }
    ask(rig.namespace(CLIENT), lone(80)).context("through guard and shared proxy afterwards")?;
    check(&watches, 32)
}

/// With a valid certificate, but headers that are no headers: random, too long, cut off, of another pod, of a loop.
pub(super) fn headers(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let watches = rig.all()?;
    let mut random = Random(1_442_695_040_888_963_407);
    let source = SocketAddr::from(([10, 0, 0, 1], 1));
    let of = |pod: &str, port| SocketAddr::from((rig.pod(pod).address(), port));
    let lies = [
        GuardHeader::InboundPlain { source, destination: of(SERVER, 8080) },
        GuardHeader::InboundPlain { source, destination: of(LONE, 8080) },
        GuardHeader::Outbound { source, destination: of(SHARED, ports::MESH) },
        GuardHeader::Outbound { source, destination: of(SHARED, ports::ADMIN) },
        GuardHeader::Outbound { source, destination: ([10, 96, 255, 1], ports::MESH).into() },
        GuardHeader::InboundMesh {
            source,
            destination: of(SERVER, 8080),
            peer: "spiffe://cluster.local/ns/hostile/sa/server".parse()?,
            alpn: alpn::H2.to_vec(),
        },
    ];
    let mut guard: Vec<Vec<u8>> = lies.iter().map(GuardHeader::encode).collect();
    let ports = [0, ports::OUTBOUND, ports::MESH, ports::ADMIN, ports::GUARD_ADMIN];
    let mut tcp: Vec<Vec<u8>> =
        ports.iter().map(|&port| TcpHeader { port, caller: Caller::Anonymous, address: None }.encode()).collect();
    for valid in [&mut guard, &mut tcp] {
        let whole = valid[0].clone();
        valid.extend((0..whole.len()).map(|cut| whole[..cut].to_vec()));
        valid.extend((2..whole.len()).map(|at| {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            damaged
        }));
        valid.extend([vec![0xff; 3], vec![0, 0], vec![0x10, 0x01, 1], [&[0x10, 0][..], &[1; 4096]].concat()]);
        valid.extend((0..40).map(|_| {
            let length = random.below(200);
            random.bytes(length)
        }));
    }
    let doors = [
        (SHARED, alpn::GUARD, &guard),
        (SERVER, alpn::TCP, &tcp),
        (LONE, alpn::TCP, &tcp),
        (SERVER, alpn::DELIVER, &tcp),
        (LONE, alpn::DELIVER, &tcp),
    ];
    meanwhile(rig.namespace(CLIENT), server(80), || {
        let mut all = Vec::new();
        for (pod, protocol, headers) in doors {
            for header in headers {
                let mut peer = rig.mesh_peer(pod, protocol)?;
                let _ = peer.write_all(header).and_then(|()| peer.flush());
                all.push((pod, protocol, header, peer));
            }
        }
        println!("        {} headers", all.len());
        for (pod, protocol, header, mut peer) in all {
            let (name, limit) = (String::from_utf8_lossy(protocol), Duration::from_secs(8));
            ensure!(peer.is_closed_within(limit)?, "{pod}, {name}: stays open after {header:?}");
        }
        Ok(())
    })?;
    ask(rig.namespace(CLIENT), lone(80)).context("through guard and shared proxy afterwards")?;
    check(&watches, 32)
}

/// Ten thousand hosts and paths are no ten thousand series (CVE-2025-43915).
pub(super) fn many_names(machine: &Machine) -> Result<()> {
    const NAMES: usize = 10_000;
    /// On the way at once.
    const AHEAD: usize = 50;
    let rig = Rig::start(machine)?;
    let watches = rig.all()?;
    let count = || [CLIENT, SERVER, SHARED].map(|pod| rig.pod(pod).metrics().len());
    let before = count();
    ensure!(before.iter().all(|&lines| lines > 0), "no metrics: {before:?}");
    meanwhile(rig.namespace(CLIENT), server(80), || {
        for to in [server(80), lone(80)] {
            let mut peer = rig.app_peer(to)?;
            peer.tcp().set_read_timeout(Some(CONNECT))?;
            let mut answers: Vec<u8> = Vec::new();
            for first in (0..NAMES).step_by(AHEAD) {
                let ask = |n| format!("HEAD /{n}/{n}?{n} HTTP/1.1\r\nHost: host-{n}.example:{}\r\n\r\n", n % 65_536);
                peer.write_all((first..first + AHEAD).map(ask).collect::<String>().as_bytes())?;
                answers.clear();
                let mut buffer = [0; 16 * 1024];
                while answers.windows(4).filter(|window| window == b"\r\n\r\n").count() < AHEAD {
                    match peer.read(&mut buffer).context("an answer")? {
                        0 => bail!("closed after {first} names"),
                        read => answers.extend(&buffer[..read]),
                    }
                }
            }
        }
        Ok(())
    })?;
    let after = count();
    println!("        lines of metrics: {before:?}, then {after:?}");
    ensure!(after.iter().zip(before).all(|(after, before)| *after < before + 200), "series grow with names");
    check(&watches, 16)
}

/// The controller's port, attacked by strangers: it lives, and proxies go on getting their configuration.
pub(super) fn controller(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let controller = rig.mesh.controller.as_ref().context("no controller")?;
    let watches = [Watch::of("controller".to_owned(), controller.pid())?];
    let to = controller.grpc;
    let connect = || -> Result<Peer> { Ok(Peer::Plain(TcpStream::connect_timeout(&to, CONNECT)?)) };
    let stranger = || Peer::tls(TcpStream::connect_timeout(&to, CONNECT)?, session(None, alpn::H2)?);
    let mut random = Random(6_364_136_223_846_793_005);

    let mut hello = Vec::new();
    session(None, alpn::H2)?.write_tls(&mut hello)?;
    let mut half_open = (0..500).map(|_| connect()).collect::<Result<Vec<_>>>()?;
    for peer in half_open.iter_mut().step_by(2) {
        peer.write_all(&hello[..hello.len() / 2])?;
    }
    for _ in 0..200 {
        let length = random.below(5000);
        let _ = connect()?.write_all(&random.bytes(length));
        let mut peer = stranger()?;
        let _ = peer.write_all(&random.bytes(length)).and_then(|()| peer.flush());
    }
    let block = request("POST", "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", 0);
    let reset = |id| [frame(kind::HEADERS, END_HEADERS, id, &block), frame(kind::RST_STREAM, 0, id, &CANCEL)].concat();
    let opened = |id| frame(kind::HEADERS, END_STREAM | END_HEADERS, id, &block);
    let endless = |_| frame(kind::CONTINUATION, 0, 1, &[0; 1000]);
    let batches = |one: &dyn Fn(u32) -> Vec<u8>| -> Vec<Vec<u8>> {
        let ids: Vec<_> = streams().take(20_000).collect();
        ids.chunks(200).map(|ids| ids.iter().flat_map(|&id| one(id)).collect()).collect()
    };
    let begun = vec![frame(kind::HEADERS, 0, 1, &block)];
    let floods = [
        ("resets", batches(&reset)),
        ("calls without a token", batches(&opened)),
        ("endless", [begun, batches(&endless)].concat()),
    ];
    for (name, flood) in floods {
        let flood = iter::once(opening()).chain(flood);
        let Attack { sent, ended, .. } = attack(&mut stranger()?, flood, true, CONNECT)?;
        println!("        {name}: {ended:?} after {sent} batches");
        ensure!(name != "endless" || ended != Ended::Open, "an endless header section is taken");
    }
    // It has heard of this change while all of that is still open.
    let yaml = include_str!("hostile.yaml").replace("/redirect", "/moved");
    rig.mesh.write("hostile.yaml", &yaml)?;
    wait_until("the route's change", Duration::from_secs(5), || moved(&rig, "/moved").unwrap_or(false))?;
    ensure!(probe::get_here(controller.admin, "/readyz")?.status == 200, "the controller isn't ready");
    drop(half_open);
    check(&watches, 64)
}

/// Whether a path is redirected.
pub(super) fn moved(rig: &Rig, path: &str) -> Result<bool> {
    let mut peer = rig.app_peer(server(81))?;
    peer.tcp().set_read_timeout(Some(CONNECT))?;
    peer.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 302"))
}
