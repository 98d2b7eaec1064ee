//! The explanation in a sentence, and whether it is good news.

use super::report::{Backend, Endpoint, Explanation};

pub(crate) fn of(told: &Explanation) -> (bool, String) {
    if let Some(answer) = &told.answer {
        let by = told.route.as_ref().map(|route| format!(" by {}", route.rule)).unwrap_or_default();
        return (answer.intended, format!("Answered with {}{by}: {}.", answer.status, answer.why));
    }
    let Some(service) = &told.destination.service else {
        return (true, "Passed on outside of the mesh.".to_owned());
    };
    if let Some(backend) = told.backends.iter().find(|backend| backend.problem.is_some()) {
        let what = backend.problem.as_deref().unwrap_or_default();
        let status = if backend.endpoints.is_empty() && what == "it has no endpoint" { 503 } else { 500 };
        return (false, format!("{}% fails with {status}: {}: {what}.", backend.percent, backend.service));
    }
    let used = || told.backends.iter().flat_map(Backend::used);
    let denied: Vec<&Endpoint> = used().filter(|endpoint| !endpoint.verdict.allowed).collect();
    match denied.first() {
        None => {
            let mut ways: Vec<_> = used().map(|endpoint| endpoint.transport).collect();
            ways.dedup();
            let how = if ways == ["mtls"] {
                "over mTLS"
            } else if ways.contains(&"mtls") {
                "partly over mTLS"
            } else {
                "in plaintext"
            };
            (true, format!("Allowed: {service} answers, {how}."))
        }
        Some(first) if denied.len() == used().count() => {
            (false, format!("Denied at {}: {}.", first.workload, first.verdict.reason))
        }
        Some(first) => {
            let (no, all) = (denied.len(), used().count());
            (false, format!("Denied by {no} of {all} endpoints, such as {}: {}.", first.workload, first.verdict.reason))
        }
    }
}

// === impl Backend ===

impl Backend {
    /// Endpoints that are picked now.
    fn used(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(|endpoint| endpoint.percent > 0.0)
    }
}
