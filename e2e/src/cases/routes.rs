//! HTTPRoute, GRPCRoute and MeshRoute as users write them, by what callers and apps see.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec};

use crate::{
    Case,
    raw::{Message, Wire},
};

mod filters;
mod matches;
mod telemetry;
mod tries;

pub(super) const CASES: &[Case] = &[
    Case { name: "routes/matches", run: matches::run },
    Case { name: "routes/filters", run: filters::run },
    Case { name: "routes/tries", run: tries::run },
    Case { name: "routes/telemetry", run: telemetry::run },
];

/// Service that routes are attached to, its two versions, and one in another namespace.
const SERVICES: &str = include_str!("routes/services.yaml");

const SHOP: &str = "10.96.2.10";

/// Callers in two namespaces, an app in two versions, and a witness that mirrors go to.
fn mesh(machine: &Machine, config: &[(&str, &str)]) -> Result<Mesh> {
    let app = |name: &str, version: &str| {
        PodSpec::new(&format!("shop/{name}"))
            .label("app", "catalog")
            .label("version", version)
            .app(&format!("outrigger-testapp http --name {name} --version {version}"))
    };
    let logged = |name: &str| {
        let mut pod = PodSpec::new(name);
        pod.env.insert("OUTRIGGER_ACCESS_LOG".to_owned(), "json".to_owned());
        pod
    };
    let pods = vec![
        logged("shop/caller"),
        PodSpec::new("other/caller"),
        app("catalog-v1", "v1"),
        app("catalog-v2", "v2"),
        PodSpec::new("shop/witness"),
        PodSpec::new("shop/cart").app("outrigger-testapp grpc"),
        PodSpec::new("shop/legacy").proxies(Proxies::None).app("outrigger-testapp http --name legacy --version old"),
    ];
    let config = [("services.yaml", SERVICES)].iter().chain(config);
    let config = config.map(|(file, yaml)| ((*file).to_owned(), (*yaml).to_owned())).collect();
    Mesh::start(machine, Spec { pods, config, shared: 1 })
}

fn address(ip: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse()?, 80))
}

/// One request on a connection of its own.
fn ask(mesh: &Mesh, from: &str, ip: &str, line: &str, headers: &str) -> Result<Message> {
    Wire::open(mesh.pod(from)?, address(ip)?)?.ask(line, headers)
}

/// Which version of the app answered.
fn version(answer: &Message) -> Result<&str> {
    ensure!(answer.status() == Some(200), "{}: {}", answer.first, answer.text());
    answer.header("x-version").context("no version")
}
