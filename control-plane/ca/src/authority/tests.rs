use std::{os::unix::fs::PermissionsExt, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::{UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn identity() -> SpiffeId {
    SpiffeId::new("cluster.local", "shop", "front").unwrap()
}

fn authority(dir: &Path) -> Authority {
    Authority::load_or_create(dir, "cluster.local").unwrap()
}

fn root(authority: &Authority) -> CertificateDer<'static> {
    CertificateDer::from(authority.roots()[0].to_vec())
}

fn verify(authority: &Authority, leaf: &[u8], at: SystemTime, usage: KeyUsage) -> Result<(), webpki::Error> {
    let root = root(authority);
    let anchors = [anchor_from_trusted_cert(&root)?];
    let leaf = CertificateDer::from(leaf);
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    EndEntityCert::try_from(&leaf)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            &[],
            UnixTime::since_unix_epoch(since),
            usage,
            None,
            None,
        )
        .map(|_| ())
}

#[test]
fn a_leaf_holds_the_proven_identity_and_nothing_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let mut asked = CertificateParams::new(["evil.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    asked.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/shop/sa/admin".try_into().unwrap()));
    asked.distinguished_name.push(DnType::CommonName, "admin");
    asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = asked.serialize_request(&KeyPair::generate().unwrap()).unwrap();

    let issued = authority.sign(csr.der(), &identity(), DAY).unwrap();

    assert_eq!(issued.chain.len(), 1);
    let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical, "a certificate without subject needs its names critical");
    assert_eq!(names.value.general_names, [GeneralName::URI(identity().as_str())]);
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && usage.server_auth && !usage.any && !usage.code_signing);
    let has = |wanted: fn(&ParsedExtension<'_>) -> bool| leaf.extensions().iter().any(|e| wanted(e.parsed_extension()));
    assert!(has(|e| matches!(e, ParsedExtension::AuthorityKeyIdentifier(_))));
    assert!(has(|e| matches!(e, ParsedExtension::SubjectKeyIdentifier(_))));
    assert_eq!(authority.issued(), 1);
}

#[test]
fn a_leaf_verifies_for_both_sides_within_its_validity() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let issued = authority.sign(csr.der(), &identity(), DAY).unwrap();
    let now = SystemTime::now();
    assert_eq!(issued.not_after - issued.not_before, 24 * 3600 + 15 * 60);
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        verify(&authority, &issued.chain[0], now, usage).unwrap();
        verify(&authority, &issued.chain[0], now - Duration::from_secs(240), usage).unwrap();
        assert!(verify(&authority, &issued.chain[0], now + DAY + Duration::from_secs(2), usage).is_err());
    }
}

#[test]
fn serial_numbers_are_random() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let serial = || {
        let issued = authority.sign(csr.der(), &identity(), DAY).unwrap();
        let (_, leaf) = X509Certificate::from_der(&issued.chain[0]).unwrap();
        leaf.raw_serial().to_vec()
    };
    let (one, two) = (serial(), serial());
    assert_ne!(one, two);
    assert!(one.len() >= 12, "{one:?}");
}

#[test]
fn a_server_certificate_is_for_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let authority = authority(dir.path());
    let server = authority.server_certificate(&["localhost"], DAY).unwrap();
    verify(&authority, &server.chain[0], SystemTime::now(), KeyUsage::server_auth()).unwrap();
    let leaf = EndEntityCert::try_from(&server.chain[0]).unwrap();
    leaf.verify_is_valid_for_subject_name(&"localhost".try_into().unwrap()).unwrap();
    assert!(leaf.verify_is_valid_for_subject_name(&"example.org".try_into().unwrap()).is_err());
}

#[test]
fn reload_gives_the_same_root() {
    let dir = tempfile::tempdir().unwrap();
    let first = authority(dir.path());
    let pem = fs::read(dir.path().join(ROOT_FILE)).unwrap();
    let second = authority(dir.path());
    assert_eq!(first.roots(), second.roots());
    assert_eq!(pem, fs::read(dir.path().join(ROOT_FILE)).unwrap());
    assert_eq!(CertificateDer::from_pem_slice(&pem).unwrap(), root(&first));
    assert_eq!(CertificateDer::from_pem_slice(first.roots_pem().as_bytes()).unwrap(), root(&first));
    assert!(!String::from_utf8(pem).unwrap().contains("PRIVATE"));
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let issued = second.sign(csr.der(), &identity(), DAY).unwrap();
    verify(&first, &issued.chain[0], SystemTime::now(), KeyUsage::client_auth()).unwrap();
}

