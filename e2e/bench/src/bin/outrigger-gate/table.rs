//! Verdicts as text.

use std::fmt::Write as _;

use crate::judge::{Finding, Verdict};

const HINT: &str = "fewer; record it with `./dev gate --bless`";

/// A row per case, and the functions of those that fail; of all, if `functions`.
pub(crate) fn of(verdicts: &[Verdict], functions: bool) -> String {
    let mut out =
        format!("{:<22} {:>24} {:>8} {:>20} {:>20}\n", "per request", "instructions", "", "allocations", "bytes");
    for verdict in verdicts {
        let pair = |of: fn(&crate::baseline::Entry) -> f64, digits: usize| {
            let text = |entry: &Option<_>| entry.as_ref().map_or("-".to_owned(), |it| format!("{:.digits$}", of(it)));
            match (text(&verdict.before), text(&verdict.now)) {
                (before, now) if before == now => now,
                (before, now) => format!("{before} > {now}"),
            }
        };
        let change = match (&verdict.before, &verdict.now) {
            (Some(before), Some(now)) => {
                format!("{:+.2} %", 100.0 * (now.instructions / before.instructions.max(1.0) - 1.0))
            }
            _ => String::new(),
        };
        // Writing to a string can't fail.
        let _ = writeln!(
            out,
            "{:<22} {:>24} {change:>8} {:>20} {:>20}  {}",
            verdict.case,
            pair(|it| it.instructions, 0),
            pair(|it| it.allocations, 1),
            pair(|it| it.bytes, 0),
            match &verdict.finding {
                Finding::Same => "",
                Finding::Better => HINT,
                Finding::Fails(why) => why,
            }
        );
    }
    for verdict in verdicts.iter().filter(|verdict| verdict.fails() || functions) {
        out.push_str(&functions_of(verdict, functions));
    }
    out
}

/// Those that have grown; all that are kept, if `all`.
fn functions_of(verdict: &Verdict, all: bool) -> String {
    let mut out = String::new();
    let lists = [(&verdict.grown, "instructions of its own"), (&verdict.allocating, "allocations")];
    for (grown, what) in lists.into_iter().filter(|(grown, _)| verdict.fails() && !grown.is_empty()) {
        let _ = writeln!(out, "\nFAILED {}: {what} per request, where there are more", verdict.case);
        for it in grown {
            let _ = writeln!(out, "  {:+10.1}  {:>9.1} > {:<9.1} {}", it.by(), it.before, it.now, it.function);
        }
    }
    if let (true, Some(now)) = (all, &verdict.now) {
        for (functions, what) in [(&now.functions, "instructions of its own"), (&now.allocating, "allocations")] {
            let _ = writeln!(out, "\n{}: {what} per request", verdict.case);
            for (name, count) in functions.most_first() {
                let _ = writeln!(out, "  {count:>12.1}  {name}");
            }
        }
    }
    out
}

/// What became of the planted regression, the last of them.
pub(crate) fn last(verdicts: &[Verdict]) -> String {
    let Some(verdict) = verdicts.last() else { return String::new() };
    match (&verdict.finding, verdict.grown.first()) {
        (Finding::Fails(why), _) => format!("\nFAILED {}: {why}\n", verdict.case),
        (_, Some(grown)) => format!("\n{}: {:+.1} instructions in {}\n", verdict.case, grown.by(), grown.function),
        _ => String::new(),
    }
}
