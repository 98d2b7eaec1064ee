//! What must hold before the mesh is installed.

use super::{
    evaluate::{Checks, Status, listed},
    facts::{Before, GatewayApi, Namespace},
};

/// Native sidecars are on by default from here on.
const SERVER: (u64, u64) = (1, 29);
/// GRPCRoute is v1 from here on.
const GATEWAY_API: (u64, u64) = (1, 1);

pub(crate) fn checks(facts: &Before) -> Checks {
    let mut checks = Checks::default();
    kubernetes(&mut checks, &facts.server_version);
    permissions(&mut checks, facts);
    gateway_api(&mut checks, &facts.gateway_api);
    if let Some(namespaces) = checks.seen("pod-security", &facts.namespaces) {
        // The mesh itself can be installed nevertheless.
        pod_security(&mut checks, namespaces, Status::Warning);
    }
    others(&mut checks, facts);
    checks
}

/// The API server is there, since it said its version.
pub(super) fn kubernetes(checks: &mut Checks, version: &str) {
    checks.category("kubernetes");
    checks.ok("api-server", "the API server answers");
    match number(version) {
        Some(found) if found >= SERVER => checks.ok("kubernetes-version", format!("{version} has native sidecars")),
        Some(_) => checks.failure(
            "kubernetes-version",
            format!("{version} is too old: proxies are native sidecars"),
            format!("upgrade the cluster to {}.{} or later", SERVER.0, SERVER.1),
        ),
        None => checks.warning(
            "kubernetes-version",
            format!("{version:?} isn't understood"),
            format!("see that it is {}.{} or later", SERVER.0, SERVER.1),
        ),
    }
}

fn permissions(checks: &mut Checks, facts: &Before) {
    let Some(permissions) = checks.seen("permissions", &facts.permissions) else { return };
    let lacking: Vec<_> = permissions.iter().filter(|it| !it.allowed).map(|it| it.what.as_str()).collect();
    match lacking.as_slice() {
        [] => checks.ok("permissions", "you may create what the chart holds"),
        lacking => checks.failure(
            "permissions",
            format!("you may not {}", listed(lacking)),
            "install as a cluster administrator, or ask one for these rights",
        ),
    }
}

pub(super) fn gateway_api(checks: &mut Checks, looked: &Result<Option<GatewayApi>, String>) {
    let Some(found) = checks.seen("gateway-api", looked) else { return };
    let Some(found) = found else {
        return checks.warning(
            "gateway-api",
            "the Gateway API isn't installed: HTTPRoute and GRPCRoute can't be used, only MeshRoute",
            "kubectl apply -f the standard channel's manifest of gateway-api.sigs.k8s.io; the mesh sees it at once",
        );
    };
    let version = found.version.as_deref().unwrap_or("unknown");
    if !found.missing.is_empty() {
        return checks.warning(
            "gateway-api",
            format!("Gateway API {version} lacks {}", listed(&found.missing)),
            format!("install version {}.{} or later of the standard channel", GATEWAY_API.0, GATEWAY_API.1),
        );
    }
    match number(version) {
        Some(number) if number < GATEWAY_API => checks.warning(
            "gateway-api",
            format!("Gateway API {version} is old"),
            format!("install version {}.{} or later of the standard channel", GATEWAY_API.0, GATEWAY_API.1),
        ),
        _ => checks.ok("gateway-api", format!("Gateway API {version}")),
    }
}

/// The init container that redirects a pod's connections needs NET_ADMIN, which these levels don't allow.
pub(super) fn pod_security(checks: &mut Checks, namespaces: &[Namespace], gravity: Status) {
    let enrolled = || namespaces.iter().filter(|it| matches!(it.mode.as_deref(), Some("sidecar" | "shared")));
    let strict = |it: &&Namespace| matches!(it.pod_security.as_deref(), Some("baseline" | "restricted"));
    let refusing: Vec<_> = enrolled()
        .filter(strict)
        .map(|it| format!("{} ({})", it.name, it.pod_security.as_deref().unwrap_or_default()))
        .collect();
    match refusing.as_slice() {
        [] => checks.ok("pod-security", format!("{} enrolled namespaces take injected pods", enrolled().count())),
        refusing => checks.finding(
            gravity,
            "pod-security",
            format!("Pod Security refuses injected pods in {}: their init container needs NET_ADMIN", listed(refusing)),
            "label these namespaces pod-security.kubernetes.io/enforce=privileged, and keep apps in order with audit and warn",
        ),
    }
}

fn others(checks: &mut Checks, facts: &Before) {
    checks.category("other installations");
    if let Some(unowned) = checks.seen("foreign-objects", &facts.unowned) {
        match unowned.as_slice() {
            [] => checks.ok("foreign-objects", "nothing of our names that Helm doesn't know"),
            unowned => checks.failure(
                "foreign-objects",
                format!("Helm can't take over {}", listed(unowned)),
                "delete them, or label and annotate them as Helm's (app.kubernetes.io/managed-by, meta.helm.sh/release-name, \
                 meta.helm.sh/release-namespace); definitions of your own: install --no-check --set crds.install=false",
            ),
        }
    }
    if let Some(meshes) = checks.seen("other-meshes", &facts.other_meshes) {
        let both: Vec<_> = match &facts.namespaces {
            Ok(all) => all
                .iter()
                .filter(|it| it.mode.is_some() && it.other_mesh.is_some())
                .map(|it| it.name.as_str())
                .collect(),
            Err(_) => Vec::new(),
        };
        match (meshes.as_slice(), both.as_slice()) {
            ([], _) => checks.ok("other-meshes", "no other mesh injects here"),
            (meshes, []) => checks.warning(
                "other-meshes",
                format!("another mesh is here: {}", listed(meshes)),
                "never enrol one namespace in both",
            ),
            (_, both) => checks.failure(
                "other-meshes",
                format!("enrolled in two meshes: {}", listed(both)),
                "take one of the labels away, and create these pods anew",
            ),
        }
    }
}

/// Major and minor.
pub(super) fn number(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.strip_prefix('v').unwrap_or(version).split('.');
    // Some providers say "29+".
    let leading = |text: &str| text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())].parse().ok();
    Some((parts.next()?.parse().ok()?, leading(parts.next()?)?))
}
