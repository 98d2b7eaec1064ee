//! One table of questions, asked again and again while sidecars die and come back.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use outrigger_testbed::{
    Machine, Mesh, PodSpec, Proxies, Spec, net,
    probe::{Metric, wait_until},
};

use super::{
    policy::{Action, Policy, Rule, Who, expected, file},
    question::{Ask, Caller, Question, Verdict, ask_all},
};

/// In this order: a pod's number is its place, from 1.
const CALLERS: [&str; 5] = ["shop/alice", "shop/bob", "ops/carol", "ops/alice", "out/dave"];
/// Not meshed.
const DAVE: &str = "out/dave";
const VAULT: &str = "shop/vault";
const SERVICE: &str = "10.96.0.10";

/// Ports of the vault, and of its service.
const HTTP: (u16, u16) = (8080, 80);
const API: (u16, u16) = (8081, 81);
const GRPC: (u16, u16) = (9090, 9090);
/// Declared as opaque.
const STORE: (u16, u16) = (6379, 6379);
/// Not declared.
const FOUND_OUT: (u16, u16) = (6380, 6380);

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Namespace
metadata: {name: ops}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: vault}
spec:
  clusterIP: 10.96.0.10
  selector: {app: vault}
  ports:
  - {name: web, port: 80, targetPort: 8080}
  - {name: api, port: 81, targetPort: 8081}
  - {name: grpc, port: 9090, appProtocol: kubernetes.io/h2c}
  - {name: store, port: 6379, appProtocol: tcp}
  - {name: guess, port: 6380}
";

pub(super) fn sidecars_come_and_go(machine: &Machine) -> Result<()> {
    let mut mesh = start(machine, Proxies::GuardAndSidecar)?;
    let callers = &CALLERS[..4];
    let mut answers = vec![ask(&mesh, "all sidecars")?];
    for pod in callers {
        mesh.kill_sidecar(pod)?;
    }
    answers.push(ask(&mesh, "no sidecar at the callers")?);
    mesh.kill_sidecar(VAULT)?;
    answers.push(ask(&mesh, "no sidecar anywhere")?);
    for pod in callers {
        mesh.restart_sidecar(pod)?;
    }
    for pod in callers {
        took_over(&mesh, pod)?;
    }
    answers.push(ask(&mesh, "no sidecar at the callee")?);
    for (pod, direction) in callers.iter().map(|pod| (*pod, "outbound")).chain([(VAULT, "inbound")]) {
        let carried = total(&mesh.pod(pod)?.guard_metrics(), "outrigger_fallback_connections_total", direction);
        ensure!(carried > 0.0, "{pod}'s guard carried nothing {direction}: the table wasn't asked through it");
    }
    same(&answers)
}

pub(super) fn no_sidecar_at_all(machine: &Machine) -> Result<()> {
    let mesh = start(machine, Proxies::Guard)?;
    ask(&mesh, "pods that never have a sidecar").map(drop)
}

fn start(machine: &Machine, proxies: Proxies) -> Result<Mesh> {
    let apps = ["http --port 8080", "http --port 8081", "grpc", "store", "store --port 6380"];
    let vault = apps.iter().fold(PodSpec::new(VAULT), |pod, app| pod.app(&format!("outrigger-testapp {app}")));
    let pods = CALLERS.iter().map(|name| {
        let pod = PodSpec::new(name);
        if *name == DAVE { pod.proxies(Proxies::None) } else { pod.proxies(proxies) }
    });
    let pods = pods.chain([vault.proxies(proxies)]).collect();
    let config = vec![("vault.yaml".to_owned(), OBJECTS.to_owned()), ("access.yaml".to_owned(), file(&policies()))];
    let mut mesh = Mesh::start(machine, Spec { pods, config, shared: 2 })?;
    for app in &mut mesh.pod_mut(VAULT)?.apps {
        app.wait_log("listening")?;
    }
    Ok(mesh)
}

