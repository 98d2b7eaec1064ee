//! Why a pod isn't injected although it should be.

use std::fmt;

use outrigger_crds::FieldProblem;

/// All that is in the way, each with its field and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal(pub Vec<FieldProblem>);

/// Gathers problems.
#[derive(Debug, Default)]
pub(crate) struct Problems(Vec<FieldProblem>);

/// `field: problem; remedy`.
pub(crate) fn line(found: &FieldProblem) -> String {
    let FieldProblem { field, problem, remedy } = found;
    if field.is_empty() { format!("{problem}; {remedy}") } else { format!("{field}: {problem}; {remedy}") }
}

// === impl Refusal ===

/// One line each.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(line).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Refusal {}

// === impl Problems ===

impl Problems {
    pub(crate) fn add(&mut self, field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(FieldProblem { field: field.into(), problem: problem.into(), remedy: remedy.into() });
    }

    pub(crate) fn into_vec(self) -> Vec<FieldProblem> {
        self.0
    }

    pub(crate) fn refuse(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal(self.0)) }
    }
}
