//! The mesh's own root: made once, kept in one file, its key never sent anywhere.

#[cfg(test)]
mod tests;

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use outrigger_wire::SpiffeId;
use rand::{TryRngCore, rngs::OsRng};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, string::Ia5String,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::{CsrError, csr};

/// Lifetime of the root.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little earlier, for peers whose clocks are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Root and its key, PEM.
const STATE_FILE: &str = "authority.pem";
/// The root alone, PEM, for those who verify us.
const ROOT_FILE: &str = "root.pem";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Signs certificates with the mesh's root. `Debug` shows no secret.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// What proxies need between a leaf and a root: nothing, unless the signing certificate isn't a root itself.
    intermediates: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    expires: SystemTime,
    issued: AtomicU64,
}

/// A workload's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// DER, leaf first, root left out.
    pub chain: Vec<Bytes>,
    /// Unix seconds.
    pub not_before: i64,
    /// Unix seconds.
    pub not_after: i64,
}

/// The controller's own certificate, with its key.
#[derive(Debug)]
pub struct ServerCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub not_after: SystemTime,
}

/// Why there is no authority, or no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0}: not the key and the root of an authority; move it away to make new ones")]
    State(PathBuf),
    #[error("{path}: the root is of trust domain {found}; move it away or set that trust domain")]
    TrustDomain { path: PathBuf, found: String },
    #[error("{0}")]
    Brought(&'static str),
    #[error("the certificate that this authority signs with has expired")]
    Expired,
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("signing failed")]
    Signing(#[from] rcgen::Error),
    #[error("the system has no random numbers")]
    Random,
}

// === impl Authority ===

