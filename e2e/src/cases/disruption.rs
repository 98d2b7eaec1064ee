//! Things change and break under load, and callers don't notice.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use outrigger_testbed::{
    Load, LoadSpec, Machine, Mesh, Pod, PodSpec, Samples, Spec,
    probe::{self, wait_until},
};
use outrigger_wire::names::ports;

use super::SHARED;
use crate::{
    Case,
    raw::{PATIENCE, Wire, every},
};

mod busy;
pub(super) mod clock;
mod conntrack;
mod deadly;
mod disk;
mod dns;
mod kills;
mod loss;
mod nobody;
mod overload;
mod poison;
mod portless;
mod routes;
mod shares;
mod unheard;
mod unlimited;
mod wire;

pub(super) const CASES: &[Case] = &[
    Case { name: "disruption/route-changes", run: routes::changes },
    Case { name: "disruption/route-moves", run: routes::moves },
    Case { name: "disruption/endpoints", run: endpoints },
    Case { name: "disruption/killed-endpoint", run: killed },
    Case { name: "disruption/vanished-endpoint", run: vanished },
    Case { name: "disruption/vanished-while-quiet", run: vanished_while_quiet },
    Case { name: "disruption/bad-yaml", run: bad_yaml },
    Case { name: "disruption/poison", run: poison::poison },
    Case { name: "disruption/deadly-requests", run: deadly::requests },
    Case { name: "disruption/own-sidecar-killed", run: deadly::own_sidecar },
    Case { name: "disruption/rules-flushed", run: rules_flushed },
    Case { name: "disruption/100-kills", run: kills::hundred },
    Case { name: "disruption/no-proxy-left", run: nobody::nobody },
    Case { name: "disruption/no-dns", run: dns::down },
    Case { name: "disruption/no-ports", run: portless::none },
    Case { name: "disruption/full-conntrack", run: conntrack::full },
    Case { name: "disruption/full-disk", run: disk::full },
    Case { name: "disruption/loss", run: loss::loss },
    Case { name: "disruption/resets", run: loss::resets },
    Case { name: "disruption/overload", run: overload::overload },
    Case { name: "disruption/overload-without-a-policy", run: unlimited::unlimited },
    Case { name: "disruption/shares", run: shares::fair },
    Case { name: "disruption/crowd", run: shares::crowd },
    Case { name: "disruption/busy", run: busy::avoided },
    Case { name: "disruption/kills-on-the-wire", run: wire::kills },
    Case { name: "disruption/clocks", run: clock::differ },
    Case { name: "disruption/no-authority", run: clock::no_authority },
    Case { name: "disruption/unheard", run: unheard::closed },
];

const CALLER: &str = "shop/caller";
const SHOP: &str = "10.96.3.10";
/// A guard looks every few seconds, and twice.
const CANARY: Duration = Duration::from_secs(20);
/// No guard waits longer than half a minute until it trusts a sidecar that has died.
const TRUST: Duration = Duration::from_secs(60);

fn service(name: &str, ip: &str, selector: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata:\n  namespace: shop\n  name: {name}\nspec:\n  clusterIP: {ip}\n\
         \x20 selector: {{{selector}}}\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n"
    )
}

/// A caller and an app in three versions.
fn mesh(machine: &Machine) -> Result<Mesh> {
    mesh_of(machine, PodSpec::new(CALLER))
}

fn mesh_of(machine: &Machine, caller: PodSpec) -> Result<Mesh> {
    let versions = ["v1", "v2", "v3"];
    let app = |version: &&str| {
        PodSpec::new(&format!("shop/app-{version}"))
            .label("app", "app")
            .label("version", version)
            .app(&format!("outrigger-testapp http --version {version}"))
    };
    let pods = [caller].into_iter().chain(versions.iter().map(app)).collect();
    let mut services = service("app", SHOP, "app: app");
    for (index, version) in versions.iter().enumerate() {
        services += &service(
            &format!("app-{version}"),
            &format!("10.96.3.{}", 11 + index),
            &format!("app: app, version: {version}"),
        );
    }
    Mesh::start(machine, Spec { pods, config: vec![("services.yaml".to_owned(), services)], shared: 1 })
}

