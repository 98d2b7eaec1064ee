//! What a guard says of itself: whether it is ready, who accepts and since when, what it carried. Looks on; decides
//! nothing about a connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use outrigger_core::{
    Store,
    config::{Inbound, OnSidecarFailure},
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::state::{Authority, Cause};
use crate::{
    fallback::Fallback,
    telemetry::{Direction, FallbackReason, Listener, Metrics},
    tls::MeshTls,
};

/// Looks at one guard from outside.
pub struct View {
    authority: watch::Receiver<Option<Authority>>,
    /// Unix seconds at which `authority` last changed.
    since: AtomicU64,
    store: Arc<Store>,
    tls: Arc<MeshTls>,
    fallback: Fallback,
    metrics: Arc<Metrics>,
    /// Whether a sidecar is to be expected.
    sidecar: bool,
    /// Whether the pod's traffic is captured, where it is to be.
    captured: watch::Receiver<bool>,
}

/// What a guard knows that bears on its readiness.
#[derive(Clone, Copy)]
struct Known<'a> {
    own: Option<&'a Inbound>,
    certificate: bool,
    shared_proxy: bool,
    sidecar: bool,
}

// === impl View ===

impl View {
    pub fn new(
        authority: watch::Receiver<Option<Authority>>,
        store: Arc<Store>,
        tls: Arc<MeshTls>,
        metrics: Arc<Metrics>,
        zone: String,
        sidecar: bool,
        captured: watch::Receiver<bool>,
    ) -> Arc<Self> {
        let fallback = Fallback::new(store.clone(), tls.clone(), None, zone);
        let since = AtomicU64::new(unix_seconds());
        Arc::new(Self { authority, since, store, tls, fallback, metrics, sidecar, captured })
    }

    /// Notes when the authority changes, for as long as its task lives.
    pub async fn follow(self: Arc<Self>) {
        let mut authority = self.authority.clone();
        while authority.changed().await.is_ok() {
            self.since.store(unix_seconds(), Ordering::Relaxed);
        }
    }

    /// Whether the pod's connections are in good hands.
    ///
    /// # Errors
    /// What is missing.
    pub fn readiness(&self) -> Result<(), &'static str> {
        if !*self.captured.borrow() {
            return Err("nothing captures this pod's traffic; see the guard's log");
        }
        let own = self.store.load().own.clone();
        let known = Known {
            own: own.as_deref(),
            certificate: self.tls.identity().is_some(),
            shared_proxy: self.fallback.usable(),
            sidecar: self.sidecar,
        };
        readiness(*self.authority.borrow(), known)
    }

    /// For the dump.
    pub fn dump(&self) -> Value {
        let authority = *self.authority.borrow();
        let own = self.store.load().own.clone();
        let reason = match authority {
            Some(Authority::Guard(cause)) if self.sidecar => Some(cause.as_str()),
            Some(Authority::Guard(_)) => Some("no_sidecar"),
            Some(Authority::Sidecar) | None => None,
        };
        json!({
            "state": state(authority, own.as_deref(), self.fallback.usable()),
            "reason": reason,
            "captured": *self.captured.borrow(),
            "since": self.since.load(Ordering::Relaxed),
            "carried": self.carried(),
        })
    }

    fn carried(&self) -> Value {
        let listeners = [Listener::Outbound, Listener::Inbound, Listener::Mesh];
        let now: i64 = listeners.iter().map(|listener| self.metrics.connections(*listener).active()).sum();
        let directions = [Direction::Outbound, Direction::Inbound];
        let total = |reason| directions.map(|direction| self.metrics.fallback(direction, reason).get()).iter().sum();
        let by_reason: serde_json::Map<_, _> = FallbackReason::ALL
            .iter()
            .map(|reason| (reason.as_str().to_owned(), total(*reason)))
            .filter(|(_, count): &(_, u64)| *count > 0)
            .map(|(reason, count)| (reason, count.into()))
            .collect();
        let failed: u64 = directions.map(|direction| self.metrics.fallback_failures(direction).get()).iter().sum();
        json!({ "now": now, "total": by_reason.values().filter_map(Value::as_u64).sum::<u64>(), "by_reason": by_reason, "failed": failed })
    }
}

