//! What a pod in an attacker's hands gets by lying: nothing. The attacker has everything of its own pod (root, token,
//! network) and nothing of others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, ensure};
use outrigger_testbed::{Machine, Mesh, Pod, PodSpec, Proxies, Spec, apps::store::GREETING};
use outrigger_wire::{
    SpiffeId,
    names::{alpn, ports},
    tunnel::{Caller, GuardHeader, TcpHeader},
};

use super::{
    peer::{Peer, request, say},
    question::{Verdict, exchange, http_verdict},
};
use crate::cases::SHARED;

const MALLORY: &str = "shop/mallory";
const VICTIM: &str = "shop/victim";
const VAULT: &str = "shop/vault";
const DAVE: &str = "out/dave";

const HTTP: u16 = 8080;
const STORE: u16 = 6379;
const OWN_PORTS: [u16; 5] = [ports::OUTBOUND, ports::INBOUND, ports::MESH, ports::ADMIN, ports::GUARD_ADMIN];

/// Only the victim may use the vault; everyone may see what is public; nobody may see the secret.
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
---
apiVersion: outrigger.dev/v1alpha1
kind: AccessPolicy
metadata: {namespace: shop, name: victim-only}
spec:
  targetRefs: [{kind: Service, name: vault}]
  action: Allow
  rules:
  - from: [{serviceAccounts: [shop/victim]}]
  - to: [{ports: [8080], paths: [/public/*]}]
---
apiVersion: outrigger.dev/v1alpha1
kind: AccessPolicy
metadata: {namespace: shop, name: no-secret}
spec:
  targetRefs: [{kind: Service, name: vault}]
  action: Deny
  rules:
  - to: [{ports: [8080], paths: [/secret]}]
";

/// The mesh, and everyone's certificate.
struct Scene {
    mesh: Mesh,
    mallory: Peer,
    victim: Peer,
    vault: Peer,
    shared: Peer,
}

pub(super) fn headers_claim_in_vain(machine: &Machine) -> Result<()> {
    let mut scene = Scene::open(machine)?;
    scene.requests("sidecar")?;
    scene.opaque("sidecar")?;
    scene.outbound()?;
    scene.stripped("sidecars")?;
    scene.mesh.kill_sidecar(VAULT)?;
    scene.requests("guard")?;
    scene.opaque("guard")?;
    scene.mesh.kill_sidecar(VICTIM)?;
    scene.stripped("guards")
}

pub(super) fn tunnels_claim_in_vain(machine: &Machine) -> Result<()> {
    let mut scene = Scene::open(machine)?;
    scene.strangers()?;
    scene.inbound_of_others()?;
    scene.own_ports_of_shared()?;
    scene.deliveries("sidecar")?;
    scene.mesh.kill_sidecar(VAULT)?;
    scene.deliveries("guard")
}

// === impl Scene ===

impl Scene {
    fn open(machine: &Machine) -> Result<Self> {
        let apps = ["outrigger-testapp http", "outrigger-testapp store"];
        let vault = apps.iter().fold(PodSpec::new(VAULT), |pod, app| pod.app(app));
        let pods = vec![PodSpec::new(MALLORY), PodSpec::new(VICTIM), vault, PodSpec::new(DAVE).proxies(Proxies::None)];
        let config = vec![("vault.yaml".to_owned(), OBJECTS.to_owned())];
        let mut mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
        for app in &mut mesh.pod_mut(VAULT)?.apps {
            app.wait_log("listening")?;
        }
        // A pod with a dead sidecar, out of which one may talk as one likes.
        mesh.kill_sidecar(MALLORY)?;
        mesh.pod(MALLORY)?.exec("nft", &["flush", "ruleset"])?;
        let peer = |workload| Peer::of(machine, &mesh, workload);
        let (mallory, victim, vault, shared) = (peer(MALLORY)?, peer(VICTIM)?, peer(VAULT)?, peer(SHARED)?);
        Ok(Self { mesh, mallory, victim, vault, shared })
    }

    fn here(&self) -> Result<&Pod> {
        self.mesh.pod(MALLORY)
    }

    fn at(&self, pod: &str, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::new(self.mesh.pod(pod)?.address().into(), port))
    }

    /// `outrigger-caller` on the mesh port counts from shared proxies alone.
    fn requests(&self, by: &str) -> Result<()> {
        let (port, victim, mallory) = (HTTP.to_string(), id(VICTIM)?, id(MALLORY)?);
        let (denied, shared) = (Verdict::Denied(None), id(SHARED)?);
        let table = [
            ("the victim", &self.victim, &[][..], Verdict::Allowed),
            ("mallory", &self.mallory, &[], denied.clone()),
            ("mallory as the victim", &self.mallory, &[victim.as_str()], denied.clone()),
            ("mallory as a shared proxy", &self.mallory, &[shared.as_str()], denied.clone()),
            (
                "mallory as a shared proxy for the victim",
                &self.mallory,
                &[shared.as_str(), victim.as_str()],
                denied.clone(),
            ),
            ("mallory as nobody", &self.mallory, &["-"], denied.clone()),
            ("the victim as mallory", &self.victim, &[mallory.as_str()], Verdict::Allowed),
            ("a shared proxy for the victim", &self.shared, &[victim.as_str()], Verdict::Allowed),
            ("a shared proxy for mallory", &self.shared, &[mallory.as_str()], denied.clone()),
            ("a shared proxy for nobody", &self.shared, &["-"], denied.clone()),
            ("a shared proxy for itself", &self.shared, &[], denied),
        ];
        let to = self.at(VAULT, ports::MESH)?;
        for (who, peer, callers, want) in table {
            let callers = callers.iter().map(|caller| ("outrigger-caller", *caller));
            let headers: Vec<_> = [("outrigger-port", port.as_str())].into_iter().chain(callers).collect();
            let verdict = request(self.here()?, peer, to, "/", &headers)?;
            ensure!(verdict == want, "{who}, judged by the {by}: {verdict:?}, not {want:?}\n{}", self.mesh.tails());
        }
        let secret = request(self.here()?, &self.victim, to, "/secret", &[("outrigger-port", &port)])?;
        ensure!(secret == Verdict::Denied(Some("AccessPolicy/shop/no-secret".to_owned())), "{by}: {secret:?}");
        Ok(())
    }

    /// The same for opaque connections.
    fn opaque(&self, by: &str) -> Result<()> {
        let to = self.at(VAULT, ports::MESH)?;
        let acts = |workload| Ok::<_, anyhow::Error>(Caller::Identity(id(workload)?));
        for (who, peer, caller, allowed) in [
            ("the victim", &self.victim, Caller::Peer, true),
            ("mallory", &self.mallory, Caller::Peer, false),
            ("mallory as the victim", &self.mallory, acts(VICTIM)?, false),
            ("mallory as nobody", &self.mallory, Caller::Anonymous, false),
            ("the victim as mallory", &self.victim, acts(MALLORY)?, true),
            ("a shared proxy for the victim", &self.shared, acts(VICTIM)?, true),
            ("a shared proxy for mallory", &self.shared, acts(MALLORY)?, false),
            ("a shared proxy for nobody", &self.shared, Caller::Anonymous, false),
            ("a shared proxy for itself", &self.shared, Caller::Peer, false),
        ] {
            let said = say(self.here()?, Some(peer), to, alpn::TCP, &tcp(STORE, caller))?;
            ensure!(said.starts_with(GREETING) == allowed, "{who}, judged by the {by}: {said:?}");
        }
        // HTTP that calls itself opaque, so that nobody sees which path it wants.
        let hidden = [tcp(HTTP, Caller::Peer), get("/secret", "").into()].concat();
        let said = say(self.here()?, Some(&self.victim), to, alpn::TCP, &hidden)?;
        ensure!(said.is_empty(), "hidden HTTP got through the {by}: {said:?}");
        Ok(())
    }

    /// A shared proxy goes by the guard's certificate.
    fn outbound(&self) -> Result<()> {
        let (to, victim) = (self.at(SHARED, ports::MESH)?, id(VICTIM)?);
        let header =
            GuardHeader::Outbound { source: self.at(VICTIM, 40000)?, destination: self.at(VAULT, HTTP)? }.encode();
        let forged = format!("outrigger-caller: {victim}\r\nx-forwarded-client-cert: URI={victim}\r\n");
        for (who, peer, more, want) in [
            ("the victim", &self.victim, "", Verdict::Allowed),
            ("mallory from the victim's address", &self.mallory, "", Verdict::Denied(None)),
            ("mallory with the victim's name", &self.mallory, &*forged, Verdict::Denied(None)),
        ] {
            let bytes = [&header[..], get("/", more).as_bytes()].concat();
            let said = say(self.here()?, Some(peer), to, alpn::GUARD, &bytes)?;
            let verdict = http_verdict(&said);
            ensure!(verdict == want, "{who} through the shared proxy: {said:?}\n{}", self.mesh.tails());
        }
        let store =
            GuardHeader::Outbound { source: self.at(VICTIM, 40000)?, destination: self.at(VAULT, STORE)? }.encode();
        for (peer, allowed) in [(&self.victim, true), (&self.mallory, false)] {
            let said = say(self.here()?, Some(peer), to, alpn::GUARD, &store)?;
            ensure!(said.starts_with(GREETING) == allowed, "the store through the shared proxy: {said:?}");
        }
        Ok(())
    }

    /// No app sees our headers, whoever sends them, and no app's mean anything.
    fn stripped(&self, by: &str) -> Result<()> {
        let more = "outrigger-caller: spiffe://cluster.local/ns/shop/sa/victim\r\nOutrigger-Port: 1\r\noutrigger-proto: 1.0\r\n\
                    outrigger-method: DELETE\r\noutrigger-unsent: 1\r\noutrigger-made-up: 1\r\n";
        let service = SocketAddr::from(([10, 96, 0, 10], HTTP));
        for (pod, to, path) in
            [(VICTIM, service, "/"), (VICTIM, self.at(VAULT, HTTP)?, "/"), (DAVE, self.at(VAULT, HTTP)?, "/public/x")]
        {
            let text = get(path, more);
            let answer = self.mesh.pod(pod)?.namespace.within(|| exchange(to, &text))??;
            ensure!(answer.starts_with("HTTP/1.1 200"), "{pod} through {by}: {answer}\n{}", self.mesh.tails());
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
            ensure!(body.contains("\"method\":\"GET\""), "{pod} through {by}: {body}");
            ensure!(!body.to_ascii_lowercase().contains("outrigger-"), "the app saw, from {pod} through {by}: {body}");
            // This one speaks as a proxy would.
            let answer = self.mesh.pod(pod)?.namespace.within(|| exchange(to, &get("/public/forged", "")))??;
            let head = answer.split("\r\n\r\n").next().unwrap_or_default().to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 403"), "{pod} through {by}: {answer}");
            ensure!(!head.contains("outrigger-"), "{pod} heard from the app through {by}: {head}");
        }
        let (to, text) = (self.at(VAULT, HTTP)?, get("/", more));
        let verdict = http_verdict(&self.mesh.pod(DAVE)?.namespace.within(|| exchange(to, &text))??);
        ensure!(verdict == Verdict::Denied(None), "an unmeshed caller with the victim's name: {verdict:?}");
        Ok(())
    }

    /// Whoever hasn't proved to be of the mesh, or speaks what isn't for the port.
    fn strangers(&self) -> Result<()> {
        let forged = Peer::self_signed(&id(VICTIM)?)?;
        let shared = self.at(SHARED, ports::MESH)?;
        let vault = self.at(VAULT, ports::MESH)?;
        let outbound = GuardHeader::Outbound { source: vault, destination: self.at(VAULT, STORE)? }.encode();
        let store = tcp(STORE, Caller::Peer);
        for (what, peer, to, protocol, bytes) in [
            ("nobody, to the shared proxy", None, shared, alpn::GUARD, &outbound),
            ("self-signed, to the shared proxy", Some(&forged), shared, alpn::GUARD, &outbound),
            ("opaque, to the shared proxy", Some(&self.victim), shared, alpn::TCP, &store),
            ("a delivery to the shared proxy", Some(&self.shared), shared, alpn::DELIVER, &store),
            ("nobody, to the vault", None, vault, alpn::TCP, &store),
            ("self-signed, to the vault", Some(&forged), vault, alpn::TCP, &store),
            ("a guard's tunnel to the vault", Some(&self.victim), vault, alpn::GUARD, &outbound),
            ("an unknown protocol", Some(&self.victim), vault, b"http/1.1", &store),
        ] {
            let said = say(self.here()?, peer, to, protocol, bytes)?;
            ensure!(said.is_empty(), "{what}: {said:?}");
        }
        Ok(())
    }

    /// A guard brings what was meant for its own pod, never for another.
    fn inbound_of_others(&self) -> Result<()> {
        let shared = self.at(SHARED, ports::MESH)?;
        let source = self.at(VICTIM, 40000)?;
        // What we say there in the guard's place must not be redirected.
        self.mesh.pod(VAULT)?.exec("nft", &["flush", "ruleset"])?;
        let mesh = |peer: &str| {
            let (destination, alpn) = (self.at(VAULT, ports::MESH)?, alpn::TCP.to_vec());
            let header = GuardHeader::InboundMesh { source, destination, peer: id(peer)?, alpn };
            anyhow::Ok([header.encode(), tcp(STORE, Caller::Peer)].concat())
        };
        let header = GuardHeader::InboundPlain { source, destination: self.at(VAULT, HTTP)? };
        let plain = [header.encode(), get("/public/x", "").into()].concat();
        for (what, from, guard, bytes, allowed) in [
            ("the vault's guard brings the victim", VAULT, &self.vault, mesh(VICTIM)?, true),
            ("the vault's guard brings mallory", VAULT, &self.vault, mesh(MALLORY)?, false),
            ("mallory's guard brings the victim", MALLORY, &self.mallory, mesh(VICTIM)?, false),
            ("the victim's guard brings itself", MALLORY, &self.victim, mesh(VICTIM)?, false),
            ("the vault's guard brings plaintext", VAULT, &self.vault, plain.clone(), true),
            ("mallory's guard brings plaintext", MALLORY, &self.mallory, plain, false),
        ] {
            let said = say(self.mesh.pod(from)?, Some(guard), shared, alpn::GUARD, &bytes)?;
            ensure!(served(&said) == allowed, "{what}: {said:?}\n{}", self.mesh.tails());
        }
        Ok(())
    }

    /// A shared proxy opens nothing of its own pod, of its own machine, or of another pod's proxies.
    fn own_ports_of_shared(&self) -> Result<()> {
        let (shared, source) = (self.at(SHARED, ports::MESH)?, self.at(VICTIM, 40000)?);
        let here: [IpAddr; 6] = [
            Ipv4Addr::LOCALHOST.into(),
            Ipv4Addr::new(127, 1, 2, 3).into(),
            Ipv4Addr::UNSPECIFIED.into(),
            Ipv6Addr::LOCALHOST.into(),
            Ipv6Addr::UNSPECIFIED.into(),
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
        ];
        // As the admin interface wants to be asked.
        let admin = "GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let open = |destination| {
            let bytes = [&GuardHeader::Outbound { source, destination }.encode()[..], admin.as_bytes()].concat();
            say(self.here()?, Some(&self.victim), shared, alpn::GUARD, &bytes)
        };
        for ip in here.into_iter().chain([shared.ip()]) {
            for port in OWN_PORTS {
                let said = open(SocketAddr::new(ip, port))?;
                ensure!(said.is_empty(), "the shared proxy opened its own {ip} {port}: {said:?}");
            }
        }
        for pod in [VAULT, VICTIM] {
            for port in OWN_PORTS {
                let said = open(self.at(pod, port)?)?;
                let verdict = http_verdict(&said);
                ensure!(verdict == Verdict::Denied(None), "the shared proxy opened port {port} of {pod}: {said:?}");
            }
        }
        for port in OWN_PORTS {
            let destination = self.at(VAULT, port)?;
            let header = GuardHeader::InboundPlain { source, destination };
            let bytes = [header.encode(), admin.into()].concat();
            let said = say(self.mesh.pod(VAULT)?, Some(&self.vault), shared, alpn::GUARD, &bytes)?;
            ensure!(!served(&said), "the shared proxy opened {destination} inbound: {said:?}");
        }
        Ok(())
    }

    /// Only a shared proxy delivers, and nobody to a proxy's own ports.
    fn deliveries(&self, by: &str) -> Result<()> {
        let to = self.at(VAULT, ports::MESH)?;
        let here = self.here()?;
        let victim = || Ok::<_, anyhow::Error>(Caller::Identity(id(VICTIM)?));
        for (who, peer, allowed) in [
            ("a shared proxy", &self.shared, true),
            ("mallory", &self.mallory, false),
            ("the victim", &self.victim, false),
        ] {
            let said = say(here, Some(peer), to, alpn::DELIVER, &tcp(STORE, victim()?))?;
            ensure!(served(&said) == allowed, "{who} delivers through the {by}: {said:?}\n{}", self.mesh.tails());
            let bytes = [tcp(HTTP, Caller::Peer), get("/", "").into()].concat();
            let said = say(here, Some(peer), to, alpn::DELIVER, &bytes)?;
            ensure!(served(&said) == allowed, "{who} delivers HTTP through the {by}: {said:?}");
        }
        for port in OWN_PORTS {
            for (what, peer, protocol) in
                [("a delivery", &self.shared, alpn::DELIVER), ("a connection", &self.victim, alpn::TCP)]
            {
                let bytes = [tcp(port, Caller::Peer), get("/readyz", "").into()].concat();
                let said = say(here, Some(peer), to, protocol, &bytes)?;
                ensure!(said.is_empty(), "{what} to port {port} through the {by}: {said:?}");
            }
            let verdict = request(here, &self.victim, to, "/readyz", &[("outrigger-port", &port.to_string())])?;
            ensure!(verdict == Verdict::Denied(None), "a request to port {port} through the {by}: {verdict:?}");
        }
        Ok(())
    }
}

fn id(workload: &str) -> Result<SpiffeId> {
    let account = if workload == SHARED { "outrigger-system/outrigger-shared" } else { workload };
    Ok(format!("spiffe://cluster.local/ns/{}", account.replace('/', "/sa/")).parse()?)
}

fn tcp(port: u16, caller: Caller) -> Vec<u8> {
    TcpHeader { port, caller, address: None }.encode()
}

fn get(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: vault.shop\r\n{more}Connection: close\r\n\r\n")
}

/// Whether an app, or anything else that answers, was reached.
fn served(said: &str) -> bool {
    said.starts_with(GREETING) || said.starts_with("HTTP/1.1 200") || said.starts_with("HTTP/1.0 200")
}
