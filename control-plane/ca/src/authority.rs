//! The mesh's own authority: what signs now, and what is trusted. Its key is never sent anywhere.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use outrigger_wire::SpiffeId;
use rcgen::{KeyPair, SanType, string::Ia5String};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{
    CsrError, csr,
    signer::{Material, MaterialError, Signer},
};

/// Root and its key, PEM.
const STATE_FILE: &str = "authority.pem";
/// The root alone, PEM, for those who verify us.
const ROOT_FILE: &str = "root.pem";
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";

/// Signs certificates for the mesh's identities. `Debug` shows no secret.
#[derive(Debug)]
pub struct Authority {
    present: ArcSwap<Present>,
    issued: AtomicU64,
}

/// What is in force at one moment.
#[derive(Debug, Clone)]
struct Present {
    signer: Arc<Signer>,
    /// DER, in order of their bytes, so that replicas that know the same roots say the same.
    roots: BTreeSet<Bytes>,
    /// The root by which others sign still; the signer may not yet, but for the controller's own names.
    waits: Option<String>,
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
    /// Name of the root that the chain leads to.
    pub anchor: String,
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
    #[error("{path}: not the key and the root of an authority ({source}); move it away to make new ones")]
    State { path: PathBuf, source: MaterialError },
    #[error("{path}: the root is of trust domain {found}; move it away or set that trust domain")]
    TrustDomain { path: PathBuf, found: String },
    #[error("the certificate that this authority signs with has expired")]
    Expired,
    #[error(transparent)]
    Csr(#[from] CsrError),
    #[error("signing failed")]
    Signing(#[from] rcgen::Error),
    #[error("another root signs still, and its key isn't here")]
    Waits,
    #[error("the system has no random numbers")]
    Random,
}

// === impl Authority ===

impl Authority {
    pub fn new(signer: Signer) -> Self {
        let roots = signer.trusted();
        let present = ArcSwap::from_pointee(Present { signer: Arc::new(signer), roots, waits: None });
        Self { present, issued: AtomicU64::new(0) }
    }

    /// One that issues nothing to workloads before [`take_over`](Self::take_over): replicas sign by the root `anchor` still.
    pub fn waiting(signer: Signer, anchor: &str) -> Self {
        let authority = Self::new(signer);
        authority.change(|present| present.waits = Some(anchor.to_owned()));
        authority
    }

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
                let (certificate, key) = Signer::generate(trust_domain)?;
                let pem = key + &certificate;
                write_atomically(&path, &pem, 0o600)?;
                pem
            }
            Err(source) => return Err(AuthorityError::Io { path, source }),
        };
        let material = Material { chain: &pem, key: &pem, further: "" };
        let signer = Signer::read(material, trust_domain, &[]).map_err(|error| match error {
            MaterialError::TrustDomain { found } => AuthorityError::TrustDomain { path, found },
            source => AuthorityError::State { path, source },
        })?;
        let root = pem.find(CERTIFICATE).map_or("", |at| &pem[at..]);
        write_atomically(&state_dir.join(ROOT_FILE), root, 0o644)?;
        Ok(Self::new(signer))
    }

    /// Trusts another signer's roots as well, while the present one goes on: the first half of a change, done before
    /// anybody shows what the new one has signed. Whether that was news.
    pub fn trust(&self, other: &Signer) -> bool {
        self.change(|present| present.roots.extend(other.trusted()))
    }

    /// Signs with another from now on. Nothing that was trusted is forgotten: what the one before has signed lives on, until
    /// [`trust_only`](Self::trust_only).
    pub fn take_over(&self, signer: Signer) {
        let signer = Arc::new(signer);
        self.change(|present| {
            present.roots.extend(signer.trusted());
            present.signer = Arc::clone(&signer);
            present.waits = None;
        });
    }

    /// Trusts just these, and the roots of the present signer: the last step of a change, once nobody shows what another has
    /// signed. Whether that is another set than before.
    pub fn trust_only(&self, roots: &BTreeSet<Bytes>) -> bool {
        self.change(|present| present.roots = roots | &present.signer.trusted())
    }

    /// Whether the roots are others by it.
    fn change(&self, change: impl Fn(&mut Present)) -> bool {
        let changed = |before: &Present| {
            let mut present = before.clone();
            change(&mut present);
            present
        };
        let before = self.present.rcu(|present| changed(present));
        before.roots != changed(&before).roots
    }

    /// Issues a certificate for the key of `csr`, valid for `ttl` at most. The name in it is `identity`, whatever the
    /// request says.
    ///
    /// # Errors
    /// If the request is malformed, of an unsupported key, or not signed by its own key.
    pub fn sign(&self, csr: &[u8], identity: &SpiffeId, ttl: Duration) -> Result<Issued, AuthorityError> {
        let key = csr::public_key(csr)?;
        let uri = SanType::URI(Ia5String::try_from(identity.as_str())?);
        let present = self.present.load_full();
        if present.waits.is_some() {
            return Err(AuthorityError::Waits);
        }
        let signer = Arc::clone(&present.signer);
        let leaf = signer.issue(&key, vec![uri], ttl)?;
        self.issued.fetch_add(1, Ordering::Relaxed);
        let chain = std::iter::once(&leaf.der).chain(signer.intermediates());
        Ok(Issued {
            chain: chain.map(|der| Bytes::from(der.to_vec())).collect(),
            not_before: unix_seconds(leaf.not_before),
            not_after: unix_seconds(leaf.not_after),
            anchor: signer.anchor().to_owned(),
        })
    }

    /// A certificate with a fresh key, for a server of these names.
    ///
    /// # Errors
    /// If a name isn't ASCII, or the authority has expired.
    pub fn server_certificate(&self, dns_names: &[&str], ttl: Duration) -> Result<ServerCertificate, AuthorityError> {
        let key = KeyPair::generate()?;
        let name = |name: &&str| Ok(SanType::DnsName(Ia5String::try_from(*name)?));
        let names = dns_names.iter().map(name).collect::<Result<_, rcgen::Error>>()?;
        let signer = Arc::clone(&self.present.load().signer);
        let leaf = signer.issue(&key, names, ttl)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let chain = std::iter::once(leaf.der).chain(signer.intermediates().iter().cloned()).collect();
        Ok(ServerCertificate { chain, key, not_after: leaf.not_after })
    }

    /// DER of every root that the trust domain accepts now.
    pub fn roots(&self) -> Vec<Bytes> {
        self.present.load().roots.iter().cloned().collect()
    }

    /// Name of the root by which the mesh's certificates are signed now, here or, while this one waits, elsewhere.
    pub fn anchor(&self) -> String {
        let present = self.present.load();
        present.waits.clone().unwrap_or_else(|| present.signer.anchor().to_owned())
    }

    /// Name of the root by which this one signs; "" while it waits.
    pub fn signs_by(&self) -> String {
        let present = self.present.load();
        if present.waits.is_some() { String::new() } else { present.signer.anchor().to_owned() }
    }

    /// As [`roots`](Self::roots), PEM.
    pub fn roots_pem(&self) -> String {
        self.present.load().roots.iter().map(|root| pem::encode(&pem::Pem::new("CERTIFICATE", root.to_vec()))).collect()
    }

    /// When what signs now ends.
    pub fn expires(&self) -> SystemTime {
        self.present.load().signer.expires()
    }

    /// Workload certificates issued by this process.
    pub fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }
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
