use rcgen::{
    CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256,
};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A certificate authority as others make it.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
    key: String,
}

#[derive(Clone, Copy, Default)]
struct Traits {
    /// Of the trust domain in its names.
    domain: Option<&'static str>,
    expired: bool,
    not_ca: bool,
    no_cert_sign: bool,
    /// Names that it may sign for, and no others of their kind.
    only: Option<(NameKind, &'static str)>,
}

/// Of a general name (RFC 5280, section 4.2.1.6), by its tag.
#[derive(Clone, Copy)]
enum NameKind {
    Dns = 0x82,
    Uri = 0x86,
}

fn ca(name: &str, above: Option<&Ca>, traits: Traits, key: KeyPair) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - 2 * DAY).into();
    params.not_after = if traits.expired { now - DAY } else { now + 30 * DAY }.into();
    params.is_ca = if traits.not_ca { IsCa::ExplicitNoCa } else { IsCa::Ca(BasicConstraints::Unconstrained) };
    params.key_usages =
        vec![if traits.no_cert_sign { KeyUsagePurpose::DigitalSignature } else { KeyUsagePurpose::KeyCertSign }];
    params.subject_alt_names =
        traits.domain.iter().map(|domain| SanType::URI(domain_uri(domain).try_into().unwrap())).collect();
    params.custom_extensions.extend(traits.only.map(permitted));
    let certificate = match above {
        Some(above) => params.signed_by(&key, &above.issuer).unwrap(),
        None => params.self_signed(&key).unwrap(),
    };
    Ca { pem: certificate.pem(), key: key.serialize_pem(), issuer: Issuer::new(params, key) }
}

/// Name constraints (RFC 5280, section 4.2.1.10); rcgen has none for URIs.
fn permitted((kind, name): (NameKind, &str)) -> CustomExtension {
    let element = |tag: u8, content: &[u8]| [&[tag, content.len().try_into().unwrap()], content].concat();
    let subtree = element(0x30, &element(kind as u8, name.as_bytes()));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], element(0x30, &element(0xa0, &subtree)));
    extension.set_criticality(true);
    extension
}

fn plain(name: &str, above: Option<&Ca>) -> Ca {
    ca(name, above, Traits::default(), KeyPair::generate().unwrap())
}

fn read(chain: &str, key: &str, further: &str) -> Result<Signer, MaterialError> {
    let names = ["outrigger-controller.outrigger-system.svc", "localhost"].map(str::to_owned);
    Signer::read(Material { chain, key, further }, "cluster.local", &names)
}

fn ders(list: &[&Ca]) -> Vec<CertificateDer<'static>> {
    list.iter().map(|ca| CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).collect()
}

#[test]
fn what_is_trusted_and_what_is_sent() {
    let (root, other) = (plain("root", None), plain("other", None));
    let upper = plain("upper", Some(&root));
    let lower = plain("lower", Some(&upper));
    let stray = plain("stray", Some(&other));
    let join = |pems: &[&Ca]| pems.iter().map(|ca| ca.pem.as_str()).collect::<String>();
    for (what, chain, key, further, roots, between) in [
        ("a root alone", join(&[&root]), &root, String::new(), vec![&root], vec![]),
        ("a root beside itself, as cert-manager writes it", join(&[&root]), &root, join(&[&root]), vec![&root], vec![]),
        ("a root, and another to be trusted", join(&[&root]), &root, join(&[&other]), vec![&root, &other], vec![]),
        ("an intermediate and its root", join(&[&upper]), &upper, join(&[&root]), vec![&root], vec![&upper]),
        ("two of them in one file", join(&[&lower, &upper]), &lower, join(&[&root]), vec![&root], vec![&lower, &upper]),
        (
            "two of them in two files",
            join(&[&lower]),
            &lower,
            join(&[&upper, &root]),
            vec![&root],
            vec![&lower, &upper],
        ),
        ("all in one file", join(&[&lower, &upper, &root]), &lower, String::new(), vec![&root], vec![&lower, &upper]),
        ("what leads nowhere isn't sent", join(&[&upper]), &upper, join(&[&stray, &root]), vec![&root], vec![&upper]),
    ] {
        let signer = read(&chain, &key.key, &further).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(signer.roots, ders(&roots), "{what}");
        assert_eq!(signer.intermediates(), ders(&between), "{what}");
    }
}

