//! Where plaintext may be: from and to what isn't meshed, while mTLS is permissive. Nowhere else.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec, apps::store::GREETING, probe::wait_until};

use super::question::{exchange, greeting};
use crate::capture::Capture;

const FRONT: &str = "shop/front";
const VAULT: &str = "shop/vault";
/// Not meshed.
const DAVE: &str = "out/dave";
const ERIN: &str = "out/erin";

const PATIENCE: Duration = Duration::from_secs(5);

/// Web and store, each with a Service and without.
const WEB: [u16; 2] = [8080, 8081];
const STORE: [u16; 2] = [6379, 6380];

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: vault}
spec:
  clusterIP: 10.96.0.10
  selector: {app: vault}
  ports:
  - {name: web, port: 8080}
  - {name: store, port: 6379, appProtocol: tcp}
";

pub(super) fn strict_refuses(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine, "Permissive")?;
    open_to(&mesh, DAVE, "permissive")?;
    set(&mesh, "Strict")?;
    closed_to(&mesh, DAVE, "strict, sidecar")?;
    open_to(&mesh, FRONT, "strict, sidecars")?;
    mesh.kill_sidecar(VAULT)?;
    closed_to(&mesh, DAVE, "strict, guard")?;
    open_to(&mesh, FRONT, "strict, the callee's guard")?;
    mesh.kill_sidecar(FRONT)?;
    open_to(&mesh, FRONT, "strict, guards")?;
    set(&mesh, "Permissive")?;
    open_to(&mesh, DAVE, "permissive, guard")?;
    set(&mesh, "Strict")?;
    closed_to(&mesh, DAVE, "strict again, guard")?;
    // It has to start from the strict configuration.
    mesh.restart_sidecar(VAULT)?;
    closed_to(&mesh, DAVE, "strict, a new sidecar")?;
    open_to(&mesh, FRONT, "strict, a new sidecar")
}

pub(super) fn nothing_on_the_wire(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine, "Permissive")?;
    let capture = Capture::start(Vec::new(), |all: &mut Vec<u8>, packet| all.extend_from_slice(packet))?;
    let mut hidden = Vec::new();
    for (state, kill) in [("sidecars", None), ("no-caller", Some(FRONT)), ("neither", Some(VAULT))] {
        if let Some(pod) = kill {
            mesh.kill_sidecar(pod)?;
        }
        hidden.extend(talk(&mesh, FRONT, VAULT, state)?);
    }
    mesh.restart_sidecar(FRONT)?;
    hidden.extend(talk(&mesh, FRONT, VAULT, "no-callee")?);
    let mut seen = talk(&mesh, DAVE, ERIN, "unmeshed")?;
    seen.extend(talk(&mesh, DAVE, VAULT, "permissive")?);
    let wire = capture.finish()?;
    let on_wire = |marker: &str| wire.windows(marker.len()).any(|bytes| bytes == marker.as_bytes());
    for marker in &seen {
        ensure!(on_wire(marker), "{marker} wasn't seen, so the capture proves nothing ({} bytes)", wire.len());
    }
    for marker in &hidden {
        ensure!(!on_wire(marker), "{marker} crossed the network in plaintext");
    }
    Ok(())
}

fn start(machine: &Machine, mode: &str) -> Result<Mesh> {
    let apps = ["http --port 8080", "http --port 8081", "store --port 6379", "store --port 6380"];
    let with_apps =
        |name: &str| apps.iter().fold(PodSpec::new(name), |pod, app| pod.app(&format!("outrigger-testapp {app}")));
    let pods = vec![
        PodSpec::new(FRONT),
        with_apps(VAULT),
        PodSpec::new(DAVE).proxies(Proxies::None),
        with_apps(ERIN).proxies(Proxies::None),
    ];
    let config = vec![("vault.yaml".to_owned(), OBJECTS.to_owned()), ("mesh.yaml".to_owned(), mesh_config(mode))];
    let mut mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
    for pod in [VAULT, ERIN] {
        for app in &mut mesh.pod_mut(pod)?.apps {
            app.wait_log("listening")?;
        }
    }
    Ok(mesh)
}

