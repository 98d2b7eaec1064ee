//! Neither sidecars nor shared proxies are left: what happens then is the owner's choice, for each service, and nothing
//! is plaintext that the owner hasn't wanted so.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec, probe::wait_until};

use super::{SHARED, all_accept, service};
use crate::raw::{Message, PATIENCE, Wire};

/// Has its sidecar all the time.
const WELL: &str = "shop/well";
/// Whose owner has said nothing.
const CLOSED: &str = "shop/closed";
/// Whose owner wants `Direct`.
const DIRECT: &str = "shop/direct";
/// Not meshed.
const DAVE: &str = "out/dave";
const SERVICES: [(&str, &str); 2] = [(CLOSED, "10.96.3.10"), (DIRECT, "10.96.3.11")];

/// Who answers a call, if anybody does.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The called app, which was called from this address.
    Answered(IpAddr),
    /// The proxy before the caller: it got no further.
    Refused(u16),
    Closed,
}

pub(super) fn nobody(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine)?;
    all_is_well(&mesh).context("at first")?;
    for pod in [CLOSED, DIRECT, SHARED] {
        mesh.kill_sidecar(pod)?;
    }
    choices(&mesh).context("nobody left")?;
    taken_back(&mesh).context("nobody left")?;
    mesh.restart_sidecar(SHARED)?;
    with_shared_proxy(&mesh).context("a shared proxy again")?;
    for pod in [CLOSED, DIRECT] {
        mesh.restart_sidecar(pod)?;
    }
    all_is_well(&mesh).context("in the end").with_context(|| mesh.tails())
}

/// Every call is answered, those of services by sidecars: the app sees its own proxy.
fn all_is_well(mesh: &Mesh) -> Result<()> {
    all_accept(mesh, &[WELL, CLOSED, DIRECT])?;
    for caller in [WELL, CLOSED, DIRECT] {
        for (callee, ip) in SERVICES.into_iter().filter(|(callee, _)| *callee != caller) {
            let before = requests(mesh, caller);
            answered(mesh, caller, SocketAddr::new(ip.parse()?, 80))
                .with_context(|| format!("{caller} to the service of {callee}"))?;
            // Counted once the answer has been given, which may be a moment after it was read.
            wait_until(&format!("{caller}'s sidecar carried its call of {callee}"), PATIENCE, || {
                requests(mesh, caller) > before
            })?;
        }
        answered(mesh, caller, app(mesh, DAVE)?).with_context(|| format!("{caller} to {DAVE}"))?;
    }
    for callee in [CLOSED, DIRECT] {
        answered(mesh, DAVE, app(mesh, callee)?).with_context(|| format!("{DAVE} to {callee}"))?;
    }
    Ok(())
}

fn choices(mesh: &Mesh) -> Result<()> {
    let own = |pod: &str| -> Result<IpAddr> { Ok(mesh.pod(pod)?.address().into()) };
    for (caller, callee, want) in [
        (CLOSED, DAVE, End::Closed),
        (DIRECT, DAVE, End::Answered(own(DIRECT)?)),
        (DAVE, CLOSED, End::Closed),
        // Its guard is in between, but looks at nothing.
        (DAVE, DIRECT, End::Answered(own(DIRECT)?)),
        // Out of the mesh by one's choice isn't into it by another's.
        (DIRECT, CLOSED, End::Closed),
        (CLOSED, DIRECT, End::Closed),
    ] {
        let end = ask(mesh, caller, app(mesh, callee)?)?;
        ensure!(end == want, "{caller} to {callee}: {end:?} instead of {want:?}\n{}", mesh.tails());
    }
    // By mTLS there is no direct way in, whatever the owner wants.
    for (callee, ip) in SERVICES {
        let end = ask(mesh, WELL, SocketAddr::new(ip.parse()?, 80))?;
        ensure!(matches!(end, End::Refused(502 | 503)), "{WELL} to the service of {callee}: {end:?}");
    }
    Ok(())
}

/// What was allowed is allowed no more, and the other way round.
fn taken_back(mesh: &Mesh) -> Result<()> {
    let served = |what: &str, callee: &str, served: bool| {
        let to = app(mesh, callee)?;
        let so = || ask(mesh, DAVE, to).is_ok_and(|end| matches!(end, End::Answered(_)) == served);
        wait_until(&format!("{what}: {callee} served {served}"), PATIENCE, so).map(drop)
    };
    mesh.write("mesh.yaml", &mesh_config("Strict", "Closed"))?;
    served("strict", DIRECT, false)?;
    mesh.write("mesh.yaml", &mesh_config("Permissive", "Direct"))?;
    served("the whole mesh's choice", CLOSED, true)?;
    served("the whole mesh's choice", DIRECT, true)?;
    mesh.write("mesh.yaml", &mesh_config("Permissive", "Closed"))?;
    served("the whole mesh's choice again", CLOSED, false)?;
    mesh.remove("policy.yaml")?;
    served("no choice", DIRECT, false)?;
    mesh.write("policy.yaml", &policy("onFallbackFailure: Direct"))?;
    served("the service's choice again", DIRECT, true)
}

