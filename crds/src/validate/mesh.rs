//! MeshConfig and Workload.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Problems, syntax};
use crate::{MeshConfigSpec, SharedProxy, WorkloadSpec};

pub(crate) fn mesh_config(meta: &ObjectMeta, spec: &MeshConfigSpec, problems: &mut Problems) {
    if meta.name.as_deref() != Some("default") {
        problems.add("metadata.name", "the only MeshConfig is named default", "name it default");
    }
    if let Some(domain) = &spec.trust_domain {
        problems.check("spec.trustDomain", syntax::trust_domain(domain));
    }
    let Some(fallback) = &spec.fallback else { return };
    if let Some(shared) = &fallback.shared_proxy {
        shared_proxy("spec.fallback.sharedProxy", shared, problems);
    }
    let mut named: BTreeMap<&str, String> = BTreeMap::new();
    for (index, pool) in fallback.pools.iter().enumerate() {
        let path = format!("spec.fallback.pools[{index}]");
        shared_proxy(&format!("{path}.sharedProxy"), &pool.shared_proxy, problems);
        for (index, namespace) in pool.namespaces.iter().enumerate() {
            let path = format!("{path}.namespaces[{index}]");
            problems.check(&path, syntax::label(namespace));
            if let Some(first) = named.get(&**namespace) {
                let problem = format!("{namespace} is in {first} already");
                problems.add(&path, problem, "a namespace has one pool: remove it from all others");
            } else {
                named.insert(namespace, path);
            }
        }
    }
}

fn shared_proxy(path: &str, shared: &SharedProxy, problems: &mut Problems) {
    problems.check(&format!("{path}.namespace"), syntax::label(&shared.namespace));
    problems.check(&format!("{path}.service"), syntax::label(&shared.service));
}

pub(crate) fn workload(spec: &WorkloadSpec, problems: &mut Problems) {
    problems.check_each("spec.addresses", &spec.addresses, syntax::address);
    problems.unique("spec.addresses", &spec.addresses, "");
    problems.check("spec.serviceAccount", syntax::subdomain(&spec.service_account));
    for (index, port) in spec.ports.iter().enumerate() {
        problems.check(&format!("spec.ports[{index}].name"), syntax::port_name(&port.name));
    }
    problems.unique("spec.ports", &spec.ports.iter().map(|port| &port.name).collect::<Vec<_>>(), ".name");
    problems.unique("spec.ports", &spec.ports.iter().map(|port| port.port).collect::<Vec<_>>(), ".port");
    if let Some(zone) = &spec.zone {
        problems.check("spec.zone", syntax::label_value(zone));
    }
}
