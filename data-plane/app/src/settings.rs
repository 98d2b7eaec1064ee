//! What a proxy is told at start, by flag or environment.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use outrigger_config::{Bootstrap, Role};
use outrigger_dataplane::{Limits, telemetry::access_log::LogFormat};

#[derive(Debug, Clone, Args)]
pub(crate) struct Settings {
    /// The controller's gRPC address, HOST:PORT.
    #[arg(long, env = "OUTRIGGER_CONTROLLER")]
    pub(crate) controller: String,
    /// DNS name that the controller's certificate must have.
    #[arg(long, env = "OUTRIGGER_CONTROLLER_NAME", default_value = Bootstrap::CONTROLLER_NAME)]
    pub(crate) controller_name: String,
    /// PEM file with the roots that the controller's certificate is verified against.
    #[arg(long, env = "OUTRIGGER_ROOT_CERT")]
    pub(crate) root_cert: PathBuf,
    /// File with the token that proves which workload this is.
    #[arg(long, env = "OUTRIGGER_TOKEN")]
    pub(crate) token: PathBuf,
    /// The workload that this proxy serves, NAMESPACE/NAME.
    #[arg(long, env = "OUTRIGGER_WORKLOAD", value_parser = workload)]
    pub(crate) workload: String,
    /// Folder for the last good configuration and certificate. Without it nothing is kept.
    #[arg(long, env = "OUTRIGGER_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Worker threads.
    #[arg(long, env = "OUTRIGGER_WORKERS", default_value_t = 1)]
    pub(crate) workers: usize,
    /// Zone that this proxy runs in. Default: its workload's, as the controller knows it.
    #[arg(long, env = "OUTRIGGER_ZONE", default_value = "")]
    pub(crate) zone: String,
    /// SO_MARK of what this proxy sends; the pod's redirection lets it pass.
    #[arg(long, env = "OUTRIGGER_MARK")]
    pub(crate) mark: Option<u32>,
    /// Admin interface. Loopback only.
    #[arg(long, env = "OUTRIGGER_ADMIN")]
    pub(crate) admin: Option<SocketAddr>,
    /// Health, readiness and metrics for everybody, read only, as `[::]:15022`. Off if not given.
    #[arg(long, env = "OUTRIGGER_HEALTH", value_name = "ADDRESS")]
    pub(crate) health: Option<SocketAddr>,
    /// Log filter, as `info` or `outrigger_dataplane=debug`.
    #[arg(long, env = "OUTRIGGER_LOG", default_value = "info")]
    pub(crate) log: String,
    /// Access log on standard output: off, json or text.
    #[arg(long, env = "OUTRIGGER_ACCESS_LOG", default_value = "off")]
    pub(crate) access_log: LogFormat,
    /// Connections that a shared proxy carries at once for pods of one identity.
    #[arg(long, env = "OUTRIGGER_CONNECTIONS_PER_IDENTITY", default_value_t = Limits::default().per_identity)]
    pub(crate) connections_per_identity: usize,
    /// Seconds that connections may take to end after SIGTERM, or once the root that vouches for their peer isn't trusted any
    /// more.
    #[arg(long, env = "OUTRIGGER_DRAIN_SECONDS", default_value_t = 30)]
    drain_seconds: u64,
}

/// A name that the controller could know. In a pod it is put together from the downward API's variables.
fn workload(text: &str) -> Result<String, String> {
    let named = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    match text.split_once('/') {
        Some((namespace, name)) if named(namespace) && named(name) => Ok(text.to_owned()),
        _ => Err("must be NAMESPACE/NAME".to_owned()),
    }
}

impl Settings {
    pub(crate) fn bootstrap(&self, role: Role) -> Bootstrap {
        Bootstrap {
            role,
            controller: self.controller.clone(),
            controller_name: self.controller_name.clone(),
            root_cert: self.root_cert.clone(),
            token: self.token.clone(),
            workload: self.workload.clone(),
            state_dir: self.state_dir.clone(),
            zone: self.zone.clone(),
            // The pool carries everybody: it is the last to die of anything.
            taster: (role == Role::Shared).then(|| "/proc/self/exe".into()),
            mark: self.mark,
        }
    }

    pub(crate) fn drain_limit(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}
