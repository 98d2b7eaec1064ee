//! A whole mesh on one machine: controller, shared proxies, pods. It plays the part of Kubernetes: it writes tokens and
//! `Workload` objects, mounts the root certificate and starts containers in their order.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use outrigger_wire::names::{SHARED_NAME, SYSTEM_NAMESPACE, ports};
use rand::Rng;

use crate::{
    machine::{Machine, binary},
    net::GATEWAY,
    pod::{Access, Pod},
    samples::Kill,
};

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
    pub proxies: Proxies,
    /// Worker threads of each of its proxies.
    pub workers: usize,
    /// Program and arguments of each app; a program without a slash is a binary of this build.
    pub apps: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Default)]
pub struct Spec {
    pub pods: Vec<PodSpec>,
    /// File name and YAML of what users wrote.
    pub config: Vec<(String, String)>,
    /// Shared proxies.
    pub shared: usize,
}

/// The running control plane.
#[derive(Debug)]
pub struct Controller {
    child: Child,
    pub listen: SocketAddr,
    pub admin: SocketAddr,
}

#[derive(Debug)]
pub struct Mesh {
    /// First, so that proxies end before the namespaces that they are in.
    pods: BTreeMap<String, Pod>,
    pub controller: Option<Controller>,
    dir: PathBuf,
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
            proxies: Proxies::GuardAndSidecar,
            workers: 1,
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

    fn mode(&self) -> &'static str {
        match self.proxies {
            // To others a shared proxy is a meshed workload like any other.
            Proxies::Sidecar | Proxies::GuardAndSidecar | Proxies::Shared => "sidecar",
            Proxies::Guard => "shared",
            Proxies::None => "none",
        }
    }

    fn shared_proxy(index: usize) -> Self {
        Self::new(&format!("{SYSTEM_NAMESPACE}/shared-{index}"))
            .label("app", SHARED_NAME)
            .service_account(SHARED_NAME)
            .proxies(Proxies::Shared)
            .port("mesh", ports::MESH)
    }
}

// === impl Controller ===

