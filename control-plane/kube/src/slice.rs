//! An EndpointSlice, as far as the mesh cares: which addresses are behind a service, and whether they take anything.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

/// Label of a slice that says whose it is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Slice {
    pub namespace: String,
    pub name: String,
    /// Name of the service in the slice's namespace; "" if it belongs to none.
    pub service: String,
    /// TCP ports: name as in the service ("" if it has but one), number at the endpoints.
    pub ports: Vec<(String, u16)>,
    pub endpoints: Vec<SliceEndpoint>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SliceEndpoint {
    /// They mean the same endpoint.
    pub addresses: Vec<IpAddr>,
    /// The pod behind it.
    pub pod: Option<PodRef>,
    /// "" if unknown.
    pub zone: String,
    /// It is to get traffic. May be true of an unready pod whose service wants it so.
    pub ready: bool,
    /// It answers, whether it is to get anything new or not.
    pub serving: bool,
    pub terminating: bool,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRef {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// "" if it isn't said.
    pub uid: String,
}

// === impl Slice ===

impl Slice {
    /// # Errors
    /// If it has another shape than ever.
    pub fn read(value: Value) -> Result<Self, serde_json::Error> {
        let slice: EndpointSlice = serde_json::from_value(value)?;
        let namespace = slice.metadata.namespace.unwrap_or_default();
        let ports = slice.ports.unwrap_or_default().into_iter();
        let ports = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
        let ports = ports.filter_map(|port| Some((port.name.unwrap_or_default(), port.port?.try_into().ok()?)));
        let endpoints = slice.endpoints.into_iter().map(|endpoint| {
            let conditions = endpoint.conditions.unwrap_or_default();
            // What isn't known counts as good (the API's own words).
            let ready = conditions.ready.unwrap_or(true);
            let pod = endpoint.target_ref.filter(|target| target.kind.as_deref() == Some("Pod"));
            SliceEndpoint {
                // Names of hosts aren't addresses: slices of type FQDN have no effect.
                addresses: endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect(),
                pod: pod.map(|target| PodRef {
                    name: format!(
                        "{}/{}",
                        target.namespace.as_deref().unwrap_or(&namespace),
                        target.name.unwrap_or_default()
                    ),
                    uid: target.uid.unwrap_or_default(),
                }),
                zone: endpoint.zone.unwrap_or_default(),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
            }
        });
        Ok(Self {
            ports: ports.collect(),
            endpoints: endpoints.collect(),
            service: slice.metadata.labels.unwrap_or_default().remove(SERVICE_LABEL).unwrap_or_default(),
            name: slice.metadata.name.unwrap_or_default(),
            namespace,
        })
    }
}
