//! Pods that wish to be in the mesh and aren't, and pods whose proxies are of another version. A pure function over what
//! is known of pods; whoever has the report shows it and tells the pods' owners.

use std::collections::BTreeMap;

use outrigger_model::inputs::Mode;
use serde::Serialize;

use crate::pod::{Phase, Pod};

/// The result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub unmeshed: Vec<Unmeshed>,
    pub outdated: Vec<Outdated>,
}

/// A pod that wishes to be in the mesh and isn't.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Unmeshed {
    pub namespace: String,
    pub pod: String,
    #[serde(skip)]
    pub uid: String,
    pub why: &'static str,
    pub remedy: String,
}

/// A pod whose proxies are of another version than the controller.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Outdated {
    pub namespace: String,
    pub pod: String,
    pub version: String,
}

/// `namespaces` has the mode that each namespace's label says; `version` is the controller's own.
pub fn report<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    namespaces: &BTreeMap<String, Mode>,
    version: &str,
) -> Report {
    let mut report = Report::default();
    for pod in pods.into_iter().filter(|pod| pod.phase != Phase::Ended && !pod.terminating) {
        let (namespace, name) = (pod.namespace.clone(), pod.name.clone());
        if pod.has != Mode::None {
            if pod.injected != version {
                report.outdated.push(Outdated { namespace, pod: name, version: pod.injected.clone() });
            }
        } else if wishes(pod, namespaces) {
            report.unmeshed.push(unmeshed(pod));
        }
    }
    report.unmeshed.sort();
    report.outdated.sort();
    report
}

fn wishes(pod: &Pod, namespaces: &BTreeMap<String, Mode>) -> bool {
    let mode = pod.wish.or_else(|| namespaces.get(&pod.namespace).copied());
    matches!(mode, Some(Mode::Sidecar | Mode::Shared))
}

fn unmeshed(pod: &Pod) -> Unmeshed {
    let (why, remedy) = if pod.host_network {
        (
            "it uses its node's network, which can't be captured for one pod",
            format!("label the pod {}=none, or give it a network of its own", outrigger_wire::names::MODE_LABEL),
        )
    } else {
        (
            "it was created before the label was set, or while the webhook was away",
            match pod.owner.as_str() {
                "" => "delete it and create it anew".to_owned(),
                owner => format!("create it anew, such as by restarting what owns it ({owner})"),
            },
        )
    };
    Unmeshed { namespace: pod.namespace.clone(), pod: pod.name.clone(), uid: pod.uid.clone(), why, remedy }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::pod::Carrier;

    pub(crate) fn pod(namespace: &str) -> Pod {
        Pod {
            namespace: namespace.to_owned(),
            name: "p".to_owned(),
            uid: String::new(),
            node: String::new(),
            created: None,
            labels: std::sync::Arc::default(),
            owner: String::new(),
            service_account: String::new(),
            phase: Phase::Running,
            terminating: false,
            host_network: false,
            addresses: Vec::new(),
            wish: None,
            has: Mode::None,
            injected: String::new(),
            fit: true,
            carrier: Carrier::default(),
            ports: Vec::new(),
            probes: Vec::new(),
        }
    }

    #[test]
    fn who_wishes_and_lacks() {
        let namespaces = BTreeMap::from([
            ("on".to_owned(), Mode::Sidecar),
            ("shared".to_owned(), Mode::Shared),
            ("off".to_owned(), Mode::None),
        ]);
        // namespace, own wish, injected by, host network, alive: expected
        let table = [
            ("on", None, None, false, true, "unmeshed"),
            ("shared", None, None, false, true, "unmeshed"),
            ("off", None, None, false, true, ""),
            ("bare", None, None, false, true, ""),
            ("bare", Some(Mode::Shared), None, false, true, "unmeshed"),
            ("on", Some(Mode::None), None, false, true, ""),
            ("on", None, None, true, true, "unmeshed"),
            ("on", None, None, false, false, ""),
            ("on", None, Some("2"), false, true, ""),
            ("on", None, Some("1"), false, true, "outdated"),
            // Injected by hand, or before its namespace was taken out.
            ("bare", None, Some("1"), false, true, "outdated"),
        ];
        for (namespace, wish, injected, host_network, alive, expected) in table {
            let phase = if alive { Phase::Running } else { Phase::Ended };
            let has = if injected.is_some() { Mode::Sidecar } else { Mode::None };
            let injected = injected.unwrap_or_default().to_owned();
            let pod = Pod { wish, host_network, phase, has, injected, ..pod(namespace) };
            let report = report([&pod], &namespaces, "2");
            let got = match (report.unmeshed.len(), report.outdated.len()) {
                (1, 0) => "unmeshed",
                (0, 1) => "outdated",
                _ => "",
            };
            assert_eq!(got, expected, "{pod:?}");
        }
    }
}
