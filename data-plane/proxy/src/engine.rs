//! What all workers of a proxy share. Nothing here is locked on the request path.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use outrigger_core::{Snapshot, Store};
use outrigger_wire::SpiffeId;

use crate::{
    fallback::Fallback,
    telemetry::{AccessLog, Metrics},
    tls::MeshTls,
};

/// What this proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Beside one app.
    Sidecar,
    /// Acts for pods whose sidecar is down.
    Shared,
}

/// Bounds that no peer can move.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once, all workers together.
    pub connections: usize,
    /// Connections of one identity at once, through a shared proxy.
    pub per_identity: usize,
    /// A TLS handshake, in either direction.
    pub handshake: Duration,
    /// From a connection's first byte to the end of a request's head, or of HTTP/2's preface.
    pub request_head: Duration,
    /// An idle connection of the pod's own app, or of somebody of the mesh.
    pub idle: Duration,
    /// An idle or silent connection of somebody who proved no identity.
    pub idle_stranger: Duration,
    /// How long a silent client is waited for before its destination is dialled, for protocols in which the
    /// server speaks first.
    pub detect: Duration,
    /// How long an unknown destination's answer is waited for before the shared proxy takes the connection.
    pub lookup: Duration,
    /// Decoded bytes of a header list: 64 KiB of an app's own, and what proxies and RFC 9113 (32 for each field) add.
    pub header_bytes: u32,
    /// Streams that one HTTP/2 peer may have open.
    pub streams: u32,
    /// Pipes of a worker, through which the kernel moves bulk.
    pub pipes: usize,
}

/// Descriptors that no connection gets: the admin interface's, the controller's stream, files.
const KEPT: usize = 256;
/// And each worker's: its event loop and listening sockets.
const KEPT_BY_WORKER: usize = 24;
/// As many identities together may take all connections of a shared proxy.
const SHARES: usize = 8;
/// However few there are.
const LEAST: usize = 16;

/// Everything that workers share.
pub struct Engine {
    pub role: Role,
    pub store: Arc<Store>,
    pub tls: Arc<MeshTls>,
    pub metrics: Arc<Metrics>,
    pub log: AccessLog,
    pub fallback: Arc<Fallback>,
    pub limits: Limits,
    /// Where this proxy runs; empty: where the control plane says.
    pub zone: String,
    /// SO_MARK of what this proxy sends.
    pub mark: Option<u32>,
    pub active: ActiveConnections,
    /// Those of `active` that bring plaintext.
    pub strangers: ActiveConnections,
    /// Those of `active` whose TLS handshake hasn't ended.
    pub handshakes: ActiveConnections,
    pub shares: Shares,
}

/// Counts connections and refuses more than the limit.
#[derive(Debug, Default)]
pub struct ActiveConnections(Arc<AtomicUsize>);

/// Connections of each identity that a shared proxy acts for, so that one can't take all.
#[derive(Debug, Default)]
pub struct Shares(DashMap<SpiffeId, ActiveConnections>);

/// Its connection is counted while this lives.
#[derive(Debug)]
pub(crate) struct Admitted(Arc<AtomicUsize>);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16 * 1024,
            per_identity: 16 * 1024 / SHARES,
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            idle: Duration::from_secs(3600),
            idle_stranger: Duration::from_secs(75),
            detect: Duration::from_millis(10),
            lookup: Duration::from_millis(50),
            header_bytes: 80 * 1024,
            streams: 256,
            pipes: 256,
        }
    }
}

// === impl Limits ===

impl Limits {
    /// No more than fit the descriptors that this process may have. A connection takes one, and another upstream; bulk, which
    /// can do without, gets an eighth.
    pub fn within(self, descriptors: usize, workers: usize) -> Self {
        let workers = workers.max(1);
        let pipes = self.pipes.min(descriptors / 8 / 2 / workers);
        let free = descriptors.saturating_sub(KEPT + (KEPT_BY_WORKER + 2 * pipes) * workers);
        let connections = self.connections.min((free / 2).max(LEAST));
        if connections == self.connections {
            return Self { pipes, ..self };
        }
        // A setting of more than the usual share stays the same share.
        let share = (connections / SHARES).max(self.per_identity.saturating_mul(connections) / self.connections);
        Self { connections, pipes, per_identity: share.min(self.per_identity), ..self }
    }
}

// === impl Engine ===

impl Engine {
    /// Of a proxy without settings: by the usual limits, and without an access log.
    pub fn new(role: Role, store: Arc<Store>, tls: Arc<MeshTls>) -> Self {
        Self {
            role,
            fallback: Arc::new(Fallback::new(store.clone(), tls.clone(), None, String::new())),
            store,
            tls,
            metrics: Metrics::new(),
            log: AccessLog::off(),
            limits: Limits::default(),
            zone: String::new(),
            mark: None,
            active: Default::default(),
            strangers: Default::default(),
            handshakes: Default::default(),
            shares: Default::default(),
        }
    }

