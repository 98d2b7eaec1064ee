//! The containers and volumes that a pod gets.

use outrigger_wire::names::{PROXY_UID, ROOT_FILE, TOKEN_AUDIENCE, TRUST_CONFIG_MAP, containers, ports};
use serde_json::{Map, Value, json};

use crate::{
    config::{ContainerResources, InjectorConfig},
    pod::Mode,
};

const PROXY: &str = "/usr/local/bin/outrigger-proxy";

/// Volumes of ours: the token that proves which workload this is, the mesh's roots, and the last good configuration.
pub(crate) const VOLUMES: [&str; 3] = ["outrigger-token", "outrigger-trust", "outrigger-state"];
const MOUNTS: [&str; 3] = ["/var/run/secrets/outrigger", "/var/run/outrigger/trust", "/var/lib/outrigger"];
const TOKEN_SECONDS: u32 = 3600;

/// In the order in which they start.
pub(crate) fn containers(mode: Mode, settings: &InjectorConfig) -> Vec<Value> {
    let mut containers = vec![redirect(settings), guard(mode, settings)];
    if mode == Mode::Sidecar {
        containers.push(sidecar(settings));
    }
    containers
}

/// The token file is readable by the proxies' user: the kubelet makes it 0644 as soon as containers of a pod run as
/// different users, which ours do, and 0640 with the pod's fsGroup if it has one, which all containers are in.
pub(crate) fn volumes() -> Vec<Value> {
    let token = json!({ "path": "token", "audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS });
    let [token_name, trust_name, state_name] = VOLUMES;
    vec![
        json!({ "name": token_name, "projected": { "sources": [{ "serviceAccountToken": token }] } }),
        json!({ "name": trust_name, "configMap": { "name": TRUST_CONFIG_MAP } }),
        json!({ "name": state_name, "emptyDir": { "medium": "Memory", "sizeLimit": "16Mi" } }),
    ]
}

/// Installs the rules and ends. Root, as only root gets a capability without one on the file; it may change the pod's
/// network and nothing else.
fn redirect(settings: &InjectorConfig) -> Value {
    let mut env = Vec::new();
    for (name, list) in [
        ("OUTRIGGER_SKIP_INBOUND_PORTS", joined(&settings.skip_inbound_ports)),
        ("OUTRIGGER_SKIP_OUTBOUND_PORTS", joined(&settings.skip_outbound_ports)),
        ("OUTRIGGER_SKIP_OUTBOUND_CIDRS", joined(&settings.skip_outbound_cidrs)),
    ] {
        if !list.is_empty() {
            env.push(variable(name, &list));
        }
    }
    if settings.no_ipv6 {
        env.push(variable("OUTRIGGER_NO_IPV6", "true"));
    }
    let mut container = container(containers::REDIRECT, &["redirect"], env, &settings.resources.redirect, settings);
    container.insert(
        "securityContext".to_owned(),
        json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        }),
    );
    container.into()
}

/// Started once it answers, configured or not: it accepts at once and holds connections until it can carry them, so
/// that apps needn't wait for the controller. Ready when it can carry; the pod's readiness is its.
fn guard(mode: Mode, settings: &InjectorConfig) -> Value {
    let args: &[&str] = if mode == Mode::Shared { &["guard", "--no-sidecar"] } else { &["guard"] };
    let mut env = proxy_env(settings, ports::GUARD_HEALTH);
    env.push(variable("OUTRIGGER_CAPTURED", "true"));
    let mut container = container(containers::GUARD, args, env, &settings.resources.guard, settings);
    let port = ports::GUARD_HEALTH;
    container.insert("ports".to_owned(), json!([{ "name": "guard-health", "containerPort": port }]));
    container.insert("startupProbe".to_owned(), probe("/healthz", port, 1, 60));
    container.insert("readinessProbe".to_owned(), probe("/readyz", port, 2, 3));
    container.insert("livenessProbe".to_owned(), probe("/healthz", port, 10, 3));
    native_sidecar(container)
}