#[test]
fn every_usual_kind_of_key() {
    for key in [
        KeyPair::generate().unwrap(),
        KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    ] {
        let algorithm = format!("{:?}", key.algorithm());
        let root = ca("root", None, Traits::default(), key);
        read(&root.pem, &root.key, "").unwrap_or_else(|error| panic!("{algorithm}: {error}"));
    }
    // Inside of PKCS #8 there is what openssl and cert-manager write without it.
    for (algorithm, label) in
        [(&rcgen::PKCS_ECDSA_P256_SHA256, "EC PRIVATE KEY"), (&PKCS_RSA_SHA256, "RSA PRIVATE KEY")]
    {
        let root = ca("root", None, Traits::default(), KeyPair::generate_for(algorithm).unwrap());
        let inner = inner(&root.issuer.key().serialize_der());
        read(&root.pem, &pem::encode(&pem::Pem::new(label, inner)), "").unwrap_or_else(|e| panic!("{label}: {e}"));
    }
}

/// The content of the last OCTET STRING of `PrivateKeyInfo` (RFC 5208): it stands right after the algorithm.
fn inner(pkcs8: &[u8]) -> Vec<u8> {
    /// Content of the first element, and what follows it.
    fn split(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, at) = match der[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(der[2]), 3),
            _ => ((usize::from(der[2]) << 8) | usize::from(der[3]), 4),
        };
        der[at..].split_at(length)
    }
    let (info, _) = split(pkcs8);
    let (_version, rest) = split(info);
    let (_algorithm, rest) = split(rest);
    split(rest).0.to_vec()
}

#[test]
fn refused() {
    use MaterialError as E;
    type Check = fn(&MaterialError) -> bool;
    let with = |traits| ca("root", None, traits, KeyPair::generate().unwrap());
    let (root, other) = (plain("root", None), plain("other", None));
    let upper = plain("upper", Some(&root));
    // Its name is the root's, its key isn't.
    let namesake = plain("root", None);
    let expired = with(Traits { expired: true, ..Traits::default() });
    let old = ca("old", Some(&root), Traits { expired: true, ..Traits::default() }, KeyPair::generate().unwrap());
    let below_old = plain("below", Some(&old));
    let through_old = format!("{}{}", old.pem, root.pem);
    let elsewhere = with(Traits { domain: Some("other.example"), ..Traits::default() });
    let no_ca = with(Traits { not_ca: true, ..Traits::default() });
    let no_sign = with(Traits { no_cert_sign: true, ..Traits::default() });
    let cut = &root.pem[..root.pem.len() / 2];
    let broken = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
    let other_hosts = with(Traits { only: Some((NameKind::Dns, "company.example")), ..Traits::default() });
    let other_uris = with(Traits { only: Some((NameKind::Uri, "other.example")), ..Traits::default() });
    // Peers can't verify those at all.
    let our_uris = with(Traits { only: Some((NameKind::Uri, "cluster.local")), ..Traits::default() });
    let old_root = ca("old", None, Traits { expired: true, ..Traits::default() }, KeyPair::generate().unwrap());
    let below_old_root = plain("below", Some(&old_root));
    let cases: [(&str, &str, &str, &str, Part, Check); 20] = [
        ("nothing", "", "", "", Part::Chain, |e| matches!(e, E::NoCertificate)),
        ("garbage", "garbage", &root.key, "", Part::Chain, |e| matches!(e, E::NoCertificate)),
        ("half", cut, &root.key, "", Part::Chain, |e| matches!(e, E::Certificate(_) | E::NoCertificate)),
        ("no key", &root.pem, "", "", Part::Key, |e| matches!(e, E::Key)),
        ("a certificate for a key", &root.pem, &root.pem, "", Part::Key, |e| matches!(e, E::Key)),
        ("another's key", &root.pem, &other.key, "", Part::Key, |e| matches!(e, E::Mismatch)),
        ("no CA", &no_ca.pem, &no_ca.key, "", Part::Chain, |e| matches!(e, E::NotCa)),
        ("a CA that may not sign", &no_sign.pem, &no_sign.key, "", Part::Chain, |e| matches!(e, E::NotCa)),
        ("elsewhere", &elsewhere.pem, &elsewhere.key, "", Part::Chain, |e| matches!(e, E::TrustDomain { .. })),
        ("no root", &upper.pem, &upper.key, "", Part::Further, |e| matches!(e, E::NoRoot)),
        ("another root", &upper.pem, &upper.key, &other.pem, Part::Further, |e| matches!(e, E::NoWay)),
        ("a namesake", &upper.pem, &upper.key, &namesake.pem, Part::Further, |e| matches!(e, E::NoWay)),
        ("expired", &expired.pem, &expired.key, "", Part::Chain, |e| matches!(e, E::Expired { .. })),
        ("broken further roots", &root.pem, &root.key, broken, Part::Further, |e| matches!(e, E::Certificate(_))),
        ("no root below", &below_old.pem, &below_old.key, "", Part::Further, |e| matches!(e, E::NoRoot)),
        (
            "expired in between",
            &below_old.pem,
            &below_old.key,
            &through_old,
            Part::Further,
            |e| matches!(e, E::Expired { subject, .. } if subject == "CN=old"),
        ),
        ("an expired root", &below_old_root.pem, &below_old_root.key, &old_root.pem, Part::Further, |e| {
            matches!(e, E::Expired { .. })
        }),
        ("for other hosts", &other_hosts.pem, &other_hosts.key, "", Part::Chain, |e| matches!(e, E::Constrained)),
        ("for other URIs", &other_uris.pem, &other_uris.key, "", Part::Chain, |e| matches!(e, E::Constrained)),
        ("for our URIs", &our_uris.pem, &our_uris.key, "", Part::Chain, |e| matches!(e, E::Constrained)),
    ];
    for (what, chain, key, further, part, wanted) in cases {
        let error = read(chain, key, further).map(|_| ()).expect_err(what);
        assert!(wanted(&error), "{what}: {error}");
        assert_eq!(error.part(), part, "{what}: {error}");
        assert!(!format!("{error} {error:?}").contains("PRIVATE"), "{what}");
    }
}

