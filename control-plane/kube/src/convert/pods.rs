//! Pods as workloads, and the workloads that are only known as addresses of an EndpointSlice.

use std::{collections::HashMap, net::IpAddr};

use outrigger_model::{
    Finding, Reason,
    inputs::{Addressing, Mode, Workload},
};

use crate::pod::{Phase, Pod};

/// Pods that have an address and haven't ended, each with what it has. `zones` are those of nodes, by name.
pub(super) fn workloads(pods: &[&Pod], zones: &HashMap<&str, &str>) -> Vec<Workload> {
    let there = |pod: &&&Pod| pod.phase != Phase::Ended && !pod.addresses.is_empty();
    let holders = holders(pods.iter().filter(there).copied());
    let workload = |pod: &&Pod| {
        let own = |address: &&IpAddr| pod.host_network || holders.get(*address).is_some_and(|h| std::ptr::eq(*h, *pod));
        Workload {
            origin: format!("Pod/{}/{}", pod.namespace, pod.name),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
            addresses: pod.addresses.iter().filter(own).copied().collect(),
            addressing: if pod.host_network { Addressing::Shared } else { Addressing::Assigned },
            labels: pod.labels.clone(),
            ports: pod.ports.clone(),
            zone: zones.get(pod.node.as_str()).map(|zone| (*zone).to_owned()).unwrap_or_default(),
            weight: 1,
            mode: Some(if pod.host_network { Mode::None } else { pod.has }),
            draining: pod.terminating,
            probes: pod.probes.clone(),
        }
    };
    pods.iter().filter(there).map(workload).collect()
}

/// Whose an address is: a node may give it to the next pod before the last one's end is known.
fn holders<'a>(pods: impl Iterator<Item = &'a Pod>) -> HashMap<IpAddr, &'a Pod> {
    let mut holders: HashMap<IpAddr, &Pod> = HashMap::new();
    fn age(pod: &Pod) -> impl Ord {
        (!pod.terminating, pod.created, &*pod.uid)
    }
    for pod in pods.filter(|pod| !pod.host_network) {
        for address in &pod.addresses {
            let holder = holders.entry(*address).or_insert(pod);
            if age(pod) > age(holder) {
                *holder = pod;
            }
        }
    }
    holders
}

/// Workloads that are written by hand, without those whose name a pod has.
pub(super) fn without_pods(written: Vec<Workload>, pods: &[Workload], findings: &mut Vec<Finding>) -> Vec<Workload> {
    if written.is_empty() {
        return written;
    }
    let names: std::collections::HashSet<_> = pods.iter().map(|pod| (&pod.namespace, &pod.name)).collect();
    let (taken, kept): (Vec<_>, Vec<_>) = written.into_iter().partition(|w| names.contains(&(&w.namespace, &w.name)));
    findings.extend(taken.iter().map(|workload| {
        let message = "a pod has the same name; the Workload has no effect".to_owned();
        Finding::new(&workload.origin, "metadata.name", Reason::Conflicted, message, "rename it")
    }));
    kept
}
