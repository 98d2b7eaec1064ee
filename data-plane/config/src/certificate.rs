//! The workload's certificate: makes a key, has it signed, checks what comes back, renews it at half of its life, or when
//! another root signs.
//! The identity is the authority's to say; a certificate that isn't for our key and our namespace, or isn't valid
//! now, is never published.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use outrigger_core::{Store, Svid, config::Trust};
use outrigger_wire::{
    IdentityError, SpiffeId,
    proto::ca::{IssueRequest, certificate_authority_client::CertificateAuthorityClient},
};
use rand::Rng;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use tokio::time::{sleep, timeout};
use x509_parser::{error::X509Error, extensions::GeneralName, nom, parse_x509_certificate};

use crate::{
    Bootstrap, ClientStatus,
    backoff::Backoff,
    client::{self, ConnectError},
    saved::{self, SavedSvid},
};

const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// While there is none at all: the pod waits for it.
const MAX_FIRST_BACKOFF: Duration = Duration::from_secs(3);
/// One attempt, connecting aside.
const PATIENCE: Duration = Duration::from_secs(10);
/// Renewal moves by up to this share of half of the life, so that a fleet's renewals spread.
const JITTER: f64 = 0.1;
/// Renewals are at least this far apart, whatever validity the authority gives.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// To the next renewal, if a certificate comes that is due already: by a clock that is far ahead the next one would be, too.
const DUE_INTERVAL: Duration = Duration::from_secs(5 * 60);
/// When another root signs, a fleet's renewals spread over as long.
const SPREAD: Duration = Duration::from_secs(180);
/// The wall clock is looked at this often while waiting: it jumps, and machines sleep.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// Our clock may be behind the authority's by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("key or request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    #[error("the authority doesn't answer")]
    Timeout,
    #[error("chain is empty")]
    Empty,
    #[error("not an X.509 certificate: {0}")]
    Parse(#[from] nom::Err<X509Error>),
    #[error("certificate has no single URI name")]
    Name,
    #[error("identity: {0}")]
    Identity(#[from] IdentityError),
    #[error("{identity} is not of namespace {namespace:?}")]
    Namespace { identity: SpiffeId, namespace: String },
    #[error("certificate is for another key")]
    OtherKey,
    #[error("certificate isn't valid now")]
    Validity,
}

/// Keeps a valid certificate published, for ever.
pub(crate) async fn run(bootstrap: Arc<Bootstrap>, store: Arc<Store>, status: Arc<ClientStatus>) {
    if store.svid().is_none()
        && let Some(svid) = restored(&bootstrap)
    {
        store.publish_svid(svid);
    }
    if let Some(svid) = store.svid() {
        status.certificate(|certificate| certificate.not_after = Some(svid.not_after));
    }
    loop {
        if let Some(svid) = store.svid() {
            let jitter = rand::rng().random_range(-JITTER..=JITTER);
            let turn = SPREAD.mul_f64(rand::rng().random_range(0.0..1.0));
            tokio::select! {
                () = sleep_until(renewal(&svid, jitter)) => {}
                () = overtaken(&store, &svid) => sleep(turn).await,
            }
        }
        let max = if store.svid().is_some() { MAX_BACKOFF } else { MAX_FIRST_BACKOFF };
        let svid = obtain(&bootstrap, &status, Backoff::new(FIRST_BACKOFF, max)).await;
        tracing::info!(identity = %svid.id, "certificate is issued");
        save(&bootstrap, &svid);
        status.certificate(|certificate| {
            certificate.not_after = Some(svid.not_after);
            certificate.issued += 1;
            certificate.last_error = None;
        });
        let pause = pause(&svid, SystemTime::now());
        store.publish_svid(svid);
        sleep(pause).await;
    }
}

/// The certificate that was saved, if it is still good.
pub(crate) fn restored(bootstrap: &Bootstrap) -> Option<Svid> {
    let path = bootstrap.state_file("svid")?;
    let saved: SavedSvid = saved::read(&path)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "saved certificate isn't usable"))
        .ok()??;
    if saved.workload != bootstrap.workload {
        tracing::warn!(path = %path.display(), workload = saved.workload, "saved certificate is of another workload");
        return None;
    }
    KeyPair::try_from(saved.key)
        .map_err(CertificateError::from)
        .and_then(|key| check(saved.chain, &key, bootstrap.namespace(), SystemTime::now()))
        .map(|svid| Svid { anchor: saved.anchor, ..svid })
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "saved certificate isn't usable"))
        .ok()
}

