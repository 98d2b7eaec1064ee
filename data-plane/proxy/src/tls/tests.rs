use std::{
    io,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use outrigger_core::Snapshot;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::{
    CertificateError, ClientConnection, HandshakeKind, ServerConnection, SignatureScheme,
    client::{ResolvesClientCert, danger::ServerCertVerifier},
    server::danger::ClientCertVerifier,
};
use rustls_pki_types::UnixTime;

use super::*;

mod chains;
mod judges;
mod retired;

struct Authority {
    der: Bytes,
    issuer: Issuer<'static, KeyPair>,
}

struct Leaf {
    params: CertificateParams,
    key: KeyPair,
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn front() -> SpiffeId {
    id("spiffe://cluster.local/ns/shop/sa/front")
}

fn catalogue() -> SpiffeId {
    id("spiffe://cluster.local/ns/shop/sa/catalogue")
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let der = Bytes::copy_from_slice(params.self_signed(&key).unwrap().der());
        Self { der, issuer: Issuer::new(params, key) }
    }

    fn trust(&self, trust_domain: &str) -> Trust {
        Trust { trust_domain: trust_domain.into(), roots: vec![self.der.clone()], anchor: "".into() }
    }

    fn sign(&self, leaf: &Leaf) -> CertificateDer<'static> {
        leaf.params.signed_by(&leaf.key, &self.issuer).unwrap().der().clone()
    }

    fn svid(&self, id: &SpiffeId) -> Svid {
        let leaf = Leaf::new(&[id.as_str()]);
        Svid {
            id: id.clone(),
            chain: vec![Bytes::copy_from_slice(&self.sign(&leaf))],
            anchor: String::new(),
            key: leaf.key.serialize_der(),
            not_before: SystemTime::UNIX_EPOCH,
            not_after: SystemTime::now() + Duration::from_secs(3600),
        }
    }
}

impl Leaf {
    fn new(uris: &[&str]) -> Self {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        Self { params, key: KeyPair::generate().unwrap() }
    }

    fn with(mut self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        change(&mut self.params);
        self
    }
}

/// Two workloads that know each other, and who the second one is.
pub(crate) fn two() -> (Arc<MeshTls>, Arc<MeshTls>, SpiffeId) {
    let authority = Authority::new();
    (mesh(&authority, &front()), mesh(&authority, &catalogue()), catalogue())
}

/// Who a workload is by each of two roots, while one takes the other's place.
pub(crate) struct Rotation {
    old: Authority,
    new: Authority,
}

impl Rotation {
    pub(crate) fn new() -> Self {
        Self { old: Authority::new(), new: Authority::new() }
    }

    pub(crate) fn by_old(&self, id: &SpiffeId) -> Svid {
        self.old.svid(id)
    }

    pub(crate) fn by_new(&self, id: &SpiffeId) -> Svid {
        self.new.svid(id)
    }

    /// Both, or what is left when the old one has been retired.
    pub(crate) fn trust(&self, retired: bool) -> Arc<Vec<Trust>> {
        let roots = if retired { vec![self.new.der.clone()] } else { vec![self.old.der.clone(), self.new.der.clone()] };
        Arc::new(vec![Trust { roots, ..self.new.trust("cluster.local") }])
    }
}

fn publish(store: &Store, svid: Svid, trust: Vec<Trust>) {
    store.publish(Snapshot { trust: Arc::new(trust), ..Snapshot::default() });
    store.publish_svid(svid);
}

fn mesh(authority: &Authority, id: &SpiffeId) -> Arc<MeshTls> {
    let (store, _asks) = Store::new();
    publish(&store, authority.svid(id), vec![authority.trust("cluster.local")]);
    MeshTls::new(store)
}

/// Moves what one side has to say into the other, at most `at_once` bytes at a time.
fn carry<A, B>(
    from: &mut rustls::ConnectionCommon<A>,
    to: &mut rustls::ConnectionCommon<B>,
    at_once: usize,
) -> Result<(), rustls::Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    for mut chunk in bytes.chunks(at_once.max(1)) {
        while !chunk.is_empty() {
            to.read_tls(&mut chunk).unwrap();
            to.process_new_packets()?;
        }
    }
    Ok(())
}

