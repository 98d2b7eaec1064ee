//! A cluster by what its users have: kubectl, helm, outrigger. And, where the node harness made it, its nodes from
//! outside: processes by their containers.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::Pid;
use outrigger_testbed::{Kill, Load, LoadSpec, fault, machine::binary};
use serde_json::Value;

use crate::changes::Change;

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(250);

/// Where the cluster is and how it is reached.
pub(crate) struct Cluster {
    /// Folder of the cluster, if the node harness made it: its `bin` has kubectl, helm, and a way into its network.
    dir: Option<PathBuf>,
    kubeconfig: Option<PathBuf>,
}

/// A port that kubectl forwards.
pub(crate) struct Forward {
    child: Child,
    /// kubectl goes on talking, and ends if nobody listens.
    _output: BufReader<ChildStdout>,
    pub(crate) port: u16,
}

impl Drop for Forward {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command gave.
pub(crate) struct Output {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

// === impl Cluster ===

impl Cluster {
    pub(crate) fn open(dir: Option<PathBuf>, kubeconfig: Option<PathBuf>) -> Result<Self> {
        let dir = dir.map(std::path::absolute).transpose()?;
        if let Some(dir) = &dir {
            ensure!(dir.join("bin/enter").is_file(), "{}: no cluster of the node harness is there", dir.display());
        }
        let cluster = Self { dir, kubeconfig };
        let nodes = cluster.get("nodes", "", "")?;
        ensure!(nodes["items"].as_array().is_some_and(|nodes| !nodes.is_empty()), "the cluster has no nodes");
        Ok(cluster)
    }

    pub(crate) fn has_nodes(&self) -> bool {
        self.dir.is_some()
    }

    /// A program on the machine from where the cluster is reached.
    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match &self.dir {
            Some(dir) => {
                let mut command = Command::new(dir.join("bin/enter"));
                command.arg(program);
                let path = env::var_os("PATH").unwrap_or_default();
                let path = [dir.join("bin")].into_iter().chain(env::split_paths(&path));
                // Paths that came out of PATH go into it.
                command.env("PATH", env::join_paths(path).unwrap_or_default());
                command
            }
            None => Command::new(program),
        };
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        command
    }

    /// The node harness.
    fn harness(&self, args: &[&str]) -> Result<()> {
        let program = binary("../e2e-node")?;
        let dir = self.dir.as_ref().context("the cluster isn't the node harness's")?;
        let (verb, rest) = args.split_first().context("no verb")?;
        let mut command = Command::new(program);
        output(command.arg(verb).arg("--dir").arg(dir).args(rest), None)?.success().context("e2e-node")?;
        Ok(())
    }

    /// The outrigger program that was built with this one.
    pub(crate) fn outrigger(&self, args: &[&str]) -> Result<Output> {
        output(self.command(binary("outrigger")?).args(args), None)
    }

    /// Changes of the shop's route, made from within the cluster's network.
    pub(crate) fn changes(&self, count: usize) -> Result<Vec<Change>> {
        let this = env::current_exe().context("this program")?;
        let text = output(self.command(this).args(["--make-changes", &count.to_string()]), None)?.success()?;
        text.lines().map(|line| serde_json::from_str(line).context("a change")).collect()
    }

    pub(crate) fn helm(&self, args: &[&str]) -> Result<String> {
        output(self.command("helm").args(args), None)?.success()
    }

    pub(crate) fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.try_kubectl(args)?.success().with_context(|| format!("kubectl {}", args.join(" ")))
    }

    pub(crate) fn try_kubectl(&self, args: &[&str]) -> Result<Output> {
        output(self.command("kubectl").args(args), None)
    }

    pub(crate) fn apply(&self, yaml: &str) -> Result<()> {
        self.try_apply(yaml)?.success().context("kubectl apply")?;
        Ok(())
    }

    pub(crate) fn try_apply(&self, yaml: &str) -> Result<Output> {
        output(self.command("kubectl").args(["apply", "-f", "-"]), Some(yaml))
    }

    /// One object, or a list of all if `name` is "". "" as namespace is every one.
    pub(crate) fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Value> {
        let mut args = vec!["get", kind, "-o", "json"];
        match namespace {
            "" => args.push("-A"),
            namespace => args.extend(["-n", namespace]),
        }
        if !name.is_empty() {
            args.retain(|arg| *arg != "-A");
            args.push(name);
        }
        serde_json::from_str(&self.kubectl(&args)?).context("kubectl get -o json")
    }

    /// Pods of a namespace with a label, those that are ending left out.
    pub(crate) fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let text = self.kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        Ok(pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
    }

    /// Name of the first such pod.
    pub(crate) fn pod(&self, namespace: &str, selector: &str) -> Result<String> {
        let pods = self.pods(namespace, selector)?;
        let first = pods.first().with_context(|| format!("no pod {selector} in {namespace}"))?;
        Ok(text(&first["metadata"]["name"]))
    }

    pub(crate) fn rolled_out(&self, namespace: &str, what: &str) -> Result<()> {
        self.kubectl(&["rollout", "status", "-n", namespace, what, "--timeout=120s"])?;
        Ok(())
    }

    /// Replaces a Deployment's pods, one after the other.
    pub(crate) fn restart(&self, namespace: &str, deployment: &str) -> Result<()> {
        let deployment = format!("deployment/{deployment}");
        self.kubectl(&["rollout", "restart", "-n", namespace, &deployment])?;
        self.rolled_out(namespace, &deployment)
    }

    /// Waits until there are so many pods with a label, those that are ending counted.
    pub(crate) fn until_pods(&self, namespace: &str, selector: &str, count: usize) -> Result<()> {
        until(Duration::from_secs(90), || {
            let names = self.kubectl(&["get", "pods", "-n", namespace, "-l", selector, "-o", "name"])?;
            ensure!(names.lines().count() == count, "{} pods of {selector}", names.lines().count());
            Ok(())
        })
    }

