//! What the pod's owner wants to happen while no sidecar accepts. Pure.

use outrigger_core::config::{Inbound, OnFallbackFailure, OnSidecarFailure};

use crate::telemetry::Direction;

/// How a connection came to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Outbound,
    InboundPlain,
    /// mTLS from another proxy.
    InboundMesh,
}

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// Through a shared proxy, which applies the pod's policies.
    Tunnel,
    /// To where it wanted to go, without any policy.
    Direct,
    Close,
}

// === impl Way ===

impl Way {
    pub(super) fn direction(self) -> Direction {
        match self {
            Self::Outbound => Direction::Outbound,
            Self::InboundPlain | Self::InboundMesh => Direction::Inbound,
        }
    }
}

/// What to do with a connection.
pub(super) fn course(own: &Inbound, way: Way) -> Course {
    match own.fallback.on_sidecar_failure {
        OnSidecarFailure::Fallback => Course::Tunnel,
        OnSidecarFailure::Closed => Course::Close,
        OnSidecarFailure::Direct => direct(own, way).unwrap_or(Course::Tunnel),
    }
}

/// What to do with a connection that should have been tunnelled, now that no shared proxy answers.
pub(super) fn without_shared_proxy(own: &Inbound, way: Way) -> Course {
    match own.fallback.on_fallback_failure {
        OnFallbackFailure::Closed => Course::Close,
        OnFallbackFailure::Direct => direct(own, way).unwrap_or(Course::Close),
    }
}

/// `None` where there is no direct way: what comes in by mTLS speaks to a proxy, not to the app.
fn direct(own: &Inbound, way: Way) -> Option<Course> {
    match way {
        Way::Outbound => Some(Course::Direct),
        // That plaintext is refused holds without a proxy too: it takes no look into the bytes. Unless some of it is
        // the platform asking about health, which only a proxy can tell.
        Way::InboundPlain if own.strict && own.probes.is_empty() => Some(Course::Close),
        Way::InboundPlain if own.strict => None,
        Way::InboundPlain => Some(Course::Direct),
        Way::InboundMesh => None,
    }
}

#[cfg(test)]
mod tests {
    use outrigger_core::config::{Fallback, Probe};
    use outrigger_wire::SpiffeId;

    use super::*;

    fn own(strict: bool, on_sidecar_failure: OnSidecarFailure, on_fallback_failure: OnFallbackFailure) -> Inbound {
        Inbound {
            workload: "shop/front".into(),
            identity: SpiffeId::new("cluster.local", "shop", "front").unwrap(),
            addresses: Vec::new(),
            strict,
            ports: Vec::new(),
            policies: Vec::new(),
            fallback: Fallback { on_sidecar_failure, on_fallback_failure, ..Fallback::default() },
            acting_identities: Vec::new(),
            zone: "".into(),
            probes: Vec::new(),
        }
    }

    #[test]
    fn the_owner_decides_and_the_default_is_no_bypass() {
        use Course::{Close, Direct, Tunnel};
        use Way::{InboundMesh, InboundPlain, Outbound};
        let (closed, bypass) = (OnFallbackFailure::Closed, OnFallbackFailure::Direct);
        for (strict, failure, last, way, first, second) in [
            (false, OnSidecarFailure::Fallback, closed, Outbound, Tunnel, Close),
            (false, OnSidecarFailure::Fallback, closed, InboundPlain, Tunnel, Close),
            (false, OnSidecarFailure::Fallback, closed, InboundMesh, Tunnel, Close),
            (false, OnSidecarFailure::Fallback, bypass, Outbound, Tunnel, Direct),
            (false, OnSidecarFailure::Fallback, bypass, InboundPlain, Tunnel, Direct),
            (true, OnSidecarFailure::Fallback, bypass, InboundPlain, Tunnel, Close),
            (false, OnSidecarFailure::Fallback, bypass, InboundMesh, Tunnel, Close),
            (false, OnSidecarFailure::Closed, closed, Outbound, Close, Close),
            (false, OnSidecarFailure::Closed, closed, InboundMesh, Close, Close),
            (false, OnSidecarFailure::Direct, closed, Outbound, Direct, Close),
            (false, OnSidecarFailure::Direct, closed, InboundPlain, Direct, Close),
            (true, OnSidecarFailure::Direct, closed, InboundPlain, Close, Close),
            (false, OnSidecarFailure::Direct, bypass, InboundMesh, Tunnel, Close),
        ] {
            let own = own(strict, failure, last);
            assert_eq!(course(&own, way), first, "{failure:?} {way:?} strict={strict}");
            assert_eq!(without_shared_proxy(&own, way), second, "{last:?} {way:?} strict={strict}");
        }
        let mut probed = own(true, OnSidecarFailure::Direct, bypass);
        probed.probes = vec![Probe { port: 8080, path: "/healthz".into(), grpc: false }];
        assert_eq!((course(&probed, InboundPlain), without_shared_proxy(&probed, InboundPlain)), (Tunnel, Close));
        assert_eq!(course(&own(false, OnSidecarFailure::default(), OnFallbackFailure::default()), Outbound), Tunnel);
        assert_eq!(
            without_shared_proxy(&own(false, OnSidecarFailure::default(), OnFallbackFailure::default()), Outbound),
            Close
        );
    }
}
