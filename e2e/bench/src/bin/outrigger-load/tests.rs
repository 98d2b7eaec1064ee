//! The load against our own backends, and against servers that do it wrong: all in this process, on ports that are free.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use clap::Parser as _;

use crate::{
    Args, Command,
    run::{Plan, run},
    runtime,
    serve::{self, Kind},
    tally::Report,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Lives as long as the process.
fn backend(kind: Kind) -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        runtime().unwrap().block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            serve::serve(&listener, kind, 1024).await
        })
    });
    told.recv().unwrap()
}

/// A server that reads a request of HTTP/1.1 and does with the connection what `answer` does, which is told how many
/// requests came before. When it returns false, the connection is closed.
fn http1(answer: impl Fn(&mut TcpStream, usize) -> bool + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut count = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_nodelay(true).unwrap();
            while read_request(&mut stream) && {
                count += 1;
                answer(&mut stream, count - 1)
            } {}
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) -> bool {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

fn plan(line: &str) -> Plan {
    match Args::try_parse_from(format!("outrigger-load run {line}").split(' ')).unwrap().command {
        Command::Run(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn load(line: &str) -> Report {
    run(&plan(&format!("{line} --seconds 0.3 --warmup 0.05"))).unwrap()
}

#[test]
fn every_scheme_against_its_own_backend() {
    for (kind, lines) in [
        (
            Kind::Http1,
            &[
                "http://ADDRESS/any",
                "http://ADDRESS --connections 5 --header a:b",
                "http://ADDRESS --new-connections",
                "http://ADDRESS --connections 3 --rate 500",
                "http://ADDRESS --connections 3 --threads 2",
            ][..],
        ),
        (
            Kind::H2,
            &[
                "h2://ADDRESS/any",
                "h2://ADDRESS --connections 2 --streams 10 --header host:name",
                "h2://ADDRESS --new-connections --streams 2",
                "h2://ADDRESS --streams 3 --rate 500",
            ],
        ),
        (
            Kind::Grpc,
            &[
                "grpc://ADDRESS",
                "grpc://ADDRESS/some.Service/Call --connections 2 --streams 10",
                "grpc://ADDRESS --size 1000000",
                "grpc://ADDRESS --new-connections",
                "grpc-stream://ADDRESS",
                "grpc-stream://ADDRESS --connections 2 --streams 3 --size 200000",
                "grpc-stream://ADDRESS --rate 500",
            ],
        ),
        (
            Kind::TcpEcho,
            &[
                "tcp://ADDRESS",
                "tcp://ADDRESS --size 1 --connections 3 --rate 500",
                "tcp://ADDRESS --size 5000000",
                "tcp://ADDRESS --new-connections",
                "tcp-bulk://ADDRESS --connections 2",
            ],
        ),
    ] {
        let address = backend(kind).to_string();
        for line in lines {
            let report = load(&format!("--to {}", line.replace("ADDRESS", &address)));
            assert!(report.requests > 0 && report.bytes > 0, "{line}: {report:?}");
            assert_eq!(report.errors, 0, "{line}: {report:?}");
        }
    }
}
