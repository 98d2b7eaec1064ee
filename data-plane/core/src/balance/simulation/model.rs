//! What the balancer should know and do, as plainly as it can be said.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use super::super::Outcome;
use crate::config::{Ejection, EndpointSpec};

/// An endpoint's own state.
#[derive(Debug, Default)]
pub(super) struct Live {
    in_flight: Cell<u32>,
    known: RefCell<Known>,
}

#[derive(Debug, Default)]
struct Known {
    failures: u32,
    ejected_until: Duration,
    ejections: u32,
    left_alone_until: Duration,
    unreachable: u32,
    /// When somebody began to try it while the others left it alone.
    trial: Option<Duration>,
}

/// The endpoints of a set, in their order.
#[derive(Clone, Default)]
pub(super) struct Model(Vec<(EndpointSpec, Rc<Live>)>);

/// Which endpoints, and whether those don't count that are left alone.
type Tier<'a> = (&'a dyn Fn(&EndpointSpec) -> bool, bool);

/// How long others leave it to one to find out.
const TRIAL: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);

// === impl Live ===

impl Live {
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    pub(super) fn is_ejected(&self, now: Duration) -> bool {
        now < self.known.borrow().ejected_until
    }

    pub(super) fn is_out(&self, now: Duration) -> bool {
        self.is_ejected(now) || now < self.known.borrow().left_alone_until
    }

    /// It is used; says whether that is a trial. `careful`: by one who had no need to.
    pub(super) fn begin(&self, now: Duration, careful: bool) -> Result<bool, String> {
        self.in_flight.set(self.in_flight.get() + 1);
        let mut known = self.known.borrow_mut();
        if known.unreachable == 0 {
            return Ok(false);
        }
        if careful && known.trial.is_some_and(|trial| now < trial + TRIAL) {
            return Err(format!("a second trial beside the one of {:?}", known.trial));
        }
        if careful {
            known.trial = Some(now);
        }
        known.left_alone_until = known.left_alone_until.max(now + TRIAL);
        Ok(true)
    }

    pub(super) fn ended(&self) {
        self.in_flight.set(self.in_flight.get() - 1);
    }

    pub(super) fn end(&self, outcome: Outcome, now: Duration, ejection: Option<&Ejection>, among: &Model) {
        match outcome {
            Outcome::Neutral => {}
            Outcome::Success => self.answered(now),
            Outcome::Unreachable => self.not_there(now),
            Outcome::Failure => {
                self.known.borrow_mut().failures += 1;
                if let Some(ejection) = ejection {
                    self.maybe_ejected(now, ejection, among);
                }
            }
        }
    }

    fn answered(&self, now: Duration) {
        let mut known = self.known.borrow_mut();
        known.failures = 0;
        (known.unreachable, known.left_alone_until, known.trial) = (0, Duration::ZERO, None);
        if known.ejections > 0 && now >= known.ejected_until + MINUTE {
            known.ejections = 0;
        }
    }

    fn not_there(&self, now: Duration) {
        let mut known = self.known.borrow_mut();
        if now < known.left_alone_until {
            return;
        }
        let seconds = [1, 2, 4, 8].get(known.unreachable as usize).copied().unwrap_or(8);
        known.left_alone_until = now + Duration::from_secs(seconds);
        known.unreachable += 1;
    }

    fn maybe_ejected(&self, now: Duration, ejection: &Ejection, among: &Model) {
        let (all, out) = (among.len(), among.0.iter().filter(|(_, live)| live.is_ejected(now)).count());
        let most = (all * ejection.max_percent as usize / 100).max(1).min(all - 1);
        if self.known.borrow().failures < ejection.consecutive_failures || self.is_ejected(now) || out >= most {
            return;
        }
        let mut known = self.known.borrow_mut();
        known.ejected_until = now + (ejection.base * 2_u32.pow(known.ejections.min(10))).min(MINUTE);
        known.ejections += 1;
        // On probation.
        known.failures = ejection.consecutive_failures - 1;
    }
}

// === impl Model ===

impl Model {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn find(&self, spec: &EndpointSpec) -> Rc<Live> {
        let same = |of: &EndpointSpec| of.workload == spec.workload && of.address == spec.address;
        self.0.iter().find(|(of, _)| same(of)).map(|(_, live)| live.clone()).unwrap_or_default()
    }

    /// Whoever was there before is known still.
    pub(super) fn followed_by(&self, specs: &[EndpointSpec]) -> Self {
        Self(specs.iter().map(|spec| (spec.clone(), self.find(spec))).collect())
    }

    /// Whom a caller of that zone may be given that has tried some, and whether anybody there need be left alone for that.
    pub(super) fn may_pick(&self, now: Duration, tried: &[Rc<Live>], zone: &str) -> (Vec<EndpointSpec>, bool) {
        let ready = self.0.iter().filter(|(spec, _)| !spec.draining).count();
        let near = |spec: &EndpointSpec| !spec.draining && *spec.zone == *zone;
        let count = self.0.iter().filter(|(spec, _)| near(spec)).count();
        let enough = !zone.is_empty() && count < ready && count * 3 >= ready;
        let tiers: [Tier<'_>; 5] = [
            (&|spec| enough && near(spec), true),
            (&|spec| !spec.draining, true),
            (&|spec| spec.draining, true),
            (&|spec| !spec.draining, false),
            (&|spec| spec.draining, false),
        ];
        for (wanted, careful) in tiers {
            let untried = |live: &Rc<Live>| !tried.iter().any(|tried| Rc::ptr_eq(tried, live));
            let usable = |live: &Rc<Live>| untried(live) && !(careful && live.is_out(now));
            let these: Vec<_> = self.0.iter().filter(|(spec, live)| wanted(spec) && usable(live)).collect();
            if !these.is_empty() {
                return (these.into_iter().map(|(spec, _)| spec.clone()).collect(), careful);
            }
        }
        (Vec::new(), false)
    }
}
