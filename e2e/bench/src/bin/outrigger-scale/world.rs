//! The cluster that is simulated: which objects there are, as an API server tells of them, and who calls whom. All of it
//! follows from the size, so that nothing is kept but how many endpoints each service has.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// Services per namespace.
const NAMESPACE: usize = 50;
/// Spreads the callers of one service over the mesh; a prime, so that no two calls of a proxy meet.
const SPREAD: usize = 7919;
/// Port of every service, and of every pod.
const PORTS: (u16, u16) = (80, 8080);

/// How much there is of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) services: usize,
    pub(crate) proxies: usize,
    pub(crate) endpoints_per_service: usize,
    /// Services that each proxy's app calls.
    pub(crate) calls: usize,
    pub(crate) network: Network,
}

/// Where addresses begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Network {
    pub(crate) services: u32,
}

pub(crate) struct World {
    pub(crate) size: Size,
    /// Pods of each service at this moment.
    replicas: Vec<usize>,
}

// === impl Size ===

impl Size {
    pub(crate) fn check(&self) -> Result<()> {
        if self.calls > self.services || self.services.is_multiple_of(SPREAD) {
            bail!("{} services: at least as many as --calls, and no multiple of {SPREAD}", self.services);
        }
        if self.proxies > self.services * self.endpoints_per_service {
            bail!("{} proxies: every proxy is a pod, and there are fewer: raise --endpoints-per-service", self.proxies);
        }
        if self.services > 1 << 16 || self.services * (self.endpoints_per_service + 1) >= 1 << 24 {
            bail!("more than the simulated networks have addresses for");
        }
        Ok(())
    }

    pub(crate) fn endpoints(&self) -> usize {
        self.services * self.endpoints_per_service
    }

    /// Services that a proxy's app calls.
    pub(crate) fn called_by(&self, proxy: usize) -> impl Iterator<Item = usize> {
        let services = self.services;
        (proxy * self.calls..(proxy + 1) * self.calls).map(move |call| call * SPREAD % services)
    }

    /// How many proxies' apps call a service.
    pub(crate) fn callers_of(&self, service: usize) -> usize {
        (0..self.proxies).filter(|proxy| self.called_by(*proxy).any(|called| called == service)).count()
    }

    /// Which pod a proxy is in: (service, pod).
    fn pod_of(&self, proxy: usize) -> (usize, usize) {
        (proxy % self.services, proxy / self.services)
    }

    /// `NAMESPACE/NAME`.
    pub(crate) fn workload(&self, proxy: usize) -> String {
        let (service, pod) = self.pod_of(proxy);
        format!("{}/{}", namespace_of(service), pod_name(service, pod))
    }

    /// Namespace, service account and pod.
    pub(crate) fn names_of(&self, proxy: usize) -> (String, String, String) {
        let (service, pod) = self.pod_of(proxy);
        (namespace_of(service), service_name(service), pod_name(service, pod))
    }

    pub(crate) fn address_of(&self, service: usize) -> Ipv4Addr {
        Ipv4Addr::from(self.network.services + service as u32)
    }

    fn is_meshed(&self, service: usize, pod: usize) -> bool {
        pod * self.services + service < self.proxies
    }
}

/// `NAMESPACE/NAME`.
pub(crate) fn qualified(service: usize) -> String {
    format!("{}/{}", namespace_of(service), service_name(service))
}

/// Name of the resource that says that a pod is behind its service.
pub(crate) fn endpoint_name(service: usize, pod: usize) -> String {
    format!("{}/{}", qualified(service), pod_name(service, pod))
}

pub(crate) fn namespace_of(service: usize) -> String {
    format!("team-{}", service / NAMESPACE)
}

fn service_name(service: usize) -> String {
    format!("service-{service}")
}

fn pod_name(service: usize, pod: usize) -> String {
    format!("service-{service}-7d4b9c6f5d-{pod:05}")
}

impl Default for Network {
    fn default() -> Self {
        Self { services: 0xAC10_0000 }
    }
}

// === impl World ===

impl World {
    pub(crate) fn new(size: Size) -> Self {
        Self { size, replicas: vec![size.endpoints_per_service; size.services] }
    }

    pub(crate) fn replicas(&self, service: usize) -> usize {
        self.replicas[service]
    }

    pub(crate) fn rescale(&mut self, service: usize, replicas: usize) {
        self.replicas[service] = replicas;
    }

    pub(crate) fn namespaces(&self) -> impl Iterator<Item = Value> {
        let teams = (0..self.size.services).step_by(NAMESPACE).map(namespace_of);
        ["outrigger-system".to_owned()].into_iter().chain(teams).map(|name| {
            let labels = json!({ "kubernetes.io/metadata.name": name });
            json!({ "metadata": { "name": name, "uid": name, "resourceVersion": "1", "labels": labels } })
        })
    }

    pub(crate) fn service_account(service: usize) -> Value {
        json!({ "metadata": metadata(service, &service_name(service), 1, &json!({})) })
    }

