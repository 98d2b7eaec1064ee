use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    thread::{self, JoinHandle},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use outrigger_wire::names::alpn;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::tls::{self, MeshTls, ServerAlpn, TlsStream, server_name, tests::two};

/// Who carries between the two proxies of the measurement.
#[derive(Debug, Clone, Copy)]
enum Means {
    /// What was here before.
    Copies,
    Pump,
    PumpPlain,
    /// Not through a pipe.
    PumpCopiesPlain,
    CopiesPlain,
}

const BULK: u64 = 3 << 30;
const ROUND_TRIPS: u32 = 20_000;

/// Bytes that a pair of proxies carries for each second of CPU time: `cargo test --release -p outrigger-dataplane bulk_
/// -- --ignored --nocapture --test-threads 1`.
#[test]
#[ignore = "measures, and takes its time"]
fn bulk_by_pump() {
    bulk(Means::Pump);
}

#[test]
#[ignore = "measures, and takes its time"]
fn bulk_by_copies() {
    bulk(Means::Copies);
}

#[test]
#[ignore = "measures, and takes its time"]
fn bulk_by_pump_without_tls() {
    bulk(Means::PumpPlain);
}

#[test]
#[ignore = "measures, and takes its time"]
fn bulk_by_pump_without_tls_or_pipe() {
    bulk(Means::PumpCopiesPlain);
}

#[test]
#[ignore = "measures, and takes its time"]
fn bulk_by_copies_without_tls() {
    bulk(Means::CopiesPlain);
}

#[test]
#[ignore = "measures, and takes its time"]
fn messages_by_pump() {
    messages(Means::Pump);
}

#[test]
#[ignore = "measures, and takes its time"]
fn messages_by_copies() {
    messages(Means::Copies);
}

fn bulk(means: Means) {
    let sink = |mut stream: std::net::TcpStream| {
        let (mut buffer, mut left) = (vec![0; 256 * 1024], BULK);
        while left > 0 {
            let n = stream.read(&mut buffer).unwrap();
            assert_ne!(n, 0);
            left -= n as u64;
        }
        stream.write_all(b"!").unwrap();
    };
    let source = |mut stream: std::net::TcpStream| {
        let (buffer, mut left) = (vec![7; 256 * 1024], BULK);
        while left > 0 {
            let n = left.min(buffer.len() as u64) as usize;
            stream.write_all(&buffer[..n]).unwrap();
            left -= n as u64;
        }
        stream.read_exact(&mut [0]).unwrap();
    };
    let cpu = measure(means, source, sink);
    eprintln!("{means:?}: {:.3} GB per CPU-second", BULK as f64 / cpu as f64);
}

/// Round trips of one byte.
fn messages(means: Means) {
    let echo = |mut stream: std::net::TcpStream| {
        let mut byte = [0];
        while stream.read(&mut byte).unwrap() > 0 {
            stream.write_all(&byte).unwrap();
        }
    };
    let ask = |mut stream: std::net::TcpStream| {
        stream.set_nodelay(true).unwrap();
        for _ in 0..ROUND_TRIPS {
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut [0]).unwrap();
        }
    };
    let cpu = measure(means, ask, echo);
    eprintln!("{means:?}: {:.2} us CPU per round trip", cpu as f64 / f64::from(ROUND_TRIPS) / 1000.0);
}