/// Waits until the sidecar has got the pod's sockets.
fn took_over(mesh: &Mesh, pod: &str) -> Result<()> {
    let pod = mesh.pod(pod)?;
    let to = SocketAddr::new(SERVICE.parse()?, HTTP.1);
    let served = || total(&pod.metrics(), "outrigger_http_requests_total", "outbound");
    wait_until("a request through the sidecar that came back", Duration::from_secs(10), || {
        let before = served();
        let asked = pod.namespace.within(|| super::question::exchange(to, "GET / HTTP/1.0\r\n\r\n"));
        asked.is_ok() && served() > before
    })
    .map(drop)
}

/// Asks the whole table and holds the answers against what the policies mean.
fn ask(mesh: &Mesh, how: &str) -> Result<Vec<(Question, Verdict)>> {
    let policies = policies();
    let before = audited(mesh)?;
    let (mut answers, mut wrong, mut audits) = (Vec::new(), Vec::new(), 0);
    for (name, questions) in CALLERS.iter().map(|name| (name, table(name))) {
        for (question, verdict) in questions.iter().zip(ask_all(mesh.pod(name)?, &questions)?) {
            let (want, recorded) = expected(&policies, question);
            if verdict != Verdict::BadRequest {
                audits += recorded;
            }
            let safe = want == Verdict::Allowed || verdict == Verdict::BadRequest;
            if verdict != want && !(safe && question.ask.may_be_refused(&verdict)) {
                wrong.push(format!("{question:?}\n  is {verdict:?}\n  must be {want:?}\n"));
            }
            answers.push((question.clone(), verdict));
        }
    }
    if let Some(first) = wrong.first() {
        let last = wrong.last().filter(|_| wrong.len() > 1);
        bail!("{how}: {} of {} wrong:\n{first}{}", wrong.len(), answers.len(), last.map_or("", String::as_str));
    }
    let recorded = audited(mesh)? - before;
    ensure!(recorded == audits as f64, "{how}: {recorded} audit records, {audits} were due");
    Ok(answers)
}

/// Every answer of every way is that of the first.
fn same(ways: &[Vec<(Question, Verdict)>]) -> Result<()> {
    let (first, others) = ways.split_first().context("a way")?;
    ensure!(first.len() > 300, "only {} questions", first.len());
    let verdicts = first.iter().map(|(_, verdict)| verdict);
    ensure!(verdicts.clone().any(|verdict| *verdict == Verdict::Allowed), "nothing is allowed");
    for (index, (question, verdict)) in first.iter().enumerate() {
        for other in others {
            let (_, answer) = &other[index];
            ensure!(answer == verdict, "{question:?}: {verdict:?} through sidecars, {answer:?} without");
        }
    }
    Ok(())
}

/// Records of auditing policies at every proxy that may have judged.
fn audited(mesh: &Mesh) -> Result<f64> {
    let judges = mesh.pods().filter(|pod| pod.spec.proxies == Proxies::Shared || pod.spec.name == VAULT);
    Ok(judges.map(|pod| total(&pod.metrics(), "outrigger_access_audited_total", "")).sum())
}

/// Sum of a metric over its series, of one direction if that is given.
fn total(metrics: &[Metric], name: &str, direction: &str) -> f64 {
    let of_name = metrics.iter().filter(|metric| metric.name == name);
    let of_direction = of_name
        .filter(|metric| direction.is_empty() || metric.labels.get("direction").is_some_and(|it| it == direction));
    of_direction.map(|metric| metric.value).sum()
}

fn addresses(pod: &str) -> [IpAddr; 2] {
    let place = CALLERS.iter().position(|name| *name == pod).unwrap_or(CALLERS.len());
    let (v4, v6) = net::addresses(u16::try_from(place + 1).unwrap_or(u16::MAX));
    [v4.into(), v6.into()]
}

