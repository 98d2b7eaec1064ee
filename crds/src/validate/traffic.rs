//! TrafficPolicy, and parts that routes share with it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Problems, SYSTEM_NAMESPACE, syntax};
use crate::{Duration, LoadBalancerType, Stickiness, TrafficPolicySpec, TrafficTargetKind};

pub(crate) fn traffic_policy(meta: &ObjectMeta, spec: &TrafficPolicySpec, problems: &mut Problems) {
    let namespace = meta.namespace.as_deref().unwrap_or("default");
    for (index, target) in spec.target_refs.iter().enumerate() {
        let path = format!("spec.targetRefs[{index}]");
        problems.check(&format!("{path}.name"), syntax::label(&target.name));
        match target.kind {
            TrafficTargetKind::Service => {}
            TrafficTargetKind::Namespace if target.name != namespace => {
                let problem = format!("a policy of {namespace} can't be for the namespace {:?}", target.name);
                problems.add(&format!("{path}.name"), problem, format!("write {namespace}, or move the policy"));
            }
            TrafficTargetKind::Mesh if namespace != SYSTEM_NAMESPACE => {
                let problem = format!("a policy of {namespace} can't be for the whole mesh");
                problems.add(&format!("{path}.kind"), problem, format!("move the policy to {SYSTEM_NAMESPACE}"));
            }
            TrafficTargetKind::Mesh if target.name != "default" => {
                problems.add(&format!("{path}.name"), "the only Mesh is named default", "write default");
            }
            TrafficTargetKind::Namespace | TrafficTargetKind::Mesh => {}
        }
    }
    problems.unique("spec.targetRefs", &spec.target_refs, "");
    if let Some(balancer) = &spec.load_balancer {
        let path = "spec.loadBalancer.hashOn";
        match (&balancer.hash_on, balancer.r#type == LoadBalancerType::ConsistentHash) {
            (None, true) => problems.add(path, "it is missing", "say what is hashed: header, cookie or caller"),
            (Some(_), false) => {
                problems.add(path, "only type ConsistentHash hashes", "remove it or set type to ConsistentHash");
            }
            (Some(hash_on), true) => stickiness(path, hash_on, problems),
            (None, false) => {}
        }
    }
    if let Some(connections) = &spec.connections {
        not_zero("spec.connections.connectTimeout", connections.connect_timeout, problems);
    }
    if let Some(ejection) = &spec.outlier_ejection {
        not_zero("spec.outlierEjection.baseEjectionTime", ejection.base_ejection_time, problems);
    }
}

pub(crate) fn stickiness(path: &str, key: &Stickiness, problems: &mut Problems) {
    let set = [key.header.is_some(), key.cookie.is_some(), key.caller.is_some()];
    if set.iter().filter(|set| **set).count() != 1 {
        problems.add(path, "exactly one field must be set", "set one of header, cookie and caller");
    }
    if let Some(header) = &key.header {
        problems.check(&format!("{path}.header"), syntax::header_name(header));
    }
    if let Some(cookie) = &key.cookie {
        problems.check(
            &format!("{path}.cookie"),
            syntax::header_name(cookie)
                .map_err(|_| (format!("not a cookie's name: {cookie:?}"), "use letters, digits, '-' and '_'")),
        );
    }
}

fn not_zero(path: &str, duration: Option<Duration>, problems: &mut Problems) {
    if duration.is_some_and(Duration::is_zero) {
        problems.add(path, "it must be longer than nothing", "write a duration such as 5s, or leave it out");
    }
}

/// One try can't take longer than all together. Zero means no limit.
pub(crate) fn timeouts(path: &str, request: Option<Duration>, backend: Option<Duration>, problems: &mut Problems) {
    let (request, backend) = (request.unwrap_or_default(), backend.unwrap_or_default());
    if !request.is_zero() && backend > request {
        let problem = format!("{backend} for one try is more than {request} for all together");
        problems.add(&format!("{path}.backendRequest"), problem, "write at most timeouts.request");
    }
}
