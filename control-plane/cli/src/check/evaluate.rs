//! What a check says, and all of them together. The JSON of `--json` is made of these types: their fields stay.

use serde::Serialize;

/// Of things of one kind, the most that are named one by one.
const NAMED: usize = 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Check {
    pub(crate) category: &'static str,
    pub(crate) name: &'static str,
    pub(crate) status: Status,
    pub(crate) message: String,
    /// What to do; none if nothing is to be done.
    pub(crate) remedy: Option<String>,
    /// Where more is said of it.
    pub(crate) doc: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Ok,
    Warning,
    Failure,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Whether nothing fails.
    pub(crate) ok: bool,
    pub(crate) checks: Vec<Check>,
    pub(crate) passed: usize,
    pub(crate) warnings: usize,
    pub(crate) failures: usize,
}

/// Checks in the making.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    category: &'static str,
    all: Vec<Check>,
}

// === impl Report ===

impl Report {
    pub(crate) fn of(checks: Checks) -> Self {
        let count = |status| checks.all.iter().filter(|check| check.status == status).count();
        let (passed, warnings, failures) = (count(Status::Ok), count(Status::Warning), count(Status::Failure));
        Self { ok: failures == 0, checks: checks.all, passed, warnings, failures }
    }

    pub(crate) fn has_failures(&self) -> bool {
        self.failures > 0
    }
}

// === impl Checks ===

impl Checks {
    /// What follows is of this category.
    pub(crate) fn category(&mut self, category: &'static str) {
        self.category = category;
    }

    pub(crate) fn ok(&mut self, name: &'static str, message: impl Into<String>) {
        self.push(name, Status::Ok, message.into(), None);
    }

    pub(crate) fn warning(&mut self, name: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(name, Status::Warning, message.into(), Some(remedy.into()));
    }

    pub(crate) fn failure(&mut self, name: &'static str, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(name, Status::Failure, message.into(), Some(remedy.into()));
    }

    /// A warning or a failure.
    pub(crate) fn finding(
        &mut self,
        gravity: Status,
        name: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.push(name, gravity, message.into(), Some(remedy.into()));
    }

    /// What was looked at, or a failure if it couldn't be.
    pub(crate) fn seen<'a, T>(&mut self, name: &'static str, looked: &'a Result<T, String>) -> Option<&'a T> {
        match looked {
            Ok(seen) => Some(seen),
            Err(error) => {
                self.failure(name, format!("can't be looked at: {error}"), "see that you may read it, and try again");
                None
            }
        }
    }

    fn push(&mut self, name: &'static str, status: Status, message: String, remedy: Option<String>) {
        let doc = (status != Status::Ok).then(|| format!("docs/troubleshooting.md#{name}"));
        self.all.push(Check { category: self.category, name, status, message, remedy, doc });
    }
}

/// Names in a sentence, the first few of them.
pub(crate) fn listed<T: AsRef<str>>(names: &[T]) -> String {
    let shown: Vec<_> = names.iter().take(NAMED).map(AsRef::as_ref).collect();
    let more = names.len().saturating_sub(NAMED);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}