fn handshake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
    at_once: usize,
) -> Result<(), rustls::Error> {
    for _ in 0..4 {
        carry(client, server, at_once)?;
        carry(server, client, at_once)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

fn connections(
    caller: &MeshTls,
    callee: &MeshTls,
    peers: &[SpiffeId],
    alpn: &'static [u8],
) -> (ClientConnection, ServerConnection) {
    let client = caller.client(peers, alpn).unwrap().config;
    let server = callee.server(ServerAlpn::Pod).unwrap().config;
    (ClientConnection::new(client, server_name([127, 0, 0, 1].into())).unwrap(), ServerConnection::new(server).unwrap())
}

#[test]
fn both_ends_know_each_other() {
    let authority = Authority::new();
    let (caller, callee) = (mesh(&authority, &front()), mesh(&authority, &catalogue()));
    for at_once in [1, 7, 16 * 1024] {
        let (mut client, mut server) = connections(&caller, &callee, &[front(), catalogue()], alpn::TCP);
        handshake(&mut client, &mut server, at_once).unwrap();
        assert_eq!(peer_identity(&client), Some(catalogue()));
        assert_eq!(peer_identity(&server), Some(front()));
        assert_eq!((client.alpn_protocol(), server.alpn_protocol()), (Some(alpn::TCP), Some(alpn::TCP)));
        let suite = client.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
        assert_eq!(client.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519);
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(server.server_name(), None);
    }
}

#[test]
fn another_peer_is_refused() {
    let authority = Authority::new();
    let (caller, callee) = (mesh(&authority, &front()), mesh(&authority, &catalogue()));
    for peers in [&[][..], &[front()]] {
        let (mut client, mut server) = connections(&caller, &callee, peers, alpn::H2);
        let refused = handshake(&mut client, &mut server, usize::MAX).unwrap_err();
        assert_eq!(refused, CertificateError::ApplicationVerificationFailure.into());
    }
}

#[test]
fn another_protocol_is_refused() {
    let authority = Authority::new();
    let (caller, callee) = (mesh(&authority, &front()), mesh(&authority, &catalogue()));
    let (mut client, mut server) = connections(&caller, &callee, &[catalogue()], alpn::GUARD);
    let refused = handshake(&mut client, &mut server, usize::MAX).unwrap_err();
    assert_eq!(refused, rustls::Error::NoApplicationProtocol);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let authority = Authority::new();
    let (caller, callee) = (mesh(&authority, &front()), mesh(&authority, &catalogue()));
    let mut config = (*caller.client(&[catalogue()], alpn::H2).unwrap().config).clone();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let mut client = ClientConnection::new(Arc::new(config), server_name([127, 0, 0, 1].into())).unwrap();
    let mut server = ServerConnection::new(callee.server(ServerAlpn::Pod).unwrap().config).unwrap();
    let refused = handshake(&mut client, &mut server, usize::MAX).unwrap_err();
    assert_eq!(refused, rustls::Error::NoCertificatesPresented);
}

#[test]
fn a_pod_of_another_authority_is_refused_by_both_ends() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (caller, callee) = (mesh(&ours, &front()), mesh(&theirs, &catalogue()));
    let (mut client, mut server) = connections(&caller, &callee, &[catalogue()], alpn::H2);
    let refused = handshake(&mut client, &mut server, usize::MAX).unwrap_err();
    assert!(matches!(refused, rustls::Error::InvalidCertificate(_)), "{refused}");
}

#[test]
fn certificates() {
    const GOOD: &str = "spiffe://cluster.local/ns/shop/sa/front";
    let (authority, stranger, sibling) = (Authority::new(), Authority::new(), Authority::new());
    let roots = Arc::new(Roots::new(&[authority.trust("cluster.local"), sibling.trust("other.example")], None));
    let verifier = Verifier::any(roots, &provider());
    let accepted = |certificate: &CertificateDer<'_>| {
        let server = verifier.verify_server_cert(certificate, &[], &server_name([0; 4].into()), &[], UnixTime::now());
        let client = verifier.verify_client_cert(certificate, &[], UnixTime::now());
        (server.is_ok(), client.is_ok())
    };

    assert_eq!(accepted(&authority.sign(&Leaf::new(&[GOOD]))), (true, true));
    let other = "spiffe://other.example/ns/shop/sa/front";
    assert_eq!(accepted(&sibling.sign(&Leaf::new(&[other]))), (true, true));

    let one_way = |usage| Leaf::new(&[GOOD]).with(|params| params.extended_key_usages = vec![usage]);
    assert_eq!(accepted(&authority.sign(&one_way(ExtendedKeyUsagePurpose::ServerAuth))), (true, false));
    assert_eq!(accepted(&authority.sign(&one_way(ExtendedKeyUsagePurpose::ClientAuth))), (false, true));

    for (what, leaf) in [
        ("no URI", Leaf::new(&[])),
        (
            "a DNS name",
            Leaf::new(&[]).with(|p| p.subject_alt_names = vec![SanType::DnsName("a.b".try_into().unwrap())]),
        ),
        ("two URIs", Leaf::new(&[GOOD, "spiffe://cluster.local/ns/shop/sa/admin"])),
        ("the same URI twice", Leaf::new(&[GOOD, GOOD])),
        ("NUL", Leaf::new(&["spiffe://cluster.local/ns/shop/sa/front\0"])),
        ("NUL in the trust domain", Leaf::new(&["spiffe://cluster.local\0.evil/ns/shop/sa/front"])),
        ("percent", Leaf::new(&["spiffe://cluster.local/ns/shop/sa/fron%74"])),
        ("upper-case trust domain", Leaf::new(&["spiffe://Cluster.local/ns/shop/sa/front"])),
        ("upper-case scheme", Leaf::new(&["SPIFFE://cluster.local/ns/shop/sa/front"])),
        ("userinfo", Leaf::new(&["spiffe://a@cluster.local/ns/shop/sa/front"])),
        ("port", Leaf::new(&["spiffe://cluster.local:80/ns/shop/sa/front"])),
        ("query", Leaf::new(&["spiffe://cluster.local/ns/shop/sa/front?a"])),
        ("fragment", Leaf::new(&["spiffe://cluster.local/ns/shop/sa/front#a"])),
        ("slash behind it", Leaf::new(&["spiffe://cluster.local/ns/shop/sa/front/"])),
        ("a name that is too long", Leaf::new(&[&format!("{GOOD}{}", "x".repeat(2048))])),
        (
            "a URI beside another one",
            Leaf::new(&[GOOD]).with(|p| p.subject_alt_names.push(SanType::URI("https://a.b/".try_into().unwrap()))),
        ),
        ("unknown trust domain", Leaf::new(&["spiffe://elsewhere/ns/shop/sa/front"])),
        ("another authority's trust domain", Leaf::new(&[other])),
        ("expired", Leaf::new(&[GOOD]).with(|p| p.not_after = date_time_ymd(2020, 1, 1))),
        ("not yet valid", Leaf::new(&[GOOD]).with(|p| p.not_before = date_time_ymd(4000, 1, 1))),
        ("no extended key usage", Leaf::new(&[GOOD]).with(|p| p.extended_key_usages.clear())),
        ("other usage", one_way(ExtendedKeyUsagePurpose::CodeSigning)),
        ("no key usage", Leaf::new(&[GOOD]).with(|p| p.key_usages.clear())),
        ("may sign", Leaf::new(&[GOOD]).with(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign))),
        ("is an authority", Leaf::new(&[GOOD]).with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
    ] {
        assert_eq!(accepted(&authority.sign(&leaf)), (false, false), "{what}");
    }
    let leaf = Leaf::new(&[GOOD]);
    assert_eq!(accepted(&stranger.sign(&leaf)), (false, false), "another authority");
    let self_signed = leaf.params.self_signed(&leaf.key).unwrap();
    assert_eq!(accepted(self_signed.der()), (false, false), "self-signed");
    let leaf = CertificateDer::from(authority.der.to_vec());
    assert_eq!(accepted(&leaf), (false, false), "the root itself");
}

