//! What signs: a key and certificates, read from PEM and judged before they are used. Whatever is accepted here makes
//! certificates that peers accept. Knows no file and no Secret.

#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use rand::{TryRngCore, rngs::OsRng};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::AuthorityError;

/// Lifetime of a root.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little earlier, for peers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
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
    expires: SystemTime,
}

/// What was made for somebody.
pub(crate) struct Leaf {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// Why there is no signer in it.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("there is no PEM key of a kind that can sign")]
    Key,
    #[error("there is no PEM certificate")]
    NoCertificate,
    #[error("a certificate can't be read")]
    Certificate,
    #[error("the key is of another certificate")]
    Mismatch,
    #[error("its certificate may not sign others")]
    NotCa,
    #[error("the certificate is of trust domain {found}")]
    TrustDomain { found: String },
    #[error("the certificate was signed by another, and no root is given")]
    NoRoot,
    #[error("the certificate has expired")]
    Expired,
    #[error("nobody would accept what it signs: {0}")]
    Unacceptable(webpki::Error),
    #[error("it can't sign: {0}")]
    Signing(rcgen::Error),
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

    /// Reads what somebody has kept or brought. Self-signed certificates are roots, others lead to them.
    ///
    /// # Errors
    /// If the parts don't belong together, or make no certificate that a peer of this trust domain would accept now.
    pub fn read(material: Material<'_>, trust_domain: &str) -> Result<Self, MaterialError> {
        let chain = certificates(material.chain)?;
        let own = chain.first().ok_or(MaterialError::NoCertificate)?.clone();
        let key = PrivateKeyDer::from_pem_slice(material.key.as_bytes()).map_err(|_| MaterialError::Key)?;
        let key = KeyPair::try_from(&key).map_err(|_| MaterialError::Key)?;
        let expires = {
            let parsed = parse(&own)?;
            if parsed.public_key().raw != key.subject_public_key_info() {
                return Err(MaterialError::Mismatch);
            }
            may_sign_for(&parsed, trust_domain)?;
            expiry(&parsed)
        };
        let issuer = Issuer::from_ca_cert_der(&own, key).map_err(MaterialError::Signing)?;
        let (mut roots, mut others) = (Vec::new(), Vec::new());
        for certificate in chain.into_iter().chain(certificates(material.further)?) {
            let list = if is_self_signed(&parse(&certificate)?) { &mut roots } else { &mut others };
            if !list.contains(&certificate) {
                list.push(certificate);
            }
        }
        if roots.is_empty() {
            return Err(MaterialError::NoRoot);
        }
        let mut signer = Self { issuer, intermediates: Vec::new(), roots, expires };
        signer.intermediates = signer.way_to_a_root(&others, trust_domain)?;
        for certificate in &signer.intermediates {
            signer.expires = signer.expires.min(expiry(&parse(certificate)?));
        }
        Ok(signer)
    }

    pub(crate) fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
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

    /// Makes a certificate and verifies it as a peer would: dates, constraints, usages, signatures. What the way to a root
    /// led over.
    fn way_to_a_root(
        &self,
        others: &[CertificateDer<'static>],
        trust_domain: &str,
    ) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
        let name = format!("{}/ns/outrigger-system/sa/trial", domain_uri(trust_domain));
        let name = SanType::URI(Ia5String::try_from(name).map_err(MaterialError::Signing)?);
        let key = KeyPair::generate().map_err(MaterialError::Signing)?;
        let leaf = self.issue(&key, vec![name], TRIAL).map_err(|error| match error {
            AuthorityError::Signing(error) => MaterialError::Signing(error),
            _ => MaterialError::Expired,
        })?;
        let anchors: Result<Vec<_>, _> = self.roots.iter().map(anchor_from_trusted_cert).collect();
        let anchors = anchors.map_err(MaterialError::Unacceptable)?;
        let leaf = EndEntityCert::try_from(&leaf.der).map_err(MaterialError::Unacceptable)?;
        let verify = |usage| {
            let (algorithms, now) = (webpki::ALL_VERIFICATION_ALGS, UnixTime::now());
            leaf.verify_for_usage(algorithms, &anchors, others, now, usage, None, None)
        };
        verify(KeyUsage::server_auth()).map_err(MaterialError::Unacceptable)?;
        let path = verify(KeyUsage::client_auth()).map_err(MaterialError::Unacceptable)?;
        Ok(path.intermediate_certificates().map(|certificate| certificate.der().into_owned()).collect())
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| der.map(CertificateDer::into_owned).map_err(|_| MaterialError::Certificate))
        .collect()
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, MaterialError> {
    X509Certificate::from_der(der).map(|(_, parsed)| parsed).map_err(|_| MaterialError::Certificate)
}

fn may_sign_for(certificate: &X509Certificate<'_>, trust_domain: &str) -> Result<(), MaterialError> {
    let usage = certificate.key_usage().map_err(|_| MaterialError::Certificate)?;
    if !certificate.is_ca() || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(MaterialError::NotCa);
    }
    // It needn't name a trust domain; if it does, it is good for no other (X509-SVID, section 3.2).
    let names = certificate.subject_alternative_name().map_err(|_| MaterialError::Certificate)?;
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

/// One that has no end in our calendar has ended.
fn expiry(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
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
