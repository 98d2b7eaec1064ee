//! What a load client saw, call by call, and the judgements that follow from it. Pure.
//!
//! A connection that was open when a proxy was killed may break: its bytes were in that process. One opened later may
//! not, and no `connect` may ever be refused. Everything here is arithmetic on the instants that tell the two apart.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One call. Instants are [`crate::now_us`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was due: latency counts from here, so that a stall isn't hidden by the calls that it held up.
    #[serde(rename = "s")]
    pub scheduled: u64,
    /// When its connection had been opened; the end of the call if it never was.
    #[serde(rename = "o")]
    pub opened: u64,
    #[serde(rename = "d")]
    pub done: u64,
    #[serde(rename = "r")]
    pub outcome: Outcome,
    /// Of the app that answered.
    #[serde(rename = "v", default, skip_serializing_if = "String::is_empty")]
    pub version: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Ok,
    /// An answer, but not the one to this question.
    Wrong,
    /// An HTTP status other than 200.
    Status(u16),
    /// A gRPC status other than OK.
    Grpc(u16),
    /// `connect` was refused.
    Refused,
    Unreachable,
    /// The connection ended before the answer did.
    Reset,
    /// The connection ended, and nobody has looked at the request: a client may send it again over another one, whatever
    /// it asks (RFC 9110 section 9.2.2, RFC 9113 section 6.8).
    Unsent,
    Timeout,
}

#[derive(Debug, Clone, Default)]
pub struct Samples(pub Vec<Sample>);

/// The death of a process. Instants are [`crate::now_us`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// Just before the signal.
    pub sent: u64,
    /// When the process was gone; until then it may have taken connections with it.
    pub gone: u64,
}

/// How long a caller may take to notice that a connection it keeps has ended, in microseconds.
const NOTICE_US: u64 = 100_000;
/// Unexplained failures that are kept to be looked at.
const SHOWN: usize = 5;

/// How calls fared around the deaths of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deaths {
    pub calls: usize,
    pub ok: usize,
    pub refused: usize,
    /// Failed, and no kill explains it.
    pub failed_new: usize,
    /// Failed while a process died that their connections were open to.
    pub in_flight: usize,
    /// The first of those.
    pub unexplained: Vec<Sample>,
    /// From each signal to the first answer on a connection opened after it, in microseconds; none if there was none.
    pub first_answer_us: Vec<Option<u64>>,
}

// === impl Samples ===

impl Samples {
    /// Those that were due within.
    pub fn between(&self, from: u64, to: u64) -> Self {
        Self(self.0.iter().filter(|sample| (from..to).contains(&sample.scheduled)).cloned().collect())
    }