impl Controller {
    fn start(dir: &Path) -> Result<Self> {
        let log = fs::File::options().create(true).append(true).open(dir.join("controller.log"))?;
        let mut child = Command::new(binary("outrigger-controller")?)
            .arg("--config-dir")
            .arg(dir.join("config"))
            .arg("--tokens")
            .arg(dir.join("tokens"))
            .arg("--state")
            .arg(dir.join("controller"))
            .args(["--listen", &format!("{GATEWAY}:{}", ports::CONTROLLER), "--admin", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("outrigger-controller")?;
        let stdout = child.stdout.take().context("the controller's output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).context("the controller's first line")?;
        match addresses(&line) {
            Ok((listen, admin)) => Ok(Self { child, listen, admin }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                let log = fs::read_to_string(dir.join("controller.log")).unwrap_or_default();
                Err(error.context(format!("outrigger-controller said {line:?}\n{log}")))
            }
        }
    }
}

/// The controller's first line of output: a JSON object with its addresses.
fn addresses(line: &str) -> Result<(SocketAddr, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).context("not JSON")?;
    let field = |name: &str| -> Result<SocketAddr> {
        line[name].as_str().with_context(|| format!("no {name}"))?.parse().with_context(|| name.to_owned())
    };
    Ok((field("listen")?, field("admin")?))
}

impl Drop for Controller {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// === impl Mesh ===

impl Mesh {
    /// Brings everything up in the order that injection gives it, and returns when all of it is ready.
    pub fn start(machine: &Machine, mut spec: Spec) -> Result<Self> {
        let dir = machine.dir.clone();
        for folder in ["config", "tokens", "controller", "pods"] {
            fs::create_dir_all(dir.join(folder)).with_context(|| folder.to_owned())?;
        }
        spec.pods.extend((0..spec.shared).map(PodSpec::shared_proxy));
        let mut mesh = Self { pods: BTreeMap::new(), controller: None, dir };
        for (index, pod) in spec.pods.into_iter().enumerate() {
            let number = u16::try_from(index + 1).context("too many pods")?;
            mesh.add(machine, pod, number)?;
        }
        mesh.write("system.yaml", &system_yaml())?;
        mesh.write("workloads.yaml", &mesh.workloads_yaml())?;
        for (file, yaml) in &spec.config {
            mesh.write(file, yaml)?;
        }
        mesh.start_controller()?;
        mesh.start_pods()?;
        Ok(mesh)
    }

    pub fn pod(&self, name: &str) -> Result<&Pod> {
        self.pods.get(name).with_context(|| format!("no pod {name}"))
    }

    pub fn pod_mut(&mut self, name: &str) -> Result<&mut Pod> {
        self.pods.get_mut(name).with_context(|| format!("no pod {name}"))
    }

    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// Writes a file of the controller's folder at once, as `kubectl apply` would. Returns the instant of the write.
    pub fn write(&self, file: &str, yaml: &str) -> Result<u64> {
        let path = self.dir.join("config").join(file);
        let draft = self.dir.join(format!("{file}.draft"));
        fs::write(&draft, yaml).with_context(|| draft.display().to_string())?;
        let at = crate::now_us();
        fs::rename(&draft, &path).with_context(|| path.display().to_string())?;
        Ok(at)
    }

    pub fn remove(&self, file: &str) -> Result<u64> {
        let path = self.dir.join("config").join(file);
        let at = crate::now_us();
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
        Ok(at)
    }

    /// Starts the controller, or starts it again from its state.
    pub fn start_controller(&mut self) -> Result<()> {
        self.controller = Some(Controller::start(&self.dir)?);
        for pod in self.pods.values() {
            // Pods see the root as a mounted file of their own; the controller's state is none of their business.
            fs::copy(self.dir.join("controller/root.pem"), &pod_access(&self.dir, &pod.spec.name).root_cert)
                .context("root.pem of the controller")?;
        }
        Ok(())
    }

    pub fn kill_controller(&mut self) -> Result<()> {
        let mut controller = self.controller.take().context("no controller to kill")?;
        controller.child.kill().context("SIGKILL to the controller")
    }

    /// Kills the sidecar of a pod, or a shared proxy.
    pub fn kill_sidecar(&mut self, pod: &str) -> Result<Kill> {
        self.pod_mut(pod)?.kill_sidecar()
    }

    /// Starts it again and waits until it is ready.
    pub fn restart_sidecar(&mut self, pod: &str) -> Result<Duration> {
        let start = Instant::now();
        let pod = self.pod_mut(pod)?;
        pod.start_sidecar()?;
        pod.wait_ready()?;
        Ok(start.elapsed())
    }

    /// What every process said last, for failures.
    pub fn tails(&self) -> String {
        let controller = fs::read_to_string(self.dir.join("controller.log")).unwrap_or_default();
        let lines: Vec<_> = controller.lines().collect();
        let mut text = format!("--- controller\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"));
        text.extend(self.pods.values().map(Pod::tails));
        text
    }

    /// Copies all logs to a folder outside of the machine's tmpfs.
    pub fn save_logs(&self, to: &Path) -> Result<()> {
        fs::create_dir_all(to).with_context(|| to.display().to_string())?;
        let _ = fs::copy(self.dir.join("controller.log"), to.join("controller.log"));
        for name in self.pods.keys().map(|name| name.replace('/', ".")) {
            for entry in fs::read_dir(self.dir.join("pods").join(&name)).context("a pod's logs")?.flatten() {
                if entry.path().extension().is_some_and(|end| end == "log") {
                    fs::copy(entry.path(), to.join(format!("{name}.{}", entry.file_name().display())))?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, machine: &Machine, spec: PodSpec, number: u16) -> Result<()> {
        let name = spec.name.clone();
        if !name.contains('/') {
            bail!("{name}: a pod's name is NAMESPACE/NAME");
        }
        let access = pod_access(&self.dir, &name);
        let pod = Pod::create(machine, spec, number, access.clone())?;
        let secret: u128 = rand::rng().random();
        let token = format!("{name}:{secret:032x}\n");
        fs::write(self.dir.join("tokens").join(name.replace('/', ".")), &token).context("a token")?;
        fs::write(&access.token, &token).context("a token")?;
        pod.give(&access.token)?;
        self.pods.insert(name, pod);
        Ok(())
    }

    fn start_pods(&mut self) -> Result<()> {
        let with = |proxies: &[Proxies], pod: &Pod| proxies.contains(&pod.spec.proxies);
        for pod in self.pods.values_mut() {
            if with(&[Proxies::Guard, Proxies::Sidecar, Proxies::GuardAndSidecar], pod) {
                pod.redirect()?;
            }
            if with(&[Proxies::Guard, Proxies::GuardAndSidecar], pod) {
                pod.start_guard()?;
            }
        }
        for pod in self.pods.values_mut() {
            if pod.guard.is_some() {
                pod.wait_guard()?;
            }
            if with(&[Proxies::Sidecar, Proxies::GuardAndSidecar, Proxies::Shared], pod) {
                pod.start_sidecar()?;
            }
            pod.start_apps()?;
        }
        for pod in self.pods.values_mut() {
            pod.wait_ready()?;
        }
        Ok(())
    }

    fn workloads_yaml(&self) -> String {
        self.pods.values().map(workload_yaml).collect()
    }
}

fn pod_access(dir: &Path, name: &str) -> Access {
    let pod = dir.join("pods").join(name.replace('/', "."));
    Access {
        controller: format!("{GATEWAY}:{}", ports::CONTROLLER),
        root_cert: pod.join("root.pem"),
        token: pod.join("token"),
    }
}

fn system_yaml() -> String {
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {SYSTEM_NAMESPACE}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata:\n  namespace: {SYSTEM_NAMESPACE}\n  name: {SHARED_NAME}\n\
         spec:\n  clusterIP: {SHARED_ADDRESS}\n  selector:\n    app: {SHARED_NAME}\n\
         \x20 ports:\n  - name: mesh\n    port: {port}\n",
        port = ports::MESH
    )
}

fn workload_yaml(pod: &Pod) -> String {
    let spec = &pod.spec;
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
    for address in pod.namespace.addresses() {
        let _ = writeln!(yaml, "  - \"{address}\"");
    }
    if !spec.ports.is_empty() {
        yaml.push_str("  ports:\n");
    }
    for (name, port) in &spec.ports {
        let _ = writeln!(yaml, "  - name: {name}\n    port: {port}");
    }
    yaml
}
