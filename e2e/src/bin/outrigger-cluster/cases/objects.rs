//! Routes by kubectl: what takes effect, and what status says of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{LoadSpec, samples::quantile_of};
use serde_json::Value;

use super::{case, shop};
use crate::{
    Case,
    cluster::{Cluster, condition, text, until},
};

pub(super) const CASES: &[Case] = &[
    case("objects: a canary by HTTPRoute, and its status", canary),
    case("objects: status names what doesn't resolve", unresolved),
    case("objects: mesh routes, printer columns, kubectl wait", mesh_route),
    case("objects: headless, named ports, server-first, ExternalName", kinds_of_services),
    case("objects: endpoints by hand, and named by two slices", slices),
    case("objects: a change takes effect while calls go on", in_effect),
];

const CANARY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: catalog, namespace: shop }
spec:
  parentRefs: [{ group: \"\", kind: Service, name: catalog }]
  rules:
  - matches: [{ headers: [{ name: x-beta, value: \"yes\" }] }]
    backendRefs: [{ name: catalog-v2, port: 80 }]
  - backendRefs: [{ name: catalog-v1, port: 80 }]
";

/// What our controller says of a route at its first parent.
fn said(route: &Value) -> &Value {
    let parents = route["status"]["parents"].as_array();
    let ours = parents.and_then(|all| all.iter().find(|parent| parent["controllerName"] == "outrigger.dev/controller"));
    ours.map_or(&Value::Null, |ours| &ours["conditions"])
}

fn versions(answers: &[Value]) -> Vec<String> {
    answers.iter().map(|answer| text(&answer["body"]["version"])).collect()
}

fn canary(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    let front = shop::front(cluster)?;
    cluster.apply(CANARY)?;
    until(Duration::from_secs(30), || {
        let route = cluster.get("httproute", shop::NAMESPACE, "catalog")?;
        for kind in ["Accepted", "ResolvedRefs", "outrigger.dev/Programmed"] {
            ensure!(condition(said(&route), kind)["status"] == "True", "{kind}: {}", said(&route));
        }
        ensure!(condition(said(&route), "Accepted")["observedGeneration"] == route["metadata"]["generation"]);
        Ok(())
    })?;
    let plain = versions(&cluster.call(shop::NAMESPACE, &front, "http://catalog/", &["--count", "20"])?);
    ensure!(plain.iter().all(|version| version == "v1"), "{plain:?}");
    let beta = ["--count", "20", "--header", "x-beta: yes"];
    let beta = versions(&cluster.call(shop::NAMESPACE, &front, "http://catalog/", &beta)?);
    ensure!(beta.iter().all(|version| version == "v2"), "{beta:?}");
    let route = cluster.get("httproute", shop::NAMESPACE, "catalog")?;
    let message = text(&condition(said(&route), "outrigger.dev/Programmed")["message"]);
    ensure!(message.contains(" of ") && message.contains("prox"), "no count of proxies: {message:?}");
    Ok(())
}

fn unresolved(cluster: &Cluster) -> Result<()> {
    let route = |name: &str, parent: &str, backend: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: {name}, namespace: shop }}\nspec:\n  \
             parentRefs: [{{ group: \"\", kind: Service, name: {parent} }}]\n  rules:\n  - matches: [{{ path: {{ value: /{name} }} }}]\n    \
             backendRefs: [{backend}]\n"
        )
    };
    cluster.apply(&route("lost", "catalog", "{ name: nobody, port: 80 }"))?;
    cluster.apply(&route("stolen", "catalog", "{ name: kube-dns, namespace: kube-system, port: 53 }"))?;
    cluster.apply(&route("orphan", "nobody", "{ name: catalog-v1, port: 80 }"))?;
    let cases = [
        ("lost", "ResolvedRefs", "BackendNotFound"),
        ("stolen", "ResolvedRefs", "RefNotPermitted"),
        ("orphan", "Accepted", "NoMatchingParent"),
    ];
    for (name, kind, reason) in cases {
        until(Duration::from_secs(20), || {
            let route = cluster.get("httproute", shop::NAMESPACE, name)?;
            let found = condition(said(&route), kind);
            ensure!(found["status"] == "False" && found["reason"] == reason, "{name}: {}", said(&route));
            Ok(())
        })?;
        cluster.kubectl(&["delete", "httproute", "-n", shop::NAMESPACE, name])?;
    }
    Ok(())
}

fn mesh_route(cluster: &Cluster) -> Result<()> {
    cluster.apply(
        "apiVersion: outrigger.dev/v1alpha1\nkind: MeshRoute\nmetadata: { name: ping, namespace: shop }\nspec:\n  \
         parentRefs: [{ name: catalog }]\n  rules:\n  - matches: [{ path: { type: Exact, value: /ping } }]\n    filters:\n    \
         - { type: DirectResponse, directResponse: { status: 200, body: pong, contentType: text/plain } }\n",
    )?;
    cluster.kubectl(&[
        "wait",
        "-n",
        shop::NAMESPACE,
        "meshroute/ping",
        "--for=condition=Programmed",
        "--timeout=30s",
    ])?;
    let answers = cluster.call(shop::NAMESPACE, &shop::front(cluster)?, "http://catalog/ping", &[])?;
    ensure!(answers[0]["body"] == "pong", "{answers:?}");
    let table = cluster.kubectl(&["get", "-n", shop::NAMESPACE, "mesh"])?;
    ensure!(table.contains("ping") && table.contains("PROGRAMMED") && table.contains("True"), "{table}");
    let token = cluster.get("meshroute", shop::NAMESPACE, "ping")?["status"]["leaseTransitions"].clone();
    ensure!(token.is_u64(), "no fencing token in status: {token}");
    cluster.kubectl(&["delete", "meshroute", "-n", shop::NAMESPACE, "ping"])?;
    Ok(())
}

fn kinds_of_services(cluster: &Cluster) -> Result<()> {
    let front = shop::front(cluster)?;
    // The route of catalog's own address says v1; pods' addresses are nobody's but theirs.
    let answers = cluster.call(shop::NAMESPACE, &front, "http://catalog-pods:8080/", &["--count", "30"])?;
    ensure!(answers.iter().all(|answer| answer["status"] == 200), "headless: {answers:?}");
    let outside = cluster.call(shop::NAMESPACE, &front, "http://elsewhere/", &[])?;
    ensure!(outside[0]["status"] == 200, "ExternalName: {outside:?}");
    let store = cluster.address(shop::NAMESPACE, "store")?;
    let target = format!("store://{store}:6379").parse().map_err(anyhow::Error::msg)?;
    let load = cluster.load(shop::NAMESPACE, &front, &LoadSpec::new(target, 20))?;
    until(Duration::from_secs(20), || {
        ensure!(load.samples().ok().count() >= 20, "{:?}", load.samples().by_outcome());
        Ok(())
    })?;
    let samples = load.finish()?;
    ensure!(samples.failed() == 0, "server-first: {:?}", samples.by_outcome());
    Ok(())
}

fn slices(cluster: &Cluster) -> Result<()> {
    let pods = cluster.pods(shop::NAMESPACE, "app=catalog,version=v2")?;
    let address = text(&pods.first().context("no pod of v2")?["status"]["podIP"]);
    cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: by-hand, namespace: shop }}\nspec: {{ ports: [{{ name: http, port: 80 }}] }}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: by-hand-1, namespace: shop, labels: {{ \
         kubernetes.io/service-name: by-hand }} }}\naddressType: IPv4\nports: [{{ name: http, port: 8080 }}]\n\
         endpoints: [{{ addresses: [\"{address}\"] }}]\n"
    ))?;
    let front = shop::front(cluster)?;
    until(Duration::from_secs(20), || {
        let answers = cluster.call(shop::NAMESPACE, &front, "http://by-hand/", &[])?;
        ensure!(answers[0]["status"] == 200 && answers[0]["body"]["version"] == "v2", "{answers:?}");
        Ok(())
    })?;
    cluster.kubectl(&["delete", "-n", shop::NAMESPACE, "service/by-hand", "endpointslice/by-hand-1"])?;
    Ok(())
}

/// Every answer is of the old route or of the new one. Shows how long after the API server's answer calls were still made
/// that went the old way.
fn in_effect(cluster: &Cluster) -> Result<()> {
    cluster.apply(CANARY)?;
    let front = shop::front(cluster)?;
    let address = cluster.address(shop::NAMESPACE, "catalog")?;
    let target = format!("http://{address}:80/").parse().map_err(anyhow::Error::msg)?;
    let load = cluster.load(shop::NAMESPACE, &front, &LoadSpec { keep_alive: true, ..LoadSpec::new(target, 500) })?;
    until(Duration::from_secs(15), || {
        ensure!(load.samples().ok().count() > 100, "{:?}", load.samples().by_outcome());
        Ok(())
    })?;
    let changes = cluster.changes(60)?;
    let samples = load.finish();
    cluster.apply(CANARY)?;
    let samples = samples?;
    ensure!(samples.failed() == 0, "{:?}", samples.by_outcome());
    // A change may be in effect before whoever made it has the answer: what is between the two belongs to no version.
    let ends = changes.iter().skip(1).map(|change| change.asked).chain([u64::MAX]);
    let mut late = Vec::new();
    for (change, end) in changes.iter().zip(ends) {
        let calls = samples.between(change.answered, end);
        let calls = || calls.ok().filter(|sample| sample.done < end);
        let old = calls().filter(|sample| sample.version != change.version).map(|sample| sample.scheduled).max();
        late.push(old.map_or(0, |last| last - change.answered));
        let last = calls().max_by_key(|sample| sample.scheduled).context("no call between two changes")?;
        ensure!(last.version == change.version, "{} never came into effect", change.version);
    }
    let quantile = |q| quantile_of(late.iter().copied(), q).unwrap_or_default();
    println!(
        "        {} changes under {} calls: the last call on the old way began {:?} after the API server's answer at p50, \
         {:?} at p99, {:?} at most",
        changes.len(),
        samples.len(),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
    Ok(())
}