#[test]
fn no_change_of_a_certificate_passes() {
    let authority = Authority::new();
    let roots = Arc::new(Roots::new(&[authority.trust("cluster.local")], None));
    let verifier = Verifier::any(roots, &provider());
    let good = authority.sign(&Leaf::new(&[front().as_str()])).to_vec();
    let refused = |der: Vec<u8>| verifier.verify_client_cert(&der.into(), &[], UnixTime::now()).is_err();
    assert!(!refused(good.clone()));
    for at in 0..good.len() {
        assert!(refused(good[..at].to_vec()), "cut at {at}");
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(refused(changed), "changed at {at}");
    }
    assert!(refused([&good[..], b"x"].concat()), "trailing byte");
}

/// The client's first flight, and a server that awaits it.
fn first_flight() -> (Vec<u8>, impl Fn() -> ServerConnection) {
    let authority = Authority::new();
    let (caller, callee) = (mesh(&authority, &front()), mesh(&authority, &catalogue()));
    let (mut client, _) = connections(&caller, &callee, &[catalogue()], alpn::H2);
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    (hello, move || ServerConnection::new(callee.server(ServerAlpn::Pod).unwrap().config).unwrap())
}

fn feed(server: &mut ServerConnection, mut bytes: &[u8]) -> Result<(), rustls::Error> {
    while !bytes.is_empty() && !matches!(server.read_tls(&mut bytes), Ok(0) | Err(_)) {
        server.process_new_packets()?;
    }
    // Alerts and answers must come out as well.
    while server.wants_write() {
        server.write_tls(&mut io::sink()).unwrap();
    }
    Ok(())
}

