//! What is known of each object's status, and what is to be written. Pure but for the time that it is given: decides who
//! is counted when, and who waits.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use outrigger_model::{Finding, held::Marks};
use tokio::time::Instant;

use super::{
    conditions::{Facts, Progress},
    serving::{Astray, Serving},
    subject::{Subject, Told, subjects},
};
use crate::cluster::Derived;

/// A change is counted anew for as long, whatever the counts say: streams take a moment to hear of it.
const FRESH: Duration = Duration::from_secs(2);
/// Counts that only change a message are written no more often.
const WORDING: Duration = Duration::from_secs(1);
/// For as long after a term has begun, counts that only change a message aren't written: proxies of a controller that
/// has just started are about to come back.
const SETTLE: Duration = Duration::from_secs(15);
/// What all proxies had is said to be on its way again only after as long: one that starts lacks everything for a moment,
/// and so does every proxy after a change of another object that shares a resource with this one.
const DOUBT: Duration = Duration::from_secs(3);
/// Between rounds of counting, as long as something is on its way.
const ROUND: Duration = Duration::from_millis(250);
/// The same, for what has been on its way for longer than [`STUCK_AFTER`].
const STUCK_ROUND: Duration = Duration::from_secs(2);
const STUCK_AFTER: Duration = Duration::from_secs(10);
/// What is said of pods without their proxies changes no more often, for each object: a pod that flaps is a few writes.
const CALM: Duration = Duration::from_secs(10);
/// Everything is counted anew: proxies come and go.
const SWEEP: Duration = Duration::from_secs(30);
/// After a write that failed, doubled each time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Board {
    since: Instant,
    known: HashMap<String, Known>,
    queue: VecDeque<String>,
    swept: Option<Instant>,
    /// When the last round began.
    began: Option<Instant>,
    /// The view has changed since the last round.
    stirred: Option<Instant>,
    astray: Astray,
}

#[derive(Debug)]
struct Known {
    uid: Option<String>,
    generation: Option<i64>,
    mark: String,
    changed: Instant,
    progress: Option<Progress>,
    /// Since when it has lacked proxies that it had.
    doubted: Option<Instant>,
    /// What is said of its pods, and since when if anything else was before.
    serving: Serving,
    served: Option<Instant>,
    /// When it may be said what has become of them since.
    serving_due: Option<Instant>,
    /// What is to be written.
    wanted: Option<Told>,
    /// What the status says: as read of this version of the object, or as written over it since.
    said: Option<(String, Told)>,
    wrote: Option<Instant>,
    failures: u32,
    retry: Option<Instant>,
}

// === impl Board ===

