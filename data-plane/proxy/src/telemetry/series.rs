//! Series: the counters of one label combination. All of them are plain atomics, so a worker that holds a handle
//! records without a lock.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Something that only grows.
#[derive(Debug, Default)]
pub struct Total(AtomicU64);

/// Something that rises and falls.
#[derive(Debug, Default)]
pub struct Level(AtomicI64);

/// As the pod sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Outbound,
    Inbound,
}

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// Captured from the pod's apps.
    Outbound,
    /// Plaintext captured on its way to the pod.
    Inbound,
    /// mTLS from another proxy.
    Mesh,
}

/// Which end of a TLS session this proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Server,
    Client,
}

/// Why traffic took the way through a shared proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackReason {
    /// No sidecar is connected to the guard.
    SidecarDown,
    /// The sidecar's heartbeat is late.
    SidecarHung,
    /// The sidecar has started, but has no configuration or certificate yet.
    NotReady,
    /// The sidecar doesn't know yet what is behind an address.
    UnknownDestination,
    /// The pod is enrolled without a sidecar.
    Shared,
}

/// Requests of one (direction, service, route, peer).
#[derive(Debug)]
pub struct HttpSeries {
    pub(super) codes: [Total; CODES.len() + 1],
    /// Most series carry no gRPC at all.
    pub(super) grpc: OnceLock<Box<[Total; GRPC_CODES + 1]>>,
    pub(super) duration: Durations,
    pub(super) request_bytes: Total,
    pub(super) response_bytes: Total,
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub(super) struct Durations {
    pub(super) buckets: [Total; BOUNDS.len() + 1],
    nanoseconds: Total,
}

/// Opaque connections of one (direction, service, peer).
#[derive(Debug, Default)]
pub struct TcpSeries {
    pub(super) opened: Total,
    pub(super) active: Level,
    pub(super) sent: Total,
    pub(super) received: Total,
}

/// An open connection of a [`TcpSeries`]; dropping it closes it.
#[derive(Debug)]
#[must_use]
pub struct TcpConnection(Arc<TcpSeries>);

/// Connections accepted by one listener.
#[derive(Debug, Default)]
pub struct ConnectionSeries {
    pub(super) opened: Total,
    pub(super) active: Level,
}

/// An open connection of a [`ConnectionSeries`]; dropping it closes it.
#[derive(Debug)]
#[must_use]
pub struct Connection(Arc<ConnectionSeries>);

/// Handshakes on one side.
#[derive(Debug, Default)]
pub struct TlsSeries {
    pub handshakes: Total,
    pub failures: Total,
}

/// What happens between this proxy and the endpoints of one service.
#[derive(Debug, Default)]
pub struct UpstreamSeries {
    pub connect_failures: Total,
    pub retries: Total,
    /// Retries that the budget forbade.
    pub retries_over_budget: Total,
}

/// Decisions of one access policy.
#[derive(Debug, Default)]
pub struct PolicySeries {
    pub denied: Total,
    pub audited: Total,
}

/// Series of one family by the values of its labels: at most [`MAX_SERIES`], then one more for all others, so that
/// nobody's requests can grow it without bound. Its lock is taken to resolve a handle and to encode, never to record.
#[derive(Debug)]
pub(super) struct Bounded<const N: usize, V>(Mutex<BTreeMap<[Arc<str>; N], Arc<V>>>);

/// Of one family and direction.
pub(super) const MAX_SERIES: usize = 1024;

/// Value of every label of the series for what exceeds [`MAX_SERIES`].
pub(super) const OTHER: &str = "other";

/// HTTP status codes with a series of their own.
pub(super) const CODES: [u16; 44] = [
    101, 200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 408,
    409, 410, 411, 412, 413, 414, 415, 417, 421, 422, 425, 429, 431, 499, 500, 501, 502, 503, 504, 505, 511,
];

/// gRPC status codes, 0 to 16.
pub(super) const GRPC_CODES: usize = 17;

/// Upper bounds of the duration buckets in microseconds.
pub(super) const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// Position in [`CODES`] by status code; `CODES.len()` for the rest.
const CODE_INDEX: [u8; 600] = {
    let mut index = [CODES.len() as u8; 600];
    let mut at = 0;
    while at < CODES.len() {
        index[CODES[at] as usize] = at as u8;
        at += 1;
    }
    index
};

// === impl Total ===

impl Total {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Level ===

impl Level {
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

// === labels ===

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Listener {
    pub(super) const ALL: [Self; 3] = [Self::Outbound, Self::Inbound, Self::Mesh];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Mesh => "mesh",
        }
    }
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Server, Self::Client];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

impl FallbackReason {
    pub const ALL: [Self; 5] =
        [Self::SidecarDown, Self::SidecarHung, Self::NotReady, Self::UnknownDestination, Self::Shared];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::SidecarDown => "sidecar_down",
            Self::SidecarHung => "sidecar_hung",
            Self::NotReady => "not_ready",
            Self::UnknownDestination => "unknown_destination",
            Self::Shared => "shared",
        }
    }
}

