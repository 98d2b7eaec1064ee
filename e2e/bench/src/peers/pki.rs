//! Certificates of the pair of Envoys: ECDSA P-256 with SPIFFE IDs, as the mesh's own are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// Where one Envoy finds its certificate, its key and the root.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) root: PathBuf,
}

pub(crate) fn id(name: &str) -> String {
    format!("spiffe://bench.local/ns/bench/sa/{name}")
}

/// A root of their own and one certificate per name.
pub(crate) fn write<const N: usize>(dir: &Path, names: [&str; N]) -> Result<[Files; N]> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_key = KeyPair::generate()?;
    let root = dir.join("envoy-root.pem");
    save(&root, &params.self_signed(&root_key)?.pem())?;
    let issuer = Issuer::new(params, root_key);
    let mut files = names.map(|name| Files {
        certificate: dir.join(format!("{name}.pem")),
        key: dir.join(format!("{name}.key")),
        root: root.clone(),
    });
    for (name, files) in names.iter().zip(&mut files) {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.subject_alt_names = vec![SanType::URI(id(name).try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        save(&files.certificate, &params.signed_by(&key, &issuer)?.pem())?;
        save(&files.key, &key.serialize_pem())?;
    }
    Ok(files)
}

fn save(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())
}
