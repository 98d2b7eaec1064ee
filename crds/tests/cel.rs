//! The CEL rules in the CRDs and `validate` agree: what an API server refuses, files are refused for too.

#![allow(clippy::unwrap_used, reason = "a test's steps that can't fail")]

use kube::core::cel::validate_cel;
use outrigger_crds::{AccessPolicy, MeshConfig, MeshRoute, Object, TrafficPolicy, validate};
use serde::de::DeserializeOwned;

/// Whether CEL and `validate` take it; `spec` in YAML.
fn verdicts<T>(kind: &str, name: &str, spec: &str) -> (bool, bool)
where
    T: DeserializeOwned + serde::Serialize + kube::CustomResourceExt + Into<Object>,
{
    let text = format!("{{kind: {kind}, metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}");
    let mut object: T = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let cel = validate_cel(&object).is_ok();
    if kind == "MeshConfig" {
        object = serde_yaml::from_str(&text.replace(", namespace: shop", "")).unwrap();
    }
    (cel, validate(&object.into()).is_empty())
}

fn rule(rest: &str) -> String {
    format!("{{parentRefs: [{{name: a}}], rules: [{{backendRefs: [{{name: a, port: 80}}], {rest}}}]}}")
}

#[test]
fn routes() {
    for (accepted, rest) in [
        (true, "matches: [{path: {type: Exact, value: /a}}]"),
        (false, "matches: [{path: {type: Exact, value: a}}]"),
        (true, "matches: [{path: {type: RegularExpression, value: a.*}}]"),
        (true, "matches: [{headers: [{name: a, value: b}]}]"),
        (false, "matches: [{headers: [{name: a}]}]"),
        (true, "matches: [{headers: [{name: a, type: Present}]}]"),
        (false, "matches: [{cookies: [{name: a, type: Absent, value: b}]}]"),
        (true, "matches: [{callers: [{namespace: a}]}]"),
        (false, "matches: [{callers: [{namespace: a, serviceAccount: a/b}]}]"),
        (false, "matches: [{callers: [{}]}]"),
        (true, "stickiness: {caller: true}"),
        (false, "stickiness: {caller: true, header: a}"),
        (false, "stickiness: {}"),
        (true, "filters: [{type: Fault, fault: {delay: {duration: 1s}}}]"),
        (false, "filters: [{type: Fault, fault: {}}]"),
        (false, "filters: [{type: Fault}]"),
        (false, "filters: [{type: Fault, urlRewrite: {hostname: a}}]"),
        (true, "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /b}}}]"),
        (false, "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /b}}}]"),
    ] {
        assert_eq!(verdicts::<MeshRoute>("MeshRoute", "r", &rule(rest)), (accepted, accepted), "{rest}");
    }
}

#[test]
fn policies() {
    for (accepted, spec) in [
        (true, "{targetRefs: [{kind: Service, name: a}], loadBalancer: {type: Random}}"),
        (false, "{targetRefs: [{kind: Service, name: a}], loadBalancer: {type: ConsistentHash}}"),
        (false, "{targetRefs: [{kind: Service, name: a}], loadBalancer: {type: Random, hashOn: {caller: true}}}"),
        (true, "{targetRefs: [{kind: Service, name: a}], loadBalancer: {type: ConsistentHash, hashOn: {header: a}}}"),
    ] {
        assert_eq!(verdicts::<TrafficPolicy>("TrafficPolicy", "p", spec), (accepted, accepted), "{spec}");
    }
    for (accepted, spec) in [
        (true, "{action: Allow}"),
        (false, "{action: Deny}"),
        (false, "{action: Audit, rules: []}"),
        (true, "{action: Deny, rules: [{}]}"),
        (false, "{action: Allow, targetRefs: [{kind: Service, name: a}], selector: {matchLabels: {a: b}}}"),
        (true, "{action: Allow, targetRefs: [], selector: {matchLabels: {a: b}}}"),
    ] {
        assert_eq!(verdicts::<AccessPolicy>("AccessPolicy", "p", spec), (accepted, accepted), "{spec}");
    }
}

#[test]
fn a_namespace_has_one_pool() {
    let pool = |namespaces| format!("{{namespaces: [{namespaces}], sharedProxy: {{namespace: mesh, service: a}}}}");
    for (accepted, pools) in [
        (true, vec![pool("a")]),
        (true, vec![pool("a, b"), pool("c")]),
        (false, vec![pool("a, b"), pool("c, a")]),
        (false, vec![pool("a, b, a")]),
    ] {
        let spec = format!("{{fallback: {{pools: [{}]}}}}", pools.join(", "));
        assert_eq!(verdicts::<MeshConfig>("MeshConfig", "default", &spec), (accepted, accepted), "{spec}");
    }
}

#[test]
fn the_mesh_config_is_named_default() {
    assert_eq!(verdicts::<MeshConfig>("MeshConfig", "default", "{}"), (true, true));
    assert_eq!(verdicts::<MeshConfig>("MeshConfig", "other", "{}"), (false, false));
}
