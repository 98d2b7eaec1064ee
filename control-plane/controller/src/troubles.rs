//! What guards say of their pods: the thin edge. Who it is about comes from the proven identity and from nothing in the
//! request.

use std::sync::Arc;

use outrigger_kube::pod_events::{PodEventError, PodEvents};
use outrigger_wire::proto::trouble::{
    ReportRequest, ReportResponse, Trouble,
    troubles_server::{Troubles as Service, TroublesServer},
};
use outrigger_xds::Principal;
use tonic::{Request, Response, Status};

/// Longest message in bytes.
const MAX_REQUEST: usize = 64;

/// The service.
#[derive(Clone)]
pub(crate) struct Troubles(Arc<PodEvents>);

// === impl Troubles ===

impl Troubles {
    pub(crate) fn new(events: PodEvents) -> Self {
        Self(Arc::new(events))
    }

    /// To be added to a router.
    pub(crate) fn into_service(self) -> TroublesServer<Self> {
        TroublesServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl Service for Troubles {
    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportResponse>, Status> {
        let workload = request.extensions().get::<Principal>().map(|principal| Arc::clone(&principal.workload));
        let workload =
            workload.ok_or_else(|| Status::unauthenticated("the caller has not proven which workload it is"))?;
        match request.get_ref().trouble() {
            Trouble::NotCaptured => {
                tracing::warn!(%workload, "a pod says that nothing captures its traffic");
                self.0.not_captured(&workload).await.map_err(|error| refusal(&error))?;
            }
            // Of a later version; nobody here knows a word for it.
            Trouble::Unspecified => {}
        }
        Ok(Response::new(ReportResponse {}))
    }
}

fn refusal(error: &PodEventError) -> Status {
    match error {
        // A pod that has just come is known in a moment.
        PodEventError::Unknown(_) | PodEventError::Later => Status::unavailable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use outrigger_kube::{cluster::Derived, pod::Pod};
    use outrigger_wire::SpiffeId;
    use serde_json::{Value, json};
    use tokio::sync::watch;
    use tonic::Code;

    use super::*;
    use crate::fake;

    /// With the pods `shop/front-1` and `shop/front-2`, and the events that are written.
    fn service() -> (Troubles, Arc<Mutex<Vec<Value>>>) {
        let pods = ["front-1", "front-2"].map(|name| {
            let init = [json!({ "name": "outrigger-guard" })];
            let annotations = json!({ "outrigger.dev/injected": "1" });
            let metadata = json!({ "name": name, "namespace": "shop", "uid": name, "annotations": annotations });
            let pod = Pod::read(json!({ "metadata": metadata, "spec": { "containers": [], "initContainers": init } }));
            (format!("shop/{name}").into(), Arc::new(pod.unwrap()))
        });
        let derived = Derived { pods: pods.into_iter().collect(), ..Derived::default() };
        let written = Arc::<Mutex<Vec<Value>>>::default();
        let client = fake::client({
            let written = Arc::clone(&written);
            move |line, event| {
                assert_eq!(line, "POST /apis/events.k8s.io/v1/namespaces/shop/events");
                written.lock().unwrap().push(event.clone());
                std::future::ready((201, event))
            }
        });
        let (_, derived) = watch::channel(Some(Arc::new(derived)));
        (Troubles::new(PodEvents::new(client, "own".to_owned(), derived)), written)
    }

    fn request(trouble: i32, workload: Option<&str>) -> Request<ReportRequest> {
        let mut request = Request::new(ReportRequest { trouble });
        if let Some(workload) = workload {
            let identity = SpiffeId::new("cluster.local", "shop", "front").unwrap();
            request.extensions_mut().insert(Principal { workload: workload.into(), identity, shared: false });
        }
        request
    }

    #[tokio::test]
    async fn a_guard_speaks_for_the_pod_that_it_has_proven_to_be() {
        let (service, written) = service();
        let not_captured = Trouble::NotCaptured.into();
        let code =
            |answer: Result<Response<ReportResponse>, Status>| answer.map_or_else(|status| status.code(), |_| Code::Ok);
        assert_eq!(code(service.report(request(not_captured, None)).await), Code::Unauthenticated);
        assert_eq!(code(service.report(request(not_captured, Some("shop/none"))).await), Code::Unavailable);
        // Something that only a later version knows.
        assert_eq!(code(service.report(request(99, Some("shop/front-1"))).await), Code::Ok);
        assert!(written.lock().unwrap().is_empty());
        assert_eq!(code(service.report(request(not_captured, Some("shop/front-2"))).await), Code::Ok);
        let written = written.lock().unwrap();
        assert_eq!((written.len(), &written[0]["regarding"]["name"]), (1, &json!("front-2")));
    }
}
