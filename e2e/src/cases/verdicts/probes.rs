//! What a platform asks a pod from outside, in plaintext and without an identity: about its app's health, which is let
//! in by sidecar and shared proxy alike and opens nothing else; and about the proxies themselves.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use outrigger_testbed::{
    Machine, Mesh, PodSpec, Proxies, Spec,
    probe::{get_from, wait_until},
};
use outrigger_wire::names::ports;

use super::question::exchange;

const VAULT: &str = "shop/vault";
const FRONT: &str = "shop/front";
/// Not meshed; stands for the kubelet.
const DAVE: &str = "out/dave";

const PATIENCE: Duration = Duration::from_secs(5);
/// A store that lets itself be heard does so much sooner.
const SILENCE: Duration = Duration::from_millis(300);

const WEB: u16 = 8080;
const GRPC: u16 = 8081;
/// Declared as opaque.
const OPAQUE: u16 = 8082;
/// Without a probe.
const OTHER: u16 = 8083;
const STORE: u16 = 6379;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: vault}
spec:
  clusterIP: 10.96.0.10
  selector: {app: vault}
  ports:
  - {name: opaque, port: 8082, appProtocol: tcp}
  - {name: store, port: 6379}
";

/// Nobody may do anything.
const DENIED: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: AccessPolicy
metadata: {namespace: shop, name: nobody}
spec:
  targetRefs: [{kind: Service, name: vault}]
  action: Deny
  rules: [{}]
";

const STRICT: &str = "
apiVersion: outrigger.dev/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec: {mtls: {mode: Strict}}
";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Served,
    Denied,
    Closed,
}

pub(super) fn let_in(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine, Proxies::GuardAndSidecar, DENIED)?;
    ask(&mesh, "denied, sidecar", Answer::Denied)?;
    write(&mesh, STRICT)?;
    ask(&mesh, "strict, sidecar", Answer::Closed)?;
    own_health(&mesh, true)?;
    mesh.kill_sidecar(VAULT)?;
    ask(&mesh, "strict, guard", Answer::Closed)?;
    own_health(&mesh, false)?;
    write(&mesh, DENIED)?;
    ask(&mesh, "denied, guard", Answer::Denied)
}

pub(super) fn let_in_without_sidecar(machine: &Machine) -> Result<()> {
    let mesh = start(machine, Proxies::Guard, STRICT)?;
    ask(&mesh, "strict, never a sidecar", Answer::Closed)
}

fn start(machine: &Machine, proxies: Proxies, rules: &str) -> Result<Mesh> {
    let web = |pod: PodSpec, port: u16| pod.app(&format!("outrigger-testapp http --port {port}"));
    let vault = [WEB, GRPC, OPAQUE, OTHER].into_iter().fold(PodSpec::new(VAULT).proxies(proxies), web);
    let vault = vault
        .app(&format!("outrigger-testapp store --port {STORE}"))
        .probe(WEB, Some("/healthz"))
        .probe(GRPC, None)
        .probe(OPAQUE, Some("/live"))
        .probe(STORE, Some("/healthz"));
    let pods = vec![vault, PodSpec::new(FRONT), PodSpec::new(DAVE).proxies(Proxies::None)];
    let config = vec![("vault.yaml".to_owned(), OBJECTS.to_owned()), ("rules.yaml".to_owned(), rules.to_owned())];
    let mut mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
    for app in &mut mesh.pod_mut(VAULT)?.apps {
        app.wait_log("listening")?;
    }
    Ok(mesh)
}

/// Changes between denied and strict, and waits until it shows.
fn write(mesh: &Mesh, rules: &str) -> Result<()> {
    mesh.write("rules.yaml", rules)?;
    let expected = if rules == STRICT { Answer::Closed } else { Answer::Denied };
    let to = SocketAddr::new(addresses(mesh)?[0], OTHER);
    wait_until("the rules", PATIENCE, || answer(mesh, to, "GET", "/").is_ok_and(|answer| answer == expected)).map(drop)
}