    pub(crate) fn exec(&self, namespace: &str, pod: &str, container: &str, args: &[&str]) -> Result<String> {
        let mut all = vec!["exec", "-n", namespace, pod, "-c", container, "--"];
        all.extend(args);
        self.kubectl(&all)
    }

    /// Answers to `count` calls from a pod's app container, made by the test app's client.
    pub(crate) fn call(&self, namespace: &str, pod: &str, url: &str, more: &[&str]) -> Result<Vec<Value>> {
        let mut args = vec!["outrigger-testapp", "get", url];
        args.extend(more);
        let text = self.exec(namespace, pod, "app", &args)?;
        text.lines().map(|line| serde_json::from_str(line).context("an answer")).collect()
    }

    /// Load from a pod's app container.
    pub(crate) fn load(&self, namespace: &str, pod: &str, spec: &LoadSpec) -> Result<Load> {
        let mut command = self.command("kubectl");
        command.args(["exec", "-i", "-n", namespace, pod, "-c", "app", "--", "outrigger-testapp"]);
        Load::start_by(command, spec)
    }

    /// A port of a pod, on loopback of the network in which kubectl runs, as long as what is returned lives.
    pub(crate) fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forward> {
        let mut command = self.command("kubectl");
        command.args(["port-forward", "-n", namespace, pod, &format!(":{port}")]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("kubectl port-forward")?;
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().context("its output")?);
        output.read_line(&mut line)?;
        let found = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let mut forward = Forward { child, _output: output, port: 0 };
        forward.port = found.with_context(|| format!("kubectl port-forward said {line:?}"))?;
        Ok(forward)
    }

    /// The answer to a call from the network in which kubectl runs.
    pub(crate) fn call_here(&self, url: &str) -> Result<Value> {
        let text = output(self.command(binary("outrigger-testapp")?).args(["get", url]), None)?.success()?;
        serde_json::from_str(&text).context("an answer")
    }

    /// A service's cluster address.
    pub(crate) fn address(&self, namespace: &str, service: &str) -> Result<String> {
        Ok(text(&self.get("service", namespace, service)?["spec"]["clusterIP"]))
    }

    // What follows needs the nodes.

    /// The process of a pod's container, as this machine sees it.
    pub(crate) fn process(&self, namespace: &str, pod: &str, container: &str) -> Result<Pid> {
        let pod = self.get("pod", namespace, pod)?;
        let statuses = ["containerStatuses", "initContainerStatuses"].map(|key| pod["status"][key].clone());
        let statuses = statuses.iter().filter_map(Value::as_array).flatten();
        let found = statuses
            .filter(|status| status["name"] == container)
            .find_map(|status| Some(status["containerID"].as_str()?.rsplit('/').next()?.to_owned()));
        let id = found.with_context(|| format!("the pod has no running container {container}"))?;
        process_of(&id)
    }

    /// Stops or starts a process of the control plane.
    pub(crate) fn process_of_control(&self, verb: &str, name: &str) -> Result<()> {
        self.harness(&["process", verb, "control", name])
    }

    /// Ends a node as a power cut would, or starts it again.
    pub(crate) fn node(&self, verb: &str, name: &str) -> Result<()> {
        self.harness(&["node", verb, name])
    }

    /// The Gateway API's standard CRDs.
    pub(crate) fn apply_gateway_api(&self) -> Result<()> {
        self.harness(&["gateway-api"])
    }

    /// Kills a container's process and says when.
    pub(crate) fn kill(&self, namespace: &str, pod: &str, container: &str) -> Result<Kill> {
        fault::killed(self.process(namespace, pod, container)?)
    }
}

/// Waits until `look` is content; what it says otherwise is the error at the end.
pub(crate) fn until(limit: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    loop {
        match look() {
            Ok(()) => return Ok(()),
            Err(error) if started.elapsed() > limit => {
                return Err(error.context(format!("not so after {} s", limit.as_secs())));
            }
            Err(_) => thread::sleep(LOOK),
        }
    }
}

/// Load from the network of a process in a pod, without the API server's help. The pod's redirection takes it as the
/// app's own.
pub(crate) fn load_beside(process: Pid, spec: &LoadSpec) -> Result<Load> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{process}/ns/net")).arg(binary("outrigger-testapp")?);
    Load::start_by(command, spec)
}

/// The first process of a container, by its cgroup.
fn process_of(container: &str) -> Result<Pid> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .context("/proc")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            cgroups.lines().any(|line| line.ends_with(container))
        })
        .collect();
    pids.sort_unstable();
    pids.first().map(|pid| Pid::from_raw(*pid)).with_context(|| format!("container {container} has no process"))
}

fn output(command: &mut Command, input: Option<&str>) -> Result<Output> {
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("a command")?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // One that reads no further says why by itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok(Output {
        ok: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A string of an object; "" if it is none.
pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// One condition of an object's status.
pub(crate) fn condition<'a>(conditions: &'a Value, kind: &str) -> &'a Value {
    let found = conditions.as_array().and_then(|all| all.iter().find(|condition| condition["type"] == kind));
    found.unwrap_or(&Value::Null)
}

// === impl Output ===

impl Output {
    pub(crate) fn success(self) -> Result<String> {
        if !self.ok {
            bail!("{}{}", self.stderr.trim(), if self.stderr.trim().is_empty() { self.stdout.trim() } else { "" });
        }
        Ok(self.stdout)
    }

    /// What was said of why it didn't work.
    pub(crate) fn refusal(self) -> Result<String> {
        ensure!(!self.ok, "it was accepted: {}", self.stdout.trim());
        Ok(self.stderr)
    }
}
