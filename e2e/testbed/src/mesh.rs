//! A whole mesh on one machine: controller, shared proxies, pods. It plays the part of Kubernetes: it writes tokens and
//! `Workload` objects, mounts the root certificate and starts containers in their order.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use outrigger_wire::names::ports;
use rand::Rng;
use serde_json::Value;

use crate::{
    controller::Controller,
    machine::Machine,
    net::GATEWAY,
    pod::{Access, Pod},
    probe::{self, wait_until},
    samples::Kill,
    spec::{PodSpec, Proxies, Spec, system_yaml, workload_yaml},
};

/// Reading a folder takes far less.
const START: Duration = Duration::from_secs(15);
/// New versions are on trial for ten seconds.
const TRIAL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Mesh {
    /// First, so that proxies end before the namespaces that they are in.
    pods: BTreeMap<String, Pod>,
    pub controller: Option<Controller>,
    dir: PathBuf,
}

// === impl Mesh ===

impl Mesh {
    /// Brings everything up in the order that injection gives it, and returns when all of it is ready.
    pub fn start(machine: &Machine, mut spec: Spec) -> Result<Self> {
        let dir = machine.dir.clone();
        for folder in ["config", "tokens", "controller", "pods"] {
            let folder = dir.join(folder);
            // An earlier mesh of the same machine may have left one.
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
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
        self.start_controller_by(&[])
    }

    /// The same by another program, whose arguments the controller's command line follows.
    pub fn start_controller_by(&mut self, wrapper: &[String]) -> Result<()> {
        let controller = Controller::start(&self.dir, wrapper)?;
        wait_until("the controller's first configuration", START, || {
            probe::get_here(controller.admin, "/readyz").is_ok_and(|page| page.status == 200)
        })?;
        self.controller = Some(controller);
        for pod in self.pods.values() {
            // Pods see the root as a mounted file of their own; the controller's state is none of their business.
            fs::copy(self.dir.join("controller/root.pem"), &pod_access(&self.dir, &pod.spec.name).root_cert)
                .context("root.pem of the controller")?;
        }
        Ok(())
    }

    pub fn kill_controller(&mut self) -> Result<()> {
        let mut controller = self.controller.take().context("no controller to kill")?;
        controller.kill()
    }

    /// Waits until nothing that a sidecar was sent is on trial any more: until then two deaths are that's fault.
    pub fn proven(&self, pod: &str) -> Result<()> {
        let namespace = &self.pod(pod)?.namespace;
        let dump =
            || serde_json::from_str::<Value>(&probe::get(namespace, ports::ADMIN, "/config_dump").ok()?.body).ok();
        wait_until("the end of a trial", TRIAL, || dump().is_some_and(|it| it["status"]["on_trial"] == 0)).map(drop)
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

    /// Of all controllers of this mesh, one after the other.
    pub fn controller_log(&self) -> String {
        fs::read_to_string(self.dir.join("controller.log")).unwrap_or_default()
    }

    /// What every process said last, for failures.
    pub fn tails(&self) -> String {
        let controller = self.controller_log();
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

    /// The `Workload` objects of all pods.
    pub fn workloads_yaml(&self) -> String {
        self.pods.values().map(|pod| workload_yaml(&pod.spec, &pod.namespace.addresses())).collect()
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
