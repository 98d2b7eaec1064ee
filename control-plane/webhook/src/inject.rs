//! Pod to patch.

use std::{collections::BTreeMap, fmt};

use json_patch::Patch;
use outrigger_wire::names::{
    INJECTED_ANNOTATION, MODE_LABEL, PROXY_UID, SYSTEM_NAMESPACE,
    containers::{GUARD, REDIRECT, SIDECAR},
    ports,
};
use serde_json::{Value, json};

use crate::{
    annotations,
    config::InjectorConfig,
    containers, departure,
    patch::{Operations, Place},
    pod::{Container, Mode, Pod},
    probes,
    refusal::{Problems, Refusal},
};

/// Label by which a namespace enforces a Pod Security Standard.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// What pods in these are needed for comes before the mesh.
const NEVER: [&str; 4] = [SYSTEM_NAMESPACE, "kube-system", "kube-public", "kube-node-lease"];

/// As much of a namespace as matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// What comes of a pod that isn't refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It gets its proxies.
    Patched { patch: Patch, warnings: Vec<String> },
    /// It stays as it is.
    Untouched { why: Untouched, warnings: Vec<String> },
}

/// Why a pod stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untouched {
    /// Neither the pod nor its namespace wishes to take part.
    NotEnrolled,
    OptedOut,
    AlreadyInjected,
    SystemNamespace,
    /// The namespace wishes, but the pod's network is the node's.
    HostNetwork,
    /// The namespace wishes, but the pod runs on Windows.
    Windows,
    /// The kubelet made the pod from a file; what is written here doesn't reach it.
    MirrorPod,
    /// Not the creation of a pod.
    NotAPod,
}

/// The patch that gives a pod, or a template of pods, its proxies.
///
/// # Errors
/// If the pod should take part and can't: with every field that is in the way and what to do about it.
pub fn inject(pod: &Value, namespace: &NamespaceView, config: &InjectorConfig) -> Result<Outcome, Refusal> {
    let mut problems = Problems::default();
    let Some(pod) = Pod::read(pod) else {
        problems.add("spec", "it is no pod's", "compare it with the Kubernetes reference");
        return Err(Refusal(problems.into_vec()));
    };
    let mut warnings = Vec::new();
    let own = pod.mode(&mut problems);
    let mode = own.or_else(|| {
        let field = format!("labels[{MODE_LABEL:?}] of namespace {}", namespace.name);
        Mode::read(namespace.labels.get(MODE_LABEL)?, &field, &mut problems)
    });
    problems.refuse()?;
    let Some(mode) = mode else { return Ok(untouched(Untouched::NotEnrolled)) };
    if mode == Mode::None {
        return Ok(untouched(Untouched::OptedOut));
    }
    if let Some(why) = exempt(pod, namespace, own.is_some(), &mut warnings)? {
        return Ok(Outcome::Untouched { why, warnings });
    }

    let mut problems = Problems::default();
    users(pod, &mut problems);
    if pod.is_injected() {
        problems.refuse()?;
        return Ok(untouched(Untouched::AlreadyInjected));
    }
    pod_security(namespace, &mut problems);
    collisions(pod, &mut problems);
    let mut settings = config.clone();
    annotations::read(pod, &mut settings, &mut problems);
    problems.refuse()?;

    dns(pod, &mut warnings);
    let patch = patch(pod, mode, &settings, &mut warnings);
    Ok(Outcome::Patched { patch, warnings })
}

fn untouched(why: Untouched) -> Outcome {
    Outcome::Untouched { why, warnings: Vec::new() }
}

