//! What the injector makes of pods, and what the validator makes of objects.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{case, shop};
use crate::{
    Case,
    cluster::{Cluster, text, until},
};

pub(super) const CASES: &[Case] = &[
    case("admission: a meshed namespace", meshed),
    case("admission: opted out", opted_out),
    case("admission: jobs end, init containers have a network", jobs),
    case("admission: refusals say why", refusals),
    case("admission: custom resources and ports", custom),
    case("admission: bad objects are refused", bad_objects),
];

/// Names of a pod's containers of both kinds.
fn containers(pod: &Value) -> Vec<String> {
    let lists = ["initContainers", "containers"].map(|key| pod["spec"][key].clone());
    lists.iter().filter_map(Value::as_array).flatten().map(|container| text(&container["name"])).collect()
}

fn meshed(cluster: &Cluster) -> Result<()> {
    shop::open(cluster)?;
    let pods = cluster.pods(shop::NAMESPACE, "app=catalog")?;
    ensure!(pods.len() == 3, "{} pods of catalog", pods.len());
    for pod in &pods {
        let names = containers(pod);
        let want = ["outrigger-redirect", "outrigger-guard", "outrigger-sidecar", "app"];
        ensure!(names == want, "containers {names:?}");
        let sidecar = &pod["spec"]["initContainers"][2];
        ensure!(sidecar["restartPolicy"] == "Always", "no native sidecar: {sidecar}");
        ensure!(sidecar["securityContext"]["capabilities"]["add"].is_null(), "capabilities: {sidecar}");
        ensure!(sidecar["securityContext"]["readOnlyRootFilesystem"] == true, "writable: {sidecar}");
    }
    let nodes: std::collections::BTreeSet<_> = pods.iter().map(|pod| text(&pod["spec"]["nodeName"])).collect();
    ensure!(nodes.len() > 1 || !cluster.has_nodes(), "all pods are on {nodes:?}");
    let answers = cluster.call(shop::NAMESPACE, &shop::front(cluster)?, "http://catalog/", &["--count", "20"])?;
    ensure!(answers.iter().all(|answer| answer["status"] == 200), "{answers:?}");
    Ok(())
}

fn opted_out(cluster: &Cluster) -> Result<()> {
    let pod = |name: &str, label: &str, annotation: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\n  labels: {{ app: {name}{label} }}\n  \
             annotations: {{ note: x{annotation} }}\nspec:\n  restartPolicy: Never\n  containers:\n  - name: app\n    \
             image: outrigger-testapp:e2e\n    command: [outrigger-testapp, --version]\n"
        )
    };
    let cases =
        [("out-by-label", ", outrigger.dev/mode: none", ""), ("out-by-annotation", "", ", outrigger.dev/mode: none")];
    for (name, label, annotation) in cases {
        cluster.apply(&pod(name, label, annotation))?;
        let names = containers(&cluster.get("pod", shop::NAMESPACE, name)?);
        ensure!(names == ["app"], "{name}: {names:?}");
        cluster.kubectl(&["delete", "pod", "-n", shop::NAMESPACE, name, "--wait=false"])?;
    }
    // A namespace that asks for nothing, and a pod there that does.
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: guests }\n")?;
    let guest = pod("guest", ", outrigger.dev/mode: sidecar", "").replace("namespace: shop", "namespace: guests");
    cluster.apply(&guest)?;
    let names = containers(&cluster.get("pod", "guests", "guest")?);
    ensure!(names.len() == 4, "a pod that asks for it: {names:?}");
    let plain = pod("plain", "", "").replace("namespace: shop", "namespace: guests");
    cluster.apply(&plain)?;
    ensure!(containers(&cluster.get("pod", "guests", "plain")?) == ["app"], "a pod that nobody asked for");
    Ok(())
}

fn jobs(cluster: &Cluster) -> Result<()> {
    cluster.apply(include_str!("job.yaml"))?;
    cluster.kubectl(&["wait", "-n", shop::NAMESPACE, "job/once", "--for=condition=Complete", "--timeout=90s"])?;
    let pod = cluster.pod(shop::NAMESPACE, "job-name=once")?;
    for container in ["early", "app"] {
        let log = cluster.kubectl(&["logs", "-n", shop::NAMESPACE, &pod, "-c", container])?;
        let answer: Value = serde_json::from_str(log.trim()).context("the job's answer")?;
        ensure!(answer["status"] == 200, "{container}: {answer}");
    }
    cluster.kubectl(&["delete", "-n", shop::NAMESPACE, "job", "once", "--wait=false"])?;
    Ok(())
}