/// Tries until it succeeds.
async fn obtain(bootstrap: &Bootstrap, status: &ClientStatus, mut backoff: Backoff) -> Svid {
    loop {
        match issue(bootstrap).await {
            Ok(svid) => return svid,
            Err(error) => {
                let wait = backoff.next();
                tracing::warn!(controller = bootstrap.controller, %error, ?wait, "no certificate");
                status.certificate(|certificate| certificate.last_error = Some(error.to_string()));
                sleep(wait).await;
            }
        }
    }
}

async fn issue(bootstrap: &Bootstrap) -> Result<Svid, CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let csr = CertificateParams::default().serialize_request(&key)?;
    let channel = client::connect(bootstrap).await?;
    let request = client::authorised(bootstrap, IssueRequest { csr: csr.der().to_vec().into() })?;
    let mut authority = CertificateAuthorityClient::new(channel);
    let answer = timeout(PATIENCE, authority.issue(request)).await.map_err(|_| CertificateError::Timeout)?;
    let answer = answer.map_err(|status| CertificateError::Status(Box::new(status)))?.into_inner();
    let svid = check(answer.chain, &key, bootstrap.namespace(), SystemTime::now())?;
    Ok(Svid { anchor: answer.anchor, ..svid })
}

/// What the authority sent is for our key, for a workload of our namespace, and valid at `now`.
fn check(chain: Vec<Bytes>, key: &KeyPair, namespace: &str, now: SystemTime) -> Result<Svid, CertificateError> {
    let (_, leaf) = parse_x509_certificate(chain.first().ok_or(CertificateError::Empty)?)?;
    if leaf.public_key().raw != key.subject_public_key_info() {
        return Err(CertificateError::OtherKey);
    }
    // X509-SVID section 2: exactly one URI.
    let names = leaf.subject_alternative_name().ok().flatten().ok_or(CertificateError::Name)?;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(CertificateError::Name) };
    let id: SpiffeId = uri.parse()?;
    if id.namespace() != namespace {
        return Err(CertificateError::Namespace { identity: id, namespace: namespace.into() });
    }
    let time = |seconds: i64| u64::try_from(seconds).ok().map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds));
    let validity = leaf.validity();
    let bounds = time(validity.not_before.timestamp()).zip(time(validity.not_after.timestamp()));
    let (not_before, not_after) = bounds.ok_or(CertificateError::Validity)?;
    if now + CLOCK_SKEW < not_before || now >= not_after {
        return Err(CertificateError::Validity);
    }
    Ok(Svid { id, key: key.serialize_der(), not_before, not_after, chain, anchor: String::new() })
}

/// When to renew: at half of its life, moved by `jitter`, a share of that.
fn renewal(svid: &Svid, jitter: f64) -> SystemTime {
    let life = svid.not_after.duration_since(svid.not_before).unwrap_or_default();
    svid.not_before + life.mul_f64(0.5 * (1.0 + jitter))
}

