//! How far a change of the mesh's root has come: what is decided about it, what that is decided by, and how it is kept.
//! Every replica trusts first; the leader decides when another root signs and when the one before leaves, and says so on
//! the ConfigMap that it publishes the roots in, where each replica reads it, a restarted one first of all. Pure: the
//! Secret, the counts and the time are arguments.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use k8s_openapi::api::core::v1::ConfigMap;
use outrigger_model::{
    held::{Certificates, Signed},
    inputs::Mode,
};
use outrigger_wire::names::{ROOT_FILE, ROTATION_ANNOTATION, SHARED_NAME, SYSTEM_NAMESPACE};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::pod::{Phase, Pod};

#[cfg(test)]
mod tests;

/// From when another root is trusted until it may sign: the other replicas must have looked too, the trust bundle must have
/// reached every pod (the kubelet takes up to two minutes), and the API server the webhooks' caBundle. Nobody acknowledges
/// these; proxies do, and are waited for as long as it takes.
pub const SETTLE: Duration = Duration::from_secs(180);
/// Beyond a certificate's life: clocks differ.
const SKEW: Duration = Duration::from_secs(15 * 60);

/// What is decided. A root is called by its anchor (`IssueResponse.anchor`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The root that signs; no replica signs by another that it knows to be decided on.
    pub anchor: String,
    /// Unix seconds: since then every replica has signed by it, and by no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// UID of the Secret that this is about: that of another installation says nothing.
    #[serde(default)]
    pub secret: String,
    /// What the present step waits for. For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// What the leader has decided, and in which term.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decided {
    pub epoch: i64,
    pub progress: Progress,
}

/// What was published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// DER.
    pub roots: BTreeSet<Bytes>,
    /// `None`: an earlier version has published it, or somebody has changed the roots since.
    pub progress: Option<Progress>,
}

/// Where a change is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Nothing changes.
    #[default]
    Rest,
    /// Another root is trusted and doesn't sign yet.
    Distribute,
    /// A root is trusted that the Secret no longer holds.
    Retire,
}

/// What is known of the certificates that are in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Proxies that say that theirs leads to another root.
    pub others: usize,
    /// Proxies that aren't connected although their pods are there, and those that don't say.
    pub unknown: usize,
    /// Replicas that don't answer, or sign by another root.
    pub apart: usize,
}

/// As in [`Progress`], with what the roots were.
#[derive(Serialize, Deserialize)]
struct Annotation {
    #[serde(flatten)]
    progress: Progress,
    /// Hash of the roots as published: what somebody has changed since is no decision.
    roots: String,
}

/// The value of [`ROTATION_ANNOTATION`] beside these roots.
pub fn annotation(progress: &Progress, pem: &str) -> String {
    let annotation = Annotation { progress: progress.clone(), roots: hash(pem) };
    serde_json::to_string(&annotation).unwrap_or_default()
}

/// Which proxies there should be, as `NAMESPACE/POD/ROLE`: those of every pod that may hold a certificate.
pub(crate) fn expected<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<String> {
    let there = pods.filter(|pod| pod.phase != Phase::Ended && !pod.node.is_empty());
    let roles = |pod: &Pod| -> &'static [&'static str] {
        match pod.has {
            Mode::Sidecar => &["guard", "sidecar"],
            Mode::Shared => &["guard"],
            Mode::None if pod.namespace == SYSTEM_NAMESPACE && pod.service_account == SHARED_NAME => &["shared"],
            Mode::None => &[],
        }
    };
    there.flat_map(|pod| roles(pod).iter().map(|role| format!("{}/{}/{role}", pod.namespace, pod.name))).collect()
}

fn hash(pem: &str) -> String {
    Sha256::digest(pem).iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Record ===

impl Record {
    /// Reads the ConfigMap. `secret` is the UID of the Secret that is in use.
    pub fn read(map: &ConfigMap, secret: &str) -> Self {
        let pem = map.data.as_ref().and_then(|data| data.get(ROOT_FILE)).map(String::as_str).unwrap_or_default();
        let roots = CertificateDer::pem_slice_iter(pem.as_bytes()).flatten();
        let roots = roots.map(|root| Bytes::copy_from_slice(&root)).collect();
        let annotation = map.metadata.annotations.as_ref().and_then(|all| all.get(ROTATION_ANNOTATION));
        let said: Option<Annotation> = annotation.and_then(|text| serde_json::from_str(text).ok());
        match said {
            Some(said) if said.progress.secret != secret => Self::default(),
            Some(said) if said.roots == hash(pem) => Self { roots, progress: Some(said.progress) },
            Some(_) | None => Self { roots, progress: None },
        }
    }
}

// === impl Stage ===

impl Stage {
    /// `offered` is what the Secret would sign by; `leftover`, whether more is trusted than the Secret holds.
    pub fn of(progress: &Progress, offered: &str, leftover: bool) -> Self {
        match (progress.anchor == offered, leftover) {
            (false, _) => Self::Distribute,
            (true, true) => Self::Retire,
            (true, false) => Self::Rest,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rest => "rest",
            Self::Distribute => "distribute",
            Self::Retire => "retire",
        }
    }
}

// === impl Evidence ===

impl Evidence {
    /// `replicas` are all that have answered, the own one among them; `silent` is how many haven't.
    pub(crate) fn of(anchor: &str, mut expected: BTreeSet<String>, replicas: &[Option<Signed>], silent: usize) -> Self {
        let mut all = Certificates::default();
        let mut apart = silent;
        for replica in replicas {
            // One of an earlier version doesn't know the question.
            let Some(signed) = replica else {
                apart += 1;
                continue;
            };
            apart += usize::from(signed.by != anchor);
            all.have.extend(signed.certificates.have.iter().cloned());
            all.others.extend(signed.certificates.others.iter().cloned());
            all.silent.extend(signed.certificates.silent.iter().cloned());
        }
        expected.extend(all.silent);
        let unknown = expected.iter().filter(|proxy| !all.have.contains(*proxy) && !all.others.contains(*proxy));
        Self { others: all.others.len(), unknown: unknown.count(), apart }
    }

    /// What a root that the Secret no longer holds still waits for; `None`: nobody needs it any more. A proxy that shows a
    /// certificate of it is waited for as long as it takes; one that nobody hears of has none once `life` is over that
    /// certificates have.
    pub fn missing(self, since: Option<u64>, life: Duration, now: u64) -> Option<String> {
        let Self { others, unknown, apart } = self;
        if apart > 0 {
            return Some(format!("{apart} replicas of the controller don't answer, or don't sign by the same root"));
        }
        if others > 0 {
            return Some(format!("{others} connected proxies still have a certificate of another root"));
        }
        let end = since.map(|since| since.saturating_add((life + SKEW).as_secs()));
        let left = end.map_or(u64::MAX, |end| end.saturating_sub(now));
        if unknown == 0 || left == 0 {
            return None;
        }
        Some(format!(
            "{unknown} proxies aren't connected, or don't say which root their certificate is of; none is good for longer \
             than {} h",
            left.min((life + SKEW).as_secs()).div_ceil(3600)
        ))
    }
}

/// What another root still waits for before it signs, besides proxies; `None`: nothing. `published`: all that was decided
/// before is where a restarted replica finds it.
pub fn unsettled(trusted_for: Duration, published: bool) -> Option<String> {
    if !published {
        return Some("what was decided before isn't published yet".to_owned());
    }
    let left = SETTLE.saturating_sub(trusted_for);
    (!left.is_zero()).then(|| "files of pods and the API server get it within three minutes".to_owned())
}
