//! Chains that are made to be trouble: too long, in circles, by authorities that may not; and certificates that end while
//! their sessions live.

use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{CustomExtension, DnType};
use rustls::{DigitallySignedStruct, DistinguishedName, server::danger::ClientCertVerified};
use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use super::*;

/// Counts signatures of the kind that everybody here makes.
#[derive(Debug)]
struct Counted;

static SIGNATURES: AtomicUsize = AtomicUsize::new(0);
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[&Counted];

impl SignatureVerificationAlgorithm for Counted {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        SIGNATURES.fetch_add(1, Ordering::Relaxed);
        webpki::aws_lc_rs::ECDSA_P256_SHA256.verify_signature(key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        webpki::aws_lc_rs::ECDSA_P256_SHA256.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        webpki::aws_lc_rs::ECDSA_P256_SHA256.signature_alg_id()
    }
}

/// An authority, below another if there is one. Those of the same name might each be above each.
fn authority(name: &str, above: Option<&Authority>, key: KeyPair, constraints: Option<CustomExtension>) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.custom_extensions.extend(constraints);
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Authority { der: Bytes::copy_from_slice(certificate.der()), issuer: Issuer::new(params, key) }
}

fn new(name: &str, above: Option<&Authority>) -> Authority {
    authority(name, above, KeyPair::generate().unwrap(), None)
}

fn ders(list: &[&Authority]) -> Vec<CertificateDer<'static>> {
    list.iter().map(|authority| authority.der.to_vec().into()).collect()
}

fn verifier(root: &Authority) -> Verifier {
    Verifier::any(Arc::new(Roots::new(&[root.trust("cluster.local")], None)), &provider())
}

#[test]
fn chains_are_bounded() {
    let root = new("root", None);
    let mut all: Vec<Authority> = Vec::new();
    for at in 0..5 {
        all.push(new(&at.to_string(), Some(all.last().unwrap_or(&root))));
    }
    let verifier = verifier(&root);
    let accepted = |by: &Authority, chain: &[CertificateDer<'static>]| {
        let leaf = by.sign(&Leaf::new(&[front().as_str()]));
        verifier.verify_client_cert(&leaf, chain, UnixTime::now()).is_ok()
    };
    let chain = |length: usize| ders(&all[..length].iter().rev().collect::<Vec<_>>());
    assert!(accepted(&root, &[]));
    assert!(accepted(&all[0], &chain(1)) && accepted(&all[3], &chain(4)));
    assert!(!accepted(&all[4], &chain(5)), "too long, and good otherwise");
    // What a peer pads a good chain with.
    let many: Vec<_> = chain(1).into_iter().cycle().take(1000).collect();
    assert!(!accepted(&all[0], &many));
    let garbage = CertificateDer::from(vec![0x30; 60_000]);
    assert!(!accepted(&all[0], &[garbage]));
}

/// Each signed by each other, and by nobody who is trusted: the work of finding that out has an end, and a near one.
#[test]
fn circles_of_authorities_cost_little() {
    let mut provider = provider();
    provider.signature_verification_algorithms.all = ALGORITHMS;
    let verifier = Verifier::any(Arc::new(Roots::new(&[new("root", None).trust("cluster.local")], None)), &provider);
    let keys = [(); 4].map(|()| KeyPair::generate().unwrap().serialize_der());
    let key = |at: usize| KeyPair::try_from(keys[at % 4].as_slice()).unwrap();
    let circle: Vec<_> =
        (0..4).map(|at| authority("root", Some(&authority("root", None, key(at + 1), None)), key(at), None)).collect();
    let leaf = circle[0].sign(&Leaf::new(&[front().as_str()]));
    let chain = ders(&circle.iter().collect::<Vec<_>>());
    assert!(verifier.verify_client_cert(&leaf, &chain, UnixTime::now()).is_err());
    let spent = SIGNATURES.load(Ordering::Relaxed);
    assert!((1..=100).contains(&spent), "{spent} signatures");
}