    /// Those that were due and had ended within.
    pub fn whole_within(&self, from: u64, to: u64) -> Self {
        let whole = |sample: &&Sample| sample.scheduled >= from && sample.done < to;
        Self(self.0.iter().filter(whole).cloned().collect())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn ok(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(|sample| sample.outcome == Outcome::Ok)
    }

    pub fn failed(&self) -> usize {
        self.len() - self.ok().count()
    }

    pub fn by_outcome(&self) -> BTreeMap<Outcome, usize> {
        let mut counts = BTreeMap::new();
        for sample in &self.0 {
            *counts.entry(sample.outcome).or_default() += 1;
        }
        counts
    }

    /// Good answers by version.
    pub fn by_version(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for sample in self.ok() {
            *counts.entry(sample.version.clone()).or_default() += 1;
        }
        counts
    }

    /// Latency of good answers, at a quantile of 0 to 1.
    pub fn latency(&self, quantile: f64) -> Option<Duration> {
        quantile_of(self.ok().map(|sample| sample.done.saturating_sub(sample.scheduled)), quantile)
    }

    /// The longest time in which no good answer came, between the first and the last of them.
    pub fn longest_gap(&self) -> Duration {
        let mut done: Vec<_> = self.ok().map(|sample| sample.done).collect();
        done.sort_unstable();
        let gaps = done.windows(2).map(|pair| pair[1] - pair[0]);
        Duration::from_micros(gaps.max().unwrap_or_default())
    }

    /// When the first good answer came of a call due at `from` or later, on a connection as new.
    pub fn first_answer(&self, from: u64) -> Option<u64> {
        self.ok().filter(|sample| sample.opened >= from && sample.scheduled >= from).map(|sample| sample.done).min()
    }

    pub fn deaths(&self, kills: &[Kill]) -> Deaths {
        let mut deaths = Deaths { calls: self.len(), ..Deaths::default() };
        for sample in &self.0 {
            let killed = kills.iter().any(|kill| sample.broken_by(kill));
            match sample.outcome {
                Outcome::Ok => deaths.ok += 1,
                Outcome::Refused => deaths.refused += 1,
                _ if killed => deaths.in_flight += 1,
                _ => {
                    deaths.failed_new += 1;
                    deaths.unexplained.extend((deaths.unexplained.len() < SHOWN).then(|| sample.clone()));
                }
            }
        }
        let first = |kill: &Kill| Some(self.first_answer(kill.sent)? - kill.sent);
        deaths.first_answer_us = kills.iter().map(first).collect();
        deaths
    }
}

impl Sample {
    /// Whether its connection was open when a process died, and it was under way then, or so soon after that its caller
    /// couldn't know yet.
    fn broken_by(&self, kill: &Kill) -> bool {
        self.opened <= kill.gone && self.done >= kill.sent && self.scheduled <= kill.gone + NOTICE_US
    }
}

impl Deaths {
    pub fn slowest_first_answer(&self) -> Option<Duration> {
        let all: Option<Vec<_>> = self.first_answer_us.iter().copied().collect();
        all?.into_iter().max().map(Duration::from_micros)
    }
}

/// The value at a quantile, of microseconds.
pub fn quantile_of(values: impl Iterator<Item = u64>, quantile: f64) -> Option<Duration> {
    let mut histogram = Histogram::<u64>::new(3).ok()?;
    for value in values {
        // It grows by itself, so this can't fail.
        let _ = histogram.record(value);
    }
    (!histogram.is_empty()).then(|| Duration::from_micros(histogram.value_at_quantile(quantile)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(opened: u64, done: u64, outcome: Outcome) -> Sample {
        Sample { scheduled: opened, opened, done, outcome, version: String::new() }
    }

    #[test]
    fn a_failure_is_explained_by_a_kill_only_if_its_connection_was_open_then() {
        let samples = Samples(vec![
            sample(10, 20, Outcome::Ok),
            sample(90, 101, Outcome::Reset),
            sample(90, 99, Outcome::Reset),
            sample(101, 110, Outcome::Reset),
            sample(102, 140, Outcome::Ok),
            sample(103, 130, Outcome::Ok),
            sample(100, 101, Outcome::Refused),
        ]);
        let unexplained = vec![samples.0[2].clone(), samples.0[3].clone()];
        let want = Deaths {
            calls: 7,
            ok: 3,
            refused: 1,
            failed_new: 2,
            in_flight: 1,
            unexplained,
            first_answer_us: vec![Some(30)],
        };
        assert_eq!(samples.deaths(&[Kill { sent: 100, gone: 100 }]), want);
        let later = samples.deaths(&[Kill { sent: 200, gone: 200 }]);
        assert_eq!((later.first_answer_us.as_slice(), later.slowest_first_answer()), ([None].as_slice(), None));
        assert_eq!(samples.deaths(&[Kill { sent: 100, gone: 101 }]).in_flight, 2);
        let late = Sample { scheduled: 200_000, done: 200_001, ..sample(90, 0, Outcome::Reset) };
        assert_eq!(Samples(vec![late]).deaths(&[Kill { sent: 100, gone: 100 }]).failed_new, 1);
    }

    #[test]
    fn gaps_and_latency() {
        let samples =
            Samples(vec![sample(0, 5, Outcome::Ok), sample(10, 15, Outcome::Reset), sample(20, 25, Outcome::Ok)]);
        assert_eq!(samples.longest_gap(), Duration::from_micros(20));
        assert_eq!(samples.latency(0.99), Some(Duration::from_micros(5)));
        assert_eq!(quantile_of([1, 2000, 3000].into_iter(), 0.5), Some(Duration::from_micros(2000)));
        assert_eq!(samples.failed(), 1);
        assert_eq!(samples.between(10, 20).len(), 1);
    }

    #[test]
    fn one_line_of_json() {
        let one = Sample { version: "v1".to_owned(), ..sample(1, 2, Outcome::Status(503)) };
        let json = serde_json::to_string(&one).expect("plain data");
        assert_eq!(json, r#"{"s":1,"o":1,"d":2,"r":{"status":503},"v":"v1"}"#);
        assert_eq!(serde_json::from_str::<Sample>(&json).expect("just written"), one);
    }
}
