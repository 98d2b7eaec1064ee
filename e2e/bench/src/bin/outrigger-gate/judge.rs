//! Whether a case does more than the baseline says, and which functions do it.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::{
    baseline::{Baseline, Entry, Functions},
    count::{Counted, Counter},
};

/// Share by which counts may differ: less than what matters, far more than what differs from run to run.
const SHARE: f64 = 0.03;
/// Allocations are whole; those of what is kept between requests come as fractions.
const ALLOCATION: f64 = 0.05;
/// Cases with more allocations than this may differ by a share of them.
const MANY: f64 = 100.0;
/// Functions that are named for a case that fails.
const NAMED: usize = 8;

/// The case that a regression is planted in, if it is among those counted.
const PLANTED: &str = "route/50";

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) case: String,
    pub(crate) before: Option<Entry>,
    pub(crate) now: Option<Entry>,
    pub(crate) finding: Finding,
    /// Functions with more instructions of their own, most first.
    pub(crate) grown: Vec<Grown>,
    /// Functions that allocate more, most first.
    pub(crate) allocating: Vec<Grown>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    Same,
    /// Does less; the baseline should say so.
    Better,
    /// Why it fails.
    Fails(String),
}

/// A function's count per request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Grown {
    pub(crate) function: String,
    pub(crate) before: f64,
    pub(crate) now: f64,
}

/// One verdict per case. `whole`: every case was counted, so that one that is only in the baseline is gone.
pub(crate) fn all(baseline: &Baseline, counted: &[Counted], whole: bool) -> Vec<Verdict> {
    let mut verdicts: Vec<_> = counted.iter().map(|case| of(baseline.cases.get(&case.name), case)).collect();
    let names: BTreeSet<_> = counted.iter().map(|case| &case.name).collect();
    for (name, before) in baseline.cases.iter().filter(|(name, _)| whole && !names.contains(name)) {
        verdicts.push(Verdict {
            case: name.clone(),
            before: Some(before.clone()),
            now: None,
            finding: Finding::Fails("isn't counted any more; record that with `./dev gate --bless`".to_owned()),
            grown: Vec::new(),
            allocating: Vec::new(),
        });
    }
    verdicts
}

fn of(before: Option<&Entry>, counted: &Counted) -> Verdict {
    let now = Entry::of(counted);
    let finding = match before {
        None => Finding::Fails("isn't in the baseline; record it with `./dev gate --bless`".to_owned()),
        Some(before) => compare(before, &now),
    };
    let grown = |of: fn(&Entry) -> &Functions, least| {
        before.map(|before| grown(of(before), of(&now), least)).unwrap_or_default()
    };
    Verdict {
        case: counted.name.clone(),
        before: before.cloned(),
        grown: grown(|entry| &entry.functions, 0.5),
        allocating: grown(|entry| &entry.allocating, ALLOCATION),
        now: Some(now),
        finding,
    }
}

fn compare(before: &Entry, now: &Entry) -> Finding {
    let instructions = now.instructions - before.instructions;
    let may = before.instructions * SHARE;
    let allocations = now.allocations - before.allocations;
    let may_allocate = if before.allocations > MANY { before.allocations * SHARE } else { ALLOCATION };
    let mut reasons = Vec::new();
    if instructions > may {
        reasons.push(format!("{:+.1} % instructions", 100.0 * instructions / before.instructions.max(1.0)));
    }
    if allocations > may_allocate {
        reasons.push(format!("{allocations:+.2} allocations"));
    }
    if !reasons.is_empty() {
        Finding::Fails(reasons.join(", "))
    } else if instructions < -may || allocations < -may_allocate {
        Finding::Better
    } else {
        Finding::Same
    }
}

fn grown(before: &Functions, now: &Functions, least: f64) -> Vec<Grown> {
    let each = now.most_first().into_iter().map(|(function, now)| Grown {
        function: function.to_owned(),
        before: before.of_function(function),
        now,
    });
    let mut grown: Vec<_> = each.filter(|it| it.by() >= least).collect();
    grown.sort_by(|a, b| b.by().total_cmp(&a.by()));
    grown.truncate(NAMED);
    grown
}

/// Plants a regression of a tenth in one case and looks whether it is found, with the name of a function that does the
/// case's work.
pub(crate) fn planted(counter: &Counter, counted: &[Counted]) -> Result<Verdict> {
    let Some(case) = counted.iter().find(|case| case.name == PLANTED).or(counted.first()) else {
        return Ok(Verdict::planted(Finding::Fails("no case was counted".to_owned()), Vec::new()));
    };
    let verdict = of(Some(&Entry::of(case)), &counter.planted(&case.name)?);
    let busiest = case.own.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.as_str());
    let named = verdict.grown.first().map(|grown| grown.function.as_str());
    let finding = match &verdict.finding {
        Finding::Fails(_) if named == busiest => Finding::Same,
        found => Finding::Fails(format!("a tenth more work in {} was taken for {found:?} of {named:?}", case.name)),
    };
    Ok(Verdict::planted(finding, verdict.grown))
}

impl Verdict {
    fn planted(finding: Finding, grown: Vec<Grown>) -> Self {
        let case = "a planted regression is found".to_owned();
        Self { case, before: None, now: None, finding, grown, allocating: Vec::new() }
    }

    pub(crate) fn fails(&self) -> bool {
        matches!(self.finding, Finding::Fails(_))
    }
}

impl Grown {
    pub(crate) fn by(&self) -> f64 {
        self.now - self.before
    }
}

#[cfg(test)]
mod tests;
