//! The proxy's metrics, encoded as OpenMetrics text. Handles are resolved when configuration or a connection
//! arrives; what is recorded through them is in [`series`](super::series).

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{encoding::text, registry::Registry};

use super::series::{
    Bounded, ConnectionSeries, Direction, FallbackReason, HttpSeries, Level, Listener, PolicySeries, Side, TcpSeries,
    TlsSeries, Total, UpstreamSeries,
};

mod encode;

/// All metrics of one proxy.
pub struct Metrics {
    families: Arc<Families>,
    registry: Registry,
}

#[derive(Debug)]
struct Families {
    http: [Bounded<3, HttpSeries>; 2],
    tcp: [Bounded<2, TcpSeries>; 2],
    upstream: Bounded<1, UpstreamSeries>,
    policy: Bounded<1, PolicySeries>,
    connections: [Arc<ConnectionSeries>; 3],
    connections_shed: Total,
    connections_limit: Level,
    tls: [TlsSeries; 2],
    fallback: [[Total; FallbackReason::ALL.len()]; 2],
    fallback_failures: [Total; 2],
    memory_level: Level,
    config_generation: Level,
    certificate_expiry: Level,
    access_log_dropped: Arc<Total>,
}

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Arc<Self> {
        let families = Arc::new(Families::new());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(families.clone()));
        Arc::new(Self { families, registry })
    }

    /// OpenMetrics text, of content type [`CONTENT_TYPE`](Self::CONTENT_TYPE).
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a string can't fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// For requests; keep the handle.
    pub fn http(&self, direction: Direction, service: &Arc<str>, route: &Arc<str>, peer: &Arc<str>) -> Arc<HttpSeries> {
        self.families.http[direction as usize].get([service, route, peer])
    }

    /// For opaque connections; keep the handle.
    pub fn tcp(&self, direction: Direction, service: &Arc<str>, peer: &Arc<str>) -> Arc<TcpSeries> {
        self.families.tcp[direction as usize].get([service, peer])
    }

    /// For what happens between this proxy and a service's endpoints; keep the handle.
    pub fn upstream(&self, service: &Arc<str>) -> Arc<UpstreamSeries> {
        self.families.upstream.get([service])
    }

    /// For decisions of an access policy; keep the handle.
    pub fn policy(&self, policy: &Arc<str>) -> Arc<PolicySeries> {
        self.families.policy.get([policy])
    }

    pub fn connections(&self, listener: Listener) -> &Arc<ConnectionSeries> {
        &self.families.connections[listener as usize]
    }

    /// A connection was closed unread, because there were too many.
    pub fn connection_shed(&self) {
        self.families.connections_shed.inc();
    }

    /// As many connections as may be open at once.
    pub fn set_connections_limit(&self, limit: usize) {
        self.families.connections_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }

    pub fn tls(&self, side: Side) -> &TlsSeries {
        &self.families.tls[side as usize]
    }

    /// Connections that went through a shared proxy.
    pub fn fallback(&self, direction: Direction, reason: FallbackReason) -> &Total {
        &self.families.fallback[direction as usize][reason as usize]
    }

    /// Connections for which no shared proxy answered.
    pub fn fallback_failures(&self, direction: Direction) -> &Total {
        &self.families.fallback_failures[direction as usize]
    }

    /// 0: there is memory; 1: connections are shed; 2: they are ended.
    pub fn set_memory_level(&self, level: i64) {
        self.families.memory_level.set(level);
    }

    pub fn set_config_generation(&self, generation: u64) {
        self.families.config_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    pub fn set_certificate_expiry(&self, not_after: SystemTime) {
        let seconds = not_after.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.families.certificate_expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// Records that the access log had no room for.
    pub fn access_log_dropped(&self) -> Arc<Total> {
        self.families.access_log_dropped.clone()
    }
}

// === impl Families ===

impl Families {
    fn new() -> Self {
        Self {
            http: std::array::from_fn(|_| Bounded::new()),
            tcp: std::array::from_fn(|_| Bounded::new()),
            upstream: Bounded::new(),
            policy: Bounded::new(),
            connections: std::array::from_fn(|_| Arc::default()),
            connections_shed: Total::default(),
            connections_limit: Level::default(),
            tls: std::array::from_fn(|_| TlsSeries::default()),
            fallback: Default::default(),
            fallback_failures: Default::default(),
            memory_level: Level::default(),
            config_generation: Level::default(),
            certificate_expiry: Level::default(),
            access_log_dropped: Arc::default(),
        }
    }
}

#[cfg(test)]
mod tests;
