//! What we promise, what we measured, and the table of both.

use std::{fmt::Write, time::Duration};

use serde::Serialize;

use crate::terminal::time;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Promise {
    pub(crate) name: String,
    pub(crate) limit: String,
    pub(crate) measured: String,
    pub(crate) kept: bool,
}

// === impl Promise ===

impl Promise {
    /// Something that may not happen.
    pub(crate) fn none(name: &str, count: usize) -> Self {
        Self { name: name.to_owned(), limit: "0".to_owned(), measured: count.to_string(), kept: count == 0 }
    }

    /// Something that happens in time; never is broken too.
    pub(crate) fn within(name: &str, limit: Duration, measured: Option<Duration>) -> Self {
        Self {
            name: name.to_owned(),
            limit: format!("≤ {}", time(limit)),
            measured: measured.map_or("never".to_owned(), time),
            kept: measured.is_some_and(|measured| measured <= limit),
        }
    }

    /// Something that either is so or isn't.
    pub(crate) fn holds(name: &str, limit: &str, measured: impl Into<String>, kept: bool) -> Self {
        Self { name: name.to_owned(), limit: limit.to_owned(), measured: measured.into(), kept }
    }

    pub(crate) fn kept_of(promises: &[Self]) -> usize {
        promises.iter().filter(|promise| promise.kept).count()
    }
}

pub(crate) fn table(promises: &[Promise], colour: bool) -> String {
    let width = |text: fn(&Promise) -> &str| promises.iter().map(|promise| text(promise).chars().count()).max();
    let name = width(|promise| &promise.name).unwrap_or_default().max(7);
    let limit = width(|promise| &promise.limit).unwrap_or_default().max(5);
    let measured = width(|promise| &promise.measured).unwrap_or_default().max(8);
    let mut table = format!("{:name$}  {:limit$}  {:measured$}  KEPT\n", "PROMISE", "LIMIT", "MEASURED");
    for promise in promises {
        let (kept, code) = if promise.kept { ("yes", 32) } else { ("NO", 31) };
        let kept = if colour { format!("\x1b[{code}m{kept}\x1b[0m") } else { kept.to_owned() };
        // Writing to a String can't fail.
        let _ =
            writeln!(table, "{:name$}  {:limit$}  {:measured$}  {kept}", promise.name, promise.limit, promise.measured);
    }
    let _ = writeln!(table, "\n{} of {} promises kept", Promise::kept_of(promises), promises.len());
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises() {
        assert!(Promise::none("refused", 0).kept);
        assert!(!Promise::none("refused", 1).kept);
        let limit = Duration::from_millis(40);
        assert!(Promise::within("first answer", limit, Some(limit)).kept);
        assert!(!Promise::within("first answer", limit, Some(limit * 2)).kept);
        assert!(!Promise::within("first answer", limit, None).kept);
    }

    #[test]
    fn one_line_each() {
        let promises = [Promise::none("refused", 0), Promise::within("first", Duration::from_millis(40), None)];
        let want = "PROMISE  LIMIT    MEASURED  KEPT\n\
                    refused  0        0         yes\n\
                    first    ≤ 40 ms  never     NO\n\n\
                    1 of 2 promises kept\n";
        assert_eq!(table(&promises, false), want);
    }
}
