//! A body that is longer than 32 bits can say, both ways at once. It is made and checked on the way, and stored nowhere.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Instant,
};

use anyhow::{Context, Result, anyhow, ensure};
use outrigger_testbed::Machine;

use super::{HTTP1, mesh};
use crate::raw::{PATIENCE, Server, Wire, pattern};

/// And a byte.
const LENGTH: u64 = (2 << 30) + 1;
/// No divisor of anybody's buffers.
const PIECE: usize = (1 << 18) - 5;

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let _server = Server::in_pod(mesh.pod("test/server")?, HTTP1, back)?;
    let mut wire = Wire::open(mesh.pod("test/client")?, SocketAddr::new("10.96.1.1".parse()?, HTTP1))?;
    let (mut to, mut from) = (wire.writer()?, wire.writer()?);
    let piece = pattern(PIECE);
    let start = Instant::now();
    write!(to, "POST /large HTTP/1.1\r\nhost: raw\r\ncontent-length: {LENGTH}\r\n\r\n")?;
    thread::scope(|scope| {
        let sent = scope.spawn(|| send(&mut to, &piece));
        wire.head()?.expect(200)?;
        let early = wire.buffered();
        let received = receive(early, &mut from, &piece).context("what came back");
        sent.join().map_err(|_| anyhow!("the sender panicked"))?.context("sending")?;
        received
    })?;
    println!("        {LENGTH} bytes there and back in {:?}", start.elapsed());
    wire.ask("POST /after", "content-length: 0\r\n")?.expect(200)?;
    Ok(())
}

/// Every body as it comes.
fn back(stream: TcpStream) -> Result<()> {
    let (mut to, mut from) = (stream.try_clone()?, stream.try_clone()?);
    let mut wire = Wire::of(stream)?;
    loop {
        let head = wire.head()?;
        let length: u64 = head.header("content-length").context("a length")?.parse()?;
        write!(to, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n")?;
        let early = wire.buffered();
        let mut body = early.chain(&mut from).take(length);
        std::io::copy(&mut body, &mut to)?;
    }
}

fn send(to: &mut TcpStream, piece: &[u8]) -> Result<()> {
    to.set_write_timeout(Some(PATIENCE))?;
    let mut left = LENGTH;
    while left > 0 {
        let length = left.min(PIECE as u64);
        to.write_all(&piece[..usize::try_from(length)?])?;
        left -= length;
    }
    Ok(())
}

fn receive(early: impl Read, from: &mut TcpStream, piece: &[u8]) -> Result<()> {
    let mut body = early.chain(from).take(LENGTH);
    let mut heard = vec![0; PIECE];
    let mut left = LENGTH;
    while left > 0 {
        let length = usize::try_from(left.min(PIECE as u64))?;
        body.read_exact(&mut heard[..length]).with_context(|| format!("{left} bytes before the end"))?;
        ensure!(heard[..length] == piece[..length], "other bytes, {left} before the end");
        left -= length as u64;
    }
    Ok(())
}
