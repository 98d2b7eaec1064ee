//! Floods that open no stream, by clients; and apps that attack the proxies which call them.

use std::{
    io::{Read, Write},
    iter,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outrigger_testbed::Machine;

use super::{
    app::{App, Script},
    frames::{Attack, CANCEL, END_HEADERS, END_STREAM, Ended, attack, field, frame, kind, opening, request, streams},
    http2::{ENHANCE_YOUR_CALM, WAYS, held_against},
    rig::{BARE, CLIENT, LONE, Rig, SERVER, SHARED, Watch, bare, lone, meanwhile, server},
};

/// Of a flood that nobody ends.
const WHILE: Duration = Duration::from_millis(400);
/// Streams that are open while a flood goes on.
const OPEN: usize = 100;

/// Streams that a proxy resets for what its peer has done wrong, until it ends the connection.
const RESETS: usize = 1024;

struct Flood {
    name: &'static str,
    /// Frames behind one another, the same over and over.
    frames: fn() -> Vec<u8>,
    listens: bool,
    /// Whether streams are open meanwhile.
    busy: bool,
}

/// SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113 section 6.5.2), which changes the window of each stream.
fn windows(size: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &[&[0, 4][..], &size.to_be_bytes()].concat())
}

const FLOODS: &[Flood] = &[
    Flood { name: "PING", frames: || frame(kind::PING, 0, 0, &[0; 8]), listens: true, busy: false },
    Flood { name: "PING, answers unread", frames: || frame(kind::PING, 0, 0, &[0; 8]), listens: false, busy: false },
    Flood {
        name: "PING that answers nothing",
        frames: || frame(kind::PING, 1, 0, &[0; 8]),
        listens: false,
        busy: false,
    },
    Flood { name: "SETTINGS", frames: || frame(kind::SETTINGS, 0, 0, &[]), listens: true, busy: false },
    Flood {
        name: "SETTINGS, answers unread",
        frames: || frame(kind::SETTINGS, 0, 0, &[]),
        listens: false,
        busy: false,
    },
    Flood {
        name: "SETTINGS that change the windows of streams",
        frames: || [windows(0), windows(1 << 20)].concat(),
        listens: true,
        busy: true,
    },
    Flood {
        name: "WINDOW_UPDATE of a connection",
        frames: || frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        listens: false,
        busy: false,
    },
    Flood {
        name: "WINDOW_UPDATE of a stream",
        frames: || frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        listens: false,
        busy: true,
    },
    Flood { name: "PRIORITY", frames: || frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 0]), listens: false, busy: true },
    Flood {
        name: "PRIORITY_UPDATE",
        frames: || frame(kind::PRIORITY_UPDATE, 0, 0, &[0, 0, 0, 1]),
        listens: false,
        busy: true,
    },
    Flood { name: "unknown frames", frames: || frame(0xfe, 0, 0, &[]), listens: false, busy: false },
];

/// PING, SETTINGS, WINDOW_UPDATE and what has no meaning, without end, answers read and unread.
pub(super) fn by_clients(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let _backends = [rig.backend(SERVER)?, rig.backend(LONE)?];
    for way in &WAYS {
        let to = if way.server == LONE { lone(80) } else { server(80) };
        nobody_attacks(&rig, way.name, to)?;
        for Flood { name, frames, listens, busy } in FLOODS {
            let block = request("GET", way.hold, way.port);
            let open = streams().take(if *busy { OPEN } else { 0 });
            let open = open.flat_map(|stream| frame(kind::HEADERS, END_STREAM | END_HEADERS, stream, &block));
            let opening = [opening(), open.collect()].concat();
            let batch = frames().repeat(500);
            let watches = (way.watched)(&rig)?;
            let until = Instant::now() + WHILE;
            let batches = iter::repeat_with(|| batch.clone()).take_while(|_| Instant::now() < until);
            let assault =
                || attack(&mut (way.open)(&rig)?, iter::once(opening).chain(batches), *listens, Duration::ZERO);
            held_against(&rig, &format!("{}: {name}", way.name), &watches, to, assault)?;
        }
    }
    Ok(())
}

/// What victims see without an attack, to compare.
fn nobody_attacks(rig: &Rig, way: &str, to: SocketAddr) -> Result<()> {
    println!("        {way}: nobody attacks");
    let idle = || {
        thread::sleep(WHILE);
        Ok(())
    };
    meanwhile(rig.namespace(CLIENT), to, idle).map(drop)
}

/// A way on which proxies call an attacker.
struct Way {
    name: &'static str,
    to: fn() -> SocketAddr,
    watched: fn(&Rig) -> Result<Vec<Watch>>,
    /// Where victims go, by the same proxies.
    victims_go_to: fn() -> SocketAddr,
    pod: &'static str,
}

const CALLERS: [Way; 3] = [
    Way {
        name: "an app and its own sidecar",
        to: || server(83),
        watched: |rig| Ok(vec![rig.sidecar(SERVER)?, rig.sidecar(CLIENT)?]),
        victims_go_to: || server(80),
        pod: SERVER,
    },
    Way {
        name: "an app and its shared proxy",
        to: || lone(83),
        watched: |rig| Ok(vec![rig.sidecar(SHARED)?, rig.guard(LONE)?, rig.sidecar(CLIENT)?]),
        victims_go_to: || lone(80),
        pod: LONE,
    },
    Way {
        name: "an unmeshed app and its caller's sidecar",
        to: || bare(83),
        watched: |rig| Ok(vec![rig.sidecar(CLIENT)?]),
        victims_go_to: || server(80),
        pod: BARE,
    },
];

fn nothing(_: u32) -> Vec<u8> {
    Vec::new()
}

