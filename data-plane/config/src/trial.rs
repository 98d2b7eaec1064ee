//! New versions of what users' objects are compiled to are on trial until this proxy has been well with them for a while.
//!
//! A process that ends meanwhile, without having been told to, leaves a record of what was on trial. A version that two
//! in a row have died with is quarantined: it is refused, and the one before stays in force, until there is a newer one
//! or the quarantine is over. Pure: knows no disk and no clock.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use outrigger_wire::proto::discovery::Resource;
use prost::Message;
use tokio::time::Instant;

use crate::state::Kind;

/// Longer than a service may wait for what its routes lead to.
pub(crate) const TRIAL: Duration = Duration::from_secs(10);
/// Of processes, in a row, with the same version on trial.
const DEATHS: u32 = 2;
/// The first; each further one of the same version takes twice as long.
const QUARANTINE: Duration = Duration::from_secs(5 * 60);
const MAX_QUARANTINE: Duration = Duration::from_secs(60 * 60);

/// One version of one resource.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    /// It is in force, or about to be, and on trial.
    #[prost(bool, tag = "4")]
    running: bool,
    #[prost(uint32, tag = "5")]
    deaths: u32,
    /// Seconds since 1970; 0: it isn't in quarantine.
    #[prost(uint64, tag = "6")]
    quarantined_until: u64,
    #[prost(uint32, tag = "7")]
    quarantines: u32,
    /// It was taken in by a process that was about to die anyhow.
    #[prost(bool, tag = "8")]
    excused: bool,
    /// Not this proxy died of it but a process that tried it first.
    #[prost(bool, tag = "9")]
    tasted: bool,
}

/// As they are on disk.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Records {
    #[prost(string, tag = "1")]
    pub(crate) workload: String,
    #[prost(message, repeated, tag = "2")]
    records: Vec<Record>,
    /// The process has not lived for as long as a trial takes.
    #[prost(bool, tag = "3")]
    young: bool,
}

/// A resource.
pub(crate) type Key = (Kind, String);

/// All that are on trial, were so when a process died, or are in quarantine.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    records: BTreeMap<Key, Record>,
    /// When trials end, in order.
    ends: VecDeque<(Instant, Vec<Key>)>,
    /// This process has not lived for as long as a trial takes,
    young: bool,
    /// and the one before died as young, with nothing to blame: whatever kills them, it was there before.
    restless: bool,
}

// === impl Trials ===

impl Trials {
    /// The beginning of a process, after one that has ended and left these. `can_go_back` says of a version whether a
    /// proxy can do without it.
    pub(crate) fn after(
        records: Records,
        wall: SystemTime,
        now: Instant,
        can_go_back: impl Fn(&Key, &str) -> bool,
    ) -> Self {
        let blamed = records.records.iter().any(|record| record.running && !record.excused);
        let mut trials = Self { young: true, restless: records.young && !blamed, ..Self::default() };
        trials.ends.push_back((now + TRIAL, Vec::new()));
        for mut record in records.records {
            let Some(kind) = Kind::from_url(&record.type_url) else { continue };
            let key = (kind, record.name.clone());
            if std::mem::take(&mut record.running) && !record.excused {
                (record.deaths, record.tasted) = (record.deaths + 1, false);
                if record.deaths >= DEATHS && can_go_back(&key, &record.version) {
                    record.quarantine(wall);
                }
            }
            trials.records.insert(key, record);
        }
        trials
    }

    /// Whether there is none of any kind.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many are on trial.
    pub(crate) fn running(&self) -> usize {
        self.records.values().filter(|record| record.running).count()
    }

    /// Whether a version was on trial when a process died.
    pub(crate) fn knows(&self, key: &Key, version: &str) -> bool {
        self.records.get(key).is_some_and(|record| record.version == version)
    }

    pub(crate) fn to_records(&self, workload: &str) -> Records {
        Records { workload: workload.into(), records: self.records.values().cloned().collect(), young: self.young }
    }

    /// Puts versions on trial, but for those in quarantine. Says whether any is now.
    pub(crate) fn begin(&mut self, versions: impl Iterator<Item = (Key, String)>, now: Instant) -> bool {
        let mut begun = Vec::new();
        for (key, version) in versions {
            let restless = self.restless;
            let record = self.record(&key, version);
            if record.quarantined_until == 0 {
                (record.running, record.excused) = (true, restless);
                begun.push(key);
            }
        }
        let any = !begun.is_empty();
        if any {
            self.ends.push_back((now + TRIAL, begun));
        }
        any
    }

