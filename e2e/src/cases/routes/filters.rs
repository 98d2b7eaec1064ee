//! What routes do to requests and answers.

use std::{
    net::TcpStream,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outrigger_testbed::{Machine, Mesh, probe::wait_until};

use super::{SHOP, address, ask, mesh, version};
use crate::raw::{Message, PATIENCE, Server, Wire, every};

const ROUTES: &str = include_str!("filters.yaml");
const CALLER: &str = "shop/caller";

type Seen = Arc<Mutex<Vec<Message>>>;

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine, &[("filters.yaml", ROUTES)])?;
    let seen = Seen::default();
    let witness = Arc::clone(&seen);
    let _witness = Server::in_pod(mesh.pod("shop/witness")?, 8080, move |stream| record(stream, &witness))?;
    every(vec![
        ("rewrite and headers".to_owned(), rewrite(&mesh)),
        ("redirect".to_owned(), redirect(&mesh)),
        ("mirror".to_owned(), mirror(&mesh, &seen)),
        (
            "fault: abort".to_owned(),
            ask(&mesh, CALLER, SHOP, "GET /abort", "").and_then(|it| it.expect(418)).map(|_| ()),
        ),
        ("fault: delay".to_owned(), delay(&mesh)),
        ("direct response".to_owned(), direct(&mesh)),
        ("cookie and caller".to_owned(), mine(&mesh)),
    ])
}

/// The witness answers with an error, which nobody must ever see.
fn record(stream: TcpStream, seen: &Seen) -> Result<()> {
    let mut wire = Wire::of(stream)?;
    loop {
        let message = wire.message()?;
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        wire.send("HTTP/1.1 500 Internal Server Error\r\ncontent-length: 7\r\n\r\nwitness")?;
    }
}

fn rewrite(mesh: &Mesh) -> Result<()> {
    let headers = "x-set: theirs\r\nx-add: first\r\nx-secret: s\r\nx-other: kept\r\n";
    for (line, path) in [("GET /old/a?b=c", "/new/a?b=c"), ("GET /old", "/new"), ("GET /full/a?b=c", "/whole?b=c")] {
        let answer = ask(mesh, CALLER, SHOP, line, headers)?.expect(200)?;
        let said = answer.json()?;
        let header = |name: &str| said["headers"][name].as_str().unwrap_or("none").to_owned();
        ensure!(said["path"].as_str().is_some_and(|found| found.ends_with(path)), "{line}: {said}");
        ensure!(header("x-other") == "kept", "{said}");
        if line.contains("/full") {
            ensure!(header("host") == "raw" && header("x-set") == "theirs", "a rule's filters on another: {said}");
            continue;
        }
        ensure!(header("host") == "inner.example", "{said}");
        ensure!(header("x-set") == "ours" && header("x-secret") == "none", "{said}");
        // The app's JSON shows the last of several values.
        ensure!(header("x-add").contains("more"), "{said}");
        ensure!(answer.header("x-version") == Some("hidden") && answer.header("x-added") == Some("1"), "{answer:?}");
        ensure!(answer.header("content-type").is_none(), "{answer:?}");
    }
    Ok(())
}

fn redirect(mesh: &Mesh) -> Result<()> {
    for (line, status, location) in [
        ("GET /moved/a?b=c", 301, "https://shop.example/here/a?b=c"),
        ("GET /moved", 301, "https://shop.example/here"),
        ("GET /port/x", 302, "http://raw:8443/port/x"),
    ] {
        let answer = ask(mesh, CALLER, SHOP, line, "")?.expect(status)?;
        ensure!(answer.header("location") == Some(location), "{line}: {answer:?}");
    }
    Ok(())
}

fn mirror(mesh: &Mesh, seen: &Seen) -> Result<()> {
    let mut wire = Wire::open(mesh.pod(CALLER)?, address(SHOP)?)?;
    wire.send("POST /mirrored/1?x=y HTTP/1.1\r\nhost: raw\r\ncontent-length: 4\r\nx-who: me\r\n\r\nbody")?;
    let answer = wire.message()?;
    ensure!(version(&answer)? == "v1" && answer.body == b"body", "{answer:?}");
    wire.ask("GET /mirrored/2", "")?.expect(200)?;
    let copies = || seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    wait_until("two copies", PATIENCE, || copies().len() >= 2)?;
    let posted = copies().into_iter().find(|copy| copy.first.starts_with("POST /mirrored/1?x=y "));
    ensure!(posted.is_some_and(|copy| copy.body == b"body" && copy.header("x-who") == Some("me")), "{:?}", copies());
    ensure!(copies().len() == 2, "{:?}", copies());
    Ok(())
}

fn delay(mesh: &Mesh) -> Result<()> {
    let start = Instant::now();
    ask(mesh, CALLER, SHOP, "GET /delay", "")?.expect(200)?;
    ensure!(start.elapsed() >= Duration::from_millis(300), "answered after {:?}", start.elapsed());
    Ok(())
}

fn direct(mesh: &Mesh) -> Result<()> {
    let answer = ask(mesh, CALLER, SHOP, "GET /direct", "")?.expect(451)?;
    ensure!(answer.body == b"not here" && answer.header("content-type") == Some("text/x-test"), "{answer:?}");
    let mut wire = Wire::open(mesh.pod(CALLER)?, address(SHOP)?)?;
    let answer = wire.ask("HEAD /direct", "")?.expect(451)?;
    ensure!(answer.header("content-length") == Some("8"), "{answer:?}");
    wire.ask("GET /direct", "")?.expect(451)?;
    Ok(())
}

fn mine(mesh: &Mesh) -> Result<()> {
    let second = |from: &str, headers: &str| -> Result<bool> {
        Ok(version(&ask(mesh, from, SHOP, "GET /mine", headers)?)? == "v2")
    };
    ensure!(second(CALLER, "cookie: a=b; tester=1\r\n")?, "the tester got the other version");
    ensure!(!second(CALLER, "cookie: tester=2\r\n")? && !second(CALLER, "")?, "matched without the cookie");
    ensure!(!second("other/caller", "cookie: tester=1\r\n")?, "matched another caller");
    Ok(())
}
