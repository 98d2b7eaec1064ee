//! What must hold once the mesh is there.

use std::collections::BTreeSet;

use super::{
    before,
    evaluate::{Checks, Status, listed},
    facts::{After, Deployment, Looked, Pod, Replica, Webhook},
};

/// Of this program, and of the mesh that it is released with.
const VERSION: &str = env!("CARGO_PKG_VERSION");

const LOOK_AT_CONTROLLER: &str =
    "kubectl -n outrigger-system describe pods -l app.kubernetes.io/component=controller, and their logs";

pub(crate) fn checks(facts: &After) -> Checks {
    let mut checks = Checks::default();
    before::kubernetes(&mut checks, &facts.server_version);
    checks.category("controller");
    if !installed(&mut checks, facts) {
        return checks;
    }
    controllers(&mut checks, facts);
    checks.category("kinds");
    kinds(&mut checks, facts);
    before::gateway_api(&mut checks, &facts.gateway_api);
    checks.category("webhooks");
    webhooks(&mut checks, facts);
    checks.category("data plane");
    deployment(&mut checks, "shared-proxies", "the shared proxies", &facts.shared);
    for (name, pool) in checks.seen("shared-proxies", &facts.pools).into_iter().flatten() {
        judge(&mut checks, "shared-proxies", &format!("the pool {name}"), pool, "raise its replicas in shared.pools");
    }
    namespaces(&mut checks, facts);
    if let Some(pods) = checks.seen("unmeshed-pods", &facts.pods) {
        unmeshed(&mut checks, facts, pods);
        proxies(&mut checks, pods);
    }
    checks.category("configuration");
    configuration(&mut checks, &facts.replicas);
    checks
}

fn installed(checks: &mut Checks, facts: &After) -> bool {
    match &facts.controller {
        Ok(None) => {
            checks.failure("controller", "the mesh isn't installed", "outrigger install");
            false
        }
        _ => deployment(checks, "controller", "the controller", &facts.controller).is_some(),
    }
}

fn deployment(checks: &mut Checks, name: &'static str, what: &str, looked: &Looked<Option<Deployment>>) -> Option<()> {
    let Some(found) = checks.seen(name, looked)? else {
        checks.failure(name, format!("{what}: no such Deployment in outrigger-system"), "outrigger upgrade");
        return None;
    };
    judge(checks, name, what, found, "outrigger upgrade --ha");
    Some(())
}

/// `more`: how there come to be more replicas than one.
fn judge(checks: &mut Checks, name: &'static str, what: &str, found: &Deployment, more: &str) {
    let Deployment { wanted, ready, updated } = *found;
    let counted = format!("{what}: {ready} of {wanted} replicas ready");
    let remedy = "kubectl -n outrigger-system get pods, and describe those that aren't ready";
    match ready {
        0 => checks.failure(name, counted, remedy),
        _ if ready < wanted => checks.warning(name, counted, remedy),
        _ if updated < wanted => {
            checks.warning(name, format!("{counted}, a rollout goes on"), "wait for it, or look at it")
        }
        1 => checks.warning(name, format!("{counted}: one alone has nobody to take over"), more),
        _ => checks.ok(name, counted),
    }
}

fn controllers(checks: &mut Checks, facts: &After) {
    let versions: BTreeSet<_> = facts.replicas.iter().filter_map(|replica| replica.version.as_deref()).collect();
    match versions.iter().copied().collect::<Vec<_>>().as_slice() {
        [] => {}
        [version] if *version == VERSION => checks.ok("version", format!("controller and this program are {version}")),
        [version] => checks.warning(
            "version",
            format!("the controller is {version}, this program {VERSION}"),
            "use the program of the controller's version, or `outrigger upgrade`",
        ),
        versions => checks.warning(
            "version",
            format!("controllers of several versions: {}", listed(versions)),
            "wait for the rollout to end, or look at it",
        ),
    }
    for replica in &facts.replicas {
        if let Err(error) = &replica.pages {
            checks.failure("admin", format!("{} can't be asked: {error}", replica.name), LOOK_AT_CONTROLLER);
        }
    }
    if let Some(leader) = checks.seen("leader", &facts.leader) {
        let alive = |leader: &str| facts.replicas.iter().any(|replica| leader.contains(&replica.name));
        match leader {
            Some(leader) if alive(leader) => checks.ok("leader", format!("{leader} leads")),
            Some(leader) => checks.warning(
                "leader",
                format!("{leader} leads, and isn't there any more; statuses aren't written meanwhile"),
                "wait until its Lease has run out, 15 seconds",
            ),
            None => checks.failure("leader", "nobody leads: statuses aren't written", LOOK_AT_CONTROLLER),
        }
    }
}

