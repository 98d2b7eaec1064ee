//! What apps speak comes through as they said it, whichever way it goes.

use std::net::SocketAddr;

use anyhow::Result;
use outrigger_testbed::{Machine, Mesh, Pod, PodSpec, Proxies, Spec};

use super::disruption::all_accept;
use crate::Case;

mod http1;
pub(super) mod http2;
mod large;
mod streams;
mod tcp;

pub(super) const CASES: &[Case] = &[
    Case { name: "protocols/http1", run: http1::run },
    Case { name: "protocols/2-gib", run: large::run },
    Case { name: "protocols/http2", run: http2::run },
    Case { name: "protocols/tcp", run: tcp::run },
    Case { name: "protocols/streams", run: streams::moved },
];

/// For `--long`.
pub(super) const LONG: &[Case] = &[Case { name: "protocols/hour", run: streams::hour }];

const HTTP1: u16 = 8001;
const HTTP2: u16 = 8002;
const ECHO: u16 = 7001;
const GREETER: u16 = 7002;
/// A port that is the system's elsewhere.
const LOW: u16 = 1;

/// Two meshed pods and one that isn't, with bare sockets for apps.
fn mesh(machine: &Machine) -> Result<Mesh> {
    let pods = vec![
        PodSpec::new("test/client"),
        PodSpec::new("test/server"),
        PodSpec::new("test/plain").proxies(Proxies::None),
    ];
    let ports: String =
        [HTTP1, HTTP2, ECHO, GREETER, LOW].map(|port| format!("  - name: p{port}\n    port: {port}\n")).concat();
    let service = |name: &str, number: u8| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  namespace: test\n  name: {name}\nspec:\n\
             \x20 clusterIP: 10.96.1.{number}\n  clusterIPs: [\"10.96.1.{number}\", \"fd00:96::{number}\"]\n\
             \x20 selector:\n    app: {name}\n  ports:\n{ports}"
        )
    };
    let config = vec![("services.yaml".to_owned(), service("server", 1) + &service("plain", 2))];
    let mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
    // Until then shared proxies carry.
    all_accept(&mesh, &["test/client", "test/server"])?;
    Ok(mesh)
}

/// Who calls, and by which address the server is reached.
struct Way<'a> {
    name: &'static str,
    caller: &'a Pod,
    to: SocketAddr,
}

/// Every way that a connection may take to `port`; servers must be in both pods.
fn ways(mesh: &Mesh, port: u16) -> Result<Vec<Way<'_>>> {
    let (client, server, plain) = (mesh.pod("test/client")?, mesh.pod("test/server")?, mesh.pod("test/plain")?);
    let to = |address: &str| -> Result<SocketAddr> { Ok(SocketAddr::new(address.parse()?, port)) };
    let way = |name, caller, to| Way { name, caller, to };
    Ok(vec![
        way("through the mesh", client, to("10.96.1.1")?),
        way("through the mesh by IPv6", client, to("fd00:96::1")?),
        way("to a pod's own address", client, SocketAddr::new(server.address().into(), port)),
        way("to a pod's own IPv6 address", client, SocketAddr::new(server.namespace.v6.into(), port)),
        way("to its own service", server, to("10.96.1.1")?),
        way("to an unmeshed service", client, to("10.96.1.2")?),
        way("to an unmeshed pod's address", client, SocketAddr::new(plain.address().into(), port)),
        way("from an unmeshed pod", plain, SocketAddr::new(server.address().into(), port)),
        way("from an unmeshed pod by IPv6", plain, SocketAddr::new(server.namespace.v6.into(), port)),
    ])
}
