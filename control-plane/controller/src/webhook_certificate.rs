//! What the webhooks' port shows: the controller's own certificate, or one that somebody else keeps in files
//! (cert-manager). Other replicas ask under a name of their own and always see the controller's.

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time;

use crate::certificate::OwnCertificate;

/// Between two looks at the files. They are replaced long before their certificate ends.
const LOOK: Duration = Duration::from_secs(10);

/// What handshakes are answered with.
#[derive(Debug)]
pub(crate) struct WebhookCertificate {
    own: Arc<OwnCertificate>,
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    dir: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

// === impl WebhookCertificate ===

impl WebhookCertificate {
    pub(crate) fn new(own: Arc<OwnCertificate>, dir: Option<PathBuf>) -> Result<Arc<Self>> {
        let files = dir.map(|dir| Ok::<_, anyhow::Error>(Files { current: ArcSwap::from_pointee(read(&dir)?), dir }));
        Ok(Arc::new(Self { own, files: files.transpose()? }))
    }

    /// Follows the files for ever, if there are any.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        let Some(files) = &self.files else { return std::future::pending().await };
        loop {
            time::sleep(LOOK).await;
            files.look();
        }
    }
}

// === impl Files ===

impl Files {
    fn look(&self) {
        match read(&self.dir) {
            Ok(new) if new.cert == self.current.load().cert => {}
            Ok(new) => {
                self.current.store(Arc::new(new));
                tracing::info!("the webhooks' certificate was renewed");
            }
            // Half of a replacement, perhaps: the next look sees the whole.
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the webhooks' certificate can't be read"),
        }
    }
}

impl ResolvesServerCert for WebhookCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let peer = hello.server_name().is_some_and(|name| {
            name.split_once('.').is_some_and(|(host, rest)| host == CONTROLLER_NAME && rest == SYSTEM_NAMESPACE)
        });
        match &self.files {
            Some(files) if !peer => Some(files.current.load_full()),
            _ => self.own.resolve(hello),
        }
    }
}

fn read(dir: &Path) -> Result<CertifiedKey> {
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&certificate).with_context(|| certificate.display().to_string())?.collect();
    let chain = chain.with_context(|| certificate.display().to_string())?;
    ensure!(!chain.is_empty(), "{}: no certificate", certificate.display());
    let key = PrivateKeyDer::from_pem_file(&key).with_context(|| key.display().to_string())?;
    let pair = CertifiedKey::new(chain, any_supported_type(&key).context("tls.key")?);
    pair.keys_match().context("tls.crt and tls.key")?;
    Ok(pair)
}
