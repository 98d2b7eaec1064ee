//! Settings: flags, each with an environment variable.

use std::{net::SocketAddr, path::PathBuf};

use clap::Parser;
use outrigger_wire::{SpiffeId, names};

/// Serves configuration and certificates to the mesh's proxies, from a folder of YAML.
#[derive(Debug, Parser)]
#[command(name = "outrigger-controller", version)]
pub(crate) struct Args {
    /// Folder of YAML that describes the mesh; it is watched.
    #[arg(long, env = "OUTRIGGER_CONFIG_DIR", value_name = "DIR")]
    pub(crate) config_dir: PathBuf,

    /// Folder of tokens, one file NAMESPACE.NAME for each workload, holding NAMESPACE/NAME:SECRET.
    #[arg(long, env = "OUTRIGGER_TOKENS", value_name = "DIR")]
    pub(crate) tokens: PathBuf,

    /// Folder for the certificate authority's key; `root.pem` is written there.
    #[arg(long, env = "OUTRIGGER_STATE", value_name = "DIR")]
    pub(crate) state: PathBuf,

    /// Where proxies connect: xDS and certificates, over TLS.
    #[arg(long, env = "OUTRIGGER_LISTEN", value_name = "ADDRESS", default_value_t = SocketAddr::from(([0, 0, 0, 0], names::ports::CONTROLLER)))]
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

fn trust_domain(text: &str) -> Result<String, String> {
    SpiffeId::new(text, "namespace", "account")
        .map(|id| id.trust_domain().to_owned())
        .map_err(|error| error.to_string())
}
