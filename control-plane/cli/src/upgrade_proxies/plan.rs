//! Which pods get other proxies, and which can't in place. Pure.

use k8s_openapi::{
    api::core::v1::{Container, Pod, Service},
    apimachinery::pkg::util::intstr::IntOrString,
};
use outrigger_wire::names::{INJECTED_ANNOTATION, containers, ports};
use serde::Serialize;

use crate::pods;

/// A process of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Part {
    Sidecar,
    Guard,
}

/// What of a pod's surroundings bears on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Around {
    /// Version of its node's kubelet; none if it isn't known.
    pub(super) kubelet: Option<String>,
    /// What of the pod can't be changed while it runs, though the injector would make it otherwise now.
    pub(super) obstacle: Option<String>,
    /// A Service that would have no ready pod without it.
    pub(super) alone: Option<String>,
}

/// What is to be done with an injected pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Judged {
    /// It has this image already.
    Current,
    /// These are replaced, in this order; and why its guard isn't, if it should be.
    Replace { parts: Vec<Part>, guard_stays: Option<String> },
    /// It stays as it is.
    Left(String),
}

/// The first minor version of Kubernetes whose kubelet restarts a native sidecar when its image is changed.
const RESTARTS_SIDECARS: u32 = 32;

/// How long an app's liveness must bear that nobody answers in its guard's place, in seconds.
const GUARD_AWAY: i32 = 10;

/// Whether the injector has had to do with it. No other pod is ever touched.
pub(super) fn is_injected(pod: &Pod) -> bool {
    pods::annotation(pod, INJECTED_ANNOTATION).is_some() && pods::has(pod, containers::GUARD)
}

pub(super) fn judge(pod: &Pod, image: &str, around: &Around) -> Judged {
    let has = |part: Part| image_of(pod, part.container());
    let old: Vec<Part> =
        [Part::Sidecar, Part::Guard].into_iter().filter(|part| has(*part).is_some_and(|has| has != image)).collect();
    if old.is_empty() {
        return Judged::Current;
    }
    let left = |why: String| Judged::Left(why);
    if !pods::is_running(pod) {
        return left(format!("it is {}", if pods::phase(pod) == "Running" { "ending" } else { "not running" }));
    }
    if has(Part::Sidecar).is_none() {
        return left("it has a guard alone, and nobody would hold its sockets meanwhile".into());
    }
    if let Some(kubelet) = around.kubelet.as_deref().filter(|version| minor(version) < RESTARTS_SIDECARS) {
        return left(format!(
            "the kubelet of its node is {kubelet}: only from v1.{RESTARTS_SIDECARS} on does it restart a sidecar whose image changes"
        ));
    }
    if let Some(obstacle) = &around.obstacle {
        return left(format!("a running pod's images are all that Kubernetes lets be changed, and {obstacle}"));
    }
    if !pods::is_ready(pod) {
        return left("it isn't ready: whether it is well afterwards couldn't be told".into());
    }
    let guard_stays = old.contains(&Part::Guard).then(|| guard_stays(pod, around)).flatten();
    let parts: Vec<Part> = old.into_iter().filter(|part| *part != Part::Guard || guard_stays.is_none()).collect();
    match (parts.is_empty(), guard_stays) {
        (true, Some(why)) => left(why),
        (_, guard_stays) => Judged::Replace { parts, guard_stays },
    }
}

/// Why a guard can't be replaced, where a sidecar can.
fn guard_stays(pod: &Pod, around: &Around) -> Option<String> {
    if let Some(service) = &around.alone {
        return Some(format!(
            "while its guard is replaced it is unready for some seconds, and Service {service} has no other ready pod; \
             scale to two, or say --allow-unready"
        ));
    }
    let impatient = pods::containers(pod).find(|container| hasty(container))?;
    Some(format!(
        "container {} would be restarted: its livenessProbe goes through the guard and bears less than {GUARD_AWAY} s without an answer",
        impatient.name
    ))
}

/// Whether the kubelet would end it before a new guard answers.
fn hasty(container: &Container) -> bool {
    let Some(probe) = container.liveness_probe.as_ref() else { return false };
    let through_guard = probe.http_get.as_ref().is_some_and(|get| {
        get.port == IntOrString::Int(ports::GUARD_HEALTH.into())
            && get.path.as_deref().is_some_and(|path| path.starts_with("/probe/"))
    });
    let bears = probe.failure_threshold.unwrap_or(3).saturating_mul(probe.period_seconds.unwrap_or(10));
    through_guard && bears < GUARD_AWAY
}

/// A Service that selects this pod and no other one that is ready.
pub(super) fn alone(pod: &Pod, services: &[Service], pods: &[Pod]) -> Option<String> {
    let minds =
        |service: &&Service| service.spec.as_ref().is_some_and(|spec| spec.publish_not_ready_addresses != Some(true));
    let stands_in = |service: &Service, other: &Pod| {
        other.metadata.uid != pod.metadata.uid
            && selects(service, other)
            && pods::is_running(other)
            && pods::is_ready(other)
    };
    let mut behind = services.iter().filter(minds).filter(|service| selects(service, pod));
    let found = behind.find(|service| !pods.iter().any(|other| stands_in(service, other)))?;
    found.metadata.name.clone()
}

pub(super) fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    service.metadata.namespace == pod.metadata.namespace
        && selector.is_some_and(|selector| {
            !selector.is_empty() && selector.iter().all(|(key, value)| pods::label(pod, key) == Some(value))
        })
}

pub(super) fn image_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a str> {
    pods::containers(pod).find(|one| one.name == container)?.image.as_deref()
}

/// Of `v1.34.4`; one that can't be read is taken for new.
fn minor(version: &str) -> u32 {
    version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(u32::MAX)
}

// === impl Part ===

impl Part {
    pub(super) const ALL: [Self; 2] = [Self::Sidecar, Self::Guard];

    pub(super) fn container(self) -> &'static str {
        match self {
            Self::Sidecar => containers::SIDECAR,
            Self::Guard => containers::GUARD,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Guard => "guard",
        }
    }

    /// Of its admin interface.
    pub(super) fn admin(self) -> u16 {
        match self {
            Self::Sidecar => ports::ADMIN,
            Self::Guard => ports::GUARD_ADMIN,
        }
    }
}

#[cfg(test)]
mod tests;