#[test]
fn a_company_may_bind_its_intermediate_to_the_names_of_the_mesh() {
    let root = plain("root", None);
    let bound = |suffix| {
        let only = Some((NameKind::Dns, suffix));
        ca("bound", Some(&root), Traits { only, ..Traits::default() }, KeyPair::generate().unwrap())
    };
    let signs = |ca: &Ca, names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let material = Material { chain: &ca.pem, key: &ca.key, further: &root.pem };
        Signer::read(material, "cluster.local", &names)
    };
    let cluster = bound("svc");
    assert!(signs(&cluster, &["outrigger-controller.outrigger-system.svc"]).is_ok());
    let error = signs(&cluster, &["outrigger-controller.outrigger-system.svc", "localhost"]).unwrap_err();
    assert!(matches!(error, MaterialError::Constrained), "{error}");
}

#[test]
fn a_renewed_root_is_the_one_that_counts() {
    let new = plain("root", None);
    let again = KeyPair::from_pem(&new.key).unwrap();
    let old = ca("root", None, Traits { expired: true, ..Traits::default() }, again);
    let below = plain("below", Some(&new));
    let signer = read(&below.pem, &below.key, &(old.pem.clone() + &new.pem)).unwrap();
    assert!(signer.expires() > SystemTime::now() + 29 * DAY);
}

#[test]
fn nothing_outlives_what_it_was_signed_with() {
    let root = plain("root", None);
    let signer = read(&root.pem, &root.key, "").unwrap();
    let leaf = signer.issue(&KeyPair::generate().unwrap(), Vec::new(), 365 * DAY).unwrap();
    assert_eq!(leaf.not_after, signer.expires());
    let own = Traits { domain: Some("cluster.local"), ..Traits::default() };
    let own = ca("own", None, own, KeyPair::generate().unwrap());
    assert!(read(&own.pem, &own.key, "").unwrap().expires() > SystemTime::now() + 29 * DAY);
}

#[test]
fn a_new_root_is_one() {
    let (certificate, key) = Signer::generate("mesh.example").unwrap();
    assert!(!certificate.contains("PRIVATE") && !key.contains("CERTIFICATE"));
    assert!(matches!(read(&certificate, &key, ""), Err(MaterialError::TrustDomain { .. })));
    let material = Material { chain: &certificate, key: &key, further: "" };
    let signer = Signer::read(material, "mesh.example", &[]).unwrap();
    assert!(!format!("{signer:?}").contains("PRIVATE"));
}

#[test]
fn an_anchor_is_named_by_what_peers_verify_by() {
    let root = plain("root", None);
    let own = plain("own", Some(&root));
    let other = plain("other", Some(&root));
    let of = |chain: &str, key: &str, further: &str| read(chain, key, further).unwrap().anchor().to_owned();
    let anchor = of(&root.pem, &root.key, "");
    assert_eq!(anchor.len(), 32);
    // Intermediates of one root come and go without anybody having to learn of it.
    assert_eq!(of(&own.pem, &own.key, &root.pem), anchor);
    assert_eq!(of(&other.pem, &other.key, &root.pem), anchor);
    // The same root for longer is the same root; with another key or another name it is another.
    let key = || KeyPair::from_pem(&root.key).unwrap();
    let renewed = ca("root", None, Traits::default(), key());
    assert_ne!(renewed.pem, root.pem);
    assert_eq!(of(&renewed.pem, &renewed.key, ""), anchor);
    for another in [plain("root", None), ca("renamed", None, Traits::default(), key())] {
        assert_ne!(of(&another.pem, &another.key, ""), anchor);
    }
}
