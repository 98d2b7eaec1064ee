//! Connections that are open when policies change: the next request on one is judged by what is in force then, and one that
//! nobody looks into is closed, if it may not be any more.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use outrigger_testbed::{Machine, Mesh, PodSpec, Proxies, Spec, apps::store::GREETING, probe::wait_until};
use tokio::runtime::Runtime;

use crate::raw::{PATIENCE, Wire};

const FRONT: &str = "shop/front";
const VAULT: &str = "shop/vault";
/// Not meshed.
const DAVE: &str = "out/dave";

const WEB: u16 = 8080;
/// Declared as opaque, and found out to be.
const STORES: [u16; 2] = [6379, 6380];

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
  - {name: guess, port: 6380}
";

/// What is about others: no connection here is.
const OTHERS: &str = "from: [{serviceAccounts: [shop/other]}]";
/// Requests by their paths, and so everything that can't be looked into.
const FRONTS: &str = "from: [{serviceAccounts: [shop/front]}], to: [{paths: [/, /upgrade]}]";

/// An open connection.
enum Open {
    Http1(Wire),
    /// As the app speaks it: prior knowledge.
    Http2(SendRequest<Empty<Bytes>>),
    /// To the store.
    Opaque(Wire),
    /// An HTTP/1.1 connection that has changed its protocol to one that nobody knows.
    Upgraded(Wire),
}

/// All kinds of one caller.
struct Connections(Vec<(String, Open)>);

pub(super) fn judged_again(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    mesh.write("access.yaml", &deny(OTHERS))?;
    changes(&mesh, &runtime, true).context("the callee's sidecar")?;
    mesh.kill_sidecar(VAULT)?;
    // A shared proxy has its callers connect anew now and then, so only what isn't HTTP stays open for sure.
    changes(&mesh, &runtime, false).context("the shared proxy")
}

fn changes(mesh: &Mesh, runtime: &Runtime, requests: bool) -> Result<()> {
    let open = |pod: &str| Connections::open(mesh, runtime, pod, requests).with_context(|| pod.to_owned());
    let (mut front, mut dave) = (open(FRONT)?, open(DAVE)?);
    mesh.write("access.yaml", &deny(&OTHERS.replace("other", "others")))?;
    mesh.write("access.yaml", &deny(FRONTS))?;
    until(mesh, FRONT, false)?;
    front.denied(runtime).context("a Deny policy")?;
    dave.live_on(runtime).context("a policy about others")?;

    mesh.write("mesh.yaml", &mesh_config("Strict"))?;
    until(mesh, DAVE, false)?;
    dave.denied(runtime).context("strict mTLS")?;
    mesh.write("access.yaml", &deny(OTHERS))?;
    until(mesh, FRONT, true)?;
    let mut front = open(FRONT)?;
    mesh.write("mesh.yaml", &mesh_config("Permissive"))?;
    until(mesh, DAVE, true)?;
    front.live_on(runtime).context("permissive again")
}

fn start(machine: &Machine) -> Result<Mesh> {
    let apps = ["http --port 8080", "store --port 6379", "store --port 6380"];
    let vault = apps.iter().fold(PodSpec::new(VAULT), |pod, app| pod.app(&format!("outrigger-testapp {app}")));
    let pods = vec![PodSpec::new(FRONT), vault, PodSpec::new(DAVE).proxies(Proxies::None)];
    let config =
        vec![("vault.yaml".to_owned(), OBJECTS.to_owned()), ("mesh.yaml".to_owned(), mesh_config("Permissive"))];
    let mut mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
    for app in &mut mesh.pod_mut(VAULT)?.apps {
        app.wait_log("listening")?;
    }
    Ok(mesh)
}

fn mesh_config(mode: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

fn deny(rule: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{namespace: shop, name: changing}}\nspec:\n  \
         targetRefs: [{{kind: Service, name: vault}}]\n  action: Deny\n  rules: [{{{rule}}}]\n"
    )
}

/// Where a pod calls the vault: by its service, or, without a proxy, by its address.
fn address(mesh: &Mesh, pod: &str, port: u16) -> Result<SocketAddr> {
    let ip: IpAddr = if pod == DAVE { mesh.pod(VAULT)?.address().into() } else { [10, 96, 0, 10].into() };
    Ok(SocketAddr::new(ip, port))
}

