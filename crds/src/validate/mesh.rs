//! MeshConfig and Workload.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Problems, syntax};
use crate::{MeshConfigSpec, WorkloadSpec};

pub(crate) fn mesh_config(meta: &ObjectMeta, spec: &MeshConfigSpec, problems: &mut Problems) {
    if meta.name.as_deref() != Some("default") {
        problems.add("metadata.name", "the only MeshConfig is named default", "name it default");
    }
    if let Some(domain) = &spec.trust_domain {
        problems.check("spec.trustDomain", syntax::trust_domain(domain));
    }
    if let Some(shared) = spec.fallback.as_ref().and_then(|fallback| fallback.shared_proxy.as_ref()) {
        problems.check("spec.fallback.sharedProxy.namespace", syntax::label(&shared.namespace));
        problems.check("spec.fallback.sharedProxy.service", syntax::label(&shared.service));
    }
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
