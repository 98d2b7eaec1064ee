//! nginx: a backend that answers with a fixed body, and a hop. One worker, no access log, connections kept for as long as
//! the load lasts.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::peers::{Lane, program};

/// What every backend answers with, in bytes.
pub(crate) const BODY: usize = 1024;

/// Connections of a worker. It has memory for all of them from the start.
pub(crate) const FEW: u32 = 4096;
pub(crate) const MANY: u32 = 11_000;

pub(crate) fn binary() -> Result<PathBuf> {
    program("nginx", "OUTRIGGER_NGINX", "the Debian package nginx-light")
}

pub(crate) fn backend(dir: &Path, name: &str) -> Result<PathBuf> {
    let body = "x".repeat(BODY);
    write(dir, name, FEW, "", "", &format!("location / {{ return 200 {body}; }}"))
}

/// `alone`: in one process, for a profiler.
pub(crate) fn hop(dir: &Path, name: &str, backend: Ipv4Addr, connections: u32, alone: bool) -> Result<PathBuf> {
    let port = Lane::Http1.port();
    let upstream = |name: &str| {
        format!("upstream {name} {{ server {backend}:{port}; keepalive 64; keepalive_requests 1000000000; }}\n")
    };
    let http =
        format!("{}{}map $http_x_version $to {{ preview other; default app; }}", upstream("app"), upstream("other"));
    let location = "location / { proxy_pass http://$to; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                    proxy_set_header Host $host; proxy_set_header X-Request-ID $request_id; }";
    write(dir, name, connections, if alone { "master_process off;" } else { "" }, &http, location)
}

fn write(dir: &Path, name: &str, connections: u32, main: &str, http: &str, location: &str) -> Result<PathBuf> {
    let conf = format!(
        "daemon off; {main} user root; worker_processes 1;\n\
         pid {own}.pid; error_log stderr warn;\n\
         events {{ worker_connections {connections}; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 3600s; {http}\n\
         server {{ listen {port} reuseport; {location} }} }}\n",
        own = dir.join(name).display(),
        port = Lane::Http1.port(),
    );
    let path = dir.join(format!("{name}.conf"));
    fs::write(&path, conf).with_context(|| path.display().to_string())?;
    Ok(path)
}
