//! What is open when a root is retired.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;

/// A session, by the end that retires roots and by the other.
struct Pair {
    ours: TlsStream,
    theirs: TlsStream,
}

impl Pair {
    async fn between(caller: &MeshTls, callee: &MeshTls, alpn: &'static [u8], we_call: bool) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let near = TcpStream::connect(listener.local_addr()?).await?;
        let (far, _) = listener.accept().await?;
        let server = if alpn == alpn::GUARD { ServerAlpn::Shared } else { ServerAlpn::Pod };
        let config = caller.client(&[front(), catalogue()], alpn).unwrap();
        let calls = connect(config, server_name([127, 0, 0, 1].into()), near);
        let (called, accepted) = tokio::join!(calls, accept(callee.server(server).unwrap(), far));
        let ((called, _), (accepted, _)) = (called?, accepted?);
        Ok(if we_call { Self { ours: called, theirs: accepted } } else { Self { ours: accepted, theirs: called } })
    }

    async fn goes_on(&mut self) {
        say(&mut self.ours, &mut self.theirs).await;
        say(&mut self.theirs, &mut self.ours).await;
    }

    /// Ended by us, without a word; the other end hears of it, too.
    async fn has_ended(&mut self) {
        assert_eq!(self.ours.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(self.theirs.read(&mut [0]).await.is_err());
    }
}

async fn say(from: &mut TlsStream, to: &mut TlsStream) {
    from.write_all(b"hello").await.unwrap();
    from.flush().await.unwrap();
    to.read_exact(&mut [0; 5]).await.unwrap();
}

fn proxy(svid: Svid, rotation: &Rotation) -> (Arc<MeshTls>, Arc<Store>) {
    let (store, _asks) = Store::new();
    publish(&store, svid, rotation.trust(false).to_vec());
    (MeshTls::new(store.clone()), store)
}

/// Whether we call or are called: what the old root has vouched for ends, the rest goes on.
#[tokio::test]
async fn sessions_end_with_the_root_that_vouches_for_the_peer() {
    for we_call in [false, true] {
        let rotation = Rotation::new();
        let (ours, store) = proxy(rotation.by_new(&catalogue()), &rotation);
        let (late, _store) = proxy(rotation.by_old(&front()), &rotation);
        let (renewed, _store) = proxy(rotation.by_new(&front()), &rotation);
        let pair = async |peer: &MeshTls, alpn| {
            let (caller, callee) = if we_call { (&*ours, peer) } else { (peer, &*ours) };
            Pair::between(caller, callee, alpn, we_call).await.unwrap()
        };
        let (mut opaque, mut requests) = (pair(&late, alpn::TCP).await, pair(&late, alpn::H2).await);
        // The second one is resumed.
        let mut tunnels = [pair(&late, alpn::GUARD).await, pair(&late, alpn::GUARD).await];
        let mut kept = [pair(&renewed, alpn::TCP).await, pair(&renewed, alpn::H2).await];
        for tunnel in &mut tunnels {
            tunnel.goes_on().await;
        }
        let gone = pair(&late, alpn::TCP).await;
        drop(gone);

        assert!(ours.refresh().is_empty(), "nothing has changed");
        store.publish_svid(rotation.by_new(&catalogue()));
        assert!(ours.refresh().is_empty(), "the own certificate has nothing to do with it");
        opaque.goes_on().await;

        store.publish(Snapshot { trust: rotation.trust(true), ..Snapshot::default() });
        let retired = ours.refresh();
        assert_eq!(retired.len(), 1);
        opaque.has_ended().await;
        requests.goes_on().await;
        for tunnel in &mut tunnels {
            tunnel.goes_on().await;
        }
        assert_eq!(retired[0].cut(), 4, "all but the one that ended before");
        requests.has_ended().await;
        for tunnel in &mut tunnels {
            tunnel.has_ended().await;
        }
        for pair in &mut kept {
            pair.goes_on().await;
        }
        drop((opaque, requests, tunnels));
        assert_eq!(retired[0].cut(), 0);
    }
}

/// Between its two ends of a handshake a root may go.
#[tokio::test]
async fn a_handshake_that_a_retired_root_began_comes_to_nothing() {
    let rotation = Rotation::new();
    let (ours, store) = proxy(rotation.by_new(&catalogue()), &rotation);
    let (late, _store) = proxy(rotation.by_old(&front()), &rotation);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (far, _) = listener.accept().await.unwrap();
    let began = ours.server(ServerAlpn::Pod).unwrap();
    store.publish(Snapshot { trust: rotation.trust(true), ..Snapshot::default() });
    assert_eq!(ours.refresh().len(), 1);
    let config = late.client(&[catalogue()], alpn::H2).unwrap();
    let (_, accepted) = tokio::join!(connect(config, server_name([127, 0, 0, 1].into()), near), accept(began, far));
    let error = accepted.map(drop).unwrap_err();
    assert!(error.to_string().contains("trusted no more"), "{error}");
}

#[test]
fn a_root_is_the_same_however_often_and_in_whatever_order_it_is_named() {
    let (one, other) = (Authority::new(), Authority::new());
    let trust = |roots: &[&Authority], domain: &str| Trust {
        roots: roots.iter().map(|authority| authority.der.clone()).collect(),
        ..one.trust(domain)
    };
    let before = Roots::new(&[trust(&[&one, &other, &one], "a"), trust(&[&one], "b")], None);
    let left = |after: &[Trust]| before.without(&Roots::new(after, Some(&before))).len();
    assert_eq!(left(&[trust(&[&one], "b"), trust(&[&other, &one], "a")]), 0);
    assert_eq!(left(&[trust(&[&other], "a"), trust(&[&one], "b")]), 1, "of one trust domain alone");
    assert_eq!(left(&[trust(&[&one, &other], "a")]), 1, "a whole trust domain");
    assert_eq!(left(&[]), 3);
}