/// All questions of one caller.
fn table(pod: &'static str) -> Vec<Question> {
    let meshed = pod != DAVE;
    let caller = Caller { pod, meshed, addresses: addresses(pod) };
    let asks = asks();
    let [v4, v6] = addresses(VAULT);
    let mut questions = Vec::new();
    let mut put = |to: IpAddr, port: u16, workload_port: u16, ask: &Ask| {
        let to = SocketAddr::new(to, port);
        questions.push(Question { caller: caller.clone(), to, port: workload_port, ask: ask.clone() });
    };
    let service: IpAddr = [10, 96, 0, 10].into();
    for (workload_port, port) in [HTTP, API] {
        for ask in &asks {
            // The machine has no kube-proxy: virtual addresses are for meshed pods.
            if meshed { put(service, port, workload_port, ask) } else { put(v4, workload_port, workload_port, ask) }
        }
        for ask in [Ask::get("/"), Ask::get("/admin"), Ask::get("/by-address"), Ask::get("/public/a")] {
            put(v4, workload_port, workload_port, &ask);
            put(v6, workload_port, workload_port, &ask);
        }
    }
    for ((workload_port, port), ask) in [(GRPC, Ask::Grpc), (STORE, Ask::Store), (FOUND_OUT, Ask::Store)] {
        if meshed {
            put(service, port, workload_port, &ask);
        }
        put(v4, workload_port, workload_port, &ask);
        put(v6, workload_port, workload_port, &ask);
    }
    questions
}

fn asks() -> Vec<Ask> {
    let paths = [
        "/",
        "/public",
        "/public/a",
        "/publicity",
        "/admin",
        "/admin/x",
        "/administer",
        "/ADMIN",
        "/exact",
        "/exact/x",
        "/data/1",
        "/by-address",
        "/ok/1",
        "/audit/1",
    ];
    let tricks = [
        ("//admin", "/admin"),
        ("/admin//x", "/admin/x"),
        ("/a/../admin", "/admin"),
        ("/./admin", "/admin"),
        ("/admin/.", "/admin/"),
        ("/public/../admin", "/admin"),
        ("/public/%2e%2e/admin", "/admin"),
        ("/public/..%2fadmin", "/admin"),
        ("/public%2f..%2fadmin", "/admin"),
        ("/%61dmin", "/admin"),
        ("/admin%2f", "/admin/"),
        ("/admin%2Fx", "/admin/x"),
        ("/%2fadmin", "/admin"),
        ("/public%2fa", "/public/a"),
        ("/admin?public=/public/a", "/admin"),
        ("/public\\..\\admin", "/admin"),
        ("http://vault.shop/admin", "/admin"),
        ("/admin;x", "/admin"),
        ("/admin;x=1/y;z", "/admin/y"),
        ("/;x/admin", "/admin"),
        ("/admin%3Bx/y", "/admin/y"),
        ("/public;x/a", "/public/a"),
        ("/public/..;/admin", "/admin"),
        ("/public/%2e%2e;x/admin", "/admin"),
        ("/a/.;/../admin", "/admin"),
        ("/admin#x", "/admin"),
        ("/admin%5Cx", "/admin"),
    ];
    let hosts = [
        "secret.example",
        "SECRET.Example",
        "secret.example.",
        "secret.example:80",
        "Secret.Example.:8080",
        "secret.example:",
        "x@secret.example",
        "x:y@Secret.Example:80",
        "secret%2Eexample",
        "secret.example:80@vault.shop",
    ];
    let methods = ["GET", "POST", "DELETE"].into_iter();
    let plain = methods.flat_map(|method| paths.into_iter().map(move |path| Ask::http(method, path)));
    let tricks = tricks.into_iter().map(|(path, plain)| Ask::trick(path, plain));
    let hosts = hosts.into_iter().map(|host| Ask::hosted(host, "secret.example"));
    let absolute = [("http://Secret.example./", "secret.example"), ("http://vault.shop/", "vault.shop")];
    let absolute = absolute.into_iter().map(|(target, host)| Ask::absolute(target, "secret.example", host));
    let headers: [&[(&str, &str)]; 8] = [
        &[("x-role", "reader")],
        &[("x-role", "writer")],
        &[("x-role", "reader"), ("x-role", "writer")],
        &[("x-role", "writer"), ("x-role", "reader")],
        &[("x-role", "reader,writer")],
        &[("x-debug", "1")],
        &[("x-debug", "0"), ("x-debug", "1")],
        &[("x-debug", "1"), ("x-debug", "0")],
    ];
    let headers = headers.into_iter().map(|headers| Ask::with_headers("/data/1", headers));
    plain.chain(tricks).chain(hosts).chain(absolute).chain(headers).collect()
}

