//! Which replica leads: the one that holds the Lease. It alone writes statuses, events and what is published.
//!
//! As client-go does it, a record expires a while after *we* have last seen it change: no remote clock counts. What goes
//! beyond client-go is the epoch, a fencing token that grows with each term and is written into every status, so that the
//! API server itself refuses a leader that was paused for long and doesn't know yet. Never creates the Lease: the chart
//! ships it empty, so that the controller needs no right to create any.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};
use outrigger_wire::names::CONTROLLER_NAME;
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::api::said;

#[cfg(test)]
mod tests;

/// A record that hasn't been seen to change for as long is nobody's.
const LEASE: Duration = Duration::from_secs(15);
/// A leader that hasn't renewed for as long no longer acts. The rest of [`LEASE`] is for writes on their way.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at the Lease.
const RETRY: Duration = Duration::from_secs(2);
/// For one look: two of them fit into the deadline.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who leads, as far as this replica knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    Follower {
        holder: Option<String>,
    },
    /// This replica, until the given moment at least.
    Leader {
        epoch: i64,
        valid_until: Instant,
    },
}

/// The decisions: a state machine without IO or clock.
#[derive(Debug)]
struct Election {
    identity: String,
    /// The record as last read, and when it was first read so.
    seen: Option<(LeaseSpec, Instant)>,
    term: Option<Term>,
    /// Highest epoch that was ever read or written.
    highest: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Term {
    epoch: i32,
    valid_until: Instant,
}

/// Takes part in the election until `stop`, then gives the Lease back. `floor` is the highest epoch that was seen in any
/// status: a new term's is above it, so that a Lease that was deleted and made anew can't bring old epochs back.
pub async fn run(
    api: Api<Lease>,
    identity: String,
    floor: Arc<AtomicI64>,
    out: watch::Sender<Leadership>,
    stop: CancellationToken,
) {
    let mut election = Election::new(identity);
    let mut trouble = None;
    let mut ticks = interval(RETRY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let began = Instant::now();
        election.term.take_if(|term| began >= term.valid_until);
        // A leader that waits in vain must not wait beyond its term.
        let patience = election.term.map_or(PATIENCE, |term| term.valid_until.duration_since(began).min(PATIENCE));
        let floor = floor.load(Ordering::Relaxed);
        let attempted = tokio::select! {
            attempted = timeout(patience, attempt(&api, &mut election, floor, began)) => attempted,
            () = stop.cancelled() => break,
        };
        match attempted {
            Ok(Ok(())) => trouble = None,
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                tracing::debug!("another replica has written the Lease first");
            }
            Ok(Err(error)) => complain(&mut trouble, said(&error)),
            Err(_) => complain(&mut trouble, "the API server doesn't answer in time".to_owned()),
        }
        publish(&out, election.leadership(Instant::now()));
    }
    publish(&out, Leadership::Follower { holder: None });
    // Also if it isn't known to be ours: a write may have been cut short.
    if let Err(error) = release(&api, &election).await {
        tracing::warn!(
            error = said(&error),
            "the Lease isn't given back; another replica takes it when it has run out"
        );
    }
}

/// Says it once, not with each look.
fn complain(before: &mut Option<String>, now: String) {
    if before.as_ref() != Some(&now) {
        tracing::warn!(error = now, "the Lease {CONTROLLER_NAME} can't be read or written");
        *before = Some(now);
    }
}

async fn attempt(api: &Api<Lease>, election: &mut Election, floor: i64, now: Instant) -> Result<(), kube::Error> {
    let mut lease = api.get(CONTROLLER_NAME).await?;
    let Some(spec) = election.consider(lease.spec.as_ref(), floor, now, Timestamp::now()) else { return Ok(()) };
    lease.spec = Some(spec);
    // With the resourceVersion that was read: whoever writes second is refused.
    let written = api.replace(CONTROLLER_NAME, &PostParams::default(), &lease).await?;
    election.won(written.spec.unwrap_or_default(), now);
    Ok(())
}

async fn release(api: &Api<Lease>, election: &Election) -> Result<(), kube::Error> {
    let give_back = async {
        let mut lease = api.get(CONTROLLER_NAME).await?;
        if election.is_own(lease.spec.as_ref()) {
            let transitions = lease.spec.and_then(|spec| spec.lease_transitions);
            lease.spec = Some(LeaseSpec { lease_transitions: transitions, ..LeaseSpec::default() });
            api.replace(CONTROLLER_NAME, &PostParams::default(), &lease).await?;
        }
        Ok(())
    };
    // Nobody waits for a release longer than for a Lease that runs out.
    timeout(RETRY, give_back).await.unwrap_or(Ok::<(), kube::Error>(()))
}