/// No readiness of its own: a dead one must not take the pod out of its Services. One that hangs is replaced, after a
/// time in which a busy node can't be mistaken for a hang; the guard carries meanwhile.
fn sidecar(settings: &InjectorConfig) -> Value {
    let mut env = proxy_env(settings, ports::HEALTH);
    env.push(variable("OUTRIGGER_ACCESS_LOG", settings.access_log.as_str()));
    let mut container = container(containers::SIDECAR, &["sidecar"], env, &settings.resources.sidecar, settings);
    let port = ports::HEALTH;
    container.insert("ports".to_owned(), json!([{ "name": "mesh-health", "containerPort": port }]));
    container.insert("livenessProbe".to_owned(), probe("/healthz", port, 10, 6));
    native_sidecar(container)
}

/// What all three have in common.
fn container(
    name: &str,
    args: &[&str],
    env: Vec<Value>,
    resources: &ContainerResources,
    settings: &InjectorConfig,
) -> Map<String, Value> {
    let mut container = Map::new();
    let mut set = |key: &str, value: Value| container.insert(key.to_owned(), value);
    set("name", name.into());
    set("image", settings.image.as_str().into());
    set("imagePullPolicy", settings.image_pull_policy.as_str().into());
    set("command", json!([PROXY]));
    set("args", json!(args));
    if !env.is_empty() {
        set("env", env.into());
    }
    set("resources", quantities(resources));
    set("terminationMessagePolicy", "FallbackToLogsOnError".into());
    container
}

/// Runs beside the app, ends after it, needs no right at all.
fn native_sidecar(mut container: Map<String, Value>) -> Value {
    container.insert("restartPolicy".to_owned(), "Always".into());
    container.insert(
        "securityContext".to_owned(),
        json!({
            "runAsUser": PROXY_UID,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
            "seccompProfile": { "type": "RuntimeDefault" },
        }),
    );
    let mounts = VOLUMES.into_iter().zip(MOUNTS).map(|(name, path)| match name {
        "outrigger-state" => json!({ "name": name, "mountPath": path }),
        _ => json!({ "name": name, "mountPath": path, "readOnly": true }),
    });
    container.insert("volumeMounts".to_owned(), mounts.collect());
    container.into()
}

/// The settings of `data-plane/app/src/settings.rs`. A pod's name isn't known before it is created, nor in a template.
/// The proxy listens for IPv4 alone where there is no IPv6.
fn proxy_env(settings: &InjectorConfig, health: u16) -> Vec<Value> {
    let [token, trust, state] = MOUNTS;
    vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("POD_NAMESPACE", "metadata.namespace"),
        variable("OUTRIGGER_WORKLOAD", "$(POD_NAMESPACE)/$(POD_NAME)"),
        variable("OUTRIGGER_CONTROLLER", &settings.controller),
        variable("OUTRIGGER_ROOT_CERT", &format!("{trust}/{ROOT_FILE}")),
        variable("OUTRIGGER_TOKEN", &format!("{token}/token")),
        variable("OUTRIGGER_STATE_DIR", state),
        variable("OUTRIGGER_HEALTH", &format!("[::]:{health}")),
        variable("OUTRIGGER_WORKERS", &settings.workers.to_string()),
        variable("OUTRIGGER_DRAIN_SECONDS", &settings.drain_seconds.to_string()),
        variable("OUTRIGGER_LOG", &settings.log),
    ]
}

fn variable(name: &str, value: &str) -> Value {
    json!({ "name": name, "value": value })
}

fn from_field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

fn probe(path: &str, port: u16, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": { "path": path, "port": port },
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    })
}

fn quantities(resources: &ContainerResources) -> Value {
    let mut all = Map::new();
    for (kind, amounts) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        let named = amounts.named().into_iter();
        let set: Map<String, Value> =
            named.filter_map(|(name, amount)| Some((name.to_owned(), amount?.into()))).collect();
        if !set.is_empty() {
            all.insert(kind.to_owned(), set.into());
        }
    }
    all.into()
}

fn joined<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}