/// CPU time, in nanoseconds, of a pair of proxies between these two.
fn measure<A, B>(means: Means, source: A, sink: B) -> u64
where
    A: FnOnce(std::net::TcpStream),
    B: FnOnce(std::net::TcpStream) + Send + 'static,
{
    let (front, catalogue, id) = two();
    let (entry, far, backend) = (std_listener(), std_listener(), std_listener());
    let (entry_at, far_at, backend_at) =
        (entry.local_addr().unwrap(), far.local_addr().unwrap(), backend.local_addr().unwrap());
    let sink = thread::spawn(move || {
        pin(0);
        let (stream, _) = backend.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        sink(stream);
    });
    let server = proxy(far, backend_at, move |near, out| async move {
        match means {
            Means::PumpPlain | Means::PumpCopiesPlain | Means::CopiesPlain => carry_plain(means, near, out).await,
            Means::Copies => {
                let config = catalogue.server(ServerAlpn::Pod).unwrap().config;
                let mut near = TlsAcceptor::from(config).accept(near).await.unwrap();
                let mut out = out;
                copy_bidirectional_with_sizes(&mut near, &mut out, 16384, 16384).await.unwrap();
            }
            Means::Pump => {
                let (mut near, mut out) = (accept(&catalogue, near).await, out);
                pump(&mut near, &mut out).await.unwrap();
            }
        }
    });
    let client = proxy(entry, far_at, move |near, out| async move {
        match means {
            Means::PumpPlain | Means::PumpCopiesPlain | Means::CopiesPlain => carry_plain(means, near, out).await,
            Means::Copies => {
                let config = front.client(&[id], alpn::TCP).unwrap().config;
                let name = server_name(Ipv4Addr::LOCALHOST.into());
                let mut out = TlsConnector::from(config).connect(name, out).await.unwrap();
                let mut near = near;
                copy_bidirectional_with_sizes(&mut near, &mut out, 16384, 16384).await.unwrap();
            }
            Means::Pump => {
                let (mut near, mut out) = (near, connect(&front, &id, out).await);
                pump(&mut near, &mut out).await.unwrap();
            }
        }
    });
    pin(0);
    source(std::net::TcpStream::connect(entry_at).unwrap());
    sink.join().unwrap();
    client.join().unwrap() + server.join().unwrap()
}

async fn carry_plain(means: Means, mut near: TcpStream, mut out: TcpStream) {
    if let Means::PumpCopiesPlain = means {
        crate::splice::allow(0);
    }
    if let Means::PumpPlain | Means::PumpCopiesPlain = means {
        pump(&mut near, &mut out).await.unwrap();
    } else {
        copy_bidirectional_with_sizes(&mut near, &mut out, 16384, 16384).await.unwrap();
    }
}

/// A proxy of one connection in its own thread; says how much CPU time it took, in nanoseconds.
fn proxy<F, C>(listener: std::net::TcpListener, to: SocketAddr, carry: C) -> JoinHandle<u64>
where
    C: FnOnce(TcpStream, TcpStream) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    thread::spawn(move || {
        pin(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            listener.set_nonblocking(true).unwrap();
            let (near, _) = TcpListener::from_std(listener).unwrap().accept().await.unwrap();
            let out = TcpStream::connect(to).await.unwrap();
            near.set_nodelay(true).unwrap();
            out.set_nodelay(true).unwrap();
            let before = cpu_time();
            carry(near, out).await;
            cpu_time() - before
        })
    })
}

fn cpu_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu).unwrap();
    // With one CPU there is nothing to choose.
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

fn std_listener() -> std::net::TcpListener {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

async fn accept(mesh: &MeshTls, socket: TcpStream) -> TlsStream {
    tls::accept(mesh.server(ServerAlpn::Pod).unwrap(), socket).await.unwrap().0
}

async fn connect(mesh: &Arc<MeshTls>, peer: &outrigger_wire::SpiffeId, socket: TcpStream) -> TlsStream {
    let config = mesh.client(std::slice::from_ref(peer), alpn::TCP).unwrap();
    tls::connect(config, server_name(Ipv4Addr::LOCALHOST.into()), socket).await.unwrap().0
}

/// Two ends of what a pair of proxies carries, and the proxies' own outcomes.
async fn pair() -> (TcpStream, TcpStream, JoinOutcome, JoinOutcome) {
    let (front, catalogue, id) = two();
    let (client, near) = sockets().await;
    let (middle, far) = sockets().await;
    let (out, server) = sockets().await;
    let first = tokio::spawn(async move {
        let (mut near, mut middle) = (near, connect(&front, &id, middle).await);
        pump(&mut near, &mut middle).await
    });
    let second = tokio::spawn(async move {
        let (mut far, mut out) = (accept(&catalogue, far).await, out);
        pump(&mut far, &mut out).await
    });
    (client, server, first, second)
}

type JoinOutcome = tokio::task::JoinHandle<io::Result<Carried>>;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 253) as u8).collect()
}

