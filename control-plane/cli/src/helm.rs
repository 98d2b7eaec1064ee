//! Runs helm, so that what this program installs is a release like any other.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use outrigger_wire::names::SYSTEM_NAMESPACE;

use crate::{cluster, exit, terminal::Progress};

/// Name of the release.
pub(crate) const RELEASE: &str = "outrigger";

/// One call of helm.
#[derive(Debug)]
pub(crate) struct Helm {
    program: PathBuf,
    args: Vec<OsString>,
    /// What helm says goes to stderr, for what stdout has to stay a document.
    quiet: bool,
}

// === impl Helm ===

impl Helm {
    /// Finds helm: what `$HELM` says, else the one in `$PATH`.
    pub(crate) fn new(command: &str, cluster: &cluster::Options) -> Result<Self> {
        let program = find()?;
        if cluster.namespace.as_deref().is_some_and(|namespace| namespace != SYSTEM_NAMESPACE) {
            return Err(exit::usage(format!("the mesh's own namespace is {SYSTEM_NAMESPACE}; leave --namespace out")));
        }
        let mut helm =
            Self { program, args: Vec::new(), quiet: false }.arg(command).args(["--namespace", SYSTEM_NAMESPACE]);
        if let Some(file) = &cluster.kubeconfig {
            helm = helm.arg("--kubeconfig").arg(file);
        }
        if let Some(context) = &cluster.context {
            helm = helm.args(["--kube-context", context]);
        }
        Ok(helm)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<I: AsRef<OsStr>>(self, args: impl IntoIterator<Item = I>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn quiet(mut self, quiet: bool) -> Self {
        self.quiet = quiet;
        self
    }

    /// Runs it to its end; it says itself what is wrong. `what` is for whoever waits.
    pub(crate) async fn run(self, what: &str) -> Result<()> {
        let _progress = Progress::start(what);
        let ended = tokio::task::spawn_blocking(move || {
            let mut command = Command::new(&self.program);
            command.args(&self.args).stdin(Stdio::null());
            if self.quiet {
                command.stdout(std::io::stderr());
            }
            command.status().with_context(|| format!("helm at {}", self.program.display()))
        });
        let status = ended.await??;
        if !status.success() {
            bail!("helm failed: {status}");
        }
        Ok(())
    }
}

fn find() -> Result<PathBuf> {
    if let Some(named) = env::var_os("HELM").filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|folder| folder.join("helm")).find(|program| program.is_file());
    found.context(
        "helm isn't in $PATH. It is one program, see https://helm.sh/docs/intro/install; or name it: HELM=/path/to/helm. \
         Version 3.14 or later",
    )
}
