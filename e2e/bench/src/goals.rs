//! The numbers that are to be held, and what was measured of them. Those of the control plane's size are
//! `outrigger-scale`'s.

use std::fmt::Write as _;

use crate::{
    data::{Results, Spread},
    sheet::Show::{self, AddedRatio, Median, Ratio},
};

struct Goal {
    what: &'static str,
    at: At,
    limit: Limit,
    unit: &'static str,
    digits: usize,
}

/// Where a goal's figure is.
struct At {
    group: &'static str,
    table: &'static str,
    row: &'static str,
    figure: &'static str,
    show: Show,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// How a goal and the spread of what was measured stand to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// In every round.
    Met,
    /// By the median, not in every round.
    MetByMedian,
    NotMet,
}

use Limit::{AtLeast, AtMost};

const fn at(group: &'static str, table: &'static str, row: &'static str, figure: &'static str, show: Show) -> At {
    At { group, table, row, figure, show }
}

const GOALS: &[Goal] = &[
    Goal {
        what: "CPU per request, HTTP/1.1, 1 KB, sidecar",
        at: at("http1", "c32", "sidecar", "cpu", Ratio("nginx")),
        limit: AtMost(1.05),
        unit: "× nginx",
        digits: 2,
    },
    Goal {
        what: "the same",
        at: at("http1", "c32", "sidecar", "cpu", Ratio("Envoy")),
        limit: AtMost(0.45),
        unit: "× Envoy",
        digits: 2,
    },
    Goal {
        what: "CPU per request, two sidecars with mutual TLS, 32 connections",
        at: at("pair", "c32", "pair of sidecars", "cpu", Ratio("pair of Envoys")),
        limit: AtMost(0.40),
        unit: "× pair of Envoys",
        digits: 2,
    },
    Goal {
        what: "the same",
        at: at("pair", "c32", "pair of sidecars", "cpu", Ratio("nginx")),
        limit: AtMost(1.6),
        unit: "× one nginx hop",
        digits: 2,
    },
    Goal {
        what: "added p50, two sidecars with mutual TLS, one connection",
        at: at("pair", "c1", "pair of sidecars", "p50", AddedRatio("no proxy", "pair of Envoys")),
        limit: AtMost(0.25),
        unit: "× pair of Envoys",
        digits: 2,
    },
    Goal {
        what: "the same",
        at: at("pair", "c1", "pair of sidecars", "p50", AddedRatio("no proxy", "nginx")),
        limit: AtMost(2.5),
        unit: "× one nginx hop",
        digits: 2,
    },
    Goal {
        what: "added p99, the same",
        at: at("pair", "c1", "pair of sidecars", "p99", AddedRatio("no proxy", "pair of Envoys")),
        limit: AtMost(0.25),
        unit: "× pair of Envoys",
        digits: 2,
    },
    Goal {
        what: "the same",
        at: at("pair", "c1", "pair of sidecars", "p99", AddedRatio("no proxy", "nginx")),
        limit: AtMost(2.5),
        unit: "× one nginx hop",
        digits: 2,
    },
    Goal {
        what: "opaque TCP over mutual TLS, bytes per CPU-second",
        at: at("tcp", "mtls", "pair of sidecars", "gb bulk", Ratio("pair of Envoys")),
        limit: AtLeast(1.35),
        unit: "× pair of Envoys",
        digits: 2,
    },
    Goal {
        what: "idle sidecar, resident",
        at: at("memory", "idle", "sidecar", "rss", Median),
        limit: AtMost(9.0),
        unit: "MB",
        digits: 1,
    },
    Goal {
        what: "idle sidecar, private dirty",
        at: at("memory", "idle", "sidecar", "private dirty", Median),
        limit: AtMost(2.5),
        unit: "MB",
        digits: 1,
    },
    Goal {
        // Not what is resident: docs/adr/0018-a-guard-is-measured-by-its-own-memory.md says why.
        what: "idle guard, private dirty",
        at: at("memory", "idle", "guard", "private dirty", Median),
        limit: AtMost(2.0),
        unit: "MB",
        digits: 1,
    },
    Goal {
        what: "process start to first answer over mutual TLS, nothing on disk",
        at: at("start", "start", "sidecar, nothing on disk", "answer", Median),
        limit: AtMost(25.0),
        unit: "ms",
        digits: 1,
    },
    Goal {
        what: "object written to first request served by it, p50",
        at: at("changes", "changes", "route changed", "p50", Median),
        limit: AtMost(8.0),
        unit: "ms",
        digits: 1,
    },
    Goal {
        what: "the same, p99",
        at: at("changes", "changes", "route changed", "p99", Median),
        limit: AtMost(25.0),
        unit: "ms",
        digits: 1,
    },
    Goal {
        what: "the same: wrong answers meanwhile",
        at: at("changes", "changes", "route changed", "wrong", Median),
        limit: AtMost(0.0),
        unit: "answers",
        digits: 0,
    },
    Goal {
        what: "SIGKILL of a sidecar under load, five times in a row: refused",
        at: at("recovery", "recovery", "sidecar killed", "refused", Median),
        limit: AtMost(0.0),
        unit: "connections",
        digits: 0,
    },
    Goal {
        what: "the same: failed for any reason but that they were under way",
        at: at("recovery", "recovery", "sidecar killed", "failed", Median),
        limit: AtMost(0.0),
        unit: "requests",
        digits: 0,
    },
    Goal {
        what: "the same: longest time without an answer",
        at: at("recovery", "recovery", "sidecar killed", "gap", Median),
        limit: AtMost(40.0),
        unit: "ms",
        digits: 1,
    },
    Goal {
        what: "hang of a sidecar: longest time without an answer",
        at: at("recovery", "recovery", "sidecar stopped", "gap", Median),
        limit: AtMost(1000.0),
        unit: "ms",
        digits: 0,
    },
    Goal {
        what: "controller away, a sidecar restarted meanwhile: broken or failed",
        at: at("recovery", "recovery", "controller away, sidecar restarted", "errors", Median),
        limit: AtMost(0.0),
        unit: "requests",
        digits: 0,
    },
];