fn policies() -> Vec<Policy> {
    use Action::{Allow, Audit, Deny};
    let rule = Rule::default;
    let policy = |name, action, rule| Policy { name, action, rule };
    let by = |pod: &str| vec![Who::Addresses(addresses(pod).to_vec())];
    let account = |name| vec![Who::Account(name)];
    let carol = || vec![Who::Identity("spiffe://cluster.local/ns/ops/sa/carol")];
    vec![
        policy("allow-carol", Allow, Rule { from: carol(), ports: &[8080], methods: &["GET"], ..rule() }),
        policy("allow-by-address", Allow, Rule { from: by(DAVE), ports: &[8081, 6380], ..rule() }),
        policy(
            "allow-data",
            Allow,
            Rule { from: vec![Who::Authenticated], paths: &["/data/*"], header: Some(("x-role", "reader")), ..rule() },
        ),
        policy(
            "allow-grpc",
            Allow,
            Rule { from: account("ops/carol"), ports: &[9090], methods: &["POST"], paths: &["/shop.Cart/*"], ..rule() },
        ),
        policy("allow-public", Allow, Rule { ports: &[8080], methods: &["GET"], paths: &["/public/*"], ..rule() }),
        policy("allow-shop", Allow, Rule { from: vec![Who::Namespace("shop")], ..rule() }),
        policy("allow-store", Allow, Rule { from: account("ops/carol"), ports: &[6379, 6380], ..rule() }),
        // Of a connection that nobody looks into it is never true.
        policy("allow-unseen", Allow, Rule { from: account("ops/alice"), ports: &[6379], methods: &["GET"], ..rule() }),
        policy("audit-admin", Audit, Rule { ports: &[8080], paths: &["/audit/*"], ..rule() }),
        policy("audit-bob", Audit, Rule { from: account("shop/bob"), ..rule() }),
        policy("audit-dave", Audit, Rule { from: by(DAVE), ..rule() }),
        policy("deny-address", Deny, Rule { from: by("shop/bob"), ports: &[8080], paths: &["/by-address"], ..rule() }),
        policy("deny-admin", Deny, Rule { not_from: carol(), ports: &[8080], paths: &["/admin/*"], ..rule() }),
        policy("deny-debug", Deny, Rule { ports: &[8080], header: Some(("x-debug", "1")), ..rule() }),
        policy(
            "deny-delete",
            Deny,
            Rule { from: vec![Who::Namespace("shop")], ports: &[8080, 8081], methods: &["DELETE"], ..rule() },
        ),
        policy("deny-exact", Deny, Rule { ports: &[8080, 8081], paths: &["/exact"], ..rule() }),
        policy("deny-host", Deny, Rule { ports: &[8080], hosts: &["secret.example"], ..rule() }),
        policy(
            "deny-not-ok",
            Deny,
            Rule { from: account("shop/bob"), ports: &[8081], not_paths: &["/ok/*"], ..rule() },
        ),
        policy(
            "deny-ops-alice",
            Deny,
            Rule { from: account("ops/alice"), ports: &[8080], paths: &["/public"], ..rule() },
        ),
        // Of a connection that nobody looks into it is true.
        policy("deny-unseen", Deny, Rule { from: account("shop/bob"), ports: &[6380], methods: &["POST"], ..rule() }),
    ]
}