fn answer(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, stream, &field(":status", "200"))
}

/// Without END_HEADERS.
fn unended(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, 0, stream, &field(":status", "200"))
}

const SCRIPTS: &[Script] = &[
    Script {
        name: "resets each stream",
        each: |stream| frame(kind::RST_STREAM, 0, stream, &CANCEL),
        flood: nothing,
        listens: true,
    },
    Script {
        name: "refuses each stream",
        each: |stream| frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 7]),
        flood: nothing,
        listens: true,
    },
    Script {
        name: "has the proxy reset each stream by a body",
        each: |stream| {
            let head = [field(":status", "200"), field("content-length", "1")].concat();
            [frame(kind::HEADERS, END_HEADERS, stream, &head), frame(kind::DATA, 0, stream, b"abc")].concat()
        },
        flood: nothing,
        listens: true,
    },
    Script {
        name: "has the proxy reset each stream by a head",
        each: |stream| frame(kind::HEADERS, END_HEADERS, stream, &field("connection", "close")),
        flood: nothing,
        listens: true,
    },
    Script {
        name: "CONTINUATION",
        each: unended,
        flood: |stream| frame(kind::CONTINUATION, 0, stream, &field("x-filler", &"a".repeat(1000))),
        listens: true,
    },
    Script {
        name: "empty CONTINUATION",
        each: unended,
        flood: |stream| frame(kind::CONTINUATION, 0, stream, &[]),
        listens: true,
    },
    Script {
        name: "CONTINUATION in trailers",
        each: |stream| {
            let trailers = frame(kind::HEADERS, END_STREAM, stream, &field("x-end", "1"));
            [answer(stream), frame(kind::DATA, 0, stream, b"abc"), trailers].concat()
        },
        flood: |stream| frame(kind::CONTINUATION, 0, stream, &field("x-filler", &"a".repeat(1000))),
        listens: true,
    },
    Script { name: "empty DATA", each: answer, flood: |stream| frame(kind::DATA, 0, stream, &[]), listens: true },
    Script { name: "DATA of a byte", each: answer, flood: |stream| frame(kind::DATA, 0, stream, b"x"), listens: false },
    Script {
        name: "interim answers",
        each: nothing,
        flood: |stream| frame(kind::HEADERS, END_HEADERS, stream, &field(":status", "103")),
        listens: false,
    },
    Script { name: "PING", each: nothing, flood: |_| frame(kind::PING, 0, 0, &[0; 8]), listens: true },
    Script { name: "PING, answers unread", each: nothing, flood: |_| frame(kind::PING, 0, 0, &[0; 8]), listens: false },
    Script { name: "SETTINGS", each: nothing, flood: |_| [windows(0), windows(1 << 20)].concat(), listens: true },
    Script {
        name: "SETTINGS, answers unread",
        each: nothing,
        flood: |_| frame(kind::SETTINGS, 0, 0, &[]),
        listens: false,
    },
    Script {
        name: "WINDOW_UPDATE",
        each: nothing,
        flood: |_| frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        listens: false,
    },
    Script { name: "unknown frames", each: nothing, flood: |_| frame(0xfe, 0, 0, &[]), listens: false },
];

/// Whatever an app does to the proxy that calls it, others' calls go on, and those who called the app get to know.
pub(super) fn by_apps(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    for way in &CALLERS {
        let app = App::start(&rig.pod(way.pod).namespace)?;
        nobody_attacks(&rig, way.name, (way.victims_go_to)())?;
        for script in SCRIPTS {
            let name = format!("{}: {}", way.name, script.name);
            let watches = (way.watched)(&rig)?;
            let assault = || {
                app.play(script, WHILE);
                let called = call(&rig, (way.to)(), WHILE)?;
                println!("        {name}: {called} calls");
                app.done()
            };
            let done = held_against(&rig, &name, &watches, (way.victims_go_to)(), assault)?;
            judge(&name, script, &done)?;
        }
    }
    Ok(())
}

/// What has a limit has been ended by it.
fn judge(name: &str, script: &Script, done: &Attack) -> Result<()> {
    let limited = ["CONTINUATION", "empty DATA"].iter().any(|part| script.name.contains(part));
    ensure!(done.sent > 0, "{name}: it was never called");
    ensure!(!limited || matches!(done.ended, Ended::GoAway(_) | Ended::Closed), "{name}: {done:?}");
    let by_proxy = script.name.starts_with("has the proxy") && done.sent > 2 * RESETS;
    ensure!(!by_proxy || done.ended == Ended::GoAway(ENHANCE_YOUR_CALM), "{name}: {done:?}");
    Ok(())
}

/// Calls, eight at once and each as soon as the last one is over. Nobody waits longer than that, whatever comes.
fn call(rig: &Rig, to: SocketAddr, limit: Duration) -> Result<usize> {
    const AT_ONCE: usize = 8;
    let until = Instant::now() + limit;
    let one = || -> Result<usize> {
        let (mut count, mut kept) = (0, None);
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => rig.namespace(CLIENT).connect(to, Duration::from_secs(3))?,
            };
            stream.set_read_timeout(Some(left))?;
            kept = answer_of(&mut stream).then_some(stream);
            count += 1;
        }
        Ok(count)
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().unwrap_or_else(|_| anyhow::bail!("a caller panicked"))).sum()
    })
}

/// Whether there is one, and a whole one; if not, that is the app's doing.
fn answer_of(stream: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    if stream.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").is_err() {
        return false;
    }
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        answer.extend(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if length.map_or(body.ends_with("0\r\n\r\n"), |length| body.len() >= length) {
            return true;
        }
    }
    false
}
