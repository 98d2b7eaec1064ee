//! What becomes of the call if a sidecar on its way isn't there.

use outrigger_core::config::{Inbound, OnControlPlaneLoss, OnFallbackFailure, OnSidecarFailure};

use super::{
    gather::Served,
    report::{Backend, Failure},
};

/// Of the caller, then of each kind of destination; workloads that behave alike are told of once.
pub(crate) fn of(served: &Served, own: Option<&Inbound>, backends: &[Backend]) -> Vec<Failure> {
    let mut told: Vec<Failure> = own.map(|own| failure(own, "The caller's")).into_iter().collect();
    let endpoints = backends.iter().flat_map(|backend| &backend.endpoints).filter(|endpoint| endpoint.percent > 0.0);
    let mut seen: Vec<Failure> = Vec::new();
    for endpoint in endpoints {
        let Some(inbound) = served.snapshot.inbounds.get(&*endpoint.workload) else { continue };
        let one = failure(inbound, "The destination's");
        if !seen.iter().any(|other| other.effect == one.effect) {
            seen.push(one);
        }
    }
    told.append(&mut seen);
    told
}

fn failure(inbound: &Inbound, whose: &str) -> Failure {
    let fallback = &inbound.fallback;
    let direct = fallback.on_fallback_failure == OnFallbackFailure::Direct;
    let last = if direct { "goes on in plaintext WITHOUT policies" } else { "is closed" };
    let effect = match (fallback.on_sidecar_failure, fallback.shared_service.as_deref()) {
        (OnSidecarFailure::Closed, _) => "connections are closed: no fallback".to_owned(),
        (OnSidecarFailure::Direct, _) => "goes on in plaintext WITHOUT policies".to_owned(),
        (OnSidecarFailure::Fallback, Some(shared)) => {
            format!(
                "its guard goes through {shared}, same routes and policies; if no shared proxy answers, the call {last}"
            )
        }
        (OnSidecarFailure::Fallback, None) => format!("there are no shared proxies, so the call {last}"),
    };
    let grace = fallback.control_plane_loss_grace.as_secs();
    let (on_control_plane_loss, effect) = match fallback.on_control_plane_loss {
        OnControlPlaneLoss::Continue => ("continue", effect),
        OnControlPlaneLoss::Closed => {
            ("closed", format!("{effect}. After {grace} s without a control plane, calls to it are refused"))
        }
    };
    Failure {
        workload: inbound.workload.to_string(),
        on_sidecar_failure: match fallback.on_sidecar_failure {
            OnSidecarFailure::Fallback => "fallback",
            OnSidecarFailure::Closed => "closed",
            OnSidecarFailure::Direct => "direct",
        },
        on_fallback_failure: if direct { "direct" } else { "closed" },
        on_control_plane_loss,
        control_plane_loss_grace_seconds: grace,
        shared_service: fallback.shared_service.as_deref().map(str::to_owned),
        effect: format!("{whose} sidecar dead: {effect}"),
    }
}