/// What a service's owner wants while only the sidecar is away.
fn with_shared_proxy(mesh: &Mesh) -> Result<()> {
    let (dave, own, shared) = (app(mesh, DAVE)?, mesh.pod(DIRECT)?.address(), mesh.pod(SHARED)?.address());
    for (choice, want) in [
        ("onFallbackFailure: Direct", End::Answered(shared.into())),
        ("onSidecarFailure: Closed", End::Closed),
        ("onSidecarFailure: Direct", End::Answered(own.into())),
        ("onSidecarFailure: Fallback", End::Answered(shared.into())),
    ] {
        mesh.write("policy.yaml", &policy(choice))?;
        wait_until(&format!("{choice}: {want:?}"), PATIENCE, || ask(mesh, DIRECT, dave).is_ok_and(|end| end == want))?;
        answered(mesh, CLOSED, dave).with_context(|| format!("{choice} of another"))?;
    }
    Ok(())
}

fn start(machine: &Machine) -> Result<Mesh> {
    let with_app = |name: &str| PodSpec::new(name).app("outrigger-testapp http");
    let pods = vec![PodSpec::new(WELL), with_app(CLOSED), with_app(DIRECT), with_app(DAVE).proxies(Proxies::None)];
    let services = SERVICES.map(|(pod, ip)| {
        let name = pod.trim_start_matches("shop/");
        service(name, ip, &format!("app: {name}"))
    });
    let config = vec![
        ("services.yaml".to_owned(), services.concat()),
        ("mesh.yaml".to_owned(), mesh_config("Permissive", "Closed")),
        ("policy.yaml".to_owned(), policy("onFallbackFailure: Direct")),
    ];
    let mut mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
    for pod in [CLOSED, DIRECT, DAVE] {
        mesh.pod_mut(pod)?.apps.iter_mut().try_for_each(|app| app.wait_log("listening"))?;
    }
    Ok(mesh)
}

fn mesh_config(mode: &str, choice: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec:\n\
         \x20 mtls: {{mode: {mode}}}\n  fallback: {{onFallbackFailure: {choice}}}\n"
    )
}

fn policy(choice: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{namespace: shop, name: direct}}\nspec:\n\
         \x20 targetRefs: [{{kind: Service, name: direct}}]\n  {choice}\n"
    )
}

fn app(mesh: &Mesh, pod: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(mesh.pod(pod)?.address().into(), 8080))
}

fn answered(mesh: &Mesh, caller: &str, to: SocketAddr) -> Result<()> {
    let end = ask(mesh, caller, to)?;
    ensure!(matches!(end, End::Answered(_)), "{end:?}");
    Ok(())
}

/// One call on a connection of its own; that nothing comes is an error.
fn ask(mesh: &Mesh, caller: &str, to: SocketAddr) -> Result<End> {
    match Wire::open(mesh.pod(caller)?, to).and_then(|mut wire| wire.ask("GET /", "")) {
        Ok(answer) if answer.status() == Some(200) => Ok(End::Answered(peer(&answer)?)),
        Ok(answer) => Ok(End::Refused(answer.status().context("no answer")?)),
        Err(error) => {
            let silent = error.downcast_ref::<io::Error>().map(io::Error::kind);
            ensure!(!matches!(silent, Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)), "{error:#}");
            Ok(End::Closed)
        }
    }
}

fn peer(answer: &Message) -> Result<IpAddr> {
    let peer: SocketAddr = answer.json()?["peer"].as_str().context("no peer")?.parse()?;
    Ok(peer.ip().to_canonical())
}

fn requests(mesh: &Mesh, pod: &str) -> f64 {
    let metrics = mesh.pod(pod).map(outrigger_testbed::Pod::metrics).unwrap_or_default();
    let outbound = metrics.iter().filter(|metric| {
        metric.name == "outrigger_http_requests_total"
            && metric.labels.get("direction").is_some_and(|it| it == "outbound")
    });
    outbound.map(|metric| metric.value).sum()
}