/// Name constraints (RFC 5280, section 4.2.1.10) on URI names, which rcgen doesn't make.
fn constraints(permitted: bool, host: &str) -> CustomExtension {
    let element = |tag: u8, content: &[u8]| [&[tag, content.len().try_into().unwrap()], content].concat();
    let subtree = element(0x30, &element(0x86, host.as_bytes()));
    let tag = if permitted { 0xa0 } else { 0xa1 };
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], element(0x30, &element(tag, &subtree)));
    extension.set_criticality(true);
    extension
}

/// Nothing that is constrained is misjudged, for whatever is constrained is refused (RUSTSEC-2026-0098): so the controller
/// refuses such an authority when it reads it.
#[test]
fn constraints_on_uri_names_are_never_ignored() {
    for (permitted, host) in
        [(true, "cluster.local"), (true, "other.example"), (false, "cluster.local"), (false, "other.example")]
    {
        let key = || KeyPair::generate().unwrap();
        let free = new("root", None);
        let constrained_root = authority("root", None, key(), Some(constraints(permitted, host)));
        let constrained = authority("below", Some(&free), key(), Some(constraints(permitted, host)));
        for (root, issuer, chain) in
            [(&constrained_root, &constrained_root, vec![]), (&free, &constrained, ders(&[&constrained]))]
        {
            let leaf = issuer.sign(&Leaf::new(&[front().as_str()]));
            let verified = verifier(root).verify_client_cert(&leaf, &chain, UnixTime::now());
            assert!(verified.is_err(), "permitted {permitted} {host}");
        }
    }
}

/// Accepts every client, as a resumed session does.
#[derive(Debug)]
struct Gullible(Verifier);

impl ClientCertVerifier for Gullible {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls12_signature(&self.0, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        ClientCertVerifier::verify_tls13_signature(&self.0, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ClientCertVerifier::supported_verify_schemes(&self.0)
    }
}

#[test]
fn a_session_says_nothing_once_its_certificate_has_ended() {
    let root = new("root", None);
    let caller = mesh(&root, &front());
    let key = |leaf: Leaf, id: SpiffeId| {
        let svid = Svid {
            chain: vec![Bytes::copy_from_slice(&root.sign(&leaf))],
            key: leaf.key.serialize_der(),
            ..root.svid(&id)
        };
        Arc::new(SingleCertAndKey::from(certified_key(&Arc::new(provider()), &svid).unwrap()))
    };
    let ended = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
    for (leaf, who) in
        [(Leaf::new(&[front().as_str()]), Some(front())), (Leaf::new(&[front().as_str()]).with(ended), None)]
    {
        let mut client = (*caller.client(&[catalogue()], alpn::TCP).unwrap().config).clone();
        client.client_auth_cert_resolver = key(leaf, front());
        let mut server = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Gullible(verifier(&root))))
            .with_cert_resolver(key(Leaf::new(&[catalogue().as_str()]), catalogue()));
        server.alpn_protocols = vec![alpn::TCP.to_vec()];
        let mut client = ClientConnection::new(Arc::new(client), server_name([127, 0, 0, 1].into())).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        handshake(&mut client, &mut server, usize::MAX).unwrap();
        assert_eq!(peer_identity(&server), who);
    }
}

/// An empty bundle, or one of garbage, trusts nobody: it is no reason to trust everybody.
#[test]
fn without_roots_nobody_is_trusted() {
    let root = new("root", None);
    let leaf = root.sign(&Leaf::new(&[front().as_str()]));
    let garbage = Trust { roots: vec![Bytes::from_static(b"no root"), Bytes::new()], ..root.trust("cluster.local") };
    let empty = Trust { roots: vec![], ..root.trust("cluster.local") };
    for trust in [vec![], vec![empty], vec![garbage]] {
        let verifier = Verifier::any(Arc::new(Roots::new(&trust, None)), &provider());
        assert!(verifier.verify_client_cert(&leaf, &[], UnixTime::now()).is_err(), "{trust:?}");
        assert!(verifier.verify_server_cert(&leaf, &[], &server_name([0; 4].into()), &[], UnixTime::now()).is_err());
    }
}