impl Board {
    /// At the beginning of a term.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            known: HashMap::new(),
            queue: VecDeque::new(),
            swept: None,
            began: None,
            stirred: None,
            astray: Astray::default(),
        }
    }

    pub(crate) fn stir(&mut self, now: Instant) {
        self.stirred.get_or_insert(now);
    }

    /// When the next round is due.
    pub(crate) fn next_round(&self, now: Instant) -> Instant {
        let sweep = self.swept.map_or(now, |swept| swept + SWEEP);
        let stirred = self.stirred.map(|at| at + ROUND);
        let began = self.began.unwrap_or(now);
        let moving = self.known.values().filter(|known| known.moves(now)).map(|known| {
            let long = now.saturating_duration_since(known.changed) > STUCK_AFTER;
            began + if long { STUCK_ROUND } else { ROUND }
        });
        let retries = self.known.values().filter_map(|known| known.retry.map(|retry| retry.max(began + ROUND)));
        let calm = self.known.values().filter_map(|known| known.serving_due);
        moving.chain(stirred).chain(retries).chain(calm).chain([sweep]).min().unwrap_or(sweep)
    }

    /// Takes the view in and says which objects are to be counted.
    pub(crate) fn begin(&mut self, view: &Derived, now: Instant) -> Vec<String> {
        self.began = Some(now);
        let sweep = self.swept.is_none_or(|swept| now >= swept + SWEEP);
        if self.stirred.take().is_some() || sweep {
            self.astray = Astray::of(view);
        }
        if sweep {
            self.swept = Some(now);
        }
        let mut marks = Marks::new(&view.snapshot);
        let mut there = HashSet::new();
        let mut counted = Vec::new();
        for subject in subjects(view) {
            let origin = subject.origin();
            let effects = view.affects.of(&origin);
            let mark = marks.of(effects);
            let metadata = subject.metadata();
            let (uid, generation) = (metadata.uid.clone(), metadata.generation);
            let known = self.known.entry(origin.clone()).or_insert_with(|| Known::new(now));
            if known.uid != uid {
                *known = Known::new(now);
            }
            if (known.generation, &known.mark) != (generation, &mark) {
                known.changed = now;
            }
            *known = Known { uid, generation, mark, ..std::mem::replace(known, Known::new(now)) };
            let serving = if subject.has_failure_policy() { self.astray.within(effects) } else { Serving::default() };
            known.serves(serving, now);
            if effects.is_empty() {
                known.progress = Some(Progress::default());
            } else if sweep || known.moves(now) {
                counted.push(origin.clone());
            }
            there.insert(origin);
        }
        self.known.retain(|origin, _| there.contains(origin));
        self.queue.retain(|origin| there.contains(origin));
        counted
    }

    /// Marks of those that were asked about, as this replica derives them.
    pub(crate) fn mark(&self, origin: &str) -> Option<&str> {
        self.known.get(origin).map(|known| known.mark.as_str())
    }

    pub(crate) fn counted(&mut self, counts: BTreeMap<String, Progress>) {
        for (origin, progress) in counts {
            if let Some(known) = self.known.get_mut(&origin) {
                known.progress = Some(progress);
            }
        }
    }

    /// Compares what each object should say with what it says, and queues those that differ.
    pub(crate) fn assess(&mut self, view: &Derived, now: Instant, clock: Timestamp) {
        let mut findings: HashMap<&str, Vec<&Finding>> = HashMap::new();
        for finding in view.findings.iter() {
            findings.entry(&finding.object).or_default().push(finding);
        }
        for subject in subjects(view) {
            let origin = subject.origin();
            let Some(known) = self.known.get_mut(&origin) else { continue };
            let before = known.says(&subject).clone();
            let Some(progress) = &known.progress else { continue };
            let refused = subject.refused();
            let found = findings.get(origin.as_str()).into_iter().flatten().copied();
            let found: Vec<&Finding> = refused.iter().chain(found).collect();
            let facts = Facts {
                findings: &found,
                progress,
                effective: !view.affects.of(&origin).is_empty(),
                serving: subject.has_failure_policy().then_some(&known.serving),
                generation: subject.metadata().generation,
                now: clock,
            };
            let mut told = subject.tell(facts, &before);
            if progress.held.is_pending() && before.was_programmed(subject.metadata().generation) {
                let since = *known.doubted.get_or_insert(now);
                if now < since + DOUBT {
                    told.keep_programmed(&before);
                }
            } else {
                known.doubted = None;
            }
            let hurried = now < self.since + SETTLE || known.wrote.is_some_and(|wrote| now < wrote + WORDING);
            let early = hurried && told.is_wording(&before);
            let waits = known.retry.is_some_and(|retry| now < retry);
            known.retry.take_if(|_| !waits);
            if !told.is_news(&before) {
                known.wanted = None;
                continue;
            }
            if !early && !waits && known.wanted.replace(told).is_none() {
                self.queue.push_back(origin);
            }
        }
    }

    /// The next object to be written, if any.
    pub(crate) fn pop(&mut self) -> Option<(String, Told)> {
        loop {
            let origin = self.queue.pop_front()?;
            if let Some(told) = self.known.get_mut(&origin).and_then(|known| known.wanted.take()) {
                return Some((origin, told));
            }
        }
    }

    pub(crate) fn has_writes(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What an object says, as far as is known.
    pub(crate) fn says(&mut self, subject: &Subject) -> Told {
        self.known.get_mut(&subject.origin()).map_or_else(|| subject.told(), |known| known.says(subject).clone())
    }

    /// `subject`, as the view has it, now says `told`.
    pub(crate) fn wrote(&mut self, subject: &Subject, told: Told, now: Instant) {
        if let Some(known) = self.known.get_mut(&subject.origin()) {
            known.said = Some((subject.version().to_owned(), told));
            known.wrote = Some(now);
            known.failures = 0;
        }
    }

    pub(crate) fn failed(&mut self, origin: &str, now: Instant) {
        if let Some(known) = self.known.get_mut(origin) {
            let pause = RETRY * 2u32.saturating_pow(known.failures.min(8));
            known.retry = Some(now + pause.min(RETRY_MAX));
            known.failures += 1;
        }
    }
}

// === impl Known ===

impl Known {
    fn new(now: Instant) -> Self {
        Self {
            uid: None,
            generation: None,
            mark: String::new(),
            changed: now,
            progress: None,
            doubted: None,
            serving: Serving::default(),
            served: None,
            serving_due: None,
            wanted: None,
            said: None,
            wrote: None,
            failures: 0,
            retry: None,
        }
    }

    /// On its way to proxies, or too young to be sure that it isn't.
    fn moves(&self, now: Instant) -> bool {
        let arrived = self.progress.as_ref().is_some_and(Progress::is_complete);
        !arrived || now < self.changed + FRESH
    }

    fn serves(&mut self, serving: Serving, now: Instant) {
        self.serving_due = None;
        if self.serving == serving {
            return;
        }
        match self.served.map(|served| served + CALM) {
            Some(due) if now < due => self.serving_due = Some(due),
            _ => (self.serving, self.served) = (serving, Some(now)),
        }
    }

    fn says(&mut self, subject: &Subject) -> &Told {
        self.said.take_if(|(version, _)| *version != subject.version());
        let (_, told) = self.said.get_or_insert_with(|| (subject.version().to_owned(), subject.told()));
        told
    }
}
