//! The checks for people, by category.

use super::evaluate::{Report, Status};
use crate::terminal::Paint;

pub(super) fn text(report: &Report, paint: Paint) -> String {
    let mut out = String::new();
    let mut category = "";
    for check in &report.checks {
        if check.category != category {
            let gap = if category.is_empty() { "" } else { "\n" };
            category = check.category;
            out.push_str(&format!("{gap}{}\n", paint.bold(category)));
        }
        let sign = match check.status {
            Status::Ok => paint.green("✓"),
            Status::Warning => paint.yellow("!"),
            Status::Failure => paint.red("✗"),
        };
        out.push_str(&format!("{sign} {}: {}\n", check.name, check.message));
        if let Some(remedy) = &check.remedy {
            out.push_str(&format!("    → {remedy}\n"));
        }
        if let Some(doc) = &check.doc {
            out.push_str(&format!("    {}\n", paint.dim(&format!("see {doc}"))));
        }
    }
    let line = format!("{} ok, {} warnings, {} failures", report.passed, report.warnings, report.failures);
    let line = match (report.failures, report.warnings) {
        (0, 0) => paint.green(&line),
        (0, _) => paint.yellow(&line),
        _ => paint.red(&line),
    };
    out.push_str(&format!("\n{line}\n"));
    out
}