impl Authority {
    /// The authority kept in `state_dir`, or a new one. Writes `root.pem` beside it.
    ///
    /// # Errors
    /// If the folder can't be used, or holds what isn't this trust domain's authority: that is never overwritten.
    pub fn load_or_create(state_dir: &Path, trust_domain: &str) -> Result<Self, AuthorityError> {
        fs::create_dir_all(state_dir).map_err(|source| AuthorityError::Io { path: state_dir.to_owned(), source })?;
        let path = state_dir.join(STATE_FILE);
        let pem = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let pem = new_root(trust_domain)?;
                write_atomically(&path, &pem, 0o600)?;
                pem
            }
            Err(source) => return Err(AuthorityError::Io { path, source }),
        };
        let authority = Self::from_pem(&pem, &path, trust_domain)?;
        let root = pem.find(CERTIFICATE).map_or("", |at| &pem[at..]);
        write_atomically(&state_dir.join(ROOT_FILE), root, 0o644)?;
        Ok(authority)
    }

    /// A new root and its key, PEM.
    ///
    /// # Errors
    /// If the trust domain is no name for a certificate, or the system has no random numbers.
    pub fn generate(trust_domain: &str) -> Result<(String, String), AuthorityError> {
        let pem = new_root(trust_domain)?;
        let at = pem.find(CERTIFICATE).unwrap_or(pem.len());
        Ok((pem[at..].to_owned(), pem[..at].to_owned()))
    }

    /// An authority that somebody has brought: `chain` begins with the certificate that `key` signs with, followed by
    /// others up to the root, if it isn't a root itself. `roots` are to be trusted; "" is the last of `chain`. All PEM.
    ///
    /// # Errors
    /// If they don't belong together, or the certificate may not sign, or is of another trust domain.
    pub fn brought(chain: &str, key: &str, roots: &str, trust_domain: &str) -> Result<Self, AuthorityError> {
        let read = |pem: &str| -> Result<Vec<_>, _> {
            CertificateDer::pem_slice_iter(pem.as_bytes()).map(|der| der.map(CertificateDer::into_owned)).collect()
        };
        let chain = read(chain).map_err(|_| AuthorityError::Brought("tls.crt: no PEM certificates"))?;
        let mut roots = read(roots).map_err(|_| AuthorityError::Brought("ca.crt: no PEM certificates"))?;
        let (signer, last) =
            chain.first().zip(chain.last()).ok_or(AuthorityError::Brought("tls.crt: no certificate"))?;
        if roots.is_empty() {
            roots.push(last.clone());
        }
        let key = key_pair(key).ok_or(AuthorityError::Brought("tls.key: no PEM key of a kind that can sign"))?;
        let (_, parsed) =
            X509Certificate::from_der(signer).map_err(|_| AuthorityError::Brought("tls.crt: no X.509 certificate"))?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(AuthorityError::Brought("tls.crt and tls.key: the key is of another certificate"));
        }
        if !parsed.is_ca() {
            return Err(AuthorityError::Brought("tls.crt: its certificate may not sign others (no CA)"));
        }
        let names = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        let other = |name: &GeneralName<'_>| matches!(name, GeneralName::URI(uri) if uri.starts_with("spiffe://") && *uri != domain_uri(trust_domain));
        if names.is_some_and(|names| names.iter().any(other)) {
            return Err(AuthorityError::Brought(
                "tls.crt: it is of another trust domain; set that one, or bring another",
            ));
        }
        let expires = expiry(&parsed).ok_or(AuthorityError::Expired)?;
        let issuer = Issuer::from_ca_cert_der(signer, key)?;
        let intermediates = chain.iter().filter(|der| !roots.contains(der)).cloned().collect();
        Ok(Self { issuer, intermediates, roots, expires, issued: AtomicU64::new(0) })
    }

    /// Issues a certificate for the key of `csr`, valid for `ttl` at most. The name in it is `identity`, whatever the
    /// request says.
    ///
    /// # Errors
    /// If the request is malformed, of an unsupported key, or not signed by its own key.
    pub fn sign(&self, csr: &[u8], identity: &SpiffeId, ttl: Duration) -> Result<Issued, AuthorityError> {
        let key = csr::public_key(csr)?;
        let uri = SanType::URI(Ia5String::try_from(identity.as_str())?);
        let (leaf, not_before, not_after) = self.issue(&key, vec![uri], ttl)?;
        self.issued.fetch_add(1, Ordering::Relaxed);
        let chain = std::iter::once(&leaf).chain(&self.intermediates).map(|der| Bytes::from(der.to_vec())).collect();
        Ok(Issued { chain, not_before: unix_seconds(not_before), not_after: unix_seconds(not_after) })
    }

    /// A certificate with a fresh key, for a server of these names.
    ///
    /// # Errors
    /// If a name isn't ASCII, or the authority has expired.
    pub fn server_certificate(&self, dns_names: &[&str], ttl: Duration) -> Result<ServerCertificate, AuthorityError> {
        let key = KeyPair::generate()?;
        let name = |name: &&str| Ok(SanType::DnsName(Ia5String::try_from(*name)?));
        let names = dns_names.iter().map(name).collect::<Result<_, rcgen::Error>>()?;
        let (leaf, _, not_after) = self.issue(&key, names, ttl)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = std::iter::once(leaf).chain(self.intermediates.iter().cloned()).collect();
        Ok(ServerCertificate { chain, key, not_after })
    }

    /// DER of every root that the trust domain accepts now.
    pub fn roots(&self) -> Vec<Bytes> {
        self.roots.iter().map(|root| Bytes::from(root.to_vec())).collect()
    }

    /// As [`roots`](Self::roots), PEM.
    pub fn roots_pem(&self) -> String {
        self.roots.iter().map(|root| pem::encode(&pem::Pem::new("CERTIFICATE", root.to_vec()))).collect()
    }

    /// Workload certificates issued by this process.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    fn from_pem(pem: &str, path: &Path, trust_domain: &str) -> Result<Self, AuthorityError> {
        let state = || AuthorityError::State(path.to_owned());
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| state())?;
        let key = KeyPair::try_from(&key).map_err(|_| state())?;
        let root = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| state())?;
        let (_, parsed) = X509Certificate::from_der(&root).map_err(|_| state())?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(state());
        }
        let names = parsed.subject_alternative_name().ok().flatten().map(|names| &names.value.general_names);
        let found = names.and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
        if found != GeneralName::URI(&domain_uri(trust_domain)).to_string() {
            return Err(AuthorityError::TrustDomain { path: path.to_owned(), found });
        }
        let expires = expiry(&parsed).ok_or_else(state)?;
        let issuer = Issuer::from_ca_cert_der(&root, key)?;
        Ok(Self { issuer, intermediates: Vec::new(), roots: vec![root], expires, issued: AtomicU64::new(0) })
    }

    fn issue(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        ttl: Duration,
    ) -> Result<(CertificateDer<'static>, SystemTime, SystemTime), AuthorityError> {
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
        Ok((leaf.der().clone(), now - BACKDATE, not_after))
    }
}

/// A key in PKCS #8, SEC 1 or PKCS #1.
fn key_pair(pem: &str) -> Option<KeyPair> {
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).ok()?;
    KeyPair::try_from(&key).ok()
}

fn expiry(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Key and self-signed root, PEM.
fn new_root(trust_domain: &str) -> Result<String, AuthorityError> {
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
    Ok(key.serialize_pem() + &root.pem())
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

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The file has all of `text` or is as it was before, whenever the process dies.
fn write_atomically(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let write = || {
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::Builder::new().permissions(fs::Permissions::from_mode(mode)).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source| AuthorityError::Io { path: path.to_owned(), source })
}
