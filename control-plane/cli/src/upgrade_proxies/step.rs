//! One process of one pod on its way to another image: what each look at it means. Pure; the time is handed in.

use std::time::{Duration, Instant};

use super::{
    errors::{Callers, Counts},
    plan::Part,
};
use crate::status::{Proxy, Sync};

/// What was seen of a pod.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Why nothing was seen at all.
    pub(super) unseen: Option<String>,
    /// Another pod has its name, or none has, or it is about to end.
    pub(super) gone: bool,
    pub(super) container: Container,
    /// By Kubernetes' word.
    pub(super) ready: bool,
    /// As `outrigger status` shows it; none if it wasn't asked.
    pub(super) proxy: Option<Proxy>,
    /// Whether the process itself has a stream to a controller.
    pub(super) connected: bool,
    /// The sidecar's and the guard's, since they started; none if they weren't asked, or don't answer.
    pub(super) counts: Option<[Counts; 2]>,
    /// What its callers were answered; empty if nobody was asked, or nobody answers.
    pub(super) callers: Callers,
}

/// The container of the process in question, as the kubelet sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Container {
    /// Its ID, once it runs and has started up.
    pub(super) running: Option<String>,
    /// Why it waits, and the kubelet's words for it.
    pub(super) waiting: Option<(String, String)>,
    /// How the one before ended.
    pub(super) ended: Option<String>,
}

/// How much to look at next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Pod,
    /// Its proxies' own pages, and the controllers' of them.
    Proxies,
    /// What they count.
    Errors,
    All,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    Look(Depth),
    /// It is well, and what it counted while it was watched.
    Done(Counts),
    Failed(String),
    /// There is nothing to be done any more.
    Gone,
}

/// What is demanded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How long it may take until the new process is well, and once more at the end.
    pub(super) patience: Duration,
    pub(super) watch: Duration,
    /// Failures beyond the usual ones.
    pub(super) allowed: u64,
}

/// Where a process is on its way.
#[derive(Debug)]
pub(super) struct Step {
    part: Part,
    terms: Terms,
    /// The container that is to go; none if none ran.
    replaced: Option<String>,
    /// What both processes had counted at the beginning.
    before: [Counts; 2],
    /// What callers had been answered by then.
    callers: Callers,
    /// It goes back to where it was: there is nothing to be given up for.
    back: bool,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Starting { until: Instant },
    Settling { id: String, until: Instant },
    Watching { id: String, over: Instant },
}

/// The kubelet's reasons after which waiting helps no more.
const HOPELESS: [&str; 7] = [
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
];

// === impl Step ===

impl Step {
    /// Forward: `before` is the last look at the process that is replaced.
    pub(super) fn new(part: Part, before: &Seen, terms: Terms, now: Instant) -> Self {
        let counts = before.counts.clone().unwrap_or_default();
        let replaced = before.container.running.clone();
        let phase = Phase::Starting { until: now + terms.patience };
        Self { part, terms, replaced, before: counts, callers: before.callers.clone(), back: false, phase }
    }

    /// Back to the image before: whatever happens on the way, it has to be waited for.
    pub(super) fn back(part: Part, before: &Seen, terms: Terms, now: Instant) -> Self {
        Self { back: true, ..Self::new(part, before, Terms { watch: Duration::ZERO, ..terms }, now) }
    }

    /// What is needed for the next [`on`](Self::on).
    pub(super) fn depth(&self, now: Instant) -> Depth {
        match &self.phase {
            Phase::Starting { .. } => Depth::Pod,
            Phase::Settling { .. } => Depth::Proxies,
            Phase::Watching { over, .. } if now < *over => Depth::Errors,
            Phase::Watching { .. } => Depth::All,
        }
    }

