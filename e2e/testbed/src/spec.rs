//! What a pod is to be, and the objects that Kubernetes would have made of it.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use outrigger_wire::names::{SHARED_NAME, SYSTEM_NAMESPACE, ports};

/// Virtual address of the shared proxies' Service.
const SHARED_ADDRESS: &str = "10.96.255.1";

/// Which of our proxies a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxies {
    /// Not meshed.
    None,
    /// Enrolled as `shared`: the fallback as the normal state.
    Guard,
    /// Without the guard's care.
    Sidecar,
    GuardAndSidecar,
    /// A shared proxy itself.
    Shared,
}

#[derive(Debug, Clone)]
pub struct PodSpec {
    /// `NAMESPACE/NAME`.
    pub name: String,
    pub service_account: String,
    pub labels: BTreeMap<String, String>,
    /// Names and numbers of the app's ports.
    pub ports: Vec<(String, u16)>,
    /// Ports and paths at which a platform would ask about its health; no path is gRPC's.
    pub probes: Vec<(u16, Option<String>)>,
    pub proxies: Proxies,
    /// Worker threads of each of its proxies.
    pub workers: usize,
    /// Environment of each of its proxies, beside what every proxy gets.
    pub env: BTreeMap<String, String>,
    /// Program and arguments that each of its proxies is started by, such as a profiler's.
    pub wrapper: Vec<String>,
    /// Program and arguments of each app; a program without a slash is a binary of this build.
    pub apps: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Default)]
pub struct Spec {
    pub pods: Vec<PodSpec>,
    /// File name and YAML of what users wrote.
    pub config: Vec<(String, String)>,
    /// How many shared proxies.
    pub shared: usize,
}

// === impl PodSpec ===

impl PodSpec {
    /// A pod with guard and sidecar, labelled `app: NAME`, its service account of the same name, and no app yet.
    pub fn new(name: &str) -> Self {
        let (_, short) = name.split_once('/').unwrap_or(("", name));
        Self {
            name: name.to_owned(),
            service_account: short.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), short.to_owned())]),
            ports: Vec::new(),
            probes: Vec::new(),
            proxies: Proxies::GuardAndSidecar,
            workers: 1,
            env: BTreeMap::new(),
            wrapper: Vec::new(),
            apps: Vec::new(),
        }
    }

    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    pub fn proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Adds an app by its command line, split at spaces.
    pub fn app(mut self, command: &str) -> Self {
        self.apps.push(command.split_whitespace().map(str::to_owned).collect());
        self
    }

    pub fn port(mut self, name: &str, port: u16) -> Self {
        self.ports.push((name.to_owned(), port));
        self
    }

    pub fn probe(mut self, port: u16, path: Option<&str>) -> Self {
        self.probes.push((port, path.map(str::to_owned)));
        self
    }

    pub(crate) fn mode(&self) -> &'static str {
        match self.proxies {
            // To others a shared proxy is a meshed workload like any other.
            Proxies::Sidecar | Proxies::GuardAndSidecar | Proxies::Shared => "sidecar",
            Proxies::Guard => "shared",
            Proxies::None => "none",
        }
    }

    /// One of the shared proxies.
    pub fn shared_proxy(index: usize) -> Self {
        Self::new(&format!("{SYSTEM_NAMESPACE}/shared-{index}"))
            .label("app", SHARED_NAME)
            .service_account(SHARED_NAME)
            .proxies(Proxies::Shared)
            .port("mesh", ports::MESH)
    }
}

/// Namespace and Service of the shared proxies.
pub(crate) fn system_yaml() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {SYSTEM_NAMESPACE}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  namespace: {SYSTEM_NAMESPACE}\n  name: {SHARED_NAME}\n\
         spec:\n  clusterIP: {SHARED_ADDRESS}\n  selector:\n    app: {SHARED_NAME}\n\
         \x20 ports:\n  - name: mesh\n    port: {port}\n",
        port = ports::MESH
    )
}

/// The `Workload` of a pod with these addresses.
pub(crate) fn workload_yaml(spec: &PodSpec, addresses: &[IpAddr]) -> String {
    let (namespace, name) = spec.name.split_once('/').unwrap_or(("default", &spec.name));
    let mut yaml = format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata:\n  namespace: {namespace}\n  name: {name}\n\
         \x20 labels:\n"
    );
    // Writing to a String can't fail.
    for (key, value) in &spec.labels {
        let _ = writeln!(yaml, "    {key}: {value}");
    }
    let _ = writeln!(yaml, "spec:\n  serviceAccount: {}\n  mode: {}\n  addresses:", spec.service_account, spec.mode());
    for address in addresses {
        let _ = writeln!(yaml, "  - \"{address}\"");
    }
    if !spec.ports.is_empty() {
        yaml.push_str("  ports:\n");
    }
    for (name, port) in &spec.ports {
        let _ = writeln!(yaml, "  - name: {name}\n    port: {port}");
    }
    if !spec.probes.is_empty() {
        yaml.push_str("  probes:\n");
    }
    for (port, path) in &spec.probes {
        let _ = writeln!(yaml, "  - port: {port}");
        let _ = path.iter().try_for_each(|path| writeln!(yaml, "    path: {path}"));
    }
    yaml
}