#[tokio::test]
async fn what_is_sent_arrives_and_halves_end_by_themselves() {
    let (mut client, mut server, first, second) = pair().await;
    for length in [1, 100, 16 * 1024, 50_000] {
        client.write_all(&bytes(length)).await.unwrap();
        let mut heard = vec![0; length];
        server.read_exact(&mut heard).await.unwrap();
        assert!(heard == bytes(length), "{length}");
    }
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    // The other half goes on, and this time it is much.
    let said = bytes(5_000_000);
    let answer = async {
        server.write_all(&said).await.unwrap();
        server.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (read, ()) = tokio::join!(client.read_to_end(&mut heard), answer);
    read.unwrap();
    assert!(heard == said);
    let sent = 1 + 100 + 16 * 1024 + 50_000;
    let carried = Carried { sent, received: 5_000_000 };
    assert_eq!(first.await.unwrap().unwrap(), carried);
    assert_eq!(second.await.unwrap().unwrap(), carried);
}

#[tokio::test]
async fn who_reads_nothing_is_not_sent_more_than_there_is_room_for() {
    let (mut client, mut server, first, second) = pair().await;
    let piece = bytes(1 << 20);
    let mut written = 0;
    // Sooner or later nothing more is taken: the kernel's buffers and the two proxies' own are bounded.
    while let Ok(n) = tokio::time::timeout(std::time::Duration::from_millis(300), client.write(&piece)).await {
        written += n.unwrap();
        assert!(written < 256 << 20);
    }
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), written);
    drop(server);
    for outcome in [first, second] {
        assert_eq!(outcome.await.unwrap().unwrap().sent, written as u64);
    }
}

#[tokio::test]
async fn a_peer_that_vanishes_is_an_error_on_both_sides() {
    let (mut client, server, first, second) = pair().await;
    crate::listeners::reset_at_end(&server, true);
    drop(server);
    assert!(second.await.unwrap().is_err());
    assert!(first.await.unwrap().is_err());
    assert!(matches!(client.read(&mut [0]).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn sealed_anew_between_two_sessions() {
    let (front, catalogue, id) = two();
    let (near, near_far) = sockets().await;
    let (out, out_far) = sockets().await;
    let middle = async {
        let (mut from, mut to) = (accept(&catalogue, near_far).await, connect(&front, &id, out).await);
        pump(&mut from, &mut to).await.unwrap()
    };
    let (front, catalogue, id) = (&front, &catalogue, &id);
    let ends = async {
        let (mut near, mut far) = tokio::join!(connect(front, id, near), accept(catalogue, out_far));
        let said = bytes(3_000_000);
        let speak = async {
            // Many small records, then large ones.
            for piece in said[..100_000].chunks(700).chain(said[100_000..].chunks(200_000)) {
                near.write_all(piece).await.unwrap();
            }
            near.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (read, ()) = tokio::join!(far.read_to_end(&mut heard), speak);
        read.unwrap();
        assert!(heard == said);
        far.shutdown().await.unwrap();
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
    };
    let (carried, ()) = tokio::join!(middle, ends);
    assert_eq!(carried, Carried { sent: 3_000_000, received: 0 });
}

#[tokio::test]
async fn between_bare_sockets_messages_bulk_and_messages_again() {
    let (mut client, mut near) = sockets().await;
    let (mut out, mut server) = sockets().await;
    let carrying = tokio::spawn(async move { pump(&mut near, &mut out).await });
    let mut sent = 0;
    for length in [1, 100, 30_000_000, 3, 3, 3, 3, 3, 3, 3, 3, 2_000_000, 1] {
        let said = bytes(length);
        let mut heard = vec![0; length];
        let (written, read) = tokio::join!(client.write_all(&said), server.read_exact(&mut heard));
        written.unwrap();
        read.unwrap();
        assert!(heard == said, "{length}");
        sent += length as u64;
    }
    client.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0]).await.unwrap(), 0);
    server.write_all(b"and back").await.unwrap();
    drop(server);
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"and back");
    assert_eq!(carrying.await.unwrap().unwrap(), Carried { sent, received: 8 });
}
