//! Limits of time and trying again.

use std::{
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outrigger_testbed::{Machine, Mesh};

use super::{SHOP, address, ask, mesh, version};
use crate::raw::{Server, Wire, every};

const ROUTES: &str = include_str!("tries.yaml");
const CALLER: &str = "shop/caller";

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine, &[("tries.yaml", ROUTES)])?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let _flaky = Server::in_pod(mesh.pod("shop/witness")?, 8080, move |stream| flaky(stream, &count))?;
    let tried = |line: &str, body: &str| -> Result<(Option<u16>, usize)> {
        let before = asked.load(Relaxed);
        let mut wire = Wire::open(mesh.pod(CALLER)?, address(SHOP)?)?;
        wire.send(format!("{line} HTTP/1.1\r\nhost: raw\r\ncontent-length: {}\r\n\r\n{body}", body.len()))?;
        Ok((wire.message()?.status(), asked.load(Relaxed) - before))
    };
    let retried = || -> Result<()> {
        for (line, body, want) in [
            ("GET /flaky/2/a", "", (Some(200), 3)),
            ("DELETE /flaky/1/b", "", (Some(200), 2)),
            ("GET /flaky/9/c", "", (Some(503), 4)),
            ("POST /flaky/1/d", "", (Some(503), 1)),
            ("POST /flaky/1/e", "body", (Some(503), 1)),
        ] {
            let found = tried(line, body)?;
            ensure!(found == want, "{line} {body:?}: {found:?} instead of {want:?}");
        }
        Ok(())
    };
    every(vec![
        ("request timeout".to_owned(), timed_out(&mesh, "request")),
        ("backendRequest timeout".to_owned(), timed_out(&mesh, "backend")),
        (
            "in time".to_owned(),
            ask(&mesh, CALLER, SHOP, "GET /slow?ms=20", "x-limit: request\r\n").and_then(|it| version(&it).map(|_| ())),
        ),
        ("retries".to_owned(), retried()),
    ])
}

/// `/flaky/N/NAME` fails N times in a row, then answers.
fn flaky(stream: TcpStream, asked: &AtomicUsize) -> Result<()> {
    let mut wire = Wire::of(stream)?;
    let (mut failed, mut last) = (0, String::new());
    loop {
        let request = wire.message()?;
        if request.first != last {
            (failed, last) = (0, request.first.clone());
        }
        asked.fetch_add(1, Relaxed);
        let times: usize = request.first.split(['/', ' ']).nth(3).unwrap_or_default().parse()?;
        if failed < times {
            failed += 1;
            wire.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")?;
        } else {
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
        }
    }
}

fn timed_out(mesh: &Mesh, which: &str) -> Result<()> {
    let start = Instant::now();
    let mut wire = Wire::open(mesh.pod(CALLER)?, address(SHOP)?)?;
    wire.ask("GET /slow?ms=3000", &format!("x-limit: {which}\r\n"))?.expect(504)?;
    ensure!(start.elapsed() < Duration::from_secs(2), "after {:?}", start.elapsed());
    // The caller's connection is as good as before.
    version(&wire.ask("GET /", "")?).map(|_| ())
}