    /// Where this proxy runs; empty if nobody knows.
    pub(crate) fn zone<'a>(&'a self, snapshot: &'a Snapshot) -> &'a str {
        if self.zone.is_empty() { snapshot.zone() } else { &self.zone }
    }

    /// Plaintext may take half of all connections: whoever sends it has proven nothing, and mustn't end the pod's own calls.
    pub(crate) fn admit_stranger(&self) -> Option<Admitted> {
        self.strangers.admit(self.limits.connections / 2)
    }

    /// Handshakes may take a quarter: until they have ended, they are strangers'. So another quarter is left to calls and
    /// to the mesh. A shared proxy has no plaintext, and takes many at once when many sidecars die.
    pub(crate) fn admit_handshake(&self) -> Option<Admitted> {
        let share = match self.role {
            Role::Sidecar => 4,
            Role::Shared => 2,
        };
        self.handshakes.admit(self.limits.connections / share)
    }
}

// === impl ActiveConnections ===

impl ActiveConnections {
    pub(crate) fn admit(&self, limit: usize) -> Option<Admitted> {
        let admitted = Admitted(self.0.clone());
        // The drop of a refused one takes its count back.
        (self.0.fetch_add(1, Ordering::Relaxed) < limit).then_some(admitted)
    }

    /// Connections open now.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Shares ===

impl Shares {
    pub(crate) fn admit(&self, identity: &SpiffeId, limit: usize) -> Option<Admitted> {
        // Identities come and go; those without connections are forgotten when there are many.
        if self.0.len() > 1024 {
            self.0.retain(|_, connections| connections.count() > 0);
        }
        self.0.entry(identity.clone()).or_default().admit(limit)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is shipped is what docs/failure-modes.md says, with why where it isn't what is usual.
    #[test]
    fn limits_are_those_that_are_documented() {
        let Limits {
            connections,
            per_identity,
            handshake,
            request_head,
            idle,
            idle_stranger,
            detect,
            lookup,
            header_bytes,
            streams,
            pipes,
        } = Limits::default();
        let documented = include_str!("../../../docs/failure-modes.md");
        for (what, limit) in [
            ("connections of a proxy", connections.to_string()),
            ("connections of one identity, in a shared proxy", per_identity.to_string()),
            ("a TLS handshake", format!("{} s", handshake.as_secs())),
            ("a request's head", format!("{} s", request_head.as_secs())),
            ("idle, of the pod's own app", format!("{} s", idle.as_secs())),
            ("idle, of somebody without an identity", format!("{} s", idle_stranger.as_secs())),
            ("a client's silence, until its destination is dialled", format!("{} ms", detect.as_millis())),
            ("an unknown destination, until a shared proxy is asked", format!("{} ms", lookup.as_millis())),
            ("decoded bytes of a header list", header_bytes.to_string()),
            ("streams of an HTTP/2 connection", streams.to_string()),
            ("pipes of a worker, for bulk", pipes.to_string()),
        ] {
            assert!(documented.contains(&format!("| {what} | {limit} |")), "docs/failure-modes.md: {what}: {limit}");
        }
    }

    #[test]
    fn connections_fit_the_descriptors_that_there_are() {
        let within = |descriptors, workers| Limits::default().within(descriptors, workers);
        let fitting = |descriptors: usize, workers: usize| {
            let Limits { connections, per_identity, pipes, .. } = within(descriptors, workers);
            assert!(2 * connections + (2 * pipes + KEPT_BY_WORKER) * workers + KEPT <= descriptors, "{descriptors}");
            (connections, per_identity, pipes)
        };
        for plenty in [1 << 16, 1 << 20, usize::MAX] {
            assert_eq!(fitting(plenty, 4), (16 * 1024, 2 * 1024, 256));
        }
        assert_eq!(fitting(1024, 1), (308, 38, 64));
        assert_eq!(fitting(20_000, 2), (9336, 1167, 256));
        // What the documentation says of them.
        let documented = include_str!("../../../docs/failure-modes.md");
        assert!(documented.contains("1,024 descriptors leave 308") && documented.contains("33,560 allow all"));
        assert_eq!((fitting(33_560, 1).0, fitting(33_558, 1).0), (16 * 1024, 16 * 1024 - 1));
        // It is served as long as it can be.
        let few = within(64, 1);
        assert_eq!((few.connections, few.per_identity), (LEAST, 2));
        let wanted = Limits { per_identity: 20, ..Limits::default() }.within(1024, 1);
        assert_eq!(wanted.per_identity, 20);
        let many = Limits { per_identity: 1 << 20, ..Limits::default() }.within(1024, 1);
        assert_eq!(many.per_identity, (1 << 20) * 308 / (16 * 1024));
    }
}
