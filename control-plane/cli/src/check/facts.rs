//! What is known of a cluster before anything is made of it. What couldn't be looked at says why.

use serde_json::Value;

pub(crate) type Looked<T> = Result<T, String>;

/// Before the mesh is there.
#[derive(Debug, Clone)]
pub(crate) struct Before {
    /// `v1.34.4`
    pub(crate) server_version: String,
    pub(crate) permissions: Looked<Vec<Permission>>,
    /// `None`: absent.
    pub(crate) gateway_api: Looked<Option<GatewayApi>>,
    pub(crate) namespaces: Looked<Vec<Namespace>>,
    /// Other meshes' injectors, by the name of their webhook configurations.
    pub(crate) other_meshes: Looked<Vec<String>>,
    /// Objects of our names that no Helm release `outrigger-system/…` owns.
    pub(crate) unowned: Looked<Vec<String>>,
}

/// Something that one may or may not do.
#[derive(Debug, Clone)]
pub(crate) struct Permission {
    /// `create deployments.apps in outrigger-system`
    pub(crate) what: String,
    pub(crate) allowed: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct GatewayApi {
    /// `v1.4.1`
    pub(crate) version: Option<String>,
    /// Kinds that the mesh takes and that aren't served as v1.
    pub(crate) missing: Vec<&'static str>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Namespace {
    pub(crate) name: String,
    /// As its label says.
    pub(crate) mode: Option<String>,
    /// `baseline`, for example.
    pub(crate) pod_security: Option<String>,
    /// Labels of another mesh's injector.
    pub(crate) other_mesh: Option<String>,
}

/// With the mesh.
#[derive(Debug, Clone)]
pub(crate) struct After {
    pub(crate) server_version: String,
    pub(crate) controller: Looked<Option<Deployment>>,
    pub(crate) shared: Looked<Option<Deployment>>,
    /// Of shared proxies that some namespaces have for themselves, by name.
    pub(crate) pools: Looked<Vec<(String, Deployment)>>,
    pub(crate) replicas: Vec<Replica>,
    /// Who holds the Lease.
    pub(crate) leader: Looked<Option<String>>,
    pub(crate) injector: Looked<Option<Vec<Webhook>>>,
    pub(crate) validator: Looked<Option<Vec<Webhook>>>,
    /// PEM in the system namespace's ConfigMap.
    pub(crate) roots: Looked<Option<String>>,
    /// What a change of the root waits for, if there is one.
    pub(crate) rotation: Option<String>,
    pub(crate) crds: Looked<Vec<Crd>>,
    pub(crate) gateway_api: Looked<Option<GatewayApi>>,
    pub(crate) namespaces: Looked<Vec<Namespace>>,
    /// PEM by namespace.
    pub(crate) trust: Looked<Vec<(String, String)>>,
    pub(crate) pods: Looked<Vec<Pod>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Deployment {
    pub(crate) wanted: i32,
    pub(crate) ready: i32,
    pub(crate) updated: i32,
}

/// A controller's pod.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    /// What it shows of itself.
    pub(crate) pages: Looked<Pages>,
    /// Whether the API server would trust the certificate that it shows; `None`: not tried.
    pub(crate) serving: Option<Looked<()>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Pages {
    /// `/debug/proxies`
    pub(crate) proxies: Value,
    /// `/debug/problems`
    pub(crate) problems: Value,
    /// `/debug/unmeshed`
    pub(crate) unmeshed: Value,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Webhook {
    pub(crate) name: String,
    /// PEM; empty if there is none.
    pub(crate) ca_bundle: String,
    /// Somebody else than the controller fills it.
    pub(crate) by_cert_manager: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Crd {
    pub(crate) name: String,
    /// `None`: absent.
    pub(crate) established: Option<bool>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Its own label or annotation.
    pub(crate) mode: Option<String>,
    /// Whether it has a guard.
    pub(crate) meshed: bool,
    /// Version of its proxies.
    pub(crate) injected: Option<String>,
    /// Container of ours that isn't ready, with why.
    pub(crate) unready: Option<String>,
    /// What made it.
    pub(crate) owner: Option<String>,
}