/// Waits until a new connection shows what is in force. There is one shared proxy only: two could differ for a moment.
fn until(mesh: &Mesh, pod: &str, served: bool) -> Result<()> {
    let ask = || {
        let mut wire = Wire::open(mesh.pod(pod)?, address(mesh, pod, WEB)?)?;
        wire.ask("GET /", "")
    };
    let status = |served| if served { Some(200) } else { Some(403) };
    wait_until(&format!("{pod} to be served: {served}"), PATIENCE, || match ask() {
        Ok(answer) => answer.status() == status(served),
        // Plaintext is closed where mTLS is strict.
        Err(_) => !served && pod == DAVE,
    })
    .map(drop)
}

// === impl Connections ===

impl Connections {
    fn open(mesh: &Mesh, runtime: &Runtime, pod: &str, requests: bool) -> Result<Self> {
        let wire = |port: u16| Wire::open(mesh.pod(pod)?, address(mesh, pod, port)?);
        let mut all = Vec::new();
        if requests {
            all.push(("HTTP/1.1".to_owned(), Open::Http1(wire(WEB)?)));
            let stream = mesh.pod(pod)?.namespace.connect(address(mesh, pod, WEB)?, PATIENCE)?;
            all.push(("HTTP/2".to_owned(), Open::Http2(runtime.block_on(http2(stream))?)));
        }
        for port in STORES {
            let mut store = wire(port)?;
            let greeting = format!("{GREETING}\n");
            ensure!(store.exactly(greeting.len())? == greeting.as_bytes(), "another greeting");
            all.push((format!("the store at {port}"), Open::Opaque(store)));
        }
        let mut upgraded = wire(WEB)?;
        upgraded.ask("GET /upgrade", "connection: upgrade\r\nupgrade: anything\r\n")?.expect(101)?;
        all.push(("an upgraded connection".to_owned(), Open::Upgraded(upgraded)));
        let mut all = Self(all);
        all.live_on(runtime).context("at first")?;
        Ok(all)
    }

    fn live_on(&mut self, runtime: &Runtime) -> Result<()> {
        for (name, open) in &mut self.0 {
            let status = match open {
                Open::Http1(wire) => wire.ask("GET /", "").with_context(|| name.clone())?.status(),
                Open::Http2(sender) => Some(runtime.block_on(asked(sender)).with_context(|| name.clone())?),
                Open::Opaque(wire) => said(wire, "GET k\n", "NONE\n").map(|()| None).with_context(|| name.clone())?,
                Open::Upgraded(wire) => said(wire, "ping", "ping").map(|()| None).with_context(|| name.clone())?,
            };
            ensure!(status.is_none_or(|status| status == 200), "{name}: {status:?}");
        }
        Ok(())
    }

    /// Requests are answered so, on the connection that was open; others are closed, without a word of ours.
    fn denied(&mut self, runtime: &Runtime) -> Result<()> {
        for (name, open) in &mut self.0 {
            let status = match open {
                Open::Http1(wire) => wire.ask("GET /", "").with_context(|| name.clone())?.status(),
                Open::Http2(sender) => Some(runtime.block_on(asked(sender)).with_context(|| name.clone())?),
                Open::Opaque(wire) | Open::Upgraded(wire) => {
                    closed(wire.writer()?).with_context(|| name.clone())?;
                    None
                }
            };
            ensure!(status.is_none_or(|status| status == 403), "{name}: {status:?}");
        }
        Ok(())
    }
}

async fn http2(stream: TcpStream) -> Result<SendRequest<Empty<Bytes>>> {
    stream.set_nonblocking(true)?;
    let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn asked(sender: &mut SendRequest<Empty<Bytes>>) -> Result<u16> {
    let request = Request::get("http://raw/").body(Empty::new())?;
    let answer = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.context("no answer")??;
    Ok(answer.status().as_u16())
}

fn said(wire: &mut Wire, words: &str, back: &str) -> Result<()> {
    wire.send(words)?;
    let answer = wire.exactly(back.len())?;
    ensure!(answer == back.as_bytes(), "{:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Closed by the other end, with nothing said before. A reset is as good.
fn closed(mut stream: TcpStream) -> Result<()> {
    let mut heard = [0; 64];
    match stream.read(&mut heard) {
        Ok(0) => {}
        Ok(length) => anyhow::bail!("{:?}", String::from_utf8_lossy(&heard[..length])),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
        Err(error) => return Err(error).context("it is still open"),
    }
    // Both ways: what is said now reaches nobody.
    let _ = stream.write_all(b"GET k\n");
    let heard = stream.read(&mut heard).unwrap_or_default();
    ensure!(heard == 0, "only one way is closed");
    Ok(())
}
