//! Certificates of every kind as go-spiffe judges them: whom it refuses we refuse, and whom it knows we know by the same name,
//! or refuse for a reason that is said here.

use std::collections::BTreeSet;

use rustls_pki_types::pem::PemObject;

use super::*;

/// What is refused here alone, as a client or as a server.
const STRICTER: &[&str] = &[
    // No workload's name here.
    "id \"spiffe://cluster.local\"",
    "id \"spiffe://cluster.local/...\"",
    "id \"spiffe://cluster.local/SA\"",
    "id \"spiffe://cluster.local/a_b-c.d\"",
    "id \"SPIFFE://cluster.local/sa\"",
    "id \"2048 bytes\"",
    "id \"2049 bytes\"",
    // X509-SVID specification, section 4.3: leaves must sign handshakes.
    "may encipher keys only",
    "no usage",
    // Section 4.4: what they are for is said, and kept to; by an authority, too.
    "no extended usage",
    "clients only",
    "servers only",
    "signs code",
    "an intermediate for servers",
    // webpki knows no constraints on URI names, and so refuses them all.
    "an intermediate for this domain",
];

fn certificate(base64: &str) -> CertificateDer<'static> {
    let pem = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[test]
fn nobody_is_known_whom_go_spiffe_refuses() {
    let mut rows = include_str!("judges.tsv").lines().filter(|row| !row.starts_with('#')).map(|row| {
        let [label, verdict, chain] = row.split('\t').collect::<Vec<_>>().try_into().unwrap();
        (label, verdict, chain.split(' ').map(certificate).collect::<Vec<_>>())
    });
    let (_, _, root) = rows.next().unwrap();
    let trust = Trust { trust_domain: "cluster.local".into(), roots: vec![root[0].to_vec().into()], anchor: "".into() };
    let verifier = Verifier::any(Arc::new(Roots::new(&[trust], None)), &provider());
    let (mut judged, mut stricter) = (0, BTreeSet::new());
    for (label, verdict, chain) in rows {
        let (leaf, above) = chain.split_first().unwrap();
        let name = ServerName::try_from("any.example").unwrap();
        for known in [
            verifier.verify_client_cert(leaf, above, UnixTime::now()).is_ok(),
            verifier.verify_server_cert(leaf, above, &name, &[], UnixTime::now()).is_ok(),
        ] {
            if known {
                assert_eq!(spiffe_id(leaf).unwrap().as_str(), verdict, "{label}");
            } else if verdict != "refused" {
                stricter.insert(label);
            }
        }
        judged += 1;
    }
    assert_eq!(stricter, BTreeSet::from_iter(STRICTER.iter().copied()));
    assert!(judged > 80, "{judged}");
}
