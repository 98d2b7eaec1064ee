//! Who is asked what they were answered by the pod whose proxies are replaced: some pods of those that have called it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use outrigger_wire::SpiffeId;

use super::{
    errors::{self, Callers, Counts},
    plan::{self, Part},
};
use crate::{cluster, cluster::Cluster, pods};

/// Callers that are asked, and of one identity.
const MOST: usize = 8;
const MOST_OF_ONE: usize = 2;

/// Callers of a pod.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The pod's Services, as metrics name them.
    services: BTreeSet<String>,
    pods: Vec<Pod>,
}

/// The page of metrics that a process of a pod has.
pub(super) async fn metrics(cluster: &Cluster, pod: &Pod, part: Part) -> Option<String> {
    let page = cluster.get(pods::namespace(pod), pods::name(pod), part.admin(), "/metrics").await.ok()?;
    page.status.is_success().then(|| String::from_utf8_lossy(&page.body).into_owned())
}

// === impl Asked ===

impl Asked {
    /// Who may not be looked at isn't asked.
    pub(super) async fn of(cluster: &Cluster, pod: &Pod, services: &[Service]) -> Self {
        let services = services.iter().filter(|service| plan::selects(service, pod));
        let name = |service: &Service| {
            Some(format!("{}/{}", service.metadata.namespace.as_ref()?, service.metadata.name.as_ref()?))
        };
        let mut asked = Self { services: services.filter_map(name).collect(), pods: Vec::new() };
        let page = metrics(cluster, pod, Part::Sidecar).await.unwrap_or_default();
        for identity in errors::identities(&page).iter().filter_map(|peer| peer.parse::<SpiffeId>().ok()) {
            if asked.pods.len() >= MOST {
                break;
            }
            let fields = format!("spec.serviceAccountName={},status.phase=Running", identity.service_account());
            let found = cluster::list(&cluster.of(identity.namespace()), ListParams::default().fields(&fields)).await;
            let callers = found.unwrap_or_default().into_iter().filter(|caller: &Pod| {
                caller.metadata.uid != pod.metadata.uid && pods::has(caller, Part::Sidecar.container())
            });
            asked.pods.extend(callers.take(MOST_OF_ONE));
        }
        asked
    }

    pub(super) async fn ask(&self, cluster: &Cluster) -> Callers {
        let answers = join_all(self.pods.iter().map(|pod| async move {
            let page = metrics(cluster, pod, Part::Sidecar).await?;
            Some((pods::workload(pod), Counts::of_services(&page, &self.services)))
        }));
        Callers(answers.await.into_iter().flatten().collect::<BTreeMap<_, _>>())
    }
}