#[test]
fn a_hello_may_come_in_any_two_pieces() {
    let (hello, server) = first_flight();
    for at in 1..hello.len() {
        let mut server = server();
        feed(&mut server, &hello[..at]).unwrap();
        server.read_tls(&mut &hello[at..]).unwrap();
        server.process_new_packets().unwrap();
        assert!(server.wants_write(), "no answer after a split at {at}");
    }
}

#[test]
fn a_hello_may_come_in_any_two_records() {
    let (hello, server) = first_flight();
    let (header, message) = hello.split_at(5);
    let record = |part: &[u8]| [&header[..3], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat();
    for at in 1..message.len() {
        let mut server = server();
        feed(&mut server, &record(&message[..at])).unwrap();
        server.read_tls(&mut &*record(&message[at..])).unwrap();
        server.process_new_packets().unwrap();
        assert!(server.wants_write(), "no answer after a split at {at}");
    }
}

#[test]
fn garbage_is_survived() {
    let (hello, server) = first_flight();
    let mut random = SmallRng::seed_from_u64(7);
    for at in 0..hello.len() {
        let mut changed = hello.clone();
        changed[at] = random.random();
        let _ = feed(&mut server(), &changed);
    }
    for _ in 0..500 {
        let mut bytes = vec![0; random.random_range(0..2000)];
        random.fill(&mut bytes[..]);
        if random.random() {
            bytes.splice(0..0, [0x16, 3, 1]);
        }
        let _ = feed(&mut server(), &bytes);
        let _ = spiffe_id(&bytes.into());
    }
}

#[tokio::test]
async fn follows_the_store() {
    let authority = Authority::new();
    let (store, _asks) = Store::new();
    let tls = MeshTls::new(store.clone());
    assert!(tls.server(ServerAlpn::Pod).is_none() && tls.client(&[front()], alpn::H2).is_none());
    assert_eq!((tls.epoch(), tls.identity()), (0, None));
    let following = tokio::spawn(tls.clone().follow(Duration::ZERO));

    let reached = async |epoch| {
        while tls.epoch() != epoch {
            tokio::task::yield_now().await;
        }
    };
    let settled = async || {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    };
    store.publish_svid(authority.svid(&front()));
    reached(1).await;
    assert_eq!(tls.identity(), Some(front()));
    store.publish(Snapshot { trust: Arc::new(vec![authority.trust("cluster.local")]), ..Snapshot::default() });
    reached(2).await;

    // The same roots once more, and a key that doesn't fit, change nothing.
    store.publish(Snapshot { trust: Arc::new(vec![authority.trust("cluster.local")]), ..Snapshot::default() });
    settled().await;
    assert_eq!(tls.epoch(), 2);
    let key = authority.svid(&front()).key;
    store.publish_svid(Svid { key, ..authority.svid(&front()) });
    settled().await;
    assert_eq!(tls.epoch(), 2);

    store.publish_svid(authority.svid(&front()));
    reached(3).await;
    following.abort();
}

#[test]
fn a_broken_root_holds_up_no_other() {
    let authority = Authority::new();
    let broken = Trust { roots: vec![Bytes::from_static(b"no root")], ..authority.trust("other.example") };
    let roots = Arc::new(Roots::new(&[broken, authority.trust("cluster.local")], None));
    let verifier = Verifier::any(roots, &provider());
    for (uri, good) in [(front().as_str(), true), ("spiffe://other.example/ns/shop/sa/front", false)] {
        let leaf = authority.sign(&Leaf::new(&[uri]));
        assert_eq!(verifier.verify_client_cert(&leaf, &[], UnixTime::now()).is_ok(), good, "{uri}");
    }
}

#[test]
fn a_peer_of_the_old_root_is_refused_once_that_has_left_and_so_is_its_session() {
    let (old, new) = (Authority::new(), Authority::new());
    let trust = |roots: &[&Authority]| {
        let roots = roots.iter().map(|authority| authority.der.clone()).collect();
        vec![Trust { roots, ..old.trust("cluster.local") }]
    };
    let proxy = |svid: Svid| {
        let (store, _asks) = Store::new();
        publish(&store, svid, trust(&[&old, &new]));
        (MeshTls::new(store.clone()), store)
    };
    let (renewed, _store) = proxy(new.svid(&front()));
    let (late, _store) = proxy(old.svid(&front()));
    let (callee, store) = proxy(new.svid(&catalogue()));
    let tunnel = |caller: &MeshTls| {
        let client = caller.client(&[catalogue()], alpn::GUARD).unwrap().config;
        let mut client = ClientConnection::new(client, server_name([127, 0, 0, 1].into())).unwrap();
        let mut server = ServerConnection::new(callee.server(ServerAlpn::Shared).unwrap().config).unwrap();
        handshake(&mut client, &mut server, usize::MAX)
            .map(|()| server.handshake_kind() == Some(HandshakeKind::Resumed))
    };
    let plain = |caller: &MeshTls| {
        let (mut client, mut server) = connections(caller, &callee, &[catalogue()], alpn::H2);
        handshake(&mut client, &mut server, usize::MAX)
    };
    for caller in [&renewed, &late] {
        assert_eq!(plain(caller), Ok(()));
        assert_eq!([tunnel(caller), tunnel(caller)], [Ok(false), Ok(true)]);
    }

    store.publish(Snapshot { trust: Arc::new(trust(&[&new])), ..Snapshot::default() });
    callee.refresh();
    assert_eq!(callee.epoch(), 2);
    for refused in [plain(&late), tunnel(&late).map(drop)] {
        assert!(matches!(refused, Err(rustls::Error::InvalidCertificate(_))), "{refused:?}");
    }
    assert_eq!((plain(&renewed), tunnel(&renewed)), (Ok(()), Ok(false)));
}