pub(crate) fn markdown(results: &Results) -> String {
    let mut out = String::from("| what | goal | measured | met |\n|---|---|---|---|\n");
    for goal in GOALS {
        let (measured, verdict) = match goal.at.values(results).as_deref().and_then(Spread::of) {
            None => ("–".to_owned(), "not measured"),
            Some(spread) if spread.least == spread.most => {
                (format!("{:.*}", goal.digits, spread.median), goal.limit.judge(spread).text())
            }
            Some(spread) => (spread.text(goal.digits), goal.limit.judge(spread).text()),
        };
        // Writing to a String can't fail.
        let _ = writeln!(out, "| {} | {} {} | {measured} | {verdict} |", goal.what, goal.limit.text(), goal.unit);
    }
    if let Some(control) = results
        .table("http1", "c32")
        .and_then(|table| Spread::of(&Ratio("nginx").values(table, "nginx again (control)", "cpu")?))
    {
        let _ = writeln!(
            out,
            "\n\"yes\" is in every round; \"by the median\" is not in every round. nginx measured twice gave {} × itself: no \
             smaller difference means anything.",
            control.text(2)
        );
    }
    out
}

// === impl At ===

impl At {
    fn values(&self, results: &Results) -> Option<Vec<f64>> {
        self.show.values(results.table(self.group, self.table)?, self.row, self.figure)
    }
}

// === impl Limit ===

impl Limit {
    fn text(self) -> String {
        match self {
            AtMost(0.0) => "0".to_owned(),
            AtMost(limit) => format!("≤ {limit}"),
            AtLeast(limit) => format!("≥ {limit}"),
        }
    }

    fn judge(self, spread: Spread) -> Verdict {
        let (worst, holds): (f64, fn(f64, f64) -> bool) = match self {
            AtMost(_) => (spread.most, |value, limit| value <= limit),
            AtLeast(_) => (spread.least, |value, limit| value >= limit),
        };
        let (AtMost(limit) | AtLeast(limit)) = self;
        match (holds(spread.median, limit), holds(worst, limit)) {
            (true, true) => Verdict::Met,
            (true, false) => Verdict::MetByMedian,
            (false, _) => Verdict::NotMet,
        }
    }
}

// === impl Verdict ===

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Self::Met => "yes",
            Self::MetByMedian => "by the median",
            Self::NotMet => "**no**",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_counts() {
        let judge = |limit: Limit, values: &[f64]| Spread::of(values).map(|spread| limit.judge(spread));
        assert_eq!(judge(AtMost(1.0), &[0.9, 1.0]), Some(Verdict::Met));
        assert_eq!(judge(AtMost(1.0), &[0.9, 0.9, 1.1]), Some(Verdict::MetByMedian));
        assert_eq!(judge(AtMost(1.0), &[0.9, 1.1, 1.1]), Some(Verdict::NotMet));
        assert_eq!(judge(AtLeast(1.35), &[1.4, 1.5]), Some(Verdict::Met));
        assert_eq!(judge(AtLeast(1.35), &[1.3, 1.4, 1.5]), Some(Verdict::MetByMedian));
    }
}
