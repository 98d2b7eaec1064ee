//! HTTP/1.1 and HTTP/1.0, byte by byte.

use std::{
    io::Write,
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::Machine;

use super::{HTTP1, Way, mesh, ways};
use crate::raw::{Message, Server, Wire, every, pattern};

/// Request lines, in the order in which they came.
type Seen = Arc<Mutex<Vec<String>>>;

const BIG: usize = 8 << 20;
/// What is checked on every way, by name.
type Check = (&'static str, fn(&Way<'_>) -> Result<()>);

/// Must never come out at the far end.
const EARLY: &str = "EARLY-BYTES";

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let seen = Seen::default();
    let app = |seen: &Seen| {
        let seen = Arc::clone(seen);
        move |stream| serve(stream, &seen)
    };
    let _server = Server::in_pod(mesh.pod("test/server")?, HTTP1, app(&seen))?;
    let _plain = Server::in_pod(mesh.pod("test/plain")?, HTTP1, app(&seen))?;
    let checks: [Check; 10] = [
        ("keep-alive", keep_alive),
        ("HTTP/1.0", old),
        ("chunked both ways, with trailers", chunked),
        ("answers without a body", bodiless),
        ("100-continue", expect_continue),
        ("64 KiB of headers both ways", headers),
        ("8 MiB both ways", big),
        ("upgrade", upgrade),
        ("refused upgrade", refused),
        ("pipelining", pipelined),
    ];
    let mut results = Vec::new();
    for way in ways(&mesh, HTTP1)? {
        results.extend(checks.iter().map(|(name, check)| (format!("{name}, {}", way.name), check(&way))));
    }
    let leaked = seen.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|line| line.contains(EARLY));
    results.push(("no early bytes pass".to_owned(), if leaked { Err(anyhow::anyhow!("they did")) } else { Ok(()) }));
    // All of it went through the sidecars, or this says nothing about them.
    let metrics = mesh.pod("test/server")?.metrics();
    let requests = metrics.iter().filter(|metric| metric.name == "outrigger_http_requests_total");
    let inbound = requests.filter(|metric| metric.labels.get("direction").is_some_and(|way| way == "inbound"));
    let inbound: f64 = inbound.map(|metric| metric.value).sum();
    ensure!(inbound > 200.0, "the sidecar saw {inbound} requests");
    every(results)
}

/// The app: says in its headers what it saw, and gives the body back as it came.
fn serve(stream: TcpStream, seen: &Seen) -> Result<()> {
    let mut wire = Wire::of(stream)?;
    loop {
        let head = wire.head()?;
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(head.first.clone());
        let path = head.first.split(' ').nth(1).unwrap_or_default().to_owned();
        match path.as_str() {
            "/204" => wire.send("HTTP/1.1 204 No Content\r\n\r\n")?,
            "/304" => wire.send("HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n")?,
            "/head" => wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")?,
            "/to-end" => return wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end"),
            "/refuse" => wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")?,
            "/upgrade" => {
                wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\nHELLO")?;
                let heard = wire.exactly(4)?;
                wire.send(heard.to_ascii_uppercase())?;
                let heard = wire.until_end()?;
                return wire.send([&heard[..], b" AND OUT"].concat());
            }
            _ => echo(&mut wire, head)?,
        }
    }
}