fn refusals(cluster: &Cluster) -> Result<()> {
    let pod = |namespace: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{ name: refused, namespace: {namespace}, labels: {{ outrigger.dev/mode: sidecar }} }}\n\
             spec:\n  {spec}\n  containers:\n  - {{ name: app, image: \"outrigger-testapp:e2e\" }}\n"
        )
    };
    cluster.apply(
        "apiVersion: v1\nkind: Namespace\nmetadata: { name: strict-shop, labels: \
         { outrigger.dev/mode: sidecar, pod-security.kubernetes.io/enforce: restricted } }\n",
    )?;
    for (namespace, spec, words) in [
        (shop::NAMESPACE, "hostNetwork: true", "hostNetwork"),
        (shop::NAMESPACE, "securityContext: { runAsUser: 1337 }", "1337"),
        ("strict-shop", "securityContext: { runAsNonRoot: true }", "pod-security.kubernetes.io/enforce"),
    ] {
        let said = cluster.try_apply(&pod(namespace, spec))?.refusal().with_context(|| spec.to_owned())?;
        ensure!(said.contains(words), "{spec}: {said}");
    }
    // `outrigger check` would go on telling of it.
    cluster.kubectl(&["delete", "namespace", "strict-shop", "--wait=false"])?;
    let misspelt = pod(shop::NAMESPACE, "restartPolicy: Never")
        .replace("labels:", "annotations: { outrigger.dev/skip-inbound-prots: \"9\" }, labels:");
    let said = cluster.try_apply(&misspelt)?.refusal()?;
    ensure!(said.contains("skip-inbound-ports"), "no suggestion: {said}");
    Ok(())
}

fn custom(cluster: &Cluster) -> Result<()> {
    cluster.apply(include_str!("custom.yaml"))?;
    let pod = cluster.get("pod", shop::NAMESPACE, "custom")?;
    let sidecar = &pod["spec"]["initContainers"][2]["resources"];
    ensure!(sidecar["limits"]["memory"] == "99Mi" && sidecar["requests"]["cpu"] == "7m", "{sidecar}");
    cluster.kubectl(&["wait", "-n", shop::NAMESPACE, "pod/custom", "--for=condition=Ready", "--timeout=60s"])?;
    let rules = text(&pod["spec"]["initContainers"][0]).len();
    ensure!(rules == 0, "the redirection is an object");
    // Its skipped port is reached without a proxy: no header of ours, no identity.
    let address = text(&cluster.get("pod", shop::NAMESPACE, "custom")?["status"]["podIP"]);
    let url = format!("http://{address}:8080/");
    let front = shop::front(cluster)?;
    until(Duration::from_secs(10), || {
        let answers = cluster.call(shop::NAMESPACE, &front, &url, &[])?;
        ensure!(answers[0]["status"] == 200, "{answers:?}");
        Ok(())
    })?;
    cluster.kubectl(&["delete", "pod", "-n", shop::NAMESPACE, "custom", "--wait=false"])?;
    Ok(())
}

fn bad_objects(cluster: &Cluster) -> Result<()> {
    let route = |spec: &str| {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: MeshRoute\nmetadata: {{ name: bad, namespace: shop }}\nspec: {spec}\n"
        )
    };
    for (what, spec, words) in [
        (
            "a regular expression",
            "{ parentRefs: [{ name: catalog }], rules: [{ matches: [{ path: { type: RegularExpression, value: \"/a(\" } }], \
             backendRefs: [{ name: catalog, port: 80 }] }] }",
            "spec.rules[0].matches[0].path",
        ),
        ("an unknown field", "{ parentRefs: [{ name: catalog }], rulez: [] }", "rulez"),
        (
            "a number out of bounds",
            "{ parentRefs: [{ name: catalog }], rules: [{ backendRefs: [{ name: catalog, port: 70000 }] }] }",
            "port",
        ),
    ] {
        let said = cluster.try_apply(&route(spec))?.refusal().with_context(|| what.to_owned())?;
        ensure!(said.contains(words), "{what}: {said}");
    }
    let other = "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: { name: second }\nspec: {}\n";
    let said = cluster.try_apply(other)?.refusal()?;
    ensure!(said.contains("default"), "MeshConfig: {said}");
    Ok(())
}