/// Pods that can't take part. If one of them asks to by itself, leaving it out would be a surprise.
fn exempt(
    pod: Pod<'_>,
    namespace: &NamespaceView,
    asks: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<Untouched>, Refusal> {
    if NEVER.contains(&namespace.name.as_str()) {
        warnings.push(format!("pods of namespace {} don't take part in the mesh", namespace.name));
        return Ok(Some(Untouched::SystemNamespace));
    }
    if pod.annotation("kubernetes.io/config.mirror").is_some() {
        return Ok(Some(Untouched::MirrorPod));
    }
    let windows = ["os", "nodeSelector"].into_iter().zip(["name", "kubernetes.io/os"]);
    let mut windows = windows.filter(|(of, name)| pod.spec.get(*of).is_some_and(|of| of[*name] == "windows"));
    let (why, field, problem) = if pod.flag("hostNetwork") {
        let problem = "the pod uses its node's network, where capturing traffic would hit everybody's";
        (Untouched::HostNetwork, "hostNetwork", problem)
    } else if let Some((field, _)) = windows.next() {
        (Untouched::Windows, field, "the pod runs on Windows, where traffic can't be captured")
    } else {
        return Ok(None);
    };
    let field = format!("spec.{field}");
    if asks {
        let mut problems = Problems::default();
        problems.add(&field, problem, format!("label the pod {MODE_LABEL}: none"));
        problems.refuse()?;
    }
    warnings.push(format!("not injected: {field}: the pod isn't in the mesh; label it {MODE_LABEL}: none"));
    Ok(Some(why))
}

/// What is sent by the proxies' user isn't captured, so nobody else may be that user.
fn users(pod: Pod<'_>, problems: &mut Problems) {
    let user = |context: Option<&Value>| context?.get("runAsUser")?.as_u64();
    let of_pod = user(pod.spec.get("securityContext"));
    let mut inherited = false;
    let foreign = |container: &Container<'_>| !container.is_ours() && container.list != "ephemeralContainers";
    for container in pod.containers().filter(foreign) {
        let own = user(container.value.get("securityContext"));
        let field = match own {
            Some(_) => format!("{}.securityContext.runAsUser", container.field()),
            None if !inherited => "spec.securityContext.runAsUser".to_owned(),
            None => continue,
        };
        if own.or(of_pod) == Some(PROXY_UID.into()) {
            inherited |= own.is_none();
            let name = container.name();
            let problem = format!("{PROXY_UID} is the proxies' user: what container {name} sends would pass by them");
            problems.add(field, problem, "choose another user");
        }
    }
}

fn pod_security(namespace: &NamespaceView, problems: &mut Problems) {
    let Some(level) =
        namespace.labels.get(POD_SECURITY).filter(|level| ["baseline", "restricted"].contains(&&***level))
    else {
        return;
    };
    let problem = format!(
        "container {REDIRECT} needs NET_ADMIN to capture the pod's traffic, and namespace {} enforces the Pod Security \
        Standard {level}, which forbids it",
        namespace.name
    );
    let remedy =
        format!("label the namespace {POD_SECURITY}: privileged, or leave the pod out with {MODE_LABEL}: none");
    problems.add("spec.initContainers[0].securityContext.capabilities.add", problem, remedy);
}

/// Names and ports that the proxies need for themselves.
fn collisions(pod: Pod<'_>, problems: &mut Problems) {
    for container in pod.containers() {
        let name = container.name();
        if [REDIRECT, GUARD, SIDECAR].contains(&name) {
            let problem = format!("the mesh's own container is called {name}");
            problems.add(format!("{}.name", container.field()), problem, "rename it");
        }
        for (index, port) in container.value["ports"].as_array().into_iter().flatten().enumerate() {
            let number = port["containerPort"].as_u64().and_then(|number| u16::try_from(number).ok());
            let tcp = port["protocol"].as_str().is_none_or(|protocol| protocol == "TCP");
            if let Some(number) = number.filter(|number| tcp && ports::is_own(*number)) {
                let field = format!("{}.ports[{index}].containerPort", container.field());
                problems.add(field, format!("the proxies listen on {number}"), "let the app listen on another port");
            }
        }
    }
    for (index, volume) in pod.list("volumes").unwrap_or_default().iter().enumerate() {
        if let Some(name) = volume["name"].as_str().filter(|name| containers::VOLUMES.contains(name)) {
            let problem = format!("the mesh's own volume is called {name}");
            problems.add(format!("spec.volumes[{index}].name"), problem, "rename it");
        }
    }
}

fn dns(pod: Pod<'_>, warnings: &mut Vec<String>) {
    let policy = pod.spec.get("dnsPolicy").and_then(Value::as_str).unwrap_or_default();
    if ["Default", "None"].contains(&policy) {
        warnings.push(format!("spec.dnsPolicy: with {policy}, the proxies may not find the controller by its name"));
    }
}

fn patch(pod: Pod<'_>, mode: Mode, settings: &InjectorConfig, warnings: &mut Vec<String>) -> Patch {
    let mut operations = Operations::default();
    // First of all, while containers are where they were found.
    probes::rewrite(pod, &settings.skip_inbound_ports, &mut operations, warnings);
    departure::await_callers(pod, settings.departure_seconds, &mut operations);
    let spec = Place::new(&["spec"]);
    operations.prepend(&spec.of("initContainers"), pod.list("initContainers"), containers::containers(mode, settings));
    operations.append(&spec.of("volumes"), pod.list("volumes"), containers::volumes());

    let metadata = Place::new(&["metadata"]);
    if !pod.has_metadata() {
        operations.add(&metadata, json!({ "annotations": { INJECTED_ANNOTATION: settings.version } }));
    } else if pod.map("annotations").is_none() {
        operations.add(&metadata.of("annotations"), json!({ INJECTED_ANNOTATION: settings.version }));
    } else {
        let place = metadata.of("annotations").of(INJECTED_ANNOTATION);
        operations.add(&place, settings.version.as_str().into());
    }
    operations.into_patch()
}

// === impl Untouched ===

impl fmt::Display for Untouched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEnrolled => "neither the pod nor its namespace is enrolled",
            Self::OptedOut => "opted out",
            Self::AlreadyInjected => "injected already",
            Self::SystemNamespace => "pods of this namespace don't take part",
            Self::HostNetwork => "it uses its node's network",
            Self::Windows => "it runs on Windows",
            Self::MirrorPod => "the kubelet made it from a file",
            Self::NotAPod => "not the creation of a pod",
        })
    }
}
