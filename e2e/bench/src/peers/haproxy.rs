//! HAProxy as one hop: one thread, no log, connections to backends shared by all callers, bytes by splice.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::peers::{Lane, program};

pub(crate) fn binary() -> Result<PathBuf> {
    program("haproxy", "OUTRIGGER_HAPROXY", "the Debian package haproxy")
}

pub(crate) fn hop(dir: &Path, name: &str, backend: Ipv4Addr) -> Result<PathBuf> {
    let mut conf = String::from(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode http\n  maxconn 4096\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         \x20 timeout http-keep-alive 1h\n  http-reuse always\n",
    );
    for lane in Lane::ALL {
        let (name, port) = (lane.name(), lane.port());
        let proto = if matches!(lane, Lane::Http2 | Lane::Grpc) { "proto h2" } else { "" };
        // Writing to a String can't fail.
        let _ = write!(conf, "frontend {name}\n  bind :{port} {proto}\n  default_backend {name}-app\n");
        if lane == Lane::Tcp {
            conf.push_str("  mode tcp\n  option splice-auto\n");
        } else {
            conf.push_str("  http-request set-header X-Request-ID %[uuid()]\n");
            let _ = writeln!(conf, "  use_backend {name}-other if {{ req.hdr(x-version) -m str preview }}");
            let _ = writeln!(conf, "backend {name}-other\n  server app {backend}:{port} {proto}");
        }
        let _ = writeln!(conf, "backend {name}-app\n  server app {backend}:{port} {proto}");
        if lane == Lane::Tcp {
            conf.push_str("  mode tcp\n  option splice-auto\n");
        }
    }
    let path = dir.join(format!("{name}.conf"));
    fs::write(&path, conf).with_context(|| path.display().to_string())?;
    Ok(path)
}