    /// Quarantines a version that a process has died of, or hung with, that tried it first.
    pub(crate) fn condemn(&mut self, key: &Key, version: String, wall: SystemTime) {
        let record = self.record(key, version);
        record.tasted = true;
        record.quarantine(wall);
    }

    /// When [`prove`](Self::prove) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ends.front().map(|(end, _)| *end)
    }

    /// Ends the trials that are over, and says whose.
    pub(crate) fn prove(&mut self, now: Instant) -> BTreeSet<Key> {
        let over = self.ends.partition_point(|(end, _)| *end <= now);
        if over > 0 {
            // The first end is that of its youth.
            (self.young, self.restless) = (false, false);
        }
        let mut proven: BTreeSet<Key> = self.ends.drain(..over).flat_map(|(_, keys)| keys).collect();
        // A newer version has a trial of its own.
        for key in self.ends.iter().flat_map(|(_, keys)| keys) {
            proven.remove(key);
        }
        self.records.retain(|key, record| !(record.running && proven.contains(key)));
        proven
    }

    /// This process ends because it was told to: that is nobody's fault.
    pub(crate) fn acquit(&mut self) {
        self.ends.clear();
        self.young = false;
        self.records.retain(|_, record| {
            record.running = false;
            record.deaths > 0 || record.quarantined_until > 0
        });
    }

    /// The control plane no longer has it.
    pub(crate) fn forget(&mut self, kind: Kind, name: &str) {
        self.records.remove(&(kind, name.to_owned()));
    }

    /// Why a version is refused, if it is.
    pub(crate) fn refusal(&self, kind: Kind, resource: &Resource) -> Option<String> {
        let record = self.records.get(&(kind, resource.name.clone()))?;
        (record.version == resource.version).then(|| record.refusal())?
    }

    /// All that are in quarantine, and why.
    pub(crate) fn quarantined(&self) -> impl Iterator<Item = (&Key, String)> {
        self.records.iter().filter_map(|(key, record)| Some((key, record.refusal()?)))
    }

    fn record(&mut self, key: &Key, version: String) -> &mut Record {
        let record = self.records.entry(key.clone()).or_default();
        if record.version != version {
            let (type_url, name) = (key.0.url().into(), key.1.clone());
            *record = Record { type_url, name, version, ..Record::default() };
        }
        record
    }

    /// When the next quarantine is over.
    pub(crate) fn release_at(&self) -> Option<SystemTime> {
        let ends = self.records.values().map(|record| record.quarantined_until).filter(|until| *until > 0);
        ends.min().map(|until| UNIX_EPOCH + Duration::from_secs(until))
    }

    /// Ends the quarantines that are over, and says whether any is. One more death with such a version, and it is back.
    pub(crate) fn release(&mut self, now: SystemTime) -> bool {
        let (now, mut any) = (seconds(now), false);
        for record in self.records.values_mut() {
            if (1..=now).contains(&record.quarantined_until) {
                record.quarantined_until = 0;
                record.deaths = DEATHS - 1;
                any = true;
            }
        }
        any
    }
}

// === impl Record ===

impl Record {
    fn quarantine(&mut self, now: SystemTime) {
        let time = QUARANTINE.saturating_mul(1 << self.quarantines.min(8)).min(MAX_QUARANTINE);
        self.quarantined_until = seconds(now + time);
        self.quarantines += 1;
    }

