//! Settings: flags, each with an environment variable.

#[cfg(test)]
mod tests;

use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use clap::{ArgGroup, Parser};
use outrigger_wire::{SpiffeId, names};
use rustls::pki_types::DnsName;

/// Serves configuration and certificates to the mesh's proxies, from a cluster's objects or from a folder of YAML.
#[derive(Debug, Parser)]
#[command(name = "outrigger-controller", version)]
#[command(group = ArgGroup::new("source").required(true).args(["config_dir", "kubernetes"]))]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) embedded: EmbeddedArgs,

    /// The mesh is what the objects of the cluster say that this pod runs in (or that KUBECONFIG names).
    #[arg(long, env = "OUTRIGGER_KUBERNETES")]
    pub(crate) kubernetes: bool,

    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,

    /// Where proxies connect: xDS and certificates, over TLS.
    #[arg(long, env = "OUTRIGGER_LISTEN", value_name = "ADDRESS", default_value_t = any(names::ports::CONTROLLER))]
    pub(crate) listen: SocketAddr,

    /// Health, metrics and debugging, plain HTTP without authentication: keep it on loopback.
    #[arg(long, env = "OUTRIGGER_ADMIN", value_name = "ADDRESS", default_value = "127.0.0.1:15014")]
    pub(crate) admin: SocketAddr,

    /// Trust domain of every identity in the mesh.
    #[arg(long, env = "OUTRIGGER_TRUST_DOMAIN", value_name = "NAME", default_value = names::TRUST_DOMAIN, value_parser = trust_domain)]
    pub(crate) trust_domain: String,

    /// What is logged, such as `info` or `outrigger_xds=debug,info`.
    #[arg(long, env = "OUTRIGGER_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
}

/// Settings of the embedded mode, without a cluster.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Embedded mode")]
pub(crate) struct EmbeddedArgs {
    /// Folder of YAML that describes the mesh; it is watched.
    #[arg(long, env = "OUTRIGGER_CONFIG_DIR", value_name = "DIR", requires_all = ["tokens", "state"])]
    pub(crate) config_dir: Option<PathBuf>,

    /// Folder of tokens, one file NAMESPACE.NAME for each workload, holding NAMESPACE/NAME:SECRET.
    #[arg(long, env = "OUTRIGGER_TOKENS", value_name = "DIR", requires = "config_dir", conflicts_with = "kubernetes")]
    pub(crate) tokens: Option<PathBuf>,

    /// Folder for the certificate authority's key; `root.pem` is written there.
    #[arg(long, env = "OUTRIGGER_STATE", value_name = "DIR", requires = "config_dir", conflicts_with = "kubernetes")]
    pub(crate) state: Option<PathBuf>,
}

/// Settings of the Kubernetes mode.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Kubernetes mode")]
pub(crate) struct ClusterArgs {
    /// Secret in outrigger-system with the root's certificate and key (tls.crt, tls.key, perhaps ca.crt).
    #[arg(long, env = "OUTRIGGER_ROOT_SECRET", value_name = "NAME", conflicts_with = "config_dir", default_value = names::ROOT_SECRET)]
    pub(crate) root_secret: String,

    /// What is injected into pods, YAML; it is read again when it changes. Without it, the injector's defaults.
    #[arg(long, env = "OUTRIGGER_INJECTOR_CONFIG", value_name = "FILE", conflicts_with = "config_dir")]
    pub(crate) injector_config: Option<PathBuf>,

    /// Where the API server calls the admission webhooks, HTTPS.
    #[arg(long, env = "OUTRIGGER_WEBHOOK_LISTEN", value_name = "ADDRESS", conflicts_with = "config_dir", default_value_t = any(names::ports::WEBHOOK))]
    pub(crate) webhook_listen: SocketAddr,

    /// Folder with tls.crt and tls.key for the webhooks, read again when they change. Without it they are self-made.
    #[arg(long, env = "OUTRIGGER_WEBHOOK_CERT_DIR", value_name = "DIR", conflicts_with = "config_dir")]
    pub(crate) webhook_cert_dir: Option<PathBuf>,

    /// Health, readiness and metrics for everybody, read only.
    #[arg(long, env = "OUTRIGGER_HEALTH_LISTEN", value_name = "ADDRESS", conflicts_with = "config_dir", default_value_t = any(names::ports::CONTROLLER_HEALTH))]
    pub(crate) health_listen: SocketAddr,

    /// Domain of the cluster's DNS: the controller's certificate is good for its service's names with and without it.
    #[arg(
        long,
        env = "OUTRIGGER_CLUSTER_DOMAIN",
        value_name = "NAME",
        conflicts_with = "config_dir",
        default_value = "cluster.local",
        value_parser = dns_name
    )]
    pub(crate) cluster_domain: String,

    /// Name of this pod, by the downward API. No two replicas may have the same: one of them leads.
    #[arg(
        long,
        env = "OUTRIGGER_POD_NAME",
        value_name = "NAME",
        conflicts_with = "config_dir",
        required_if_eq("kubernetes", "true")
    )]
    pub(crate) pod_name: Option<String>,

    /// This pod's own token, by which other replicas know it.
    #[arg(long, env = "OUTRIGGER_TOKEN", value_name = "FILE", default_value = "/var/run/secrets/outrigger/token")]
    pub(crate) token: PathBuf,
}

/// All addresses of both families.
fn any(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
}

fn dns_name(text: &str) -> Result<String, String> {
    match DnsName::try_from(text) {
        // One with a dot at its end would be another in a certificate.
        Ok(name) if !text.ends_with('.') => Ok(name.as_ref().to_owned()),
        _ => Err("no DNS name, such as cluster.local".to_owned()),
    }
}

fn trust_domain(text: &str) -> Result<String, String> {
    SpiffeId::new(text, "namespace", "account")
        .map(|id| id.trust_domain().to_owned())
        .map_err(|error| error.to_string())
}
