//! Fuzz target of what proxies ask to be signed. `./dev fuzz` runs it by coverage, the test below on its corpus in
//! `fuzz/corpus/`.

use std::{
    pin::pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use outrigger_wire::{
    SpiffeId,
    proto::ca::{IssueRequest, IssueResponse, certificate_authority_server::CertificateAuthority},
};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use tonic::{Code, Request};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

use crate::{Authority, Certificates, Material, Signer};

const TTL: Duration = Duration::from_secs(3600);
/// For peers whose clocks are behind, and for seconds that are cut off.
const EARLIER: i64 = 15 * 60 + 1;
const SEQUENCE: u8 = 0x30;
/// `AlgorithmIdentifier` of Ed25519.
const ED25519: [u8; 7] = [SEQUENCE, 5, 6, 3, 0x2b, 0x65, 0x70];

static CERTIFICATES: LazyLock<(Arc<Authority>, Certificates)> = LazyLock::new(|| {
    let (chain, key) = Signer::generate("cluster.local").expect("a root");
    let material = Material { chain: &chain, key: &key, further: "" };
    let signer = Signer::read(material, "cluster.local", &[]).expect("it signs");
    let authority = Arc::new(Authority::new(signer));
    (Arc::clone(&authority), Certificates::new(authority, TTL))
});

static OWN: LazyLock<KeyPair> = LazyLock::new(|| KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key"));

/// A certificate is the caller's, for the key of its request, and has nothing else that the request may say. Whoever
/// doesn't hold the key gets none.
pub fn csr(data: &[u8]) {
    issue(data);
    // What is changed is seldom signed still: so it is once more, with a key that is at hand.
    let Some(parts) = Parts::of(data) else { return };
    let own = OWN.subject_public_key_info();
    let mut again = parts.signed(&own);
    issue(&again);
    assert!(!issue(&parts.signed(parts.key)) || parts.key == own, "signed by a key that isn't the request's");
    // The last byte is the signature's.
    if let Some(last) = again.last_mut() {
        *last ^= 1;
    }
    assert!(!issue(&again), "the signature isn't one");
}

/// Whether there was a certificate.
fn issue(csr: &[u8]) -> bool {
    let account = ["front", "back", "a.b-c"][csr.len() % 3];
    let identity = SpiffeId::new("cluster.local", "shop", account).expect("an identity");
    let mut request = Request::new(IssueRequest { csr: csr.to_vec().into() });
    request.extensions_mut().insert(identity.clone());
    let answer = pin!(CERTIFICATES.1.issue(request)).poll(&mut Context::from_waker(Waker::noop()));
    let Poll::Ready(answer) = answer else { panic!("it waits for something") };
    match answer {
        Ok(issued) => {
            check(csr, &issued.into_inner(), identity.as_str());
            true
        }
        Err(status) => {
            assert_eq!(status.code(), Code::InvalidArgument, "it is the request that is wrong: {status}");
            false
        }
    }
}

fn check(csr: &[u8], issued: &IssueResponse, identity: &str) {
    assert_eq!((issued.chain.len(), &issued.roots), (1, &CERTIFICATES.0.roots()));
    let (rest, leaf) = X509Certificate::from_der(&issued.chain[0]).expect("a certificate");
    let (_, root) = X509Certificate::from_der(&issued.roots[0]).expect("a certificate");
    assert!(rest.is_empty());
    assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
    leaf.verify_signature(Some(root.public_key())).expect("the root has signed it");
    assert_eq!(Some(leaf.public_key().raw), Parts::of(csr).map(|parts| parts.key));
    assert_eq!(leaf.subject().iter().count(), 0);

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() as i64;
    let (begin, end) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert_eq!((begin, end), (issued.not_before, issued.not_after));
    assert!(end <= now + TTL.as_secs() as i64 && end - begin <= TTL.as_secs() as i64 + EARLIER, "{begin} to {end}");

    let mut kinds: Vec<_> =
        leaf.extensions().iter().map(|extension| extension_of(extension.parsed_extension(), identity)).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["authority", "constraints", "key", "names", "purposes", "usage"]);
}

/// Its kind, once it was seen to be ours.
fn extension_of(extension: &ParsedExtension<'_>, identity: &str) -> &'static str {
    match extension {
        ParsedExtension::AuthorityKeyIdentifier(_) => "authority",
        ParsedExtension::SubjectKeyIdentifier(_) => "key",
        ParsedExtension::BasicConstraints(constraints) => {
            assert!(!constraints.ca);
            "constraints"
        }
        ParsedExtension::SubjectAlternativeName(names) => {
            assert_eq!(names.general_names, [GeneralName::URI(identity)]);
            "names"
        }
        ParsedExtension::KeyUsage(usage) => {
            assert!(usage.digital_signature() && usage.flags == 1, "{usage}");
            "usage"
        }
        ParsedExtension::ExtendedKeyUsage(purposes) => {
            assert!(purposes.client_auth && purposes.server_auth, "{purposes:?}");
            assert!(!purposes.any && !purposes.code_signing && !purposes.email_protection && purposes.other.is_empty());
            assert!(!purposes.time_stamping && !purposes.ocsp_signing, "{purposes:?}");
            "purposes"
        }
        other => panic!("nobody wants {other:?}"),
    }
}

/// A request as a naive reader has it: a sequence of what is asked for, an algorithm and a signature.
struct Parts<'a> {
    /// What is asked for, before the key.
    before: &'a [u8],
    key: &'a [u8],
    after: &'a [u8],
}

// === impl Parts ===

impl<'a> Parts<'a> {
    fn of(csr: &'a [u8]) -> Option<Self> {
        let (_, request, _) = element(csr)?;
        let (_, asked, _) = element(request)?;
        let (version, _, rest) = element(asked)?;
        let (subject, _, rest) = element(rest)?;
        let (key, _, after) = element(rest)?;
        Some(Self { before: &asked[..version.len() + subject.len()], key, after })
    }

    /// For another key, signed by ours.
    fn signed(&self, key: &[u8]) -> Vec<u8> {
        let asked = sequence(SEQUENCE, &[self.before, key, self.after]);
        let signature = OWN.sign(&asked).expect("it signs");
        sequence(SEQUENCE, &[&asked, &ED25519, &sequence(3, &[&[0], &signature])])
    }
}

/// The first element of some DER, what is in it, and what follows it.
fn element(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (_, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let few = usize::from(first & 0x7f);
    let (length, rest) = if first < 0x80 {
        (few, rest)
    } else {
        let (digits, rest) = rest.split_at_checked(few).filter(|_| (1..=4).contains(&few))?;
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((&der[..der.len() - after.len()], content, after))
}

/// An element of these.
fn sequence(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    // As few digits as there can be.
    let digits: Vec<u8> = length.into_iter().skip_while(|digit| *digit == 0).collect();
    let mut der = vec![tag];
    if content.len() >= 0x80 {
        der.push(0x80 | digits.len() as u8);
    }
    der.extend(if digits.is_empty() { vec![0] } else { digits });
    der.extend_from_slice(&content);
    der
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! { csr: 5_000 }
}
