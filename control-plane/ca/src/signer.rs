//! What signs: a key and certificates, read from PEM and judged before they are used. Whatever is accepted here makes
//! certificates that peers accept. Knows no file and no Secret.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE};
use rand::{TryRngCore, rngs::OsRng};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime, pem::PemObject};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::AuthorityError;

/// Lifetime of a root.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little earlier, for peers whose clocks are behind: ten minutes happen.
const BACKDATE: Duration = Duration::from_secs(15 * 60);
/// Of the certificate that is made to be verified, and for nothing else.
const TRIAL: Duration = Duration::from_secs(60);

/// What a signer is read from, PEM.
#[derive(Clone, Copy)]
pub struct Material<'a> {
    /// The certificate that signs, and perhaps those above it.
    pub chain: &'a str,
    /// Its key: PKCS #8, SEC 1 or PKCS #1.
    pub key: &'a str,
    /// Further roots to be trusted, and what is missing between `chain` and a root. May be empty.
    pub further: &'a str,
}

/// Signs, and knows what peers need to verify it. `Debug` shows no secret.
#[derive(Debug)]
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    /// What peers need between a leaf and a root, the leaf's issuer first: nothing, if that is a root itself.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    /// The root that what it signs leads to.
    anchor: String,
    expires: SystemTime,
}

/// What was made for somebody.
pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// A part of [`Material`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Chain,
    Key,
    Further,
}

/// Why there is no signer in it.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("there is no PEM key of a kind that can sign")]
    Key,
    #[error("there is no PEM certificate")]
    NoCertificate,
    #[error("a certificate can't be read")]
    Certificate(Part),
    #[error("the key is of another certificate")]
    Mismatch,
    #[error("the certificate may not sign others")]
    NotCa,
    #[error("the certificate is of trust domain {found}")]
    TrustDomain { found: String },
    #[error("the certificate was signed by another, and no root is given")]
    NoRoot,
    #[error("no root that is given leads to the certificate that signs")]
    NoWay,
    #[error("the certificate of {subject:?} has expired")]
    Expired { part: Part, subject: String },
    #[error("name constraints forbid the mesh's names")]
    Constrained,
    #[error("nobody would accept what it signs: {0}")]
    Unacceptable(webpki::Error),
    #[error("it can't sign: {0}")]
    Signing(rcgen::Error),
}

/// A certificate, and where it stood.
struct Given {
    der: CertificateDer<'static>,
    part: Part,
}

// === impl MaterialError ===

impl MaterialError {
    /// Where to look.
    pub fn part(&self) -> Part {
        match self {
            Self::Key | Self::Mismatch => Part::Key,
            Self::NoRoot | Self::NoWay => Part::Further,
            Self::Certificate(part) | Self::Expired { part, .. } => *part,
            Self::NoCertificate
            | Self::NotCa
            | Self::TrustDomain { .. }
            | Self::Constrained
            | Self::Unacceptable(_)
            | Self::Signing(_) => Part::Chain,
        }
    }
}

// === impl Signer ===

