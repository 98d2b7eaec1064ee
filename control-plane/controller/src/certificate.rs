//! The controller's own certificate: made by its authority, renewed at half its life, no restart needed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use outrigger_ca::Authority;
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time;

/// Names that are verified: by proxies and API servers the service in a cluster, by other replicas the short one, and
/// one machine.
const DNS_NAMES: [&str; 3] =
    ["outrigger-controller.outrigger-system.svc", "outrigger-controller.outrigger-system", "localhost"];
const TTL: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked at. By the wall clock, as expiry is: a machine may have slept.
const CHECK: Duration = Duration::from_secs(600);

/// What handshakes are answered with.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    authority: Arc<Authority>,
    current: ArcSwap<CertifiedKey>,
}

// === impl OwnCertificate ===

impl OwnCertificate {
    pub(crate) fn new(authority: Arc<Authority>) -> anyhow::Result<Arc<Self>> {
        let current = ArcSwap::from_pointee(issue(&authority)?);
        Ok(Arc::new(Self { authority, current }))
    }

    /// Renews for ever.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        let mut renewed = SystemTime::now();
        let mut checks = time::interval(CHECK);
        loop {
            checks.tick().await;
            // A clock that was set back counts as due.
            if renewed.elapsed().is_ok_and(|age| age < TTL / 2) {
                continue;
            }
            match issue(&self.authority) {
                Ok(certificate) => {
                    self.current.store(Arc::new(certificate));
                    renewed = SystemTime::now();
                    tracing::info!("own certificate renewed");
                }
                Err(error) => tracing::error!(error = format!("{error:#}"), "own certificate can't be renewed"),
            }
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn issue(authority: &Authority) -> anyhow::Result<CertifiedKey> {
    let made = authority.server_certificate(&DNS_NAMES, TTL).context("own certificate")?;
    let key = any_supported_type(&made.key).context("own key")?;
    Ok(CertifiedKey::new(made.chain, key))
}
