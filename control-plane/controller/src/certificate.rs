//! The controller's own certificate: made by its authority, renewed at half its life, no restart needed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use arc_swap::ArcSwap;
use outrigger_ca::Authority;
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time;

const TTL: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked at. By the wall clock, as expiry is: a machine may have slept.
const CHECK: Duration = Duration::from_secs(60);

/// What handshakes are answered with.
#[derive(Debug)]
pub(crate) struct OwnCertificate {
    authority: Arc<Authority>,
    names: Vec<String>,
    current: ArcSwap<Made>,
}

#[derive(Debug)]
struct Made {
    certificate: Arc<CertifiedKey>,
    at: SystemTime,
    ends: SystemTime,
}

/// What clients call the controller: the service, with and without the cluster's DNS domain; other replicas leave out
/// `.svc`. Where there is no cluster, it may be `localhost`, too.
pub(crate) fn names(cluster_domain: Option<&str>) -> Vec<String> {
    let short = format!("{CONTROLLER_NAME}.{SYSTEM_NAMESPACE}");
    let service = format!("{short}.svc");
    let last = cluster_domain.map_or("localhost".to_owned(), |domain| format!("{service}.{domain}"));
    vec![service, short, last]
}

// === impl OwnCertificate ===

impl OwnCertificate {
    pub(crate) fn new(authority: Arc<Authority>, names: Vec<String>) -> anyhow::Result<Arc<Self>> {
        let current = ArcSwap::from_pointee(make(&authority, &names)?);
        Ok(Arc::new(Self { authority, names, current }))
    }

    /// Renews for ever.
    pub(crate) async fn keep_fresh(self: Arc<Self>) {
        let mut checks = time::interval(CHECK);
        loop {
            checks.tick().await;
            if self.current.load().is_due(SystemTime::now()) {
                self.renew();
            }
        }
    }

    /// Makes another, signed by whoever signs now. If that fails, the present one goes on.
    pub(crate) fn renew(&self) {
        match make(&self.authority, &self.names) {
            Ok(made) => {
                self.current.store(Arc::new(made));
                tracing::info!("own certificate renewed");
            }
            Err(error) => tracing::error!(error = format!("{error:#}"), "own certificate can't be renewed"),
        }
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().certificate))
    }
}

// === impl Made ===

impl Made {
    /// At half its life, which is shorter than usual if its issuer's ends. A clock that was set back counts, too.
    fn is_due(&self, now: SystemTime) -> bool {
        let life = self.ends.duration_since(self.at).unwrap_or_default();
        now.duration_since(self.at).map_or(true, |age| age >= life / 2)
    }
}

fn make(authority: &Authority, names: &[String]) -> anyhow::Result<Made> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let at = SystemTime::now();
    let made = authority.server_certificate(&names, TTL).context("own certificate")?;
    let key = any_supported_type(&made.key).context("own key")?;
    Ok(Made { certificate: Arc::new(CertifiedKey::new(made.chain, key)), at, ends: made.not_after })
}

#[cfg(test)]
mod tests {
    use outrigger_ca::{Material, Signer};

    use super::*;

    #[test]
    fn it_is_due_at_half_its_life() {
        let (chain, key) = Signer::generate("cluster.local").unwrap();
        let signer = Signer::read(Material { chain: &chain, key: &key, further: "" }, "cluster.local", &[]).unwrap();
        let mut made = make(&Authority::new(signer), &["localhost".to_owned()]).unwrap();
        let hour = Duration::from_secs(3600);
        let at = made.at;
        for (life, age, due) in [(24, 0, false), (24, 11, false), (24, 13, true), (2, 0, false), (2, 1, true)] {
            made.ends = at + life * hour;
            assert_eq!(made.is_due(at + age * hour), due, "{age} h of {life} h");
        }
        assert!(made.is_due(at - hour), "the clock was set back");
    }
}
