//! What came of it. The JSON of `--json` is made of these types: their fields stay.

use serde::Serialize;

use crate::terminal::Paint;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) image: String,
    pub(super) dry_run: bool,
    pub(super) pods: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// `NAMESPACE/NAME`
    pub(super) pod: String,
    /// What made it, `KIND/NAME`.
    pub(super) owner: Option<String>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    pub(super) result: Ended,
    /// "" if there is nothing to add.
    pub(super) detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ended {
    /// It had the image already.
    Current,
    /// It would be done, or its turn hasn't come.
    Planned,
    Upgraded,
    /// Its sidecar is upgraded, its guard isn't, or not yet.
    Partly,
    /// It was never touched.
    Left,
    /// The pod itself has gone.
    Gone,
    /// It is as it was.
    RolledBack,
    /// It couldn't be brought back.
    Stuck,
    /// By whoever runs the command.
    Interrupted,
}

// === impl Ended ===

impl Ended {
    /// Whether no other pod is touched after this.
    pub(super) fn is_last(self) -> bool {
        matches!(self, Self::RolledBack | Self::Stuck | Self::Interrupted)
    }

    fn words(self) -> &'static str {
        match self {
            Self::Current => "is current",
            Self::Planned => "to be upgraded",
            Self::Upgraded => "upgraded",
            Self::Partly => "upgraded in part",
            Self::Left => "left as it is",
            Self::Gone => "gone",
            Self::RolledBack => "rolled back",
            Self::Stuck => "NOT WELL",
            Self::Interrupted => "broken off",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    pub(super) fn of(result: Ended, detail: impl Into<String>) -> Self {
        Self { result, detail: detail.into() }
    }
}

// === impl Report ===

impl Report {
    /// Whether a pod hasn't what it should have; what is only planned is no finding of a dry run.
    pub(super) fn has_findings(&self) -> bool {
        let fine = |result: Ended| match result {
            Ended::Current | Ended::Upgraded | Ended::Gone => true,
            Ended::Planned => self.dry_run,
            Ended::Partly | Ended::Left | Ended::RolledBack | Ended::Stuck | Ended::Interrupted => false,
        };
        self.pods.iter().any(|entry| !fine(entry.outcome.result))
    }

    /// For people, after what was said meanwhile: every pod that there is something to say of, and how many there are.
    pub(super) fn text(&self, paint: Paint) -> String {
        let mut out = String::new();
        for Entry { pod, owner, outcome: Outcome { result, detail } } in &self.pods {
            let words = match result {
                Ended::Current => continue,
                Ended::Upgraded | Ended::Planned | Ended::Gone => paint.green(result.words()),
                Ended::Partly | Ended::Left => paint.yellow(result.words()),
                Ended::RolledBack | Ended::Stuck | Ended::Interrupted => paint.red(result.words()),
            };
            let detail = if detail.is_empty() { String::new() } else { format!(": {detail}") };
            out.push_str(&format!("{pod}: {words}{detail}\n"));
            if *result == Ended::Left
                && let Some(restart) = owner.as_deref().and_then(|owner| restart(pod, owner))
            {
                out.push_str(&format!("    → when it suits: {restart}\n"));
            }
        }
        let count = |wanted: Ended| self.pods.iter().filter(|entry| entry.outcome.result == wanted).count();
        let of = [Ended::Upgraded, Ended::Planned, Ended::Partly, Ended::Left, Ended::RolledBack, Ended::Stuck];
        let counted: Vec<_> = of
            .into_iter()
            .filter(|result| count(*result) > 0)
            .map(|result| format!("{} {}", count(result), result.words()))
            .collect();
        let rest = if counted.is_empty() { "nothing to do".to_owned() } else { counted.join(", ") };
        out.push_str(&format!("{} pods with proxies, image {}: {rest}.\n", self.pods.len(), self.image));
        out
    }
}

/// How its owner makes it anew; `None` where kubectl can't.
fn restart(pod: &str, owner: &str) -> Option<String> {
    let (namespace, _) = pod.split_once('/')?;
    let (kind, name) = owner.split_once('/')?;
    let restarts = ["Deployment", "StatefulSet", "DaemonSet"].contains(&kind);
    restarts.then(|| format!("kubectl -n {namespace} rollout restart {}/{name}", kind.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(dry_run: bool, results: &[(Ended, &str)]) -> Report {
        let entry = |(result, detail): &(Ended, &str)| Entry {
            pod: "shop/front-1".into(),
            owner: Some("Deployment/front".into()),
            outcome: Outcome::of(*result, *detail),
        };
        Report { image: "outrigger:2".into(), dry_run, pods: results.iter().map(entry).collect() }
    }

    #[test]
    fn what_is_told() {
        let all =
            [(Ended::Current, ""), (Ended::Upgraded, ""), (Ended::Left, "it is ending"), (Ended::RolledBack, "x")];
        assert_eq!(
            report(false, &all).text(Paint::none()),
            "shop/front-1: upgraded\n\
             shop/front-1: left as it is: it is ending\n    \
                 → when it suits: kubectl -n shop rollout restart deployment/front\n\
             shop/front-1: rolled back: x\n\
             4 pods with proxies, image outrigger:2: 1 upgraded, 1 left as it is, 1 rolled back.\n"
        );
        let current = report(false, &[(Ended::Current, "")]).text(Paint::none());
        assert_eq!(current, "1 pods with proxies, image outrigger:2: nothing to do.\n");
        let json = serde_json::to_value(report(true, &[(Ended::RolledBack, "why")])).unwrap();
        let wanted = serde_json::json!({
            "image": "outrigger:2",
            "dryRun": true,
            "pods": [{ "pod": "shop/front-1", "owner": "Deployment/front", "result": "rolledBack", "detail": "why" }],
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn a_pod_that_stays_behind_is_a_finding() {
        for (result, finding, finding_of_dry_run) in [
            (Ended::Current, false, false),
            (Ended::Upgraded, false, false),
            (Ended::Gone, false, false),
            (Ended::Planned, true, false),
            (Ended::Partly, true, true),
            (Ended::Left, true, true),
            (Ended::RolledBack, true, true),
            (Ended::Stuck, true, true),
            (Ended::Interrupted, true, true),
        ] {
            assert_eq!(report(false, &[(result, "")]).has_findings(), finding, "{result:?}");
            assert_eq!(report(true, &[(result, "")]).has_findings(), finding_of_dry_run, "{result:?}");
        }
    }
}
