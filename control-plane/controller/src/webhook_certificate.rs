//! What the webhooks' port shows: the controller's own certificate, or one that somebody else keeps in files
//! (cert-manager). Other replicas ask under a name of their own and always see the controller's.

#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
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
        let mut told = None;
        loop {
            time::sleep(LOOK).await;
            files.look(&mut told);
        }
    }
}

// === impl Files ===

impl Files {
    /// What is wrong is said once, and remembered in `told`.
    fn look(&self, told: &mut Option<String>) {
        match read(&self.dir) {
            Ok(new) => {
                *told = None;
                if new.cert != self.current.load().cert {
                    self.current.store(Arc::new(new));
                    tracing::info!("the webhooks' certificate was renewed");
                }
            }
            // Half of a replacement, perhaps: the next look sees the whole.
            Err(error) => {
                let error = format!("{error:#}");
                if told.as_ref() != Some(&error) {
                    tracing::warn!(error, "the webhooks' certificate can't be read; the one before goes on");
                    *told = Some(error);
                }
            }
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

/// What is wrong with a key is never told in the words of whoever has read it: they might repeat it.
fn read(dir: &Path) -> Result<CertifiedKey> {
    let (certificate, key) = (dir.join("tls.crt"), dir.join("tls.key"));
    let text = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&text(&certificate)?).map(|der| der.map(CertificateDer::into_owned)).collect();
    let chain = chain.unwrap_or_default();
    ensure!(!chain.is_empty(), "{}: no whole PEM certificates", certificate.display());
    let Some(signing) = PrivateKeyDer::from_pem_slice(&text(&key)?).ok().and_then(|der| any_supported_type(&der).ok())
    else {
        bail!("{}: no PEM key of a kind that can sign", key.display());
    };
    let pair = CertifiedKey::new(chain, signing);
    let same = pair.keys_match().is_ok();
    ensure!(same, "{}: not the key of the first certificate in {}", key.display(), certificate.display());
    Ok(pair)
}
