//! What a load is sent through, and how it speaks.

use std::{fmt, net::SocketAddr};

use anyhow::{Context, Result};

use crate::{
    peers::Lane,
    stage::{CALLER, CAPTURED, ENVOY, ENVOY_CALLER, HAPROXY, LIGHT, NGINX},
};

/// What stands between the load and the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    Nginx,
    Captured,
    Haproxy,
    Envoy,
    Sidecar,
    Guard,
    EnvoyPair,
    SidecarPair,
}

/// How the load speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    Http1,
    Http2,
    Grpc,
    GrpcStream,
    Tcp,
    TcpBulk,
}

/// Something that a load is sent through.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) name: String,
    /// Where the load runs.
    pub(crate) pod: &'static str,
    pub(crate) url: String,
    /// Of the proxies whose CPU time is counted.
    pub(crate) pids: Vec<u32>,
    /// Of the guards that stand ready to take over from them.
    pub(crate) guards: Vec<u32>,
}

// === impl Way ===

impl Way {
    pub(crate) const ALL: [Self; 9] = [
        Self::Direct,
        Self::Nginx,
        Self::Captured,
        Self::Haproxy,
        Self::Envoy,
        Self::Sidecar,
        Self::Guard,
        Self::EnvoyPair,
        Self::SidecarPair,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "no proxy",
            Self::Nginx => "nginx",
            Self::Captured => "nginx, captured",
            Self::Haproxy => "HAProxy",
            Self::Envoy => "Envoy",
            Self::Sidecar => "sidecar",
            Self::Guard => "guard and shared proxy",
            Self::EnvoyPair => "pair of Envoys",
            Self::SidecarPair => "pair of sidecars",
        }
    }

    pub(crate) fn pod(self) -> &'static str {
        match self {
            // It would be the only load in the pod of its backend otherwise, with no bridge on its way.
            Self::Direct | Self::Nginx => NGINX,
            Self::Captured => CAPTURED,
            Self::Haproxy => HAPROXY,
            Self::Envoy => ENVOY,
            Self::Sidecar | Self::SidecarPair => CALLER,
            Self::Guard => LIGHT,
            Self::EnvoyPair => ENVOY_CALLER,
        }
    }
}

// === impl Speech ===

impl Speech {
    fn scheme(self) -> &'static str {
        match self {
            Self::Http1 => "http",
            Self::Http2 => "h2",
            Self::Grpc => "grpc",
            Self::GrpcStream => "grpc-stream",
            Self::Tcp => "tcp",
            Self::TcpBulk => "tcp-bulk",
        }
    }

    pub(crate) fn lane(self) -> Lane {
        match self {
            Self::Http1 => Lane::Http1,
            Self::Http2 => Lane::Http2,
            Self::Grpc | Self::GrpcStream => Lane::Grpc,
            Self::Tcp | Self::TcpBulk => Lane::Tcp,
        }
    }

    pub(crate) fn url(self, host: impl fmt::Display, port: u16) -> String {
        let path = if matches!(self, Self::Http1 | Self::Http2) { "/" } else { "" };
        format!("{}://{host}:{port}{path}", self.scheme())
    }
}

// === impl Subject ===

impl Subject {
    /// The same once more, as the control.
    pub(crate) fn again(&self) -> Self {
        Self { name: format!("{} again (control)", self.name), ..self.clone() }
    }

    pub(crate) fn address(&self) -> Result<SocketAddr> {
        let address = self.url.split('/').nth(2).context("a URL")?;
        address.parse().with_context(|| self.url.clone())
    }
}