/// The moment until which a term is valid moves with each renewal; only who leads is news.
fn publish(out: &watch::Sender<Leadership>, now: Leadership) {
    out.send_if_modified(|before| {
        let news = match (&*before, &now) {
            (Leadership::Leader { epoch, .. }, Leadership::Leader { epoch: same, .. }) => epoch != same,
            (before, now) => before != now,
        };
        if news {
            match &now {
                Leadership::Leader { epoch, .. } => tracing::info!(epoch, "this replica leads"),
                Leadership::Follower { holder } => tracing::info!(?holder, "this replica follows"),
            }
        }
        *before = now;
        news
    });
}

// === impl Leadership ===

impl Leadership {
    /// The epoch, if this replica may act as the leader at this moment.
    pub fn epoch(&self) -> Option<i64> {
        match self {
            Self::Leader { epoch, valid_until } if Instant::now() < *valid_until => Some(*epoch),
            Self::Leader { .. } | Self::Follower { .. } => None,
        }
    }
}

impl Serialize for Leadership {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let holder = match self {
            Self::Follower { holder } => holder.as_deref(),
            Self::Leader { .. } => None,
        };
        let valid = match self {
            Self::Leader { valid_until, .. } => valid_until.saturating_duration_since(Instant::now()),
            Self::Follower { .. } => Duration::ZERO,
        };
        let shown = serde_json::json!({
            "leader": self.epoch().is_some(),
            "epoch": self.epoch(),
            "holder": holder,
            "valid_for_ms": valid.as_millis() as u64,
        });
        shown.serialize(serializer)
    }
}

// === impl Election ===

impl Election {
    fn new(identity: String) -> Self {
        Self { identity, seen: None, term: None, highest: 0 }
    }

    /// Takes a record that was read in. Says what to write in its place: a renewal, or our claim to what is nobody's.
    fn consider(
        &mut self,
        read: Option<&LeaseSpec>,
        floor: i64,
        now: Instant,
        wall_clock: Timestamp,
    ) -> Option<LeaseSpec> {
        let spec = read.cloned().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => now,
        };
        self.seen = Some((spec.clone(), since));
        let own = self.is_own(Some(&spec));
        self.term.take_if(|term| !own || now >= term.valid_until);
        self.highest = self.highest.max(spec.lease_transitions.unwrap_or(0));
        let lease = spec.lease_duration_seconds.map_or(LEASE, |seconds| Duration::from_secs(seconds.max(1) as u64));
        if !own && holder(&spec).is_some() && now < since + lease {
            return None;
        }
        let floor = i32::try_from(floor).unwrap_or(i32::MAX);
        let stamp = Some(MicroTime(wall_clock));
        let (epoch, acquired) = match self.term {
            Some(term) if floor <= term.epoch => (term.epoch, spec.acquire_time),
            // Also a record of ours without a term: of an earlier process of this pod, or run out and taken by nobody.
            _ => (self.highest.max(floor).saturating_add(1), stamp.clone()),
        };
        Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LEASE.as_secs() as i32),
            acquire_time: acquired,
            renew_time: stamp,
            lease_transitions: Some(epoch),
            ..LeaseSpec::default()
        })
    }

    /// The record was written; `asked` is when that was begun, so before anybody else can have seen it.
    fn won(&mut self, written: LeaseSpec, asked: Instant) {
        let epoch = written.lease_transitions.unwrap_or(0);
        self.highest = self.highest.max(epoch);
        self.term = Some(Term { epoch, valid_until: asked + RENEW_DEADLINE });
        self.seen = Some((written, asked));
    }

    fn leadership(&self, now: Instant) -> Leadership {
        match self.term {
            Some(Term { epoch, valid_until }) if now < valid_until => {
                Leadership::Leader { epoch: epoch.into(), valid_until }
            }
            _ => Leadership::Follower { holder: self.seen.as_ref().and_then(|(spec, _)| holder(spec)).cloned() },
        }
    }

    fn is_own(&self, spec: Option<&LeaseSpec>) -> bool {
        spec.and_then(holder).is_some_and(|holder| *holder == self.identity)
    }
}

fn holder(spec: &LeaseSpec) -> Option<&String> {
    spec.holder_identity.as_ref().filter(|holder| !holder.is_empty())
}
