//! The proxies that ours are measured beside: their settings, and how they are started. Each gets the best settings that
//! we know for it; `docs/benchmarks.md` says who does what.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

pub(crate) mod envoy;
pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod pki;

/// What a proxy or a backend speaks on a port of its own. Every peer listens on the same ports, as the backends do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    Http1,
    Http2,
    Grpc,
    Tcp,
}

impl Lane {
    pub(crate) const ALL: [Self; 4] = [Self::Http1, Self::Http2, Self::Grpc, Self::Tcp];

    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Http1 => 8080,
            Self::Http2 => 8081,
            Self::Grpc => 8082,
            Self::Tcp => 8083,
        }
    }

    /// Of the Services in `services.yaml`.
    pub(crate) fn service_port(self) -> u16 {
        self.port() - 8000
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// A program of the distribution, or the one that an environment variable names.
pub(crate) fn program(name: &str, variable: &str, package: &str) -> Result<PathBuf> {
    let named = env::var_os(variable).map(PathBuf::from);
    let usual = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].map(|folder| Path::new(folder).join(name));
    match named.into_iter().chain(usual).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("{name} is missing: it is {package}; ./dev bench installs it, {variable} names another one"),
    }
}