/// Resolves when the control plane says that another root signs than the one that `svid` leads to.
async fn overtaken(store: &Store, svid: &Svid) {
    let mut changes = store.changes();
    loop {
        if is_overtaken(svid, &store.load().trust) {
            return;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn is_overtaken(svid: &Svid, trust: &[Trust]) -> bool {
    let own = trust.iter().find(|trust| *trust.trust_domain == *svid.id.trust_domain());
    own.is_some_and(|trust| !trust.anchor.is_empty() && *trust.anchor != *svid.anchor)
}

/// After a certificate has come.
fn pause(svid: &Svid, now: SystemTime) -> Duration {
    if renewal(svid, JITTER) <= now { DUE_INTERVAL } else { MIN_INTERVAL }
}

async fn sleep_until(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        sleep(left.min(CLOCK_CHECK)).await;
    }
}

fn save(bootstrap: &Bootstrap, svid: &Svid) {
    let Some(path) = bootstrap.state_file("svid") else { return };
    let saved = SavedSvid {
        workload: bootstrap.workload.clone(),
        chain: svid.chain.clone(),
        key: svid.key.clone(),
        anchor: svid.anchor.clone(),
    };
    // Blocking, but small and twice a day.
    if let Err(error) = saved::write(&path, &saved) {
        tracing::warn!(path = %path.display(), %error, "certificate isn't saved");
    }
}

#[cfg(test)]
mod tests {
    use rcgen::SanType;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    /// A leaf for `key`, valid from an hour before now to three hours after.
    fn leaf(uris: &[&str], key: &KeyPair) -> Vec<Bytes> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        params.not_before = (now() - Duration::from_secs(3600)).into();
        params.not_after = (now() + Duration::from_secs(3 * 3600)).into();
        vec![Bytes::copy_from_slice(params.self_signed(key).unwrap().der())]
    }

    #[test]
    fn a_good_leaf_is_taken_and_renewed_at_half_of_its_life() {
        let key = KeyPair::generate().unwrap();
        let svid = check(leaf(&["spiffe://td/ns/shop/sa/front"], &key), &key, "shop", now()).unwrap();
        assert_eq!(svid.id.service_account(), "front");
        let hours = |hours: f64| now() - Duration::from_secs(3600) + Duration::from_secs_f64(hours * 3600.0);
        assert_eq!(renewal(&svid, 0.0), hours(2.0));
        assert_eq!(renewal(&svid, -0.1), hours(1.8));
        assert_eq!(renewal(&svid, 0.1), hours(2.2));
        // By a clock that is far ahead it is due as soon as it comes.
        assert_eq!([pause(&svid, now()), pause(&svid, hours(2.5))], [MIN_INTERVAL, DUE_INTERVAL]);
    }

    #[test]
    fn others_are_refused() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = "spiffe://td/ns/shop/sa/front";
        let refused = |chain, key: &KeyPair, at| check(chain, key, "shop", at).unwrap_err().to_string();
        let table = [
            (refused(Vec::new(), &key, now()), "chain is empty"),
            (refused(vec![Bytes::from_static(b"\x30\x03abc")], &key, now()), "not an X.509 certificate"),
            (refused(leaf(&[good], &other), &key, now()), "certificate is for another key"),
            (refused(leaf(&[], &key), &key, now()), "certificate has no single URI name"),
            (refused(leaf(&[good, good], &key), &key, now()), "certificate has no single URI name"),
            (refused(leaf(&["https://td/x"], &key), &key, now()), "identity: not a spiffe:// URI"),
            (refused(leaf(&["spiffe://td/ns/other/sa/front"], &key), &key, now()), "is not of namespace \"shop\""),
            (refused(leaf(&[good], &key), &key, now() + Duration::from_secs(3 * 3600)), "isn't valid now"),
            (refused(leaf(&[good], &key), &key, now() - Duration::from_secs(3700)), "isn't valid now"),
        ];
        for (reason, expected) in table {
            assert!(reason.contains(expected), "{reason:?} is not {expected:?}");
        }
    }

    #[test]
    fn a_saved_certificate_comes_back_only_to_its_workload() {
        let dir = tempfile::tempdir().unwrap();
        let mut bootstrap = crate::stream::tests::bootstrap(dir.path(), "127.0.0.1:1");
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI("spiffe://td/ns/shop/sa/front".try_into().unwrap())];
        let chain = vec![Bytes::copy_from_slice(params.self_signed(&key).unwrap().der())];
        let svid = check(chain, &key, "shop", SystemTime::now()).unwrap();
        let svid = Svid { anchor: "a1".to_owned(), ..svid };
        save(&bootstrap, &svid);
        let back = restored(&bootstrap).unwrap();
        assert_eq!((back.id, back.chain, back.key, back.anchor), (svid.id, svid.chain, svid.key, svid.anchor));
        bootstrap.workload = "shop/other".into();
        assert!(restored(&bootstrap).is_none());
    }

    #[test]
    fn a_leaf_is_overtaken_once_another_root_of_its_own_trust_domain_signs() {
        let key = KeyPair::generate().unwrap();
        let svid = check(leaf(&["spiffe://td/ns/shop/sa/front"], &key), &key, "shop", now()).unwrap();
        let trust = |trust_domain: &str, anchor: &str| Trust {
            trust_domain: trust_domain.into(),
            roots: Vec::new(),
            anchor: anchor.into(),
        };
        for (own, said, overtaken) in [
            ("a1", vec![], false),
            ("a1", vec![trust("td", "a1")], false),
            ("a1", vec![trust("td", "b2")], true),
            // A control plane of an earlier version says nothing.
            ("a1", vec![trust("td", "")], false),
            ("a1", vec![trust("other", "b2"), trust("td", "a1")], false),
            // Of an earlier version, or saved by one: nobody knows what it leads to.
            ("", vec![trust("td", "a1")], true),
        ] {
            let svid = Svid {
                anchor: own.to_owned(),
                key: svid.key.clone(),
                chain: svid.chain.clone(),
                id: svid.id.clone(),
                ..svid
            };
            assert_eq!(is_overtaken(&svid, &said), overtaken, "{own:?} {said:?}");
        }
    }
}