fn echo(wire: &mut Wire, head: Message) -> Result<()> {
    if head.header("expect") == Some("100-continue") {
        wire.send("HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let request = wire.rest(head)?;
    let line = &request.first;
    let trailer = request.trailer("x-sum").unwrap_or("none");
    let host = request.header("host").unwrap_or("none");
    let long: String = request.headers.iter().filter(|(name, _)| name.starts_with("x-long")).map(field).collect();
    let about = format!("x-line: {line}\r\nx-host: {host}\r\nx-trailer: {trailer}\r\n{long}");
    if !request.chunked {
        wire.send(format!("HTTP/1.1 200 OK\r\n{about}content-length: {}\r\n\r\n", request.body.len()))?;
        return wire.send(&request.body);
    }
    wire.send(format!("HTTP/1.1 200 OK\r\n{about}transfer-encoding: chunked\r\ntrailer: x-back\r\n\r\n"))?;
    for piece in request.body.chunks(10_000) {
        wire.send(format!("{:x}\r\n", piece.len()))?;
        wire.send([piece, b"\r\n"].concat())?;
    }
    wire.send("0\r\nx-back: home\r\n\r\n")
}

fn keep_alive(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    for turn in 0..20 {
        let answer = wire.ask(&format!("GET /turn/{turn}?q=%20x"), "")?.expect(200)?;
        let line = format!("GET /turn/{turn}?q=%20x HTTP/1.1");
        ensure!(answer.header("x-line") == Some(&line), "{answer:?}");
        ensure!(answer.header("x-host") == Some("raw"), "{answer:?}");
    }
    wire.send("GET / HTTP/1.1\r\nhost: raw\r\nconnection: close\r\n\r\n")?;
    wire.message()?.expect(200)?;
    ensure!(wire.until_end()?.is_empty(), "kept open after connection: close");
    Ok(())
}

fn old(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    wire.send("GET /old HTTP/1.0\r\nhost: raw\r\n\r\n")?;
    wire.message()?.expect(200)?;
    ensure!(wire.until_end()?.is_empty(), "kept open for HTTP/1.0");
    let mut wire = Wire::open(way.caller, way.to)?;
    for _ in 0..2 {
        wire.send("GET /old HTTP/1.0\r\nhost: raw\r\nconnection: keep-alive\r\n\r\n")?;
        wire.message()?.expect(200)?;
    }
    // An answer that ends with its connection mustn't come as chunks to those who don't know them.
    let mut wire = Wire::open(way.caller, way.to)?;
    wire.send("GET /to-end HTTP/1.0\r\n\r\n")?;
    let answer = wire.message()?.expect(200)?;
    ensure!(!answer.chunked && answer.body == b"until the end", "{answer:?}");
    Ok(())
}

fn chunked(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    wire.send("POST /c HTTP/1.1\r\nhost: raw\r\nte: trailers\r\nconnection: te\r\ntransfer-encoding: chunked\r\n")?;
    wire.send("trailer: x-sum\r\n\r\n3\r\nabc\r\n")?;
    wire.send("5;name=value\r\ndefgh\r\n0\r\nx-sum: 8\r\n\r\n")?;
    let answer = wire.message()?.expect(200)?;
    ensure!(answer.chunked && answer.body == b"abcdefgh", "{answer:?}");
    ensure!(answer.header("x-trailer") == Some("8"), "request trailers: {answer:?}");
    ensure!(answer.trailer("x-back") == Some("home"), "response trailers: {answer:?}");
    Ok(())
}

fn bodiless(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    wire.ask("GET /204", "")?.expect(204)?;
    let answer = wire.ask("GET /304", "")?.expect(304)?;
    ensure!(answer.header("etag") == Some("\"1\""), "{answer:?}");
    let answer = wire.ask("HEAD /head", "")?.expect(200)?;
    ensure!(answer.header("content-length") == Some("1234"), "{answer:?}");
    // Any byte that these had left behind would be taken for the next answer.
    wire.ask("GET /after", "")?.expect(200)?;
    Ok(())
}

fn field((name, value): &(String, String)) -> String {
    format!("{name}: {value}\r\n")
}

/// One that is long, and many that aren't.
fn headers(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    let long = ("x-long".to_owned(), "v".repeat(32 << 10));
    let short = (0..64).map(|number| (format!("x-long-{number}"), number.to_string().repeat(240)));
    let sent: Vec<_> = std::iter::once(long).chain(short).collect();
    let text: String = sent.iter().map(field).collect();
    ensure!(text.len() > 60 << 10 && text.len() <= 64 << 10, "{} bytes", text.len());
    let answer = wire.ask("GET /headers", &text)?.expect(200)?;
    let back: Vec<_> = answer.headers.into_iter().filter(|(name, _)| name.starts_with("x-long")).collect();
    ensure!(back == sent, "{} fields came back, or others", back.len());
    Ok(())
}

fn expect_continue(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    wire.send("POST /e HTTP/1.1\r\nhost: raw\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")?;
    wire.head()?.expect(100)?;
    wire.send("late")?;
    let answer = wire.message()?.expect(200)?;
    ensure!(answer.body == b"late", "{answer:?}");
    Ok(())
}

fn big(way: &Way<'_>) -> Result<()> {
    let body = pattern(BIG);
    for chunked in [false, true] {
        let mut wire = Wire::open(way.caller, way.to)?;
        let mut writer = wire.writer()?;
        let answer = thread::scope(|scope| {
            let sent = scope.spawn(|| send_big(&mut writer, &body, chunked));
            let answer = wire.message().context("the answer");
            sent.join().map_err(|_| anyhow::anyhow!("the sender panicked"))?.context("sending")?;
            answer
        })?;
        ensure!(answer.clone().expect(200)?.body == body, "{} bytes came back, or others", answer.body.len());
    }
    Ok(())
}

fn send_big(to: &mut TcpStream, body: &[u8], chunked: bool) -> Result<()> {
    write!(to, "POST /big HTTP/1.1\r\nhost: raw\r\n")?;
    if !chunked {
        write!(to, "content-length: {}\r\n\r\n", body.len())?;
        return Ok(to.write_all(body)?);
    }
    write!(to, "transfer-encoding: chunked\r\n\r\n")?;
    for piece in body.chunks(100_000) {
        write!(to, "{:x}\r\n", piece.len())?;
        to.write_all(piece)?;
        write!(to, "\r\n")?;
    }
    Ok(write!(to, "0\r\n\r\n")?)
}

fn upgrade(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    let answer = wire.ask("GET /upgrade", "connection: upgrade\r\nupgrade: shout\r\n")?.expect(101)?;
    ensure!(answer.header("upgrade") == Some("shout"), "{answer:?}");
    ensure!(wire.exactly(5)? == b"HELLO", "the server's first bytes");
    wire.send("ping")?;
    ensure!(wire.exactly(4)? == b"PING", "an answer after the upgrade");
    wire.send("over")?;
    wire.finish()?;
    let last = wire.until_end()?;
    ensure!(last == b"over AND OUT", "after the half-close: {:?}", String::from_utf8_lossy(&last));
    Ok(())
}

fn refused(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    let request = "GET /refuse HTTP/1.1\r\nhost: raw\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n";
    wire.send(format!("{request}{EARLY}\r\n\r\n"))?;
    let answer = wire.message()?.expect(403)?;
    ensure!(answer.body == b"no", "{answer:?}");
    Ok(())
}

fn pipelined(way: &Way<'_>) -> Result<()> {
    let mut wire = Wire::open(way.caller, way.to)?;
    let requests: String = (0..5).map(|turn| format!("GET /p{turn} HTTP/1.1\r\nhost: raw\r\n\r\n")).collect();
    wire.send(requests)?;
    for turn in 0..5 {
        let answer = wire.message()?.expect(200)?;
        ensure!(answer.header("x-line") == Some(&format!("GET /p{turn} HTTP/1.1")), "{answer:?}");
    }
    Ok(())
}