fn readiness(authority: Option<Authority>, known: Known<'_>) -> Result<(), &'static str> {
    let cause = match authority {
        None => return Err("the listening sockets aren't here"),
        Some(Authority::Sidecar) => return Ok(()),
        Some(Authority::Guard(cause)) => cause,
    };
    let own = known.own.ok_or("no configuration")?;
    if !known.certificate {
        return Err("no certificate");
    }
    // Kubernetes starts the sidecar once its guard is ready: one that has never been there isn't waited for.
    if known.sidecar && cause == Cause::Absent {
        return Ok(());
    }
    if own.fallback.on_sidecar_failure == OnSidecarFailure::Closed {
        return Err("no sidecar accepts, and the owner wants connections closed then");
    }
    if known.shared_proxy { Ok(()) } else { Err("no shared proxy is known") }
}

fn state(authority: Option<Authority>, own: Option<&Inbound>, usable: bool) -> &'static str {
    match (authority, own.map(|own| own.fallback.on_sidecar_failure)) {
        (None, _) | (Some(Authority::Guard(Cause::Absent)), None) => "starting",
        (Some(Authority::Sidecar), _) => "standby",
        (_, Some(OnSidecarFailure::Closed)) => "closed",
        (_, Some(OnSidecarFailure::Direct)) => "direct",
        (_, Some(OnSidecarFailure::Fallback)) if usable => "carrying",
        _ => "stuck",
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use outrigger_wire::proto::config as wire;

    use super::*;

    fn own(on_sidecar_failure: OnSidecarFailure) -> Inbound {
        let fallback = wire::Fallback { on_sidecar_failure: on_sidecar_failure.into(), ..Default::default() };
        let identity = "spiffe://cluster.local/ns/shop/sa/front".into();
        let fallback = Some(fallback);
        Inbound::compile(wire::Inbound { workload: "shop/front".into(), identity, fallback, ..Default::default() })
            .unwrap()
    }

    #[test]
    fn ready_is_who_can_be_given_connections() {
        let (fallback, closed) = (own(OnSidecarFailure::Fallback), own(OnSidecarFailure::Closed));
        let all = Known { own: Some(&fallback), certificate: true, shared_proxy: true, sidecar: true };
        let nothing = Known { own: None, certificate: false, shared_proxy: false, sidecar: true };
        let alone = Known { shared_proxy: false, ..all };
        let (sidecar, died) = (Some(Authority::Sidecar), Some(Authority::Guard(Cause::Died)));
        let absent = Some(Authority::Guard(Cause::Absent));
        for (at, (authority, known, ready)) in [
            (None, all, false),
            (sidecar, nothing, true),
            (died, all, true),
            (died, Known { own: None, ..all }, false),
            (died, Known { certificate: false, ..all }, false),
            (died, alone, false),
            (died, Known { own: Some(&closed), ..all }, false),
            (absent, nothing, false),
            (absent, Known { certificate: false, ..all }, false),
            // Its sidecar is started next.
            (absent, alone, true),
            (absent, Known { own: Some(&closed), ..all }, true),
            // There will be none.
            (absent, Known { sidecar: false, ..alone }, false),
            (absent, Known { sidecar: false, ..all }, true),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(readiness(authority, known).is_ok(), ready, "row {at}");
        }
    }

    #[test]
    fn a_state_has_one_name() {
        let own = |failure| Some(own(failure));
        let died = Some(Authority::Guard(Cause::Died));
        for (authority, own, usable, expected) in [
            (None, None, false, "starting"),
            (Some(Authority::Guard(Cause::Absent)), None, false, "starting"),
            (Some(Authority::Sidecar), None, false, "standby"),
            (died, own(OnSidecarFailure::Fallback), true, "carrying"),
            (died, own(OnSidecarFailure::Fallback), false, "stuck"),
            (died, own(OnSidecarFailure::Direct), true, "direct"),
            (died, own(OnSidecarFailure::Closed), true, "closed"),
            (died, None, false, "stuck"),
        ] {
            assert_eq!(state(authority, own.as_ref(), usable), expected);
        }
    }
}
