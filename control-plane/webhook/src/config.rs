//! What every injected pod gets unless its annotations say otherwise: the file `injector.yaml`.

use std::fmt;

use outrigger_crds::{FieldProblem, load::closest};
use serde::{Deserialize, Serialize};

use crate::refusal::{Problems, line};

mod check;
mod resources;

pub(crate) use check::{check_resources, cidr, departure, log, port, seconds, workers};
pub use resources::{Amounts, ContainerResources, Resources};

/// Settings of the injector. Every field may be left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct InjectorConfig {
    /// Image of all three containers. Default: `outrigger` with this version as its tag.
    pub image: String,
    /// When the image is pulled. Default: IfNotPresent.
    pub image_pull_policy: PullPolicy,
    /// The controller's gRPC address, HOST:PORT. Default: its Service in outrigger-system.
    pub controller: String,
    /// Log filter of the proxies. Default: info.
    pub log: String,
    /// Access log on the sidecar's standard output. Default: off.
    pub access_log: AccessLog,
    /// Worker threads of sidecar and guard. Default: 1.
    pub workers: usize,
    /// Seconds that connections may take to end after SIGTERM. Default: 30.
    pub drain_seconds: u64,
    /// Seconds for which an app isn't told to end while somebody may still call its pod, at most half of the pod's grace
    /// period; 0: it is told at once. Default: 10.
    pub departure_seconds: u64,
    /// Leave IPv6 alone. Default: false.
    pub no_ipv6: bool,
    /// Ports of pods that are reached without a proxy. A pod's annotation adds to them, as to the next two.
    pub skip_inbound_ports: Vec<u16>,
    /// Ports that apps call without a proxy.
    pub skip_outbound_ports: Vec<u16>,
    /// Address blocks that apps call without a proxy.
    pub skip_outbound_cidrs: Vec<String>,
    /// What the containers request and may use.
    pub resources: Resources,
    /// Version of the mesh that is written to injected pods. Default: this one.
    pub version: String,
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// Whether and how requests are logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessLog {
    #[default]
    Off,
    Json,
    Text,
}

/// What is wrong with the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub Vec<FieldProblem>);

// === impl InjectorConfig ===

impl Default for InjectorConfig {
    fn default() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        Self {
            image: format!("outrigger:{version}"),
            image_pull_policy: PullPolicy::default(),
            controller: "outrigger-controller.outrigger-system.svc:15010".to_owned(),
            log: "info".to_owned(),
            access_log: AccessLog::default(),
            workers: 1,
            drain_seconds: 30,
            departure_seconds: 10,
            no_ipv6: false,
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
            resources: Resources::default(),
            version: version.to_owned(),
        }
    }
}

impl InjectorConfig {
    /// Reads the file's text; an empty one is the default.
    ///
    /// # Errors
    /// If it is no YAML, or a field isn't known, has the wrong type or makes no sense.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let config: Option<Self> = serde_yaml::from_str(text).map_err(|error| ConfigError(vec![unreadable(&error)]))?;
        let config = config.unwrap_or_default();
        let mut problems = Problems::default();
        check::check(&config, &mut problems);
        let problems = problems.into_vec();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError(problems)) }
    }
}

/// serde's words, taken apart: `PATH: unknown field `a`, expected one of `b`, `c` at line 1 column 1`.
fn unreadable(error: &serde_yaml::Error) -> FieldProblem {
    let text = error.to_string();
    let (words, place) = match text.split_once(" at line ") {
        Some((words, place)) => (words, format!(" (line {place})")),
        None => (text.as_str(), String::new()),
    };
    let split = words.split_once(": ").filter(|(path, _)| !path.contains([' ', '`']));
    let (mut field, problem) = split.map_or((String::new(), words), |(path, words)| (path.to_owned(), words));
    let mut remedy = "see the injector's settings in docs/injection.md".to_owned();
    let mut quoted = problem.split('`').skip(1).step_by(2);
    let problem = match quoted.next().filter(|_| problem.starts_with("unknown field")) {
        Some(unknown) => {
            let known: Vec<&str> = quoted.collect();
            remedy = match closest(unknown, known.iter().copied()) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known are {}", known.join(", ")),
            };
            field = if field.is_empty() { unknown.to_owned() } else { format!("{field}.{unknown}") };
            "unknown field"
        }
        None => problem,
    };
    FieldProblem { field, problem: format!("{problem}{place}"), remedy }
}

// === impl AccessLog ===

impl AccessLog {
    pub(crate) const NAMES: [&str; 3] = ["off", "json", "text"];

    /// As the proxy's setting is written.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Json => "json",
            Self::Text => "text",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Off, Self::Json, Self::Text].into_iter().find(|format| format.as_str() == text)
    }
}

// === impl PullPolicy ===

impl PullPolicy {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

// === impl ConfigError ===

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(line).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests;