impl Signer {
    /// A new root of a trust domain: its certificate and its key, PEM.
    ///
    /// # Errors
    /// If the trust domain is no name for a certificate, or the system has no random numbers.
    pub fn generate(trust_domain: &str) -> Result<(String, String), AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let now = SystemTime::now();
        let mut params = params(now - BACKDATE, now + ROOT_TTL)?;
        params.distinguished_name.push(DnType::OrganizationName, "Outrigger");
        params.distinguished_name.push(DnType::CommonName, format!("Outrigger root of {trust_domain}"));
        // A signing certificate may name its trust domain (X509-SVID, section 3.2); it tells roots apart at start.
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(domain_uri(trust_domain))?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key)?;
        Ok((root.pem(), key.serialize_pem()))
    }

    /// Reads what somebody has kept or brought, to sign for identities of `trust_domain` and for servers of
    /// `server_names`. Self-signed certificates are roots, others lead to them.
    ///
    /// # Errors
    /// If the parts don't belong together, or make no certificate that a peer would accept now.
    pub fn read(material: Material<'_>, trust_domain: &str, server_names: &[String]) -> Result<Self, MaterialError> {
        let chain = certificates(material.chain, Part::Chain)?;
        let own = chain.first().ok_or(MaterialError::NoCertificate)?.der.clone();
        let key = PrivateKeyDer::from_pem_slice(material.key.as_bytes()).map_err(|_| MaterialError::Key)?;
        let key = KeyPair::try_from(&key).map_err(|_| MaterialError::Key)?;
        let parsed = parse(&own).ok_or(MaterialError::Certificate(Part::Chain))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(MaterialError::Mismatch);
        }
        may_sign_for(&parsed, trust_domain)?;
        let expires = expiry(&own);
        let issuer = Issuer::from_ca_cert_der(&own, key).map_err(MaterialError::Signing)?;
        let (mut roots, mut others) = (Vec::<Given>::new(), Vec::<Given>::new());
        for given in chain.into_iter().chain(certificates(material.further, Part::Further)?) {
            let parsed = parse(&given.der).ok_or(MaterialError::Certificate(given.part))?;
            let list = if is_self_signed(&parsed) { &mut roots } else { &mut others };
            if !list.iter().any(|other| other.der == given.der) {
                list.push(given);
            }
        }
        if roots.is_empty() {
            return Err(MaterialError::NoRoot);
        }
        let ders = roots.iter().map(|root| root.der.clone()).collect();
        let mut signer = Self { issuer, intermediates: Vec::new(), roots: ders, anchor: String::new(), expires };
        signer.settle(&own, &roots, &others, trust_domain, server_names)?;
        Ok(signer)
    }

    /// DER of all roots that came with it.
    pub fn trusted(&self) -> BTreeSet<Bytes> {
        self.roots.iter().map(|root| Bytes::copy_from_slice(root)).collect()
    }

    /// Name of the root that what it signs leads to: the same for the same subject and key, as peers see it.
    pub fn anchor(&self) -> &str {
        &self.anchor
    }

    pub(crate) fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.intermediates
    }

    pub(crate) fn expires(&self) -> SystemTime {
        self.expires
    }

    pub(crate) fn issue(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        ttl: Duration,
    ) -> Result<Leaf, AuthorityError> {
        let now = SystemTime::now();
        let not_after = self.expires.min(now + ttl);
        if not_after <= now {
            return Err(AuthorityError::Expired);
        }
        let mut params = params(now - BACKDATE, not_after)?;
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(key, &self.issuer)?;
        Ok(Leaf { der: leaf.der().clone(), not_before: now - BACKDATE, not_after })
    }

    /// Makes a certificate and verifies it as a peer would: dates, constraints, usages, signatures. Learns from it what
    /// peers must be sent, and when what is signed ends.
    fn settle(
        &mut self,
        own: &CertificateDer<'static>,
        roots: &[Given],
        others: &[Given],
        trust_domain: &str,
        server_names: &[String],
    ) -> Result<(), MaterialError> {
        let own = Given { der: own.clone(), part: Part::Chain };
        own.is_in_force()?;
        let identity = format!("{}/ns/{SYSTEM_NAMESPACE}/sa/{CONTROLLER_NAME}", domain_uri(trust_domain));
        let ia5 = |name: &str| Ia5String::try_from(name).map_err(MaterialError::Signing);
        let mut names = vec![SanType::URI(ia5(&identity)?)];
        for name in server_names {
            names.push(SanType::DnsName(ia5(name)?));
        }
        let key = KeyPair::generate().map_err(MaterialError::Signing)?;
        let leaf = self.issue(&key, names, TRIAL).map_err(|error| match error {
            AuthorityError::Signing(error) => MaterialError::Signing(error),
            _ => own.expired(),
        })?;
        let anchors: Result<Vec<_>, _> = self.roots.iter().map(anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(MaterialError::Unacceptable)?;
        let between: Vec<_> = others.iter().map(|other| other.der.clone()).collect();
        let leaf = EndEntityCert::try_from(&leaf.der).map_err(MaterialError::Unacceptable)?;
        let verify = |usage| {
            let (algorithms, now) = (webpki::ALL_VERIFICATION_ALGS, UnixTime::now());
            leaf.verify_for_usage(algorithms, &anchors, &between, now, usage, None, None).map_err(|error| match error {
                webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => MaterialError::NoWay,
                webpki::Error::NameConstraintViolation => MaterialError::Constrained,
                webpki::Error::CertExpired { .. } => {
                    let ended = others.iter().find(|other| other.is_in_force().is_err());
                    ended.unwrap_or(&own).expired()
                }
                error => MaterialError::Unacceptable(error),
            })
        };
        verify(KeyUsage::server_auth())?;
        let path = verify(KeyUsage::client_auth())?;
        // Nobody else looks at the root's own dates, except API servers.
        let used = anchors.iter().zip(roots).filter(|(anchor, _)| *anchor == path.anchor()).map(|(_, root)| root);
        // A root that was renewed may be there twice.
        if let Some(root) = used.max_by_key(|root| expiry(&root.der)) {
            root.is_in_force()?;
            self.expires = self.expires.min(expiry(&root.der));
        }
        self.anchor = name(path.anchor());
        self.intermediates =
            path.intermediate_certificates().map(|certificate| certificate.der().into_owned()).collect();
        self.expires = self.intermediates.iter().map(expiry).fold(self.expires, SystemTime::min);
        Ok(())
    }
}