    pub(super) fn on(&mut self, now: Instant, seen: &Seen) -> Next {
        if let Some(why) = &seen.unseen {
            return self.wait(now, self.until(), why);
        }
        if seen.gone {
            return Next::Gone;
        }
        if !self.back
            && let Some((reason, words)) = seen.container.waiting.as_ref().filter(|(why, _)| HOPELESS.contains(&&**why))
        {
            let ended =
                seen.container.ended.as_ref().map(|how| format!("; it ended before: {how}")).unwrap_or_default();
            return Next::Failed(format!("{reason}: {words}{ended}"));
        }
        match &self.phase {
            Phase::Starting { until } => match &seen.container.running {
                Some(id) if Some(id) != self.replaced.as_ref() => {
                    self.phase = Phase::Settling { id: id.clone(), until: *until };
                    Next::Look(Depth::Proxies)
                }
                _ => self.wait(now, *until, "the kubelet hasn't started it"),
            },
            Phase::Settling { id, until } => {
                if seen.container.running.as_ref() != Some(id) {
                    return self.ended(seen, *until);
                }
                if let Err(why) = well(seen) {
                    return self.wait(now, *until, &why);
                }
                self.phase = Phase::Watching { id: id.clone(), over: now + self.terms.watch };
                Next::Look(self.depth(now))
            }
            Phase::Watching { id, over } => {
                if seen.container.running.as_ref() != Some(id) {
                    return self.ended(seen, self.until());
                }
                self.watched(now, *over, seen)
            }
        }
    }

    /// What isn't so by then won't be.
    fn until(&self) -> Instant {
        match self.phase {
            Phase::Starting { until } | Phase::Settling { until, .. } => until,
            Phase::Watching { over, .. } => over + self.terms.patience,
        }
    }

    fn watched(&self, now: Instant, over: Instant, seen: &Seen) -> Next {
        let until = self.until();
        let counted = seen.counts.as_ref().map(|counts| self.counted(counts));
        let usual = self.before[0].plus(&self.before[1]);
        let risen = counted.as_ref().and_then(|counted| counted.risen(&usual, self.terms.allowed));
        if let Some(risen) = risen.filter(|_| !self.back) {
            return Next::Failed(format!("errors have risen: {risen}"));
        }
        let risen = seen.callers.since(&self.callers).risen(&self.callers.all(), self.terms.allowed);
        if let Some(risen) = risen.filter(|_| !self.back) {
            return Next::Failed(format!("callers see more errors: {risen}"));
        }
        if now < over {
            return Next::Look(Depth::Errors);
        }
        match (well(seen), counted) {
            (Ok(()), Some(counted)) => Next::Done(counted),
            (Ok(()), None) if self.back => Next::Done(Counts::default()),
            (Ok(()), None) => self.wait(now, until, "its metrics can't be read"),
            (Err(why), _) => self.wait(now, until, &why),
        }
    }

    /// Since the beginning: all of the new process, and of the other one what it has more.
    fn counted(&self, [sidecar, guard]: &[Counts; 2]) -> Counts {
        match self.part {
            Part::Sidecar => sidecar.plus(&guard.since(&self.before[1])),
            Part::Guard => guard.plus(&sidecar.since(&self.before[0])),
        }
    }

    /// A process that ended by itself is no better one. On the way back it may be the bad one's last try.
    fn ended(&mut self, seen: &Seen, until: Instant) -> Next {
        if self.back {
            self.phase = Phase::Starting { until };
            return Next::Look(Depth::Pod);
        }
        let how = seen.container.ended.as_deref().unwrap_or("the kubelet doesn't say how");
        Next::Failed(format!("it ended by itself: {how}"))
    }

    fn wait(&self, now: Instant, until: Instant, why: &str) -> Next {
        if now < until {
            return Next::Look(self.depth(now));
        }
        Next::Failed(format!("not well after {} s: {why}", self.terms.patience.as_secs()))
    }
}

/// Whether all that a pod's proxies are for is done by them.
///
/// # Errors
/// What is missing, or isn't known to be there.
pub(super) fn well(seen: &Seen) -> Result<(), String> {
    if let Some(why) = &seen.unseen {
        return Err(why.clone());
    }
    let Some(proxy) = &seen.proxy else { return Err("its proxies can't be asked".into()) };
    if let Some((part, error)) = proxy.parts.iter().find_map(|part| Some((part.name, part.error.as_ref()?))) {
        return Err(format!("its {part} doesn't answer: {error}"));
    }
    if !seen.connected {
        return Err("it has no stream to a controller".into());
    }
    if proxy.sync != Sync::Synced {
        let why = proxy.reason.as_deref().unwrap_or("nobody says why");
        return Err(format!("its configuration isn't acknowledged: {why}"));
    }
    if let Some(fallback) = &proxy.fallback {
        let reason = fallback.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        return Err(format!("no sidecar accepts: the guard is {}{reason}", fallback.state));
    }
    if seen.ready { Ok(()) } else { Err("the pod isn't ready".into()) }
}

#[cfg(test)]
mod tests;