fn kinds(checks: &mut Checks, facts: &After) {
    let Some(crds) = checks.seen("crds", &facts.crds) else { return };
    let bad: Vec<_> = crds
        .iter()
        .filter(|crd| crd.established != Some(true))
        .map(|crd| format!("{} ({})", crd.name, if crd.established.is_none() { "absent" } else { "not established" }))
        .collect();
    match bad.as_slice() {
        [] => checks.ok("crds", format!("{} kinds are established", crds.len())),
        bad => checks.failure("crds", listed(bad), "outrigger upgrade; with crds.install=false apply them yourself"),
    }
}

fn webhooks(checks: &mut Checks, facts: &After) {
    let roots = facts.roots.as_ref().ok().and_then(Option::as_deref);
    match (&facts.roots, &facts.rotation) {
        (Ok(Some(_)), Some(waits)) => checks.warning(
            "roots",
            format!("the mesh's root is being changed, which waits: {waits}"),
            "wait, or put back what the root's Secret held",
        ),
        (Ok(Some(_)), None) => checks.ok("roots", "the mesh's roots are published"),
        (Ok(None), _) => checks.failure(
            "roots",
            "ConfigMap outrigger-system/outrigger-trust isn't there: pods don't start without it",
            LOOK_AT_CONTROLLER,
        ),
        (Err(error), _) => checks.failure("roots", format!("can't be looked at: {error}"), "see that you may read it"),
    }
    for (name, what, looked) in [
        ("injector", "MutatingWebhookConfiguration outrigger", &facts.injector),
        ("validator", "ValidatingWebhookConfiguration outrigger", &facts.validator),
    ] {
        match checks.seen(name, looked) {
            None => {}
            Some(None) => checks.failure(name, format!("no {what}"), "outrigger upgrade"),
            Some(Some(webhooks)) => bundle(checks, name, webhooks, roots),
        }
    }
    for replica in &facts.replicas {
        match &replica.serving {
            None => {}
            Some(Ok(())) => {
                checks.ok("webhook-certificate", format!("{} shows one that the API server trusts", replica.name))
            }
            Some(Err(error)) => checks.failure(
                "webhook-certificate",
                format!("{}: the API server wouldn't trust it: {error}", replica.name),
                "restart the controller; with cert-manager look at Certificate outrigger-system/outrigger-webhook",
            ),
        }
    }
}

fn bundle(checks: &mut Checks, name: &'static str, webhooks: &[Webhook], roots: Option<&str>) {
    let empty: Vec<_> =
        webhooks.iter().filter(|it| it.ca_bundle.trim().is_empty()).map(|it| it.name.as_str()).collect();
    if !empty.is_empty() {
        let remedy = if webhooks.iter().any(|it| it.by_cert_manager) {
            "see that cert-manager and its CA injector run"
        } else {
            LOOK_AT_CONTROLLER
        };
        return checks.failure(name, format!("no caBundle in {}: such requests are refused", listed(&empty)), remedy);
    }
    let other = |it: &&Webhook| roots.is_some_and(|roots| certificates(roots) != certificates(&it.ca_bundle));
    let differing = webhooks.iter().filter(|it| !it.by_cert_manager).any(|it| other(&it));
    if differing {
        return checks.warning(
            name,
            "its caBundle isn't the mesh's roots",
            "wait for the leader to write it; if it stays, something else writes it too",
        );
    }
    checks.ok(name, "its caBundle is set");
}

/// PEM without what surrounds the certificates, in any order.
fn certificates(pem: &str) -> BTreeSet<String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let bodies = pem.split(BEGIN).skip(1).filter_map(|rest| rest.split("-----END").next());
    bodies.map(|body| body.split_whitespace().collect()).collect()
}

fn namespaces(checks: &mut Checks, facts: &After) {
    let Some(namespaces) = checks.seen("pod-security", &facts.namespaces) else { return };
    before::pod_security(checks, namespaces, Status::Failure);
    let Some(trust) = checks.seen("trust", &facts.trust) else { return };
    let roots = facts.roots.as_ref().ok().and_then(Option::as_deref).map(certificates);
    let lacking: Vec<_> = namespaces
        .iter()
        .filter(|it| matches!(it.mode.as_deref(), Some("sidecar" | "shared")))
        .filter(|it| {
            let own = trust.iter().find(|(namespace, _)| *namespace == it.name).map(|(_, pem)| certificates(pem));
            own.is_none() || own != roots
        })
        .map(|it| it.name.as_str())
        .collect();
    match lacking.as_slice() {
        [] => checks.ok("trust", "enrolled namespaces have the mesh's roots"),
        lacking => checks.failure(
            "trust",
            format!("ConfigMap outrigger-trust is missing or old in {}: their pods don't start", listed(lacking)),
            LOOK_AT_CONTROLLER,
        ),
    }
}