    pub(crate) fn service(&self, service: usize) -> Value {
        let address = self.size.address_of(service).to_string();
        let selector = json!({ "app": service_name(service) });
        json!({
            "metadata": metadata(service, &service_name(service), 1, &json!({ "app": service_name(service) })),
            "spec": {
                "clusterIP": address,
                "clusterIPs": [address],
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "type": "ClusterIP",
                "selector": selector,
                "ports": [{ "name": "http", "port": PORTS.0, "protocol": "TCP", "targetPort": PORTS.1, "appProtocol": "http" }],
            },
            "status": { "loadBalancer": {} },
        })
    }

    pub(crate) fn slice(&self, service: usize, version: u64) -> Value {
        let endpoints = (0..self.replicas[service]).map(|pod| {
            let name = pod_name(service, pod);
            json!({
                "addresses": [self.pod_address(service, pod)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": node(service, pod),
                "targetRef": { "kind": "Pod", "namespace": namespace_of(service), "name": name, "uid": name },
            })
        });
        let labels = json!({ "kubernetes.io/service-name": service_name(service) });
        json!({
            "metadata": metadata(service, &format!("{}-x7k2p", service_name(service)), version, &labels),
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{ "name": "http", "port": PORTS.1, "protocol": "TCP" }],
        })
    }

    /// A pod as the API server has it: with the containers of the mesh, if there is a proxy for it.
    pub(crate) fn pod(&self, service: usize, pod: usize, version: u64) -> Value {
        let (name, address) = (pod_name(service, pod), self.pod_address(service, pod));
        let meshed = self.size.is_meshed(service, pod);
        let labels = json!({ "app": service_name(service), "pod-template-hash": "7d4b9c6f5d" });
        let mut metadata = metadata(service, &name, version, &labels);
        let owner = json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{}-7d4b9c6f5d", service_name(service)), "uid": "1", "controller": true });
        metadata["ownerReferences"] = json!([owner]);
        let mut helpers = Vec::new();
        if meshed {
            metadata["annotations"] = json!({ "outrigger.dev/injected": "0.1.0" });
            let names = ["outrigger-redirect", "outrigger-guard", "outrigger-sidecar"];
            helpers.extend(
                names.map(|name| json!({ "name": name, "image": "outrigger:0.1.0", "restartPolicy": "Always" })),
            );
        }
        let ready = |name: &Value| json!({ "name": name, "ready": true, "restartCount": 0 });
        let helpers_ready: Vec<_> = helpers.iter().map(|helper| ready(&helper["name"])).collect();
        json!({
            "metadata": metadata,
            "spec": {
                "nodeName": node(service, pod),
                "serviceAccountName": service_name(service),
                "containers": [{
                    "name": "app",
                    "image": "app:1",
                    "ports": [{ "name": "http", "containerPort": PORTS.1, "protocol": "TCP" }],
                    "readinessProbe": { "httpGet": { "path": "/ready", "port": PORTS.1 } },
                }],
                "initContainers": helpers,
            },
            "status": {
                "phase": "Running",
                "podIP": address,
                "podIPs": [{ "ip": address }],
                "conditions": [{ "type": "Ready", "status": "True" }],
                "containerStatuses": [ready(&json!("app"))],
                "initContainerStatuses": helpers_ready,
            },
        })
    }

    fn pod_address(&self, service: usize, pod: usize) -> String {
        // One more for each service, which churn adds and takes away.
        let pod = service * (self.size.endpoints_per_service + 1) + pod;
        Ipv4Addr::from(0x0A00_0000 + pod as u32).to_string()
    }
}

fn metadata(service: usize, name: &str, version: u64, labels: &Value) -> Value {
    json!({
        "namespace": namespace_of(service),
        "name": name,
        "uid": name,
        "resourceVersion": version.to_string(),
        "creationTimestamp": "2026-11-01T00:00:00Z",
        "labels": labels,
    })
}

fn node(service: usize, pod: usize) -> String {
    format!("simulated-{}", (service + pod) % 100)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn calls_are_spread_evenly() {
        let size = Size {
            services: 1_000,
            proxies: 10_000,
            endpoints_per_service: 10,
            calls: 20,
            network: Network::default(),
        };
        size.check().unwrap();
        let mut callers: BTreeMap<usize, usize> = BTreeMap::new();
        for proxy in 0..size.proxies {
            let called: BTreeSet<usize> = size.called_by(proxy).collect();
            assert_eq!(called.len(), size.calls);
            called.into_iter().for_each(|service| *callers.entry(service).or_default() += 1);
        }
        assert!(callers.len() == size.services && callers.values().all(|callers| *callers == 200));
    }

    #[test]
    fn every_proxy_is_a_meshed_pod_of_its_own() {
        let size =
            Size { services: 100, proxies: 250, endpoints_per_service: 3, calls: 20, network: Network::default() };
        let world = World::new(size);
        let workloads: BTreeSet<String> = (0..size.proxies).map(|proxy| size.workload(proxy)).collect();
        let pods = (0..size.services).flat_map(|service| (0..world.replicas(service)).map(move |pod| (service, pod)));
        let pods = pods.map(|(service, pod)| world.pod(service, pod, 1));
        let meshed = pods.filter(|pod| pod["metadata"]["annotations"]["outrigger.dev/injected"].is_string());
        let meshed = meshed.map(|pod| {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
            format!("{}/{}", text("namespace"), text("name"))
        });
        assert_eq!(meshed.collect::<BTreeSet<_>>(), workloads);
    }
}
