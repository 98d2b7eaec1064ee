//! The explanation for people.

use std::fmt::Write as _;

use super::report::{Backend, Consulted, Endpoint, Explanation};
use crate::terminal::{Paint, columns};

pub(crate) fn text(told: &Explanation, paint: Paint) -> String {
    let mut out = String::new();
    let summary = if told.allowed { paint.green(&told.summary) } else { paint.red(&told.summary) };
    let head = |name: &str, text: String| format!("{}  {text}\n", paint.bold(&format!("{name:11}")));
    out.push_str(&format!("{summary}\n\n"));
    out.push_str(&head("Caller", caller(told)));
    out.push_str(&head("Destination", destination(told)));
    out.push_str(&head("Request", request(told)));
    out.push_str(&head("Route", route(told)));
    for filter in told.route.iter().flat_map(|route| &route.filters) {
        out.push_str(&head("", filter.clone()));
    }
    if let Some(location) = told.answer.as_ref().and_then(|answer| answer.location.as_ref()) {
        out.push_str(&head("", format!("location: {location}")));
    }
    for other in &told.alternatives {
        let rule = other.rule.as_deref().unwrap_or("no rule: 404");
        out.push_str(&head("", format!("{}% of such requests: {rule}", other.percent)));
    }
    for one in &told.backends {
        out.push_str(&format!("\n{}{}", backend(one, paint), policies(one, paint)));
    }
    out.push_str(&last(told, paint));
    out
}

fn caller(told: &Explanation) -> String {
    let caller = &told.caller;
    match &caller.identity {
        Some(identity) => format!("{} as {identity}{}", caller.workload, zone(&caller.zone)),
        None => format!("{}, not in the mesh", caller.workload),
    }
}

fn destination(told: &Explanation) -> String {
    match &told.destination.service {
        Some(service) => format!("{service} port {} ({})", told.request.port, told.destination.protocol),
        None => format!("{}:{}, not known to the mesh", told.request.host, told.request.port),
    }
}

fn request(told: &Explanation) -> String {
    match (&told.request.method, &told.request.path) {
        (Some(method), Some(path)) => {
            let query = told.request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
            format!("{method} {path}{query}, host {}", told.request.host)
        }
        _ => "a connection whose bytes nobody looks at".to_owned(),
    }
}

fn route(told: &Explanation) -> String {
    let Some(route) = &told.route else {
        return match &told.answer {
            Some(answer) => format!("none: {}", answer.why),
            None => "none: straight to the destination's endpoints".to_owned(),
        };
    };
    let consumer = route.consumer_namespace.as_ref().map(|of| format!(", for callers of {of}")).unwrap_or_default();
    let limit = route.backend_timeout_ms.map(|limit| format!(", {limit} ms per try")).unwrap_or_default();
    format!("{} ({}{consumer}{limit})", route.rule, route.matched)
}

fn backend(backend: &Backend, paint: Paint) -> String {
    let head = format!("Backend {} port {}, {}%", backend.service, backend.port, backend.percent);
    if let Some(problem) = &backend.problem {
        return format!("{}: {}\n", paint.bold(&head), paint.red(problem));
    }
    let timeout = backend.request_timeout_ms.map_or("none".to_owned(), |limit| format!("{limit} ms"));
    let retries = match (backend.retries.attempts, backend.retries.method_allows) {
        (0, _) => "none".to_owned(),
        (_, false) => "only of what was never sent".to_owned(),
        (attempts, true) if backend.retries.codes.is_empty() => format!("{attempts} after a broken connection"),
        (attempts, true) => format!("{attempts}, also on {:?}", backend.retries.codes),
    };
    let source = if backend.traffic_policy.is_empty() { "defaults" } else { &backend.traffic_policy };
    let settings = format!(
        "{}, timeout {timeout}, connect {} ms, retries: {retries} ({source})",
        backend.balancer, backend.connect_timeout_ms
    );
    let mut rows: Vec<Vec<String>> = vec![
        ["  ENDPOINT", "ADDRESS", "ZONE", "STATE", "SHARE", "WAY", "VERDICT"].iter().map(ToString::to_string).collect(),
    ];
    rows.extend(backend.endpoints.iter().map(|endpoint| row(endpoint, paint)));
    format!("{}\n  {settings}\n{}", paint.bold(&head), columns(&rows))
}

fn row(endpoint: &Endpoint, paint: Paint) -> Vec<String> {
    let verdict = &endpoint.verdict;
    let said = if verdict.allowed { paint.green("allowed") } else { paint.red("denied") };
    vec![
        format!("  {}", endpoint.workload),
        std::net::SocketAddr::new(endpoint.address, endpoint.port).to_string(),
        if endpoint.zone.is_empty() { "-".to_owned() } else { endpoint.zone.clone() },
        endpoint.state.to_owned(),
        format!("{}%", endpoint.percent),
        if endpoint.transport == "mtls" { "mTLS".to_owned() } else { endpoint.transport.to_owned() },
        format!("{said}: {}", verdict.reason),
    ]
}

/// What each policy says; endpoints with the same policies are told of once.
fn policies(backend: &Backend, paint: Paint) -> String {
    let mut out = String::new();
    let mut seen: Vec<&[Consulted]> = Vec::new();
    for endpoint in backend.endpoints.iter().filter(|endpoint| !endpoint.verdict.policies.is_empty()) {
        let policies = &endpoint.verdict.policies;
        if seen.contains(&&policies[..]) {
            continue;
        }
        seen.push(policies);
        for policy in policies {
            let outcome = match policy.matching_rules.as_slice() {
                [] => paint.dim("doesn't match"),
                rules => {
                    let rules: Vec<_> = rules.iter().map(|rule| format!("rules[{rule}]")).collect();
                    format!("matches by {}", rules.join(", "))
                }
            };
            // Writing to a string can't fail.
            let _ = writeln!(out, "  policy {} ({}): {outcome}", policy.name, policy.action);
        }
    }
    out
}

fn last(told: &Explanation, paint: Paint) -> String {
    let mut out = String::new();
    if !told.on_sidecar_failure.is_empty() {
        let _ = writeln!(out, "\n{}", paint.bold("If a sidecar dies"));
    }
    for failure in &told.on_sidecar_failure {
        let _ = writeln!(out, "  {}", failure.effect);
    }
    if !told.notes.is_empty() {
        out.push('\n');
    }
    for note in &told.notes {
        let _ = writeln!(out, "{} {note}", paint.yellow("Note:"));
    }
    out
}

fn zone(zone: &str) -> String {
    if zone.is_empty() { String::new() } else { format!(", zone {zone}") }
}