/// All calls of the service go to this version.
fn route(version: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  namespace: shop\n  name: app\nspec:\n\
         \x20 parentRefs: [{{group: \"\", kind: Service, name: app}}]\n  rules:\n\
         \x20 - backendRefs: [{{name: app-{version}, port: 80}}]\n"
    )
}

fn load(mesh: &Mesh, rate: u32, keep_alive: bool, report: u64) -> Result<Load> {
    let target = format!("http://{SHOP}:80/").parse().map_err(anyhow::Error::msg)?;
    let report = Duration::from_millis(report);
    Load::start(mesh.pod(CALLER)?, &LoadSpec { keep_alive, report, ..LoadSpec::new(target, rate) })
}

/// Whether the pod's sidecar has its sockets, by its guard's word.
fn accepts(pod: &Pod) -> bool {
    let page = probe::get(&pod.namespace, ports::GUARD_ADMIN, "/config_dump");
    let dump = page.ok().and_then(|page| serde_json::from_str::<serde_json::Value>(&page.body).ok());
    dump.is_some_and(|dump| dump["guard"]["state"] == "standby")
}

/// Waits until all of these carry their pods: before that, shared proxies do.
pub(super) fn all_accept(mesh: &Mesh, pods: &[&str]) -> Result<()> {
    let so = || pods.iter().all(|pod| mesh.pod(pod).is_ok_and(accepts));
    wait_until(&format!("sidecars that accept: {}", pods.join(", ")), TRUST, so).map(drop)
}

/// Waits for a good answer of this version to a call that was due after `from`.
fn answered_by(load: &Load, version: &str, from: u64) -> Result<()> {
    let what = format!("an answer of {version}");
    wait_until(&what, PATIENCE, || load.since(from).ok().any(|sample| sample.version == version)).map(|_| ())
}

/// Waits until this version has answered none of the calls of a quarter of a second.
fn silent(load: &Load, version: &str) -> Result<()> {
    wait_until(&format!("no more answers of {version}"), PATIENCE, || {
        let recent = load.since(outrigger_testbed::now_us().saturating_sub(250_000));
        recent.len() > 50 && recent.ok().all(|sample| sample.version != version)
    })
    .map(|_| ())
}

/// The `Workload` of a pod, with or without what its service selects it by.
fn workload(mesh: &Mesh, version: &str, selected: bool) -> Result<String> {
    let pod = mesh.pod(&format!("shop/app-{version}"))?;
    let app = if selected { "app" } else { "gone" };
    let [v4, v6] = pod.namespace.addresses();
    Ok(format!(
        "---\napiVersion: outrigger.dev/v1alpha1\nkind: Workload\nmetadata:\n  namespace: shop\n  name: app-{version}\n\
         \x20 labels: {{app: {app}, version: {version}}}\nspec:\n  serviceAccount: app-{version}\n  mode: sidecar\n\
         \x20 addresses: [\"{v4}\", \"{v6}\"]\n"
    ))
}

/// An endpoint comes and goes ten times, with calls of 100 ms on their way to it: all of them end well.
fn endpoints(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let all = mesh.workloads_yaml();
    let others: String = all.split_inclusive("---\n").filter(|object| !object.contains("name: app-v3\n")).collect();
    let target = format!("http://{SHOP}:80/slow?ms=100").parse().map_err(anyhow::Error::msg)?;
    let slow = Load::start(mesh.pod(CALLER)?, &LoadSpec::new(target, 100))?;
    let fast = load(&mesh, 500, true, 20)?;
    for _ in 0..10 {
        mesh.write("workloads.yaml", &(others.clone() + &workload(&mesh, "v3", false)?))?;
        silent(&fast, "v3")?;
        let back = mesh.write("workloads.yaml", &(others.clone() + &workload(&mesh, "v3", true)?))?;
        answered_by(&fast, "v3", back)?;
    }
    every(vec![
        ("slow calls".to_owned(), flawless(&slow.finish()?)),
        ("fast calls".to_owned(), flawless(&fast.finish()?)),
    ])
}

fn flawless(samples: &Samples) -> Result<()> {
    ensure!(samples.len() >= 50, "only {} calls", samples.len());
    ensure!(samples.failed() == 0, "of {} calls: {:?}", samples.len(), samples.by_outcome());
    Ok(())
}

/// A whole pod dies at once and nobody says so. Its calls in flight may fail; GETs on their way to it are sent to
/// another, and soon it isn't asked any more.
fn killed(machine: &Machine) -> Result<()> {
    let mut mesh = mesh(machine)?;
    let load = load(&mesh, 500, false, 20)?;
    answered_by(&load, "v3", 0)?;
    let start = outrigger_testbed::now_us();
    let pod = mesh.pod_mut("shop/app-v3")?;
    pod.kill_sidecar()?;
    for process in pod.guard.iter_mut().chain(&mut pod.apps) {
        process.kill()?;
    }
    let gone = outrigger_testbed::now_us();
    after_second(&load, gone)?;
    let after = load.samples().between(gone, u64::MAX);
    let around = load.samples().between(start.saturating_sub(1_000_000), gone);
    ensure!(after.failed() == 0, "GETs after the death: {:?}", after.by_outcome());
    ensure!(around.failed() <= 10, "GETs around the death: {:?}", around.by_outcome());
    let slow = after.latency(0.99).unwrap_or_default();
    ensure!(slow < Duration::from_secs(1), "99 % of the calls after the death within {slow:?}");
    Ok(())
}

/// Most pods' node is gone: nothing refuses, nothing answers. Within the moment that it takes to notice, calls on their
/// way there hang; GETs are then answered by the one that is left, POSTs may fail. After that nobody notices anything.
fn vanished(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let load = |kind: &str, path: &str| {
        let target = format!("{kind}://{SHOP}:80{path}").parse().map_err(anyhow::Error::msg)?;
        let report = Duration::from_millis(20);
        Load::start(mesh.pod(CALLER)?, &LoadSpec { report, ..LoadSpec::new(target, 150) })
    };
    let (gets, posts) = (load("http", "/")?, load("echo", "/echo")?);
    answered_by(&gets, "v3", 0)?;
    after_second(&posts, outrigger_testbed::now_us())?;
    let cut = outrigger_testbed::now_us();
    unplug(&mesh)?;
    let gone = outrigger_testbed::now_us();
    let noticed = gone + 1_000_000;
    after_second(&gets, noticed + 2_500_000)?;
    let mut results = Vec::new();
    for (name, load) in [("GET", gets), ("POST", posts)] {
        let samples = load.finish()?;
        let (before, around, after) =
            (samples.between(0, cut), samples.between(gone, noticed), samples.between(noticed, u64::MAX));
        println!(
            "        {name}: in the second after {:?}, longest {:?}; later {:?}, longest {:?}; before by {:?}",
            around.by_outcome(),
            around.latency(1.0),
            after.by_outcome(),
            after.latency(1.0),
            before.by_version(),
        );
        results.push((format!("{name}, later"), flawless(&after)));
        // Two of three were on their way there, for the first 400 ms or so.
        let lost = if name == "GET" { 0 } else { 60 };
        let judged = if around.failed() <= lost { Ok(()) } else { Err(anyhow::anyhow!("{:?}", around.by_outcome())) };
        results.push((format!("{name}, around"), judged));
    }
    every(results)
}

/// The same while nothing is on its way there: not even a POST is lost to a connection that died unnoticed.
fn vanished_while_quiet(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let load = |rate| {
        let target = format!("echo://{SHOP}:80/echo").parse().map_err(anyhow::Error::msg)?;
        Load::start(mesh.pod(CALLER)?, &LoadSpec::new(target, rate))
    };
    let first = load(300)?;
    // Every worker has connections to all of them.
    after_second(&first, outrigger_testbed::now_us())?;
    flawless(&first.finish()?)?;
    // Nothing is on its way, nor are acknowledgements.
    std::thread::sleep(Duration::from_millis(500));
    unplug(&mesh)?;
    let second = load(100)?;
    after_second(&second, outrigger_testbed::now_us())?;
    let samples = second.finish()?;
    println!("        {:?}, longest {:?}", samples.by_outcome(), samples.latency(1.0));
    flawless(&samples)
}

/// Two of the three.
fn unplug(mesh: &Mesh) -> Result<()> {
    let mut gone = ["shop/app-v2", "shop/app-v3"].into_iter();
    gone.try_for_each(|pod| mesh.pod(pod)?.exec("ip", &["link", "set", "eth0", "down"]).map(drop))
}

fn after_second(load: &Load, from: u64) -> Result<()> {
    wait_until("a second of load", PATIENCE, || {
        load.samples().0.last().is_some_and(|sample| sample.scheduled > from + 1_000_000)
    })
    .map(|_| ())
}

/// What can't be read changes nothing, and is said.
fn bad_yaml(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let from = mesh.write("route.yaml", &route("v2"))?;
    let load = load(&mesh, 300, true, 20)?;
    answered_by(&load, "v2", from)?;
    silent(&load, "v1")?;
    let settled = outrigger_testbed::now_us();
    let controller = mesh.controller.as_ref().map(|controller| controller.admin);
    let problems = || -> Option<serde_json::Value> {
        let page = probe::get_here(controller?, "/debug/problems").ok()?;
        serde_json::from_str(&page.body).ok()
    };
    let mut results = Vec::new();
    for (name, bad, field) in [
        ("not YAML", "{{{ : :".to_owned(), None),
        ("unknown field", route("v1").replace("rules:", "rulez:"), Some("rulez")),
        ("bad value", route("v1").replace("port: 80", "port: 99999"), Some("port")),
        ("half a file", route("v1")[..120].to_owned(), None),
    ] {
        mesh.write("route.yaml", &bad)?;
        let said = |problem: &serde_json::Value| {
            problem["file"] == "route.yaml" && field.is_none_or(|field| problem.to_string().contains(field))
        };
        let reported = wait_until(&format!("a report of {name}"), PATIENCE, || {
            problems().is_some_and(|all| all.as_array().is_some_and(|all| all.iter().any(said)))
        });
        results.push((
            name.to_owned(),
            reported.map(|_| ()).map_err(|error| anyhow::anyhow!("{error}: {:?}", problems())),
        ));
    }
    let from = mesh.write("route.yaml", &route("v3"))?;
    answered_by(&load, "v3", from)?;
    wait_until("no problem left", PATIENCE, || {
        problems().is_some_and(|all| all.as_array().is_some_and(Vec::is_empty))
    })?;
    let samples = load.finish()?;
    results.push(("calls".to_owned(), flawless(&samples)));
    let meanwhile = samples.whole_within(settled, from).by_version();
    let only = meanwhile.keys().eq(["v2"]);
    results.push(("untouched".to_owned(), if only { Ok(()) } else { Err(anyhow::anyhow!("{meanwhile:?}")) }));
    every(results)
}

/// Somebody flushes a pod's rules: its apps would go past their policies unnoticed, so the pod is unready until they are back.
fn rules_flushed(machine: &Machine) -> Result<()> {
    let mesh = mesh(machine)?;
    let pod = mesh.pod(CALLER)?;
    let ready = || probe::get(&pod.namespace, ports::GUARD_HEALTH, "/readyz");
    for round in 0..2 {
        pod.exec("nft", &["delete", "table", "inet", "outrigger"])?;
        let said = |page: probe::Page| page.status == 503 && page.body.contains("nothing captures");
        wait_until("the guard's notice of it", CANARY, || ready().is_ok_and(said))?;
        pod.redirect()?;
        let mended = wait_until("a ready guard", CANARY, || ready().is_ok_and(|page| page.status == 200))?;
        println!("        round {round}: ready {mended:?} after the rules were back");
    }
    Ok(())
}

/// The prober: one request after the other on one connection, each with its instants.
struct Seen {
    sent: u64,
    done: u64,
    version: String,
}

fn probe_until(mesh: &Mesh, ended: impl Fn() -> bool, note: impl Fn(&str)) -> Result<Vec<Seen>> {
    let address: SocketAddr = format!("{SHOP}:80").parse()?;
    let mut wire = Wire::open(mesh.pod(CALLER)?, address)?;
    let mut seen = Vec::new();
    while !ended() {
        let (due, sent) = (Instant::now() + Duration::from_millis(1), outrigger_testbed::now_us());
        let answer = wire.ask("GET /", "")?.expect(200)?;
        let done = outrigger_testbed::now_us();
        let version = answer.header("x-version").unwrap_or_default().to_owned();
        note(&version);
        seen.push(Seen { sent, done, version });
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(seen)
}