// === impl Given ===

impl Given {
    fn is_in_force(&self) -> Result<(), MaterialError> {
        if expiry(&self.der) > SystemTime::now() { Ok(()) } else { Err(self.expired()) }
    }

    fn expired(&self) -> MaterialError {
        let subject = parse(&self.der).map(|parsed| parsed.subject().to_string()).unwrap_or_default();
        MaterialError::Expired { part: self.part, subject }
    }
}

/// Half of a hash of what peers verify by.
fn name(anchor: &TrustAnchor<'_>) -> String {
    let subject = anchor.subject.as_ref();
    let hash = Sha256::new()
        .chain_update((subject.len() as u64).to_be_bytes())
        .chain_update(subject)
        .chain_update(anchor.subject_public_key_info.as_ref());
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn certificates(pem: &str, part: Part) -> Result<Vec<Given>, MaterialError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| match der {
            Ok(der) => Ok(Given { der: der.into_owned(), part }),
            Err(_) => Err(MaterialError::Certificate(part)),
        })
        .collect()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    X509Certificate::from_der(der).ok().map(|(_, parsed)| parsed)
}

fn may_sign_for(certificate: &X509Certificate<'_>, trust_domain: &str) -> Result<(), MaterialError> {
    let usage = certificate.key_usage().map_err(|_| MaterialError::Certificate(Part::Chain))?;
    if !certificate.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(MaterialError::NotCa);
    }
    // It needn't name a trust domain; if it does, it is good for no other (X509-SVID, section 3.2).
    let names = certificate.subject_alternative_name().map_err(|_| MaterialError::Certificate(Part::Chain))?;
    let names = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut domains = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
        _ => None,
    });
    match domains.find(|found| *found != trust_domain) {
        Some(found) => Err(MaterialError::TrustDomain { found: found.to_owned() }),
        None => Ok(()),
    }
}

fn is_self_signed(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject().as_raw() == certificate.issuer().as_raw() && certificate.verify_signature(None).is_ok()
}

/// One that can't be read, or has no end in our calendar, has ended.
fn expiry(der: &CertificateDer<'_>) -> SystemTime {
    let end = parse(der).map(|parsed| parsed.validity().not_after.timestamp()).unwrap_or_default();
    let seconds = u64::try_from(end).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn params(not_before: SystemTime, not_after: SystemTime) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params.serial_number = Some(serial_number()?);
    Ok(params)
}

/// 128 random bits, but for the sign (RFC 5280, section 4.1.2.2).
fn serial_number() -> Result<SerialNumber, AuthorityError> {
    let mut serial = [0; 16];
    OsRng.try_fill_bytes(&mut serial).map_err(|_| AuthorityError::Random)?;
    serial[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&serial))
}

fn domain_uri(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}")
}
