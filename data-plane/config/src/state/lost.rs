//! What becomes of workloads whose owners don't want to be called under policies that may be out of date: while there is no
//! control plane, they get one more policy, which denies everything.

use std::{borrow::Cow, collections::BTreeSet, sync::Arc, time::Duration};

use outrigger_core::{
    Snapshot,
    config::{Inbound, OnControlPlaneLoss},
};
use outrigger_wire::proto::config as wire;
use prost::Message;
use tokio::time::Instant;

use super::{State, changed};

/// Name of that policy, as logs and answers have it.
const POLICY: &str = "on-control-plane-loss";

/// There is no control plane.
#[derive(Debug)]
pub(super) struct Lost {
    since: Instant,
    /// When the next workload is to be closed.
    close_at: Option<Instant>,
    closed: BTreeSet<String>,
}

// === impl State ===

impl State {
    /// There is no control plane now.
    pub(crate) fn lose(&mut self, now: Instant) {
        if self.lost.is_none() {
            self.lost =
                Some(Lost { since: now, close_at: self.next_to_close(now, &BTreeSet::new()), closed: BTreeSet::new() });
        }
    }

    /// There is one again.
    pub(crate) fn find(&mut self, base: &Snapshot) -> Option<Snapshot> {
        let closed = self.lost.take()?.closed;
        let mut next = Cow::Borrowed(base);
        for held in closed.iter().filter_map(|name| self.inbounds.get(name)) {
            next.to_mut().set_inbound(held.value.clone());
        }
        changed(next)
    }

    /// When [`close`](Self::close) is due.
    pub(crate) fn close_at(&self) -> Option<Instant> {
        self.lost.as_ref()?.close_at
    }

    /// How many are closed.
    pub(crate) fn closed(&self) -> usize {
        self.lost.as_ref().map_or(0, |lost| lost.closed.len())
    }

    /// Closes those whose grace is over, and says how many.
    pub(crate) fn close(&mut self, base: &Snapshot, now: Instant) -> (usize, Option<Snapshot>) {
        let Some(Lost { since, mut closed, .. }) = self.lost.take() else { return (0, None) };
        let mut next = Cow::Borrowed(base);
        let before = closed.len();
        let due =
            self.inbounds.iter().filter(|(_, held)| closes(&held.value).is_some_and(|grace| since + grace <= now));
        for (name, held) in due {
            if closed.insert(name.clone())
                && let Some(inbound) = shut(held.body())
            {
                next.to_mut().set_inbound(Arc::new(inbound));
            }
        }
        let newly = closed.len() - before;
        self.lost = Some(Lost { since, close_at: self.next_to_close(since, &closed), closed });
        (newly, changed(next))
    }

    fn next_to_close(&self, since: Instant, closed: &BTreeSet<String>) -> Option<Instant> {
        let open = self.inbounds.iter().filter(|(name, _)| !closed.contains(*name));
        open.filter_map(|(_, held)| closes(&held.value)).min().map(|grace| since + grace)
    }
}

/// After how long, if ever.
fn closes(inbound: &Inbound) -> Option<Duration> {
    let fallback = &inbound.fallback;
    (fallback.on_control_plane_loss == OnControlPlaneLoss::Closed).then_some(fallback.control_plane_loss_grace)
}

/// As it was served, but nobody may call.
fn shut(body: &[u8]) -> Option<Inbound> {
    let mut inbound = wire::Inbound::decode(body).ok()?;
    let nobody = wire::AccessPolicy {
        name: POLICY.to_owned(),
        action: wire::access_policy::Action::Deny.into(),
        rules: vec![wire::AccessRule::default()],
    };
    inbound.policies.insert(0, nobody);
    Inbound::compile(inbound).ok()
}

#[cfg(test)]
mod tests {
    use outrigger_core::{access::AccessRequest, route::CallerView};
    use outrigger_wire::proto::discovery::{DeltaDiscoveryResponse, Resource};
    use prost_types::Any;

    use super::*;
    use crate::{
        Role,
        state::{Kind, tests::inbound},
    };

    const GRACE: Duration = Duration::from_secs(300);

    /// With an owner who doesn't want it to go on, if there is a grace.
    fn workload(name: &str, address: &str, grace: Option<Duration>) -> Resource {
        let mut resource = inbound(name, 1, "");
        let body = resource.resource.as_mut().unwrap();
        let mut message = wire::Inbound::decode(body.value.as_slice()).unwrap();
        message.addresses = vec![address.to_owned()];
        if let Some(grace) = grace {
            message.fallback = Some(wire::Fallback {
                on_control_plane_loss: OnControlPlaneLoss::Closed.into(),
                control_plane_loss_grace_ms: u64::try_from(grace.as_millis()).unwrap(),
                ..wire::Fallback::default()
            });
        }
        *body = Any { type_url: body.type_url.clone(), value: message.encode_to_vec() };
        resource
    }

    /// Whether a stranger may call, and by which policy.
    fn verdict(snapshot: &Snapshot, name: &str) -> (bool, Option<String>) {
        let caller = CallerView { identity: None, address: "10.0.0.1".parse().unwrap() };
        let verdict = snapshot.inbounds[name].authorise(&AccessRequest { caller, port: 80, http: None });
        (verdict.allowed, verdict.policy.map(ToString::to_string))
    }

    #[test]
    fn workloads_are_closed_each_after_its_grace_and_open_again() {
        let (mut state, start) = (State::new(Role::Shared, "outrigger-system/shared-0"), Instant::now());
        let resources = vec![
            workload("shop/soon", "10.0.0.1", Some(GRACE)),
            workload("shop/later", "10.0.0.2", Some(2 * GRACE)),
            workload("shop/never", "10.0.0.3", None),
        ];
        let response = DeltaDiscoveryResponse {
            type_url: Kind::Inbound.url().into(),
            resources,
            ..DeltaDiscoveryResponse::default()
        };
        let open = state.apply(response, &Snapshot::default(), start).snapshot.unwrap();
        assert_eq!(state.close_at(), None, "there is a control plane");

        state.lose(start);
        state.lose(start + GRACE / 2);
        assert_eq!(state.close_at(), Some(start + GRACE));
        let (workloads, snapshot) = state.close(&open, start + GRACE);
        let half = snapshot.unwrap();
        assert_eq!((workloads, state.close_at()), (1, Some(start + 2 * GRACE)));
        assert_eq!(verdict(&half, "shop/soon"), (false, Some(POLICY.to_owned())));
        assert_eq!(verdict(&half, "shop/later"), (true, None));
        let (workloads, snapshot) = state.close(&half, start + 3 * GRACE);
        let closed = snapshot.unwrap();
        assert_eq!((workloads, state.closed(), state.close_at()), (1, 2, None));
        assert!(!verdict(&closed, "shop/later").0 && verdict(&closed, "shop/never").0);

        let back = state.find(&closed).unwrap();
        for name in ["shop/soon", "shop/later", "shop/never"] {
            assert!(Arc::ptr_eq(&back.inbounds[name], &open.inbounds[name]), "{name}");
        }
        assert!(state.find(&back).is_none() && state.close_at().is_none());
        assert_eq!(state.closed(), 0);
        // The next loss begins anew.
        state.lose(start + 10 * GRACE);
        assert_eq!(state.close_at(), Some(start + 11 * GRACE));
    }
}