    fn refusal(&self) -> Option<String> {
        if self.quarantined_until == 0 {
            return None;
        }
        let why = if self.tasted {
            "a process that tried it died or hung".to_owned()
        } else {
            format!("the proxy died {} times within {} s of taking it", self.deaths, TRIAL.as_secs())
        };
        Some(format!(
            "quarantined: {why}. The version before stays in force; change the object, or it is tried again in some minutes"
        ))
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "shop/a";

    struct Bench {
        trials: Trials,
        wall: SystemTime,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { trials: Trials::default(), wall: SystemTime::UNIX_EPOCH + QUARANTINE, now: Instant::now() }
        }

        fn begin(&mut self, version: &str) -> bool {
            self.trials.begin([((Kind::Service, NAME.to_owned()), version.to_owned())].into_iter(), self.now)
        }

        /// The process dies, and the next one starts from what it left.
        fn die(&mut self) {
            let records = Records::decode(self.trials.to_records("shop/front").encode_to_vec().as_slice()).unwrap();
            self.trials = Trials::after(records, self.wall, self.now, |_, _| true);
            self.trials.release(self.wall);
        }

        fn refused(&self, version: &str) -> bool {
            let resource = Resource { name: NAME.into(), version: version.into(), ..Resource::default() };
            self.trials.refusal(Kind::Service, &resource).is_some()
        }
    }

    #[test]
    fn two_deaths_in_a_row_quarantine_a_version() {
        let mut bench = Bench::new();
        assert!(bench.begin("1"));
        bench.die();
        assert!(!bench.refused("1"), "one death may have been anything's");
        assert!(bench.begin("1"));
        bench.die();
        assert!(bench.refused("1"));
        assert!(!bench.begin("1"), "nothing to be tried");
        bench.die();
        assert!(bench.refused("1"), "it stays so for those after");
        // A newer version is innocent.
        assert!(!bench.refused("2"));
        assert!(bench.begin("2"));
        assert!(!bench.refused("1"));
    }

    #[test]
    fn who_lives_long_enough_is_proven() {
        let mut bench = Bench::new();
        bench.begin("1");
        bench.now += TRIAL / 2;
        bench.begin("2");
        bench.now += TRIAL / 2;
        assert!(bench.trials.prove(bench.now).is_empty(), "the newer one isn't");
        bench.now += TRIAL / 2;
        assert_eq!(bench.trials.deadline(), Some(bench.now));
        assert_eq!(bench.trials.prove(bench.now), [(Kind::Service, NAME.to_owned())].into());
        assert_eq!(bench.trials.records.len(), 0);
        // What dies afterwards has other reasons.
        bench.die();
        bench.begin("2");
        bench.die();
        assert!(!bench.refused("2"));
    }

    #[test]
    fn who_was_told_to_end_has_not_died() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            bench.begin("1");
            bench.trials.acquit();
            bench.die();
        }
        assert!(!bench.refused("1"));
        // In between it changes nothing either way.
        bench.begin("1");
        bench.die();
        bench.begin("1");
        bench.trials.acquit();
        bench.die();
        bench.begin("1");
        bench.die();
        assert!(bench.refused("1"));
    }

    #[test]
    fn quarantine_ends_and_the_next_is_longer() {
        let mut bench = Bench::new();
        for _ in 0..DEATHS {
            bench.begin("1");
            bench.die();
        }
        for round in 0..6 {
            let until = bench.trials.release_at().unwrap();
            let length = until.duration_since(bench.wall).unwrap();
            assert_eq!(length, (QUARANTINE * (1 << round)).min(MAX_QUARANTINE), "round {round}");
            bench.trials.release(until - Duration::from_secs(1));
            assert!(bench.refused("1"));
            bench.wall = until;
            bench.trials.release(bench.wall);
            assert!(!bench.refused("1"));
            assert!(bench.begin("1"));
            bench.die();
            assert!(bench.refused("1"), "once is enough by now");
        }
    }

    #[test]
    fn what_comes_to_a_process_that_keeps_dying_is_not_to_blame() {
        let mut bench = Bench::new();
        // The first was old; the second had nothing on trial.
        bench.die();
        bench.die();
        for _ in 0..5 {
            bench.begin("1");
            bench.die();
        }
        assert!(!bench.refused("1"));
        // One that lives ends the row.
        bench.now += TRIAL;
        bench.trials.prove(bench.now);
        for _ in 0..DEATHS {
            bench.begin("2");
            bench.die();
        }
        assert!(bench.refused("2"));
    }

    #[test]
    fn what_nobody_can_do_without_is_kept() {
        let mut bench = Bench::new();
        for _ in 0..5 {
            bench.begin("1");
            let records = bench.trials.to_records("shop/front");
            bench.trials = Trials::after(records, bench.wall, bench.now, |_, _| false);
        }
        assert!(!bench.refused("1"));
    }
}
