use serde_json::json;

use super::*;

fn namespace(mode: &str) -> NamespaceView {
    NamespaceView { name: "shop".into(), labels: [("outrigger.dev/mode".to_owned(), mode.to_owned())].into() }
}

/// A pod as the API server has it, injected by a mesh of these settings: with its defaults, and a mount of somebody else's.
fn injected(config: &InjectorConfig) -> Value {
    let mut pod = json!({
        "metadata": { "name": "front", "annotations": { "outrigger.dev/skip-outbound-ports": "5432" } },
        "spec": {
            "containers": [{ "name": "app", "readinessProbe": { "tcpSocket": { "port": 8080 } } }],
            "initContainers": [{ "name": "migrate" }],
            "volumes": [{ "name": "kube-api-access" }],
        },
    });
    let Ok(Outcome::Patched { patch, .. }) = inject(&pod, &namespace("sidecar"), config) else {
        panic!("not injected")
    };
    json_patch::patch(&mut pod, &patch).unwrap();
    for container in pod["spec"]["initContainers"].as_array_mut().unwrap().iter_mut().take(3) {
        container["terminationMessagePath"] = "/dev/termination-log".into();
        if let Some(mounts) = container.get_mut("volumeMounts") {
            mounts.as_array_mut().unwrap().push(json!({ "name": "kube-api-access", "mountPath": "/var/run/api" }));
        }
        for variable in container["env"].as_array_mut().unwrap() {
            if let Some(reference) = variable.pointer_mut("/valueFrom/fieldRef") {
                reference["apiVersion"] = "v1".into();
            }
        }
        container["env"].as_array_mut().unwrap().push(json!({ "name": "HTTP_PROXY", "value": "somebody's" }));
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            if let Some(probe) = container.get_mut(probe) {
                probe["httpGet"]["scheme"] = "HTTP".into();
                probe["successThreshold"] = 1.into();
            }
        }
    }
    let state = pod["spec"]["volumes"].as_array_mut().unwrap().iter_mut().find(|one| one["name"] == "outrigger-state");
    state.unwrap()["emptyDir"]["sizeLimit"] = "16384Ki".into();
    pod
}

fn told(pod: &Value, mode: &str, config: &InjectorConfig) -> String {
    in_place(pod, &namespace(mode), config).map_or_else(|obstacle| obstacle.to_string(), |()| "in place".into())
}

#[test]
fn what_would_be_made_as_it_is_can_be_changed_in_place() {
    let pod = injected(&InjectorConfig::default());
    let newer = InjectorConfig { image: "outrigger:9".into(), version: "9.0.0".into(), ..InjectorConfig::default() };
    assert_eq!(told(&pod, "sidecar", &newer), "in place");
    // Those run on with the resources that the pod was made with.
    let mut larger = newer.clone();
    larger.resources.sidecar.limits.memory = Some("1Gi".into());
    larger.image_pull_policy = crate::PullPolicy::Always;
    assert_eq!(told(&pod, "sidecar", &larger), "in place");
}

#[test]
fn what_needs_another_pod_is_told_field_by_field() {
    let plain = InjectorConfig::default();
    let pod = injected(&plain);
    let log = InjectorConfig { log: "debug".into(), ..plain.clone() };
    let text = told(&pod, "sidecar", &log);
    assert!(text.contains(r#"outrigger-guard.env[OUTRIGGER_LOG].value is "info" and would be "debug""#), "{text}");
    assert!(text.contains(r#"outrigger-sidecar.env[OUTRIGGER_LOG].value"#), "{text}");
    let rules = InjectorConfig { no_ipv6: true, ..plain.clone() };
    let text = told(&pod, "sidecar", &rules);
    assert_eq!(
        text,
        r#"outrigger-redirect.env[OUTRIGGER_NO_IPV6] isn't there and would be {"name":"OUTRIGGER_NO_IPV6","value":"true"}"#
    );
    // And the other way round: a setting that is gone.
    let text = told(&injected(&rules), "sidecar", &plain);
    assert_eq!(text, r#"outrigger-redirect.env[OUTRIGGER_NO_IPV6] is "true" and wouldn't be there"#);
    let text = told(&pod, "shared", &plain);
    assert!(text.contains(r#"outrigger-guard.args is ["guard"] and would be ["guard","--no-sidecar"]"#), "{text}");
    assert!(text.contains(r#"outrigger-sidecar is "there" and wouldn't be there"#), "{text}");
}

#[test]
fn a_version_before_may_have_lacked_what_this_one_needs() {
    let plain = InjectorConfig::default();
    let mut pod = injected(&plain);
    pod["spec"]["volumes"].as_array_mut().unwrap().retain(|volume| volume["name"] != "outrigger-state");
    pod["spec"]["initContainers"][2]["args"] = json!(["proxy"]);
    pod["spec"]["initContainers"][1]["ports"] = json!([]);
    let text = told(&pod, "sidecar", &plain);
    for wanted in [
        "volume outrigger-state isn't there",
        r#"outrigger-sidecar.args is ["proxy"]"#,
        "outrigger-guard.ports[guard-health] isn't there",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn a_pod_that_would_get_no_proxies_any_more_is_left_alone() {
    let plain = InjectorConfig::default();
    let pod = injected(&plain);
    assert_eq!(told(&pod, "none", &plain), "the injector would leave it alone now: opted out");
    let mut restricted = namespace("sidecar");
    restricted.labels.insert("pod-security.kubernetes.io/enforce".into(), "restricted".into());
    let refused = in_place(&pod, &restricted, &plain).unwrap_err().to_string();
    assert!(refused.starts_with("the injector would refuse it now: "), "{refused}");
}