/// Asks the whole table; `unprobed` is what a port without probes answers.
fn ask(mesh: &Mesh, when: &str, unprobed: Answer) -> Result<()> {
    use Answer::{Denied, Served};
    const CHECK: &str = "/grpc.health.v1.Health/Check";
    let table = [
        (WEB, "GET", "/healthz", Served),
        (WEB, "HEAD", "/healthz", Served),
        (WEB, "GET", "/healthz?verbose=1", Served),
        (WEB, "GET", "//./healthz", Served),
        (WEB, "GET", "/%68ealthz", Served),
        (WEB, "POST", "/healthz", Denied),
        (WEB, "GET", "/healthz/", Denied),
        (WEB, "GET", "/healthz/..", Denied),
        (WEB, "GET", "/healthz%2F..", Denied),
        (WEB, "GET", "/?/healthz", Denied),
        (WEB, "GET", "/", Denied),
        (WEB, "POST", CHECK, Denied),
        (GRPC, "POST", CHECK, Served),
        (GRPC, "GET", CHECK, Denied),
        (GRPC, "GET", "/healthz", Denied),
        (OPAQUE, "GET", "/live", Served),
        (OPAQUE, "GET", "/healthz", Denied),
        (OTHER, "GET", "/healthz", unprobed),
        (OTHER, "GET", "/live", unprobed),
    ];
    for ip in addresses(mesh)? {
        for (port, method, path, expected) in table {
            let got = answer(mesh, SocketAddr::new(ip, port), method, path)?;
            // A path that means two things may be refused as such.
            ensure!(
                got == expected,
                "{when}: {method} {ip} {port} {path}: {got:?}, not {expected:?}\n{}",
                mesh.tails()
            );
        }
        // Who waits to be greeted isn't, and who asks for an upgrade asks for more than health.
        let store = mesh.pod(DAVE)?.namespace.within(|| first_bytes(SocketAddr::new(ip, STORE), "", SILENCE))?;
        let heard = store.as_ref().is_ok_and(|said| !said.is_empty());
        ensure!(!heard, "{when}: the store greets: {store:?}");
        let upgrade = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let text = mesh.pod(DAVE)?.namespace.within(|| first_bytes(SocketAddr::new(ip, WEB), upgrade, PATIENCE))??;
        ensure!(text.starts_with("HTTP/1.1 403"), "{when}: an upgrade: {text:?}");
    }
    Ok(())
}

/// The proxies' own health is read by everybody, meshed or not, and nothing else of theirs is.
fn own_health(mesh: &Mesh, sidecar: bool) -> Result<()> {
    let mut pages = vec![
        (ports::GUARD_HEALTH, "/healthz".to_owned(), 200),
        (ports::GUARD_HEALTH, "/readyz".to_owned(), 200),
        (ports::GUARD_HEALTH, "/metrics".to_owned(), 200),
        (ports::GUARD_HEALTH, format!("/probe/tcp/{STORE}"), 200),
        (ports::GUARD_HEALTH, "/probe/tcp/9".to_owned(), 503),
        (ports::GUARD_HEALTH, format!("/probe/tcp/{}", ports::ADMIN), 404),
        (ports::GUARD_HEALTH, "/config_dump".to_owned(), 404),
    ];
    if sidecar {
        pages.extend([(ports::HEALTH, "/readyz".to_owned(), 200), (ports::HEALTH, "/config_dump".to_owned(), 404)]);
    }
    for ip in addresses(mesh)? {
        for caller in [DAVE, FRONT] {
            for (port, path, status) in &pages {
                let page = get_from(&mesh.pod(caller)?.namespace, SocketAddr::new(ip, *port), path);
                let page = page.with_context(|| format!("{caller}: {ip} {port}{path}"))?;
                ensure!(page.status == *status, "{caller}: {ip} {port}{path}: {}, not {status}", page.status);
            }
        }
    }
    Ok(())
}

fn addresses(mesh: &Mesh) -> Result<[IpAddr; 2]> {
    Ok(mesh.pod(VAULT)?.namespace.addresses())
}

fn answer(mesh: &Mesh, to: SocketAddr, method: &str, path: &str) -> Result<Answer> {
    let text = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    match mesh.pod(DAVE)?.namespace.within(|| exchange(to, &text))? {
        Ok(answer) if answer.is_empty() => Ok(Answer::Closed),
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(Answer::Served),
        Ok(answer) if answer.starts_with("HTTP/1.1 403") || answer.starts_with("HTTP/1.1 400") => Ok(Answer::Denied),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Answer::Closed),
        other => bail!("{method} {path} at {to}: {other:?}\n{}", mesh.tails()),
    }
}

/// Sends text and reads the first bytes of the answer.
fn first_bytes(to: SocketAddr, text: &str, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(text.as_bytes())?;
    let mut said = [0; 256];
    let length = stream.read(&mut said)?;
    Ok(String::from_utf8_lossy(&said[..length]).into_owned())
}
