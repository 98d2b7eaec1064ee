use std::{net::Ipv4Addr, sync::Arc};

use outrigger_wire::{SpiffeId, names::alpn};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, split},
    net::TcpListener,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::tls::{Agreed, MeshTls, ServerAlpn, accept, connect, server_name, tests::two};

type Theirs = tokio_rustls::TlsStream<TcpStream>;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dialled = TcpStream::connect(listener.local_addr().unwrap());
    let (dialled, accepted) = tokio::join!(dialled, listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

async fn ours_calls(alpn: (&'static [u8], ServerAlpn)) -> (TlsStream, Theirs) {
    let (front, catalogue, id) = two();
    let (near, far) = sockets().await;
    let config = front.client(std::slice::from_ref(&id), alpn.0).unwrap();
    let acceptor = TlsAcceptor::from(catalogue.server(alpn.1).unwrap().config);
    let name = server_name(Ipv4Addr::LOCALHOST.into());
    let (ours, theirs) = tokio::join!(connect(config, name, near), acceptor.accept(far));
    let (ours, agreed) = ours.unwrap();
    assert_eq!((agreed.peer, agreed.alpn.as_deref()), (Some(id), Some(alpn.0)));
    (ours, theirs.unwrap().into())
}

async fn theirs_calls() -> (TlsStream, Theirs) {
    let (front, catalogue, id) = two();
    let (near, far) = sockets().await;
    let connector = TlsConnector::from(front.client(&[id], alpn::TCP).unwrap().config);
    let name = server_name(Ipv4Addr::LOCALHOST.into());
    let config = catalogue.server(ServerAlpn::Pod).unwrap();
    let (theirs, ours) = tokio::join!(connector.connect(name, near), accept(config, far));
    let (ours, agreed) = ours.unwrap();
    assert_eq!((agreed.peer, agreed.alpn.as_deref()), (front.identity(), Some(alpn::TCP)));
    (ours, theirs.unwrap().into())
}

async fn both() -> Vec<(TlsStream, Theirs)> {
    vec![ours_calls((alpn::TCP, ServerAlpn::Pod)).await, theirs_calls().await]
}

fn refresh(theirs: &mut Theirs) {
    match theirs {
        Theirs::Client(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
        Theirs::Server(stream) => stream.get_mut().1.refresh_traffic_keys().unwrap(),
    }
}

/// What one end says is what the other one hears.
async fn say<A, B>(from: &mut A, to: &mut B, length: usize)
where
    A: AsyncWrite + Unpin,
    B: AsyncRead + Unpin,
{
    let said: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let mut heard = vec![0; length];
    let speak = async {
        from.write_all(&said).await.unwrap();
        from.flush().await.unwrap();
    };
    let (_, read) = tokio::join!(speak, to.read_exact(&mut heard));
    read.unwrap();
    assert!(said == heard, "{length} bytes");
}

#[tokio::test]
async fn speaks_with_rustls_in_all_sizes() {
    for (mut ours, mut theirs) in both().await {
        for length in [1, 2, 1000, PAYLOAD - 1, PAYLOAD, PAYLOAD + 1, 100_000, 3_000_000] {
            say(&mut ours, &mut theirs, length).await;
            say(&mut theirs, &mut ours, length).await;
        }
    }
}

#[tokio::test]
async fn both_directions_at_once() {
    for (ours, theirs) in both().await {
        let (mut our_read, mut our_write) = split(ours);
        let (mut their_read, mut their_write) = split(theirs);
        tokio::join!(say(&mut our_write, &mut their_read, 2_000_000), say(&mut their_write, &mut our_read, 2_000_000));
    }
}

#[tokio::test]
async fn each_side_ends_by_itself() {
    for (mut ours, mut theirs) in both().await {
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
        say(&mut theirs, &mut ours, 50_000).await;
        assert!(ours.write_all(b"too late").await.is_err());
        theirs.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    }
    for (mut ours, mut theirs) in both().await {
        theirs.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
        say(&mut ours, &mut theirs, 50_000).await;
    }
}

#[tokio::test]
async fn an_end_that_nobody_announced_is_an_error() {
    for (mut ours, theirs) in both().await {
        drop(theirs);
        assert_eq!(ours.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn the_peer_changes_its_key() {
    for (mut ours, mut theirs) in both().await {
        for length in [1, 70_000] {
            refresh(&mut theirs);
            say(&mut theirs, &mut ours, length).await;
            // Asked for by the peer's message.
            say(&mut ours, &mut theirs, length).await;
        }
        assert!(ours.session.sealer.count() < 20, "we have changed ours");
    }
}

#[tokio::test]
async fn our_key_is_changed_before_it_is_used_up() {
    for (mut ours, mut theirs) in both().await {
        ours.session.key_limit = KEY_MARGIN + 10;
        for _ in 0..100 {
            say(&mut ours, &mut theirs, 3).await;
            assert!(ours.session.sealer.count() <= 11);
        }
        say(&mut ours, &mut theirs, 1_000_000).await;
        say(&mut theirs, &mut ours, 1_000_000).await;
    }
}

#[tokio::test]
async fn nobody_changes_keys_for_ever() {
    let (mut ours, mut theirs) = theirs_calls().await;
    let changes = async {
        for _ in 0..=KEY_CHANGES {
            refresh(&mut theirs);
            theirs.flush().await.unwrap();
        }
    };
    let (read, ()) = tokio::join!(async { ours.read(&mut [0]).await }, changes);
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_damaged_record_ends_the_session_and_its_sender_is_told() {
    for (mut ours, mut theirs) in both().await {
        let (socket, _) = match &mut theirs {
            Theirs::Client(stream) => (&mut stream.get_mut().0, ()),
            Theirs::Server(stream) => (&mut stream.get_mut().0, ()),
        };
        socket.write_all(&[23, 3, 3, 0, 20]).await.unwrap();
        socket.write_all(&[0; 20]).await.unwrap();
        assert_eq!(ours.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(ours.write_all(b"more").await.is_err());
        let told = theirs.read(&mut [0]).await.unwrap_err();
        assert!(told.to_string().contains("BadRecordMac"), "{told}");
    }
}

/// What a client of rustls says first, and then nothing.
fn hello() -> Vec<u8> {
    let (front, _, id) = two();
    let config = front.client(&[id], alpn::TCP).unwrap().config;
    let mut client = rustls::ClientConnection::new(config, server_name(Ipv4Addr::LOCALHOST.into())).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn no_garbage_gets_through_a_handshake() {
    let (front, catalogue, id) = two();
    let hello = hello();
    for at in 0..hello.len() * 2 {
        let mut garbage = hello.clone();
        garbage[at % hello.len()] ^= if at < hello.len() { 0xff } else { 1 };
        let (mut near, far) = sockets().await;
        let (again, name) = (hello.clone(), server_name(Ipv4Addr::LOCALHOST.into()));
        let speak = async {
            near.write_all(&garbage).await.unwrap();
            // And records that can't be opened, in case that it was taken for a hello.
            let _ = near.write_all(&[&[23, 3, 3, 0, 30][..], &again[..30], &again].concat()).await;
            let _ = near.shutdown().await;
            let _ = near.read_to_end(&mut Vec::new()).await;
        };
        let (accepted, ()) = tokio::join!(accept(catalogue.server(ServerAlpn::Pod).unwrap(), far), speak);
        assert!(accepted.is_err(), "byte {at}");

        let (mut near, far) = sockets().await;
        let speak = async {
            let _ = near.write_all(&garbage).await;
            let _ = near.shutdown().await;
            let _ = near.read_to_end(&mut Vec::new()).await;
        };
        let config = front.client(std::slice::from_ref(&id), alpn::TCP).unwrap();
        let (connected, ()) = tokio::join!(connect(config, name, far), speak);
        assert!(connected.is_err(), "byte {at}");
    }
}

/// Every cut of what both sides say, so that each message comes in two pieces.
#[tokio::test]
async fn a_handshake_may_come_in_any_pieces() {
    for at_once in [1, 2, 3, 7, 100, 1000] {
        let (front, catalogue, id) = two();
        let (near, near_far) = sockets().await;
        let (far_near, far) = sockets().await;
        let relay = tokio::spawn(async move {
            let (mut a, mut b) = (near_far.into_split(), far_near.into_split());
            tokio::join!(in_pieces(&mut a.0, &mut b.1, at_once), in_pieces(&mut b.0, &mut a.1, at_once));
        });
        let config = front.client(&[id], alpn::TCP).unwrap();
        let name = server_name(Ipv4Addr::LOCALHOST.into());
        let (ours, other) =
            tokio::join!(connect(config, name, near), accept(catalogue.server(ServerAlpn::Pod).unwrap(), far));
        let ((mut ours, _), (mut other, _)) = (ours.unwrap(), other.unwrap());
        say(&mut ours, &mut other, 5_000).await;
        say(&mut other, &mut ours, 5_000).await;
        drop((ours, other));
        relay.await.unwrap();
    }
}

async fn in_pieces<A: AsyncRead + Unpin, B: AsyncWrite + Unpin>(from: &mut A, to: &mut B, at_once: usize) {
    let mut piece = vec![0; at_once];
    while let Ok(n @ 1..) = from.read(&mut piece).await {
        if to.write_all(&piece[..n]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[tokio::test]
async fn tunnels_are_resumed() {
    let (front, catalogue, id) = two();
    let mut handshakes = Vec::new();
    for _ in 0..2 {
        let (near, far) = sockets().await;
        let config = front.client(std::slice::from_ref(&id), alpn::GUARD).unwrap();
        let acceptor = TlsAcceptor::from(catalogue.server(ServerAlpn::Shared).unwrap().config);
        let name = server_name(Ipv4Addr::LOCALHOST.into());
        let (ours, theirs) = tokio::join!(connect(config, name, near), acceptor.accept(far));
        let ((mut ours, Agreed { peer, .. }), mut theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!(peer, Some(id.clone()));
        handshakes.push(theirs.get_ref().1.handshake_kind().unwrap());
        // Tickets come with what the server says first.
        say(&mut theirs, &mut ours, 10).await;
    }
    assert_eq!(handshakes, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
}

#[tokio::test]
async fn ours_with_ours_and_data_right_behind_the_handshake() {
    let (front, catalogue, id) = two();
    let (mut ours, mut other) = ours_with_ours(&front, &catalogue, id).await;
    say(&mut ours, &mut other, 1_000_000).await;
    other.shutdown().await.unwrap();
    assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
}

async fn ours_with_ours(front: &Arc<MeshTls>, catalogue: &Arc<MeshTls>, id: SpiffeId) -> (TlsStream, TlsStream) {
    let (near, far) = sockets().await;
    let config = front.client(&[id], alpn::TCP).unwrap();
    let name = server_name(Ipv4Addr::LOCALHOST.into());
    let calling = tokio::spawn(async move {
        let (mut stream, _) = connect(config, name, near).await.unwrap();
        stream.write_all(&vec![7; 40_000]).await.unwrap();
        stream
    });
    let (mut accepted, _) = accept(catalogue.server(ServerAlpn::Pod).unwrap(), far).await.unwrap();
    let mut heard = vec![0; 40_000];
    accepted.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, vec![7; 40_000]);
    (calling.await.unwrap(), accepted)
}

#[tokio::test]
async fn nothing_is_held_while_nothing_is_said() {
    for (mut ours, mut theirs) in both().await {
        say(&mut theirs, &mut ours, 300_000).await;
        say(&mut ours, &mut theirs, 300_000).await;
        let session = &ours.session;
        assert!(session.inbox.is_released() && session.outbox.is_released());
        assert_eq!((session.records.capacity(), session.control.capacity(), session.message.capacity()), (0, 0, 0));
    }
}

#[test]
fn size() {
    assert!(size_of::<Session>() <= 640, "{}", size_of::<Session>());
    assert!(size_of::<TlsStream>() <= 56, "{}", size_of::<TlsStream>());
}