#[test]
fn the_key_is_readable_by_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path());
    let mode = fs::metadata(dir.path().join(STATE_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_foreign_state_is_refused_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    authority(dir.path());
    let state = dir.path().join(STATE_FILE);
    let good = fs::read_to_string(&state).unwrap();
    let other = Authority::load_or_create(dir.path(), "other.example").unwrap_err();
    assert!(matches!(other, AuthorityError::TrustDomain { .. }), "{other}");

    let (_, key_of_another) = Signer::generate("cluster.local").unwrap();
    let at = |pem: &str| pem.find(CERTIFICATE).unwrap();
    let mixed = key_of_another + &good[at(&good)..];
    for bad in ["", "garbage", &good[..good.len() / 2], &good[at(&good)..], &mixed] {
        fs::write(&state, bad).unwrap();
        let error = Authority::load_or_create(dir.path(), "cluster.local").unwrap_err();
        assert!(matches!(error, AuthorityError::State { .. }), "{error}");
        assert_eq!(fs::read_to_string(&state).unwrap(), bad);
    }
}

fn signer() -> Signer {
    let (chain, key) = Signer::generate("cluster.local").unwrap();
    Signer::read(Material { chain: &chain, key: &key, further: "" }, "cluster.local", &[]).unwrap()
}

fn trusted(signer: &Signer) -> Bytes {
    signer.trusted().pop_first().unwrap()
}

#[test]
fn another_signer_is_trusted_first_and_signs_later() {
    let authority = Authority::new(signer());
    let next = signer();
    let (old, new) = (root(&authority), CertificateDer::from(trusted(&next).to_vec()));
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let issuer_of_a_new_leaf = || {
        let leaf = CertificateDer::from(authority.sign(csr.der(), &identity(), DAY).unwrap().chain[0].to_vec());
        let signed_by = |root: &CertificateDer<'_>| {
            let (_, root) = X509Certificate::from_der(root).unwrap();
            X509Certificate::from_der(&leaf).unwrap().1.verify_signature(Some(root.public_key())).is_ok()
        };
        (signed_by(&old), signed_by(&new))
    };
    assert!(authority.trust(&next));
    assert!(!authority.trust(&next), "that is no news");
    assert_eq!(issuer_of_a_new_leaf(), (true, false));
    authority.take_over(next);
    assert_eq!(issuer_of_a_new_leaf(), (false, true));
    let mut both = [old.to_vec(), new.to_vec()];
    both.sort();
    assert_eq!(authority.roots(), both);
    assert_eq!(authority.roots_pem().matches(CERTIFICATE).count(), 2);
    assert_eq!(authority.issued(), 2);
}

#[test]
fn what_leaves_is_no_longer_trusted_and_what_signs_stays() {
    let authority = Authority::new(signer());
    let (old, next) = (authority.roots()[0].clone(), signer());
    let (anchor, new) = (next.anchor().to_owned(), trusted(&next));
    assert_ne!(authority.anchor(), anchor);
    assert!(!authority.trust_only(&BTreeSet::new()), "it signs still");
    assert_eq!(authority.roots(), std::slice::from_ref(&old));
    authority.take_over(next);
    assert_eq!((authority.anchor(), authority.signs_by()), (anchor.clone(), anchor));
    assert!(authority.trust_only(&BTreeSet::new()));
    assert_eq!(authority.roots(), std::slice::from_ref(&new));
    assert!(authority.trust_only(&BTreeSet::from([old.clone()])), "put back");
    let mut both = [old, new];
    both.sort();
    assert_eq!(authority.roots(), both);
}

#[test]
fn one_that_waits_issues_nothing_to_workloads_and_says_by_whom_others_sign() {
    let (next, csr) =
        (signer(), CertificateParams::default().serialize_request(&KeyPair::generate().unwrap()).unwrap());
    let anchor = next.anchor().to_owned();
    let authority = Authority::waiting(next, "old");
    assert!(matches!(authority.sign(csr.der(), &identity(), DAY), Err(AuthorityError::Waits)));
    assert_eq!((authority.anchor().as_str(), authority.signs_by().as_str()), ("old", ""));
    assert!(authority.server_certificate(&["localhost"], DAY).is_ok(), "its clients have files with both roots");
    authority.take_over(signer());
    let issued = authority.sign(csr.der(), &identity(), DAY).unwrap();
    assert_eq!(issued.anchor, authority.signs_by());
    assert!(![anchor, "old".to_owned()].contains(&issued.anchor));
}