// === impl HttpSeries ===

impl Default for HttpSeries {
    fn default() -> Self {
        Self {
            codes: std::array::from_fn(|_| Total::default()),
            grpc: OnceLock::new(),
            duration: Durations::default(),
            request_bytes: Total::default(),
            response_bytes: Total::default(),
        }
    }
}

impl HttpSeries {
    /// One request that has ended. Bytes are those of bodies.
    pub fn record(
        &self,
        status: u16,
        grpc_status: Option<u16>,
        duration: Duration,
        request_bytes: u64,
        response_bytes: u64,
    ) {
        let code = CODE_INDEX.get(usize::from(status)).map_or(CODES.len(), |index| usize::from(*index));
        self.codes[code].inc();
        if let Some(status) = grpc_status {
            let totals = self.grpc.get_or_init(|| Box::new(std::array::from_fn(|_| Total::default())));
            totals[usize::from(status).min(GRPC_CODES)].inc();
        }
        self.duration.record(duration);
        self.request_bytes.add(request_bytes);
        self.response_bytes.add(response_bytes);
    }
}

// === impl Durations ===

impl Durations {
    fn record(&self, duration: Duration) {
        let bucket = BOUNDS.partition_point(|bound| Duration::from_micros(*bound) < duration);
        self.buckets[bucket].inc();
        self.nanoseconds.add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// In seconds.
    pub(super) fn sum(&self) -> f64 {
        Duration::from_nanos(self.nanoseconds.get()).as_secs_f64()
    }
}

// === impl TcpSeries ===

impl TcpSeries {
    pub fn open(self: &Arc<Self>) -> TcpConnection {
        self.opened.inc();
        self.active.inc();
        TcpConnection(self.clone())
    }
}

impl TcpConnection {
    /// Bytes from the caller and to the caller.
    pub fn close(self, sent: u64, received: u64) {
        self.0.sent.add(sent);
        self.0.received.add(received);
    }
}

impl Drop for TcpConnection {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

// === impl ConnectionSeries ===

impl ConnectionSeries {
    pub fn open(self: &Arc<Self>) -> Connection {
        self.opened.inc();
        self.active.inc();
        Connection(self.clone())
    }

    /// Connections that are open now.
    pub fn active(&self) -> i64 {
        self.active.get()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.active.dec();
    }
}

// === impl Bounded ===

impl<const N: usize, V: Default> Bounded<N, V> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    pub(super) fn get(&self, labels: [&Arc<str>; N]) -> Arc<V> {
        let mut labels = labels.map(Arc::clone);
        let mut series = self.lock();
        if series.len() >= MAX_SERIES && !series.contains_key(&labels) {
            labels = std::array::from_fn(|_| Arc::from(OTHER));
        }
        series.entry(labels).or_default().clone()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<[Arc<str>; N], Arc<V>>> {
        // Nothing can panic half way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        let family = Bounded::<1, PolicySeries>::new();
        for n in 0..100_000 {
            family.get([&Arc::from(n.to_string())]).denied.inc();
        }
        let series = family.lock();
        assert_eq!(series.len(), MAX_SERIES + 1);
        assert_eq!(series[&[Arc::from(OTHER)]].denied.get(), 100_000 - MAX_SERIES as u64);
        assert_eq!(series.values().map(|s| s.denied.get()).sum::<u64>(), 100_000);
    }

    #[test]
    fn every_status_is_counted_once() {
        let series = HttpSeries::default();
        for status in 0..=u16::MAX {
            series.record(status, Some(status), Duration::ZERO, 1, 2);
        }
        assert!(series.codes[..CODES.len()].iter().all(|total| total.get() == 1));
        assert_eq!(series.codes.iter().map(Total::get).sum::<u64>(), 65_536);
        assert_eq!(series.grpc.get().unwrap().iter().map(Total::get).sum::<u64>(), 65_536);
        assert_eq!((series.request_bytes.get(), series.response_bytes.get()), (65_536, 131_072));
    }

    #[test]
    fn bucket_bounds_are_inclusive() {
        let durations = Durations::default();
        for (micros, bucket) in [(0, 0), (500, 0), (501, 1), (10_000_000, 13), (10_000_001, 14), (u64::MAX / 1000, 14)]
        {
            let before = durations.buckets[bucket].get();
            durations.record(Duration::from_micros(micros));
            assert_eq!(durations.buckets[bucket].get(), before + 1, "{micros} us");
        }
    }

    #[test]
    fn a_dropped_connection_is_closed() {
        let series = Arc::new(TcpSeries::default());
        let connection = series.open();
        drop(series.open());
        assert_eq!((series.opened.get(), series.active.get()), (2, 1));
        connection.close(3, 4);
        assert_eq!((series.active.get(), series.sent.get(), series.received.get()), (0, 3, 4));
    }
}
