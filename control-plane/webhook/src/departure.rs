//! An app is told to end only once nobody calls its pod any more: the kubelet asks the guard first, which waits for the
//! callers' acknowledgements.

use outrigger_wire::names::ports::GUARD_HEALTH;
use serde_json::{Value, json};

use crate::{
    patch::{Operations, Place},
    pod::Pod,
};

/// What Kubernetes gives a pod that doesn't say.
const GRACE_SECONDS: u64 = 30;

/// Adds the operations. A container that has a hook of its own keeps it: it knows better.
pub(crate) fn await_callers(pod: Pod<'_>, seconds: u64, operations: &mut Operations) {
    let grace = pod.spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64);
    // The other half is the app's.
    let seconds = seconds.min(grace.unwrap_or(GRACE_SECONDS) / 2);
    if seconds == 0 {
        return;
    }
    let hook = json!({ "httpGet": { "path": format!("/departure?seconds={seconds}"), "port": GUARD_HEALTH } });
    for container in pod.containers().filter(|container| container.list == "containers") {
        let lifecycle = Place::new(&["spec", container.list]).at(container.index).of("lifecycle");
        match container.value.get("lifecycle").and_then(Value::as_object) {
            None => operations.add(&lifecycle, json!({ "preStop": hook })),
            Some(present) if present.get("preStop").is_none_or(Value::is_null) => {
                operations.add(&lifecycle.of("preStop"), hook.clone());
            }
            Some(_) => {}
        }
    }
}