fn mesh_config(mode: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

/// Writes the mode and waits until it shows.
fn set(mesh: &Mesh, mode: &str) -> Result<()> {
    mesh.write("mesh.yaml", &mesh_config(mode))?;
    let to = addresses(mesh, VAULT)?[0];
    let what = format!("mTLS to be {mode}");
    // There is one shared proxy only: two could differ for a moment.
    wait_until(&what, PATIENCE, || web(mesh, DAVE, SocketAddr::new(to, WEB[0])) == Ok(mode == "Permissive")).map(drop)
}

fn addresses(mesh: &Mesh, pod: &str) -> Result<[IpAddr; 2]> {
    Ok(mesh.pod(pod)?.namespace.addresses())
}

fn open_to(mesh: &Mesh, caller: &str, when: &str) -> Result<()> {
    each_port(mesh, caller, when, true)
}

fn closed_to(mesh: &Mesh, caller: &str, when: &str) -> Result<()> {
    each_port(mesh, caller, when, false)
}

fn each_port(mesh: &Mesh, caller: &str, when: &str, open: bool) -> Result<()> {
    for ip in addresses(mesh, VAULT)? {
        for port in WEB {
            let served = web(mesh, caller, SocketAddr::new(ip, port)).map_err(|error| anyhow!("{when}: {error}"))?;
            ensure!(served == open, "{when}: {caller} is served {served} at {ip} {port}\n{}", mesh.tails());
        }
        for port in STORE {
            let to = SocketAddr::new(ip, port);
            let said = mesh.pod(caller)?.namespace.within(|| greeting(to))?;
            let served = said.is_ok_and(|said| !said.is_empty());
            ensure!(served == open, "{when}: {caller} is served {served} by the store at {to}\n{}", mesh.tails());
        }
    }
    Ok(())
}

/// Whether the app answers; an error is anything but an answer, a 403 or a closed connection.
fn web(mesh: &Mesh, caller: &str, to: SocketAddr) -> Result<bool, String> {
    let pod = mesh.pod(caller).map_err(|error| error.to_string())?;
    let text = "GET / HTTP/1.1\r\nHost: vault.shop\r\nConnection: close\r\n\r\n";
    match pod.namespace.within(|| exchange(to, text)).map_err(|error| error.to_string())? {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(true),
        Ok(answer) if answer.is_empty() || answer.starts_with("HTTP/1.1 403") => Ok(false),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
        other => Err(format!("{other:?}")),
    }
}

/// Says markers over HTTP and to the store; each must have come back from the app.
fn talk(mesh: &Mesh, caller: &str, callee: &str, state: &str) -> Result<Vec<String>> {
    let namespace = &mesh.pod(caller)?.namespace;
    let mut markers = Vec::new();
    for (family, ip) in addresses(mesh, callee)?.into_iter().enumerate() {
        let marker = |part: &str| format!("marker-{part}-{state}-{family}");
        let (head, body, value) = (marker("head"), marker("body"), marker("value"));
        let text = format!(
            "POST /{head} HTTP/1.1\r\nHost: vault.shop\r\nx-marker: {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let answer = namespace.within(|| exchange(SocketAddr::new(ip, WEB[0]), &text))??;
        ensure!(answer.ends_with(&body), "{state}: {answer}\n{}", mesh.tails());
        for port in STORE {
            let to = SocketAddr::new(ip, port);
            let answer =
                namespace.within(|| store(to, &value))?.with_context(|| format!("{state}: the store at {to}"))?;
            ensure!(answer == format!("{GREETING}\nSTORED\nVALUE {value}\n"), "{state}: {answer:?}");
        }
        markers.extend([head, body, value]);
    }
    Ok(markers)
}

fn store(to: SocketAddr, value: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("SET k {value}\nGET k\n").as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
