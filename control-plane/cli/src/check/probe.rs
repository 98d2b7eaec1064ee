//! What can only be found out by trying: whether one may do something, and whether a webhook shows a good certificate.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use futures_util::future::join_all;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, api::PostParams};
use outrigger_wire::names::{CONTROLLER_NAME, SYSTEM_NAMESPACE, ports};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use super::facts::Permission;
use crate::cluster::{Cluster, told};

/// Group, resource, and whether it is in the system namespace.
const CREATED: [(&str, &str, bool); 15] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", false),
    ("apps", "deployments", true),
    ("policy", "poddisruptionbudgets", true),
    ("coordination.k8s.io", "leases", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("", "configmaps", true),
    ("", "secrets", true),
    ("", "serviceaccounts", true),
    ("", "services", true),
];

/// Whether one may create what the chart holds.
pub(super) async fn permissions(cluster: &Cluster) -> Result<Vec<Permission>> {
    let asked = CREATED.iter().map(|(group, resource, namespaced)| async move {
        let attributes = ResourceAttributes {
            group: Some((*group).to_owned()),
            resource: Some((*resource).to_owned()),
            verb: Some("create".to_owned()),
            namespace: namespaced.then(|| SYSTEM_NAMESPACE.to_owned()),
            ..ResourceAttributes::default()
        };
        let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let api: Api<SelfSubjectAccessReview> = Api::all(cluster.client.clone());
        let answer = api.create(&PostParams::default(), &review).await.map_err(|error| anyhow!(told(&error)))?;
        let of_group = if group.is_empty() { String::new() } else { format!(".{group}") };
        let place = if *namespaced { format!(" in {SYSTEM_NAMESPACE}") } else { String::new() };
        Ok(Permission {
            what: format!("create {resource}{of_group}{place}"),
            allowed: answer.status.is_some_and(|status| status.allowed),
        })
    });
    join_all(asked).await.into_iter().collect()
}

/// Shakes hands with a controller's webhook as the API server does: by the bundle, for the Service's name.
pub(super) async fn handshake(cluster: &Cluster, pod: &str, ca_bundle: &str) -> Result<()> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle.as_bytes()) {
        roots.add(certificate.context("caBundle")?).context("caBundle")?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from(format!("{CONTROLLER_NAME}.{SYSTEM_NAMESPACE}.svc"))?;
    let stream = cluster.forward(SYSTEM_NAMESPACE, pod, ports::WEBHOOK).await?;
    let shaken = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(std::time::Duration::from_secs(3), shaken).await.context("no answer within 3 s")??;
    Ok(())
}
