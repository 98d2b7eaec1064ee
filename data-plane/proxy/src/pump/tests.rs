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
    CopiesPlain,
}

const BULK: u64 = 3 << 30;

/// A pair of proxies and the bytes that they carry for each second of CPU time: `cargo test --release -p
/// outrigger-dataplane bulk -- --ignored --nocapture`.
#[test]
#[ignore = "measures, and takes its time"]
fn bulk() {
    for means in [Means::Copies, Means::Pump, Means::Pump, Means::Copies, Means::PumpPlain, Means::CopiesPlain] {
        let cpu = carry_bulk(means, BULK);
        eprintln!("{means:?}: {:.3} GB per CPU-second", BULK as f64 / cpu as f64);
    }
}

fn carry_bulk(means: Means, bytes: u64) -> u64 {
    let (front, catalogue, id) = two();
    let (entry, far, backend) = (std_listener(), std_listener(), std_listener());
    let (entry_at, far_at, backend_at) =
        (entry.local_addr().unwrap(), far.local_addr().unwrap(), backend.local_addr().unwrap());
    let sink = thread::spawn(move || {
        pin(0);
        let (mut stream, _) = backend.accept().unwrap();
        let (mut buffer, mut left) = (vec![0; 256 * 1024], bytes);
        while left > 0 {
            let n = stream.read(&mut buffer).unwrap();
            assert_ne!(n, 0);
            left -= n as u64;
        }
        stream.write_all(b"!").unwrap();
    });
    let server = proxy(far, backend_at, move |near, out| async move {
        match means {
            Means::PumpPlain | Means::CopiesPlain => carry_plain(means, near, out).await,
            Means::Copies => {
                let config = catalogue.server(ServerAlpn::Pod).unwrap();
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
            Means::PumpPlain | Means::CopiesPlain => carry_plain(means, near, out).await,
            Means::Copies => {
                let config = front.client(&[id], alpn::TCP).unwrap();
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
    let mut source = std::net::TcpStream::connect(entry_at).unwrap();
    let (buffer, mut left) = (vec![7; 256 * 1024], bytes);
    while left > 0 {
        let n = left.min(buffer.len() as u64) as usize;
        source.write_all(&buffer[..n]).unwrap();
        left -= n as u64;
    }
    source.read_exact(&mut [0]).unwrap();
    drop(source);
    sink.join().unwrap();
    client.join().unwrap() + server.join().unwrap()
}

async fn carry_plain(means: Means, mut near: TcpStream, mut out: TcpStream) {
    if let Means::PumpPlain = means {
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
