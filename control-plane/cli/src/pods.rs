//! What is read from pods here and there.

use k8s_openapi::api::core::v1::{Container, Pod};

/// Selects what belongs to shared proxies, of all pools.
pub(crate) const SHARED_PROXIES: &str = "app.kubernetes.io/component=shared-proxy";

pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// `NAMESPACE/NAME`, as its proxies call themselves.
pub(crate) fn workload(pod: &Pod) -> String {
    format!("{}/{}", namespace(pod), name(pod))
}

pub(crate) fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

pub(crate) fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether it has a container of this name, an init container included.
pub(crate) fn has(pod: &Pod, container: &str) -> bool {
    containers(pod).any(|one| one.name == container)
}

/// All of a pod's containers, the init containers first.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_ref()).into_iter().flatten();
    init.chain(spec.into_iter().flat_map(|spec| &spec.containers))
}

/// By its account, as everybody in the mesh tells: a label is anybody's.
pub(crate) fn is_shared_proxy(pod: &Pod) -> bool {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
    outrigger_model::is_shared_proxy(namespace(pod), account.unwrap_or_default())
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether its containers run and aren't told to end.
pub(crate) fn is_running(pod: &Pod) -> bool {
    phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What made it, as `KIND/NAME`: for a ReplicaSet of a Deployment the Deployment.
pub(crate) fn owner(pod: &Pod) -> Option<String> {
    let owner = pod.metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))?;
    let hash = label(pod, "pod-template-hash").and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    Some(match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(deployment)) => format!("Deployment/{deployment}"),
        (kind, _) => format!("{kind}/{}", owner.name),
    })
}
