//! `outrigger inject`: gives pods in YAML by hand their proxies, by the webhook's own code. Changes no cluster.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, stdin},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::ConfigMap;
use outrigger_webhook::{InjectorConfig, Manifest, NamespaceView, inject_yaml};
use outrigger_wire::names::{MODE_LABEL, SYSTEM_NAMESPACE};

use crate::{
    cluster::{self, Cluster},
    exit,
    terminal::Progress,
};

/// ConfigMap of the system namespace with the injector's settings, and its key.
const CONFIG_MAP: &str = "outrigger-config";
const CONFIG_KEY: &str = "injector.yaml";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// YAML or JSON of any number of objects; - is stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// What pods get that say nothing themselves
    #[arg(long, value_enum, default_value = "sidecar", conflicts_with = "namespace_labels")]
    mode: Mode,
    /// Treat pods as in a namespace with these labels
    #[arg(long, value_name = "KEY=VALUE,...", value_delimiter = ',', value_parser = label)]
    namespace_labels: Option<Vec<(String, String)>>,
    /// The injector's settings; else those of the cluster, else the built-in ones
    #[arg(long, value_name = "FILE")]
    injector_config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// A sidecar and a guard
    Sidecar,
    /// A guard alone; the shared proxies are its sidecar
    Shared,
}

pub(crate) fn run(options: &Options, flags: &cluster::Options) -> Result<ExitCode> {
    let text = read(&options.file)?;
    let (config, namespace) = match &options.injector_config {
        Some(file) => (config(&read(file)?).with_context(|| file.display().to_string())?, flags.namespace.clone()),
        None => of_cluster(flags)?,
    };
    let namespace = NamespaceView { name: namespace.unwrap_or_else(|| "default".to_owned()), labels: labels(options) };
    match inject_yaml(&text, &config, &namespace) {
        Ok(manifest) => {
            print!("{}", manifest.text);
            eprint!("{}", told(&manifest));
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            eprintln!("{problems}");
            Ok(exit::findings(true))
        }
    }
}

/// Labels of the namespace that pods are treated as in.
fn labels(options: &Options) -> BTreeMap<String, String> {
    match &options.namespace_labels {
        Some(labels) => labels.iter().cloned().collect(),
        None => {
            let mode = match options.mode {
                Mode::Sidecar => "sidecar",
                Mode::Shared => "shared",
            };
            BTreeMap::from([(MODE_LABEL.to_owned(), mode.to_owned())])
        }
    }
}

fn read(file: &Path) -> Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        stdin().read_to_string(&mut text).context("stdin")?;
        return Ok(text);
    }
    fs::read_to_string(file).with_context(|| file.display().to_string())
}

fn config(text: &str) -> Result<InjectorConfig> {
    InjectorConfig::from_yaml(text).map_err(|error| anyhow!("{error}"))
}

/// The injector's settings in a cluster; `None` if it has no mesh.
pub(crate) async fn settings(cluster: &Cluster) -> Result<Option<String>> {
    let map = cluster::found(cluster.of::<ConfigMap>(SYSTEM_NAMESPACE).get(CONFIG_MAP).await)?;
    Ok(map.and_then(|map| map.data?.remove(CONFIG_KEY)))
}

/// Reads [`settings`].
pub(crate) fn in_force(text: &str) -> Result<InjectorConfig> {
    config(text).with_context(|| format!("ConfigMap {SYSTEM_NAMESPACE}/{CONFIG_MAP}"))
}

/// The settings in force in the cluster, and the namespace that objects without one go to. A cluster that isn't there, or
/// has no mesh, is no reason to fail.
fn of_cluster(flags: &cluster::Options) -> Result<(InjectorConfig, Option<String>)> {
    let asked = cluster::block_on(async {
        let _progress = Progress::start("asking the cluster for the injector's settings");
        let cluster = Cluster::connect(flags).await?;
        Ok((settings(&cluster).await?, cluster.namespace))
    });
    match asked {
        Ok((Some(text), namespace)) => Ok((in_force(&text)?, Some(namespace))),
        Ok((None, namespace)) => {
            eprintln!("note: the cluster has no mesh; injected with the built-in settings");
            Ok((InjectorConfig::default(), Some(namespace)))
        }
        Err(error) => {
            eprintln!("note: injected with the built-in settings: {error:#}");
            Ok((InjectorConfig::default(), flags.namespace.clone()))
        }
    }
}

/// What was done, for people; the objects themselves are on stdout.
fn told(manifest: &Manifest) -> String {
    let mut out = String::new();
    out.extend(manifest.injected.iter().map(|name| format!("injected {name}\n")));
    out.extend(manifest.untouched.iter().map(|(name, why)| format!("left as it is: {name}: {why}\n")));
    out.extend(manifest.warnings.iter().map(|warning| format!("warning: {warning}\n")));
    if out.is_empty() {
        out.push_str("note: there is no pod, and no template of one, in it\n");
    }
    out
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?}: write KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}
