//! What `outrigger status` shows. The JSON of `--json` is made of these types: their fields stay.

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    pub(crate) controllers: Vec<Controller>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) summary: Summary,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Controller {
    /// Its pod, or its address.
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// Whether it is the one that writes statuses; none if it isn't said.
    pub(crate) leader: Option<bool>,
    /// Of the configuration that it serves.
    pub(crate) generation: Option<u64>,
    /// Streams of proxies.
    pub(crate) streams: usize,
    /// Why it can't be asked.
    pub(crate) error: Option<String>,
}

/// A pod with proxies.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Proxy {
    /// `NAMESPACE/NAME`
    pub(crate) workload: String,
    pub(crate) mode: Mode,
    /// Of what was injected; none if it isn't said.
    pub(crate) version: Option<String>,
    /// The worst of its parts.
    pub(crate) sync: Sync,
    /// Why it isn't [`Sync::Synced`].
    pub(crate) reason: Option<String>,
    /// Who carries the pod if its sidecar doesn't.
    pub(crate) fallback: Option<Fallback>,
    /// RFC 3339; of the part whose certificate ends first.
    pub(crate) certificate_expires: Option<String>,
    /// Until then; negative afterwards.
    pub(crate) certificate_seconds: Option<i64>,
    pub(crate) parts: Vec<Part>,
}

/// One process of a pod.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) version: Option<String>,
    pub(crate) sync: Sync,
    pub(crate) reason: Option<String>,
    /// The controller whose stream it holds.
    pub(crate) controller: Option<String>,
    /// Of the served configuration that it was sent last.
    pub(crate) generation: Option<u64>,
    /// Resources of which it holds the version that is served, and all that it holds.
    pub(crate) current: usize,
    pub(crate) held: usize,
    pub(crate) certificate_expires: Option<String>,
    /// Why its admin interface can't be asked.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Sidecar,
    /// A guard alone; the shared proxies are its sidecar.
    Shared,
    /// One of the shared proxies.
    SharedProxy,
    /// Only its stream is known.
    Unknown,
}

/// From good to bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Sync {
    /// It holds what is served.
    Synced,
    /// It holds an older version of something.
    Stale,
    /// No controller has a stream of it; it goes on with what it held last.
    Disconnected,
    /// It has refused something; the last good version is in force.
    Rejected,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fallback {
    /// `carrying`, `closed`, `direct` or `stuck`
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    /// RFC 3339
    pub(crate) since: Option<String>,
    pub(crate) seconds: Option<i64>,
    /// Connections carried now.
    pub(crate) connections: u64,
    /// Whether it is how the pod is meant to be.
    pub(crate) intended: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) proxies: usize,
    pub(crate) synced: usize,
    pub(crate) stale: usize,
    pub(crate) rejected: usize,
    pub(crate) disconnected: usize,
    pub(crate) in_fallback: usize,
    pub(crate) unreachable: usize,
    pub(crate) controllers: usize,
    pub(crate) controllers_ready: usize,
    pub(crate) leader: Option<String>,
}

// === impl Report ===

impl Report {
    pub(crate) fn has_findings(&self) -> bool {
        let summary = &self.summary;
        summary.synced < summary.proxies
            || summary.in_fallback > 0
            || summary.unreachable > 0
            || summary.controllers_ready < summary.controllers
    }
}
