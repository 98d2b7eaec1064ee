//! HTTP/1.1 whose ends can be seen in two ways, and connections that go on after an answer that nobody expected. What
//! matters is what the app is given: every request that it sees must be one that was judged and answered.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use outrigger_testbed::{Machine, probe::wait_until};

use super::{
    backend::{Backend, MARK},
    peer::{Peer, is_silence},
    rig::{BARE, CLIENT, LONE, Rig, SERVER, check, meanwhile, server},
};

/// What must come of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// The app sees none of it; [`LAST`] at most.
    Refused,
    /// The app sees so many requests, and each was answered.
    Seen(usize),
    /// Either; but what the app sees was answered.
    Any,
}

use Want::{Any, Refused, Seen};

/// Behind each of these comes [`LAST`], on the same connection.
const TABLE: &[(&str, &str, Want)] = &[
    ("plain", "GET /app HTTP/1.1\r\nHost: a\r\n\r\n", Seen(2)),
    ("length", "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Seen(2)),
    ("chunked", "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Seen(2)),
    (
        "length and chunked",
        "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        Any,
    ),
    (
        "chunked and length",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 39\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        Any,
    ),
    (
        "two lengths",
        "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 36\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        Refused,
    ),
    (
        "two lengths in one",
        "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 36\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        Refused,
    ),
    ("length with a sign", "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", Refused),
    ("negative length", "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\nabc", Refused),
    ("length in base 16", "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", Refused),
    ("length with a bar", "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nabcdefghij", Refused),
    ("length too long", "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\na", Refused),
    ("empty length", "POST /app HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\nabc", Refused),
    (
        "chunked, identity",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("identity", "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", Refused),
    ("unknown coding", "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Refused),
    ("coding behind a blank", "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n", Refused),
    (
        "coding in two fields",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        Refused,
    ),
    ("folded field", "GET /app HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n", Refused),
    ("bare line feed", "GET /app HTTP/1.1\nHost: a\n\n", Refused),
    ("bare line feed in the middle", "GET /app HTTP/1.1\r\nHost: a\nX-A: b\r\n\r\n", Refused),
    (
        "bare line feed behind the last chunk",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\n",
        Any,
    ),
    ("CONNECT", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Refused),
    (
        "CONNECT with another protocol",
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        Refused,
    ),
    ("bare carriage return", "GET /app HTTP/1.1\r\nHost: a\r\nX-A: b\rX-B: c\r\n\r\n", Refused),
    (
        "chunk size too large",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
        Any,
    ),
    (
        "chunk size with a sign",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
        Any,
    ),
    (
        "chunk ends early",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        Any,
    ),
    (
        "chunk extension with a line feed",
        "POST /app HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;a=\nb\r\nabc\r\n0\r\n\r\n",
        Any,
    ),
    ("coding in HTTP/1.0", "POST /app HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Refused),
    ("NUL in a field", "GET /app HTTP/1.1\r\nHost: a\r\nX-A: b\0c\r\n\r\n", Refused),
    ("NUL in the target", "GET /app\0 HTTP/1.1\r\nHost: a\r\n\r\n", Refused),
    ("blank before the colon", "GET /app HTTP/1.1\r\nHost : a\r\n\r\n", Refused),
    ("no name", "GET /app HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", Refused),
    ("two hosts", "GET /app HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refused),
    ("no host", "GET /app HTTP/1.1\r\n\r\n", Refused),
    ("absolute form", "GET http://b/app HTTP/1.1\r\nHost: a\r\n\r\n", Seen(2)),
    ("version 1.2", "GET /app HTTP/1.2\r\nHost: a\r\n\r\n", Any),
    ("version 2.0", "GET /app HTTP/2.0\r\nHost: a\r\n\r\n", Refused),
    ("no version", "GET /app\r\n\r\n", Any),
    (
        "length hidden by Connection",
        "POST /app HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        Any,
    ),
    (
        "coding hidden by Connection",
        "POST /app HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n24\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
        Any,
    ),
    (
        "GET with a body",
        "GET /app HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
        Seen(2),
    ),
];

const LAST: &str = "GET /app/last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// Where HTTP/1.1 enters, and which app is behind it.
struct Way {
    name: &'static str,
    open: fn(&Rig) -> Result<Peer>,
}

const WAYS: [Way; 2] = [
    Way { name: "HTTP/1.1 to HTTP/2 to HTTP/1.1", open: |rig| rig.app_peer(server(81)) },
    Way {
        name: "HTTP/1.1 to HTTP/1.1",
        open: |rig| {
            let to = SocketAddr::from((rig.pod(SERVER).address(), 8081));
            Ok(Peer::Plain(rig.namespace(BARE).connect(to, Duration::from_secs(3))?))
        },
    },
];

/// Sends all of it at once, and returns all that comes back. Whatever the proxy makes of it, it must come to an end.
fn exchange(mut peer: Peer, bytes: &[u8]) -> Result<Vec<u8>> {
    const SILENCE: Duration = Duration::from_millis(300);
    // A proxy that has refused the first part already may be gone before the last.
    let _ = peer.write_all(bytes);
    peer.tcp().set_read_timeout(Some(SILENCE))?;
    let mut answers = Vec::new();
    let mut buffer = [0; 4096];
    let mut waits = true;
    loop {
        match peer.read(&mut buffer) {
            Ok(0) => return Ok(answers),
            Ok(read) => answers.extend(&buffer[..read]),
            // It waits for more. There is none.
            Err(error) if is_silence(&error) && waits => {
                waits = false;
                let _ = peer.tcp().shutdown(Shutdown::Write);
                peer.tcp().set_read_timeout(Some(Duration::from_secs(5)))?;
            }
            Err(error) if is_silence(&error) => bail!("never ends; so far {:?}", String::from_utf8_lossy(&answers)),
            // A reset after a refusal.
            Err(_) => return Ok(answers),
        }
    }
}

fn count(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).filter(|window| *window == part).count()
}

/// The invariant, and what the row wants.
fn judge(answers: &[u8], seen: &[String], want: Want) -> Result<()> {
    let answered = count(answers, MARK);
    let said = || format!("answers {:?}; the app saw {seen:#?}", String::from_utf8_lossy(answers));
    ensure!(!seen.iter().any(|request| request.starts_with("BAD")), "the app was given what isn't HTTP: {}", said());
    ensure!(
        !seen.iter().any(|request| request.contains(" /smuggled ") && request.starts_with("GET /smug")),
        "smuggled: {}",
        said()
    );
    ensure!(seen.len() == answered, "{} requests, {answered} answers: {}", seen.len(), said());
    match want {
        Refused => ensure!(seen.iter().all(|request| request.starts_with("GET /app/last ")), "not refused: {}", said()),
        Seen(number) => ensure!(seen.len() == number, "not {number} requests: {}", said()),
        Any => {}
    }
    Ok(())
}

/// Every row of the table is refused, or means the same to the app as to the proxy.
pub(super) fn framing(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let backend = rig.backend(SERVER)?;
    let watches = rig.all()?;
    let mut wrong = Vec::new();
    meanwhile(rig.namespace(CLIENT), server(80), || {
        for way in &WAYS {
            for (name, request, want) in TABLE {
                let bytes = [request.as_bytes(), LAST.as_bytes()].concat();
                let judged = exchange((way.open)(&rig)?, &bytes).and_then(|answers| {
                    // A request that was broken off may still be on its way to the app; it isn't whole there.
                    judge(&answers, &backend.take(), *want)
                });
                if let Err(error) = judged {
                    wrong.push(format!("{}: {name}: {error:#}", way.name));
                }
            }
        }
        Ok(())
    })?;
    println!("        {} rows, {} wrong", TABLE.len() * WAYS.len(), wrong.len());
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    check(&watches, 8)
}

/// Bytes behind a request to change the protocol stay with the proxy until the app has agreed; if it doesn't, they are
/// requests like any others (CVE-2026-2833).
pub(super) fn upgrade(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let backend = rig.backend(SERVER)?;
    let upgrade =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let denied = "GET /denied HTTP/1.1\r\nHost: a\r\n\r\n";
    for way in &WAYS {
        // The app answers 200. What follows is judged by the policy, or the connection ends.
        let answers = exchange((way.open)(&rig)?, [&upgrade("/app"), denied].concat().as_bytes())?;
        let seen = backend.take();
        judge(&answers, &seen, Any).with_context(|| way.name)?;
        ensure!(seen.len() == 1 && seen[0].starts_with("GET /app "), "{}: {seen:#?}", way.name);

        // What carries requests is never changed to.
        for (offered, passed) in
            [("h2c", None), ("H2C", None), ("TLS/1.0", None), ("websocket, h2c", Some("websocket"))]
        {
            let request = format!(
                "GET /app HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {offered}\r\n\
                 HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
            );
            exchange((way.open)(&rig)?, request.as_bytes())?;
            let seen = backend.take().concat().to_ascii_lowercase();
            let upgrades: Vec<_> = seen.lines().filter_map(|line| line.strip_prefix("upgrade: ")).collect();
            ensure!(upgrades == Vec::from_iter(passed), "{}: {offered}: {seen}", way.name);
            ensure!(
                seen.starts_with("get /app ") && !seen.contains("http2-settings"),
                "{}: {offered}: {seen}",
                way.name
            );
        }

        // The app doesn't answer. Nothing follows.
        let mut peer = (way.open)(&rig)?;
        peer.write_all([&upgrade("/hold"), denied].concat().as_bytes())?;
        wait_until("the app works on it", Duration::from_secs(5), || backend.seen() > 0)?;
        ensure!(!peer.is_closed_within(Duration::from_millis(200))?, "{}: closed early", way.name);
        drop(peer);
        let seen = backend.take();
        ensure!(seen.len() == 1 && !seen[0].contains("denied"), "{}: {seen:#?}", way.name);
    }
    Ok(())
}

/// Answers that the proxy gives by itself, while the request's body is still to come and looks like a request
/// (CVE-2025-4366): 302 and 404 by route, 403 by policy.
pub(super) fn early_answers(machine: &Machine) -> Result<()> {
    let rig = Rig::start(machine)?;
    let backend = rig.backend(SERVER)?;
    const CUT_SHORT: &str = "longer than sent";
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let bodies = [
        ("length", format!("Content-Length: {}\r\n\r\n{smuggled}", smuggled.len())),
        ("chunked", format!("Transfer-Encoding: chunked\r\n\r\n{chunked}")),
        (CUT_SHORT, format!("Content-Length: 1000000\r\n\r\n{smuggled}")),
        ("expected", format!("Expect: 100-continue\r\nContent-Length: {}\r\n\r\n{smuggled}", smuggled.len())),
    ];
    let early = [(0, "/redirect", "302"), (0, "/nowhere", "404"), (0, "/denied", "403"), (1, "/denied", "403")];
    for (way, path, status) in early {
        for (name, body) in &bodies {
            let what = || format!("{}: {path}, {name}", WAYS[way].name);
            let request = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{body}");
            let answers = exchange((WAYS[way].open)(&rig)?, [&request, LAST].concat().as_bytes()).with_context(what)?;
            let seen = backend.take();
            judge(&answers, &seen, Any).with_context(what)?;
            // A body that breaks off may be noticed before the answer is.
            let said = count(&answers, format!("HTTP/1.1 {status}").as_bytes());
            ensure!(said == 1 || *name == CUT_SHORT, "{}: {:?}", what(), String::from_utf8_lossy(&answers));
            ensure!(seen.iter().all(|request| request.starts_with("GET /app/last ")), "{}: {seen:#?}", what());
        }
    }
    // A pod without a sidecar has the same answers from a shared proxy.
    let lone: Backend = rig.backend(LONE)?;
    let answers = exchange(rig.app_peer(super::rig::lone(81))?, [TABLE[2].1, LAST].concat().as_bytes())?;
    judge(&answers, &lone.take(), Seen(2))
}
