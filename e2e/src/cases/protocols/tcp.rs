//! Connections that aren't HTTP: bytes come through as they are, whoever speaks first and whoever closes first.

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Result, anyhow, ensure};
use outrigger_testbed::{Machine, Pod, net::GATEWAY};

use super::{ECHO, GREETER, LOW, mesh, ways};
use crate::raw::{PATIENCE, Server, Wire, every, pattern};

pub(super) fn run(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let mut servers = Vec::new();
    for pod in ["test/server", "test/plain"] {
        servers.push(Server::in_pod(mesh.pod(pod)?, ECHO, echo)?);
        servers.push(Server::in_pod(mesh.pod(pod)?, GREETER, greet)?);
        servers.push(Server::in_pod(mesh.pod(pod)?, LOW, echo)?);
    }
    let outside = Server::of(TcpListener::bind((GATEWAY, 0))?, echo)?;
    let mut results = Vec::new();
    for way in ways(&mesh, ECHO)? {
        let (from, to) = (way.caller, way.to);
        results.push((format!("half-close, {}", way.name), talk(from, to, b"one line\n")));
        results.push((format!("TLS of the app's own, {}", way.name), talk(from, to, &client_hello())));
        results.push((format!("1 MiB, {}", way.name), talk(from, to, &opaque(1 << 20))));
        results.push((format!("a low port, {}", way.name), talk(from, SocketAddr::new(to.ip(), LOW), b"one line\n")));
        let greeter = SocketAddr::new(to.ip(), GREETER);
        // The first connection finds out who speaks first, the others know.
        for turn in 0..3 {
            results.push((format!("server speaks first, turn {turn}, {}", way.name), greeted(from, greeter)));
        }
    }
    let client = mesh.pod("test/client")?;
    let addresses = |pod| Ok::<_, anyhow::Error>(mesh.pod(pod)?.namespace.addresses());
    for (from, to) in [("test/client", "test/server"), ("test/client", "test/plain"), ("test/plain", "test/server")] {
        for address in addresses(to)? {
            let name = format!("UDP from {from} to {address}");
            results.push((name, datagram(mesh.pod(from)?, mesh.pod(to)?, SocketAddr::new(address, ECHO))));
        }
    }
    results.push(("out of the mesh".to_owned(), talk(client, outside.address, b"hello\n")));
    results.push(("TLS out of the mesh".to_owned(), talk(client, outside.address, &client_hello())));
    every(results)
}

/// Gives everything back, and says goodbye once the caller has said its last.
fn echo(stream: TcpStream) -> Result<()> {
    let mut wire = Wire::of(stream)?;
    let heard = wire.until_end()?;
    wire.send([&heard[..], b"BYE"].concat())
}

fn greet(stream: TcpStream) -> Result<()> {
    let mut wire = Wire::of(stream)?;
    wire.send("220 ready\r\n")?;
    let heard = wire.exactly(4)?;
    wire.send([b"heard ", &heard[..]].concat())
}

fn talk(from: &Pod, to: SocketAddr, say: &[u8]) -> Result<()> {
    let mut wire = Wire::open(from, to)?;
    wire.send(say)?;
    wire.finish()?;
    let heard = wire.until_end()?;
    ensure!(heard == [say, b"BYE"].concat(), "{} bytes came back of {}", heard.len(), say.len() + 3);
    Ok(())
}

/// Nobody carries these: they go as if there were no mesh.
fn datagram(from: &Pod, to: &Pod, address: SocketAddr) -> Result<()> {
    let socket = |pod: &Pod, port| -> Result<UdpSocket> {
        let socket = pod.namespace.within(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))??;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    // Both sockets are of both families.
    let (server, client) = (socket(to, address.port())?, socket(from, 0)?);
    let to = match address {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 @ SocketAddr::V6(_) => v6,
    };
    let mut heard = [0; 16];
    thread::scope(|scope| {
        let serving = scope.spawn(|| -> Result<()> {
            let mut heard = [0; 16];
            let (length, caller) = server.recv_from(&mut heard)?;
            server.send_to(&heard[..length], caller)?;
            Ok(())
        });
        client.send_to(b"a datagram", to)?;
        let (length, by) = client.recv_from(&mut heard)?;
        ensure!(by == to && heard[..length] == *b"a datagram", "{:?} of {by}", &heard[..length]);
        serving.join().map_err(|_| anyhow!("the server panicked"))?
    })
}

fn greeted(from: &Pod, to: SocketAddr) -> Result<()> {
    let mut wire = Wire::open(from, to)?;
    ensure!(wire.exactly(11)? == b"220 ready\r\n", "another greeting");
    wire.send("helo")?;
    ensure!(wire.until_end()? == b"heard helo", "another answer");
    Ok(())
}

/// A handshake record (RFC 8446 section 5.1) as an app would begin TLS with, and what might follow.
fn client_hello() -> Vec<u8> {
    let mut bytes = vec![22, 3, 1, 1, 0, 1, 0, 0, 252, 3, 3];
    bytes.extend(pattern(4000));
    bytes
}

/// Nothing that anyone could take for HTTP.
fn opaque(length: usize) -> Vec<u8> {
    let mut bytes = pattern(length);
    bytes[0] = 0;
    bytes
}