/// Pods that should have proxies and don't: by our own look, and by the controller's.
fn unmeshed(checks: &mut Checks, facts: &After, pods: &[Pod]) {
    let modes = facts.namespaces.as_deref().unwrap_or_default();
    let mode_of = |pod: &Pod| {
        let namespace = || modes.iter().find(|it| it.name == pod.namespace).and_then(|it| it.mode.clone());
        pod.mode.clone().or_else(namespace)
    };
    let wishes = |pod: &&Pod| !pod.meshed && matches!(mode_of(pod).as_deref(), Some("sidecar" | "shared"));
    let mut found: BTreeSet<String> = pods.iter().filter(wishes).map(described).collect();
    let named: BTreeSet<_> = pods.iter().map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
    for page in facts.replicas.iter().filter_map(|replica| replica.pages.as_ref().ok()) {
        for pod in page.unmeshed["unmeshed"].as_array().into_iter().flatten() {
            let text = |field: &str| pod[field].as_str().unwrap_or_default();
            let name = format!("{}/{}", text("namespace"), text("pod"));
            // One that has gone since isn't worth a word, and one that we have seen is listed already.
            if named.contains(&name) && !found.iter().any(|it| it.starts_with(&name)) {
                found.insert(name);
            }
        }
    }
    match found.into_iter().collect::<Vec<_>>().as_slice() {
        [] => checks.ok("unmeshed-pods", "every pod that wishes to be in the mesh is"),
        found => checks.warning(
            "unmeshed-pods",
            format!("outside of the mesh, though enrolled: {}", listed(found)),
            "create them anew: kubectl rollout restart of what owns them; or opt out with label outrigger.dev/mode=none",
        ),
    }
}

fn described(pod: &Pod) -> String {
    let owner = pod.owner.as_ref().map(|owner| format!(" ({owner})")).unwrap_or_default();
    format!("{}/{}{owner}", pod.namespace, pod.name)
}

fn proxies(checks: &mut Checks, pods: &[Pod]) {
    let meshed: Vec<_> = pods.iter().filter(|pod| pod.meshed).collect();
    let old: Vec<_> = meshed
        .iter()
        .filter(|pod| pod.injected.as_deref().is_some_and(|version| version != VERSION))
        .map(|pod| format!("{}/{} ({})", pod.namespace, pod.name, pod.injected.as_deref().unwrap_or_default()))
        .collect();
    match old.as_slice() {
        [] => checks.ok("proxy-version", format!("{} pods have proxies of version {VERSION}", meshed.len())),
        old => checks.warning(
            "proxy-version",
            format!("proxies of another version: {}", listed(old)),
            "outrigger upgrade-proxies, or kubectl rollout restart of what owns them, when it suits",
        ),
    }
    let unready: Vec<_> = meshed
        .iter()
        .filter_map(|pod| Some(format!("{}/{} {}", pod.namespace, pod.name, pod.unready.as_ref()?)))
        .collect();
    match unready.as_slice() {
        [] => checks.ok("proxies", "all proxies run"),
        unready => checks.warning(
            "proxies",
            format!("not well: {}", listed(unready)),
            "outrigger status shows who carries these pods; kubectl logs POD -c CONTAINER shows why",
        ),
    }
}

fn configuration(checks: &mut Checks, replicas: &[Replica]) {
    let pages: Vec<_> = replicas.iter().filter_map(|replica| replica.pages.as_ref().ok()).collect();
    let Some(first) = pages.first() else { return };
    let problems = first.problems.as_array().map(Vec::as_slice).unwrap_or_default();
    if problems.is_empty() {
        checks.ok("problems", "every object is understood");
    }
    for problem in problems {
        let text = |field: &str| problem[field].as_str().unwrap_or_default();
        let place =
            [text("object"), text("field")].into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(": ");
        checks.warning("problems", format!("{place}: {}", text("problem")), text("remedy"));
    }
    let streams = pages.iter().flat_map(|page| page.proxies.as_array().into_iter().flatten());
    let mut nacks = Vec::new();
    for stream in streams {
        for of_type in stream["types"].as_object().into_iter().flat_map(|types| types.values()) {
            if let Some(reason) = of_type["nack"]["reason"].as_str() {
                nacks.push(format!("{}: {reason}", stream["workload"].as_str().unwrap_or_default()));
            }
        }
    }
    match nacks.as_slice() {
        [] => checks.ok("rejections", "no proxy has rejected anything"),
        nacks => checks.failure(
            "rejections",
            format!("proxies keep their last good configuration: {}", listed(nacks)),
            "change the object that is named; outrigger status shows every proxy",
        ),
    }
}
