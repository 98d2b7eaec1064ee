//! What a scene has shown, held to what is promised. Pure.

use std::time::Duration;

use outrigger_testbed::{Kill, Sample, Samples};
use serde::Serialize;

use super::scenes::Scene;
use crate::terminal::{Paint, columns, time};

/// The JSON of `--json` is made of these: their fields stay.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    scene: &'static str,
    /// What there is to tell of a scene that was played.
    seen: Option<Seen>,
    /// Why it wasn't tried.
    not_tried: Option<String>,
    /// Why it wasn't played to its end.
    error: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Seen {
    calls: usize,
    /// Connections.
    refused: usize,
    /// Failed, and nothing that was broken explains it. None may.
    lost: usize,
    /// Failed while they were under way in what was broken.
    under_way: usize,
    /// The first of the lost.
    unexplained: Vec<Sample>,
    /// The longest time without an answer, and how long it may be, in milliseconds.
    silence_ms: f64,
    silence_limit_ms: f64,
    /// Of answered calls, in milliseconds.
    p99_ms: f64,
    slowest_ms: f64,
}

// === impl Verdict ===

impl Verdict {
    /// `broken`: what explains that calls failed that were under way then.
    pub(super) fn of(scene: &Scene, samples: &Samples, broken: &[Kill]) -> Self {
        let deaths = samples.deaths(broken);
        let latency = |quantile| millis(samples.latency(quantile).unwrap_or_default());
        let seen = Seen {
            calls: deaths.calls,
            refused: deaths.refused,
            lost: deaths.failed_new,
            under_way: deaths.in_flight,
            unexplained: deaths.unexplained,
            silence_ms: millis(samples.longest_gap()),
            silence_limit_ms: millis(scene.silence),
            p99_ms: latency(0.99),
            slowest_ms: latency(1.0),
        };
        Self { seen: Some(seen), ..Self::empty(scene) }
    }

    pub(super) fn not_tried(scene: &Scene, why: String) -> Self {
        Self { not_tried: Some(why), ..Self::empty(scene) }
    }

    pub(super) fn broken(scene: &Scene, error: &anyhow::Error) -> Self {
        Self { error: Some(format!("{error:#}")), ..Self::empty(scene) }
    }

    fn empty(scene: &Scene) -> Self {
        Self { scene: scene.name, seen: None, not_tried: None, error: None }
    }

    /// Nothing is promised of what wasn't tried.
    pub(super) fn kept(&self) -> bool {
        self.error.is_none() && self.seen.as_ref().is_none_or(Seen::kept)
    }

    fn row(&self, paint: Paint) -> Vec<String> {
        let mut row = vec![self.scene.to_owned()];
        let Some(seen) = &self.seen else {
            row.push(match (&self.not_tried, &self.error) {
                (Some(why), _) => paint.yellow(&format!("not tried: {why}")),
                (None, error) => paint.red(&format!("not played: {}", error.as_deref().unwrap_or_default())),
            });
            return row;
        };
        let millis = |millis: f64| time(Duration::from_secs_f64(millis / 1e3));
        row.extend([seen.calls, seen.refused, seen.lost, seen.under_way].map(|count| count.to_string()));
        row.extend([millis(seen.silence_ms), format!("≤ {}", millis(seen.silence_limit_ms))]);
        row.extend([millis(seen.p99_ms), millis(seen.slowest_ms)]);
        row.push(if seen.kept() { paint.green("yes") } else { paint.red("NO") });
        row
    }
}

impl Seen {
    fn kept(&self) -> bool {
        self.calls > 0 && self.refused == 0 && self.lost == 0 && self.silence_ms <= self.silence_limit_ms
    }
}

/// Scenes that weren't played to their ends come last, so that what they say doesn't widen the columns.
pub(super) fn table(verdicts: &[Verdict], paint: Paint) -> String {
    let head = ["SCENE", "CALLS", "REFUSED", "LOST", "UNDER WAY", "SILENCE", "LIMIT", "P99", "SLOWEST", "KEPT"];
    let (played, others): (Vec<_>, Vec<_>) = verdicts.iter().partition(|verdict| verdict.seen.is_some());
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(played.iter().map(|verdict| verdict.row(paint)));
    let others: Vec<_> = others.iter().map(|verdict| verdict.row(paint)).collect();
    let kept = played.iter().filter(|verdict| verdict.kept()).count();
    format!("{}{}\n{kept} of {} scenes kept what is promised\n", columns(&rows), columns(&others), played.len())
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use outrigger_testbed::Outcome;

    use super::*;
    use crate::chaos::scenes::SCENES;

    /// Calls every 10 ms, each answered after 1 ms but for those told otherwise.
    fn samples(failed: &[(u64, Outcome)]) -> Samples {
        let one = |at: u64| {
            let outcome = failed.iter().find(|(when, _)| *when == at).map_or(Outcome::Ok, |(_, outcome)| *outcome);
            Sample { scheduled: at * 1000, opened: at * 1000, done: at * 1000 + 1000, outcome, version: String::new() }
        };
        Samples((0..100).map(|index| one(index * 10)).collect())
    }

    #[test]
    fn a_promise_is_kept_if_no_call_is_lost_but_those_under_way() {
        let scene = &SCENES[0];
        let kill = [Kill { sent: 500_000, gone: 500_500 }];
        let verdict = |failed: &[(u64, Outcome)]| Verdict::of(scene, &samples(failed), &kill);
        assert!(verdict(&[]).kept());
        assert!(verdict(&[(500, Outcome::Reset)]).kept());
        assert!(!verdict(&[(600, Outcome::Status(503))]).kept());
        assert!(!verdict(&[(500, Outcome::Refused)]).kept());
        assert!(!Verdict::of(scene, &samples(&[(500, Outcome::Reset)]), &[]).kept());
        assert!(!Verdict::of(scene, &Samples::default(), &[]).kept(), "without a call nothing is shown");
        let silent: Vec<_> = (0..60).map(|index| (index * 10 + 10, Outcome::Reset)).collect();
        assert!(!Verdict::of(scene, &samples(&silent), &[Kill { sent: 0, gone: 700_000 }]).kept(), "for 600 ms");
    }

    #[test]
    fn what_was_not_tried_breaks_nothing_and_what_failed_does() {
        let scene = &SCENES[0];
        assert!(Verdict::not_tried(scene, "not marked".into()).kept());
        assert!(!Verdict::broken(scene, &anyhow::anyhow!("no way")).kept());
    }

    #[test]
    fn one_line_each() {
        let verdicts = [
            Verdict::not_tried(&SCENES[11], "not marked".into()),
            Verdict::of(&SCENES[0], &samples(&[(500, Outcome::Reset)]), &[]),
        ];
        let want = "SCENE                           CALLS  REFUSED  LOST  UNDER WAY  SILENCE  LIMIT     P99     SLOWEST  KEPT\n\
                    the caller's sidecar is killed  100    0        1     0          20 ms    ≤ 500 ms  1.0 ms  1.0 ms   NO\n\
                    all controllers end  not tried: not marked\n\n\
                    0 of 1 scenes kept what is promised\n";
        assert_eq!(table(&verdicts, Paint::none()), want);
    }
}
