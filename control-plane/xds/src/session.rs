//! One stream: its subscriptions, one counter of nonces, and the order in which types are pushed.
//!
//! Make before break: additions go out in the order of [`type_url::ALL`], removals in the reverse order and only
//! once nothing is left to be added. A type that alone has changed gets both in one push, hence atomically.

#[cfg(test)]
mod tests;

use std::sync::{Arc, LazyLock};

use outrigger_model::{MeshSnapshot, Progress, TypeSet};
use outrigger_wire::names::type_url;

use crate::{
    Names, Principal, Push, Request, Scope, Subscription, TooManyNames, Variant, Verdict, changes::Changed,
    protocol::MAX_NODE,
};

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    principal: Principal,
    /// `Node.id`, which only the first request of a stream must carry.
    node: String,
    /// The root that the client's certificate leads to, as it says; "" if it doesn't.
    anchor: String,
    /// Of the snapshot that was looked at last.
    generation: u64,
    progress: Arc<Progress>,
    nonces: u64,
    /// In the order in which a client must apply them.
    subscriptions: Vec<Subscription>,
}

// === impl Session ===

impl Session {
    pub fn new(variant: Variant, principal: Principal) -> Self {
        Self {
            variant,
            principal,
            node: String::new(),
            anchor: String::new(),
            generation: 0,
            progress: Arc::default(),
            nonces: 0,
            subscriptions: Vec::new(),
        }
    }

    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Generation of the snapshot that was looked at last: the newest that concerned the client.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What the snapshot was made from, where replicas can compare that; else its generation.
    pub(crate) fn version(&self) -> String {
        let token = self.progress.token();
        if token.is_empty() { self.generation.to_string() } else { token }
    }

    fn look_at(&mut self, snapshot: &MeshSnapshot) {
        self.generation = snapshot.generation;
        self.progress = Arc::clone(&snapshot.progress);
    }

    pub(crate) fn variant(&self) -> Variant {
        self.variant
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// Remembers who the client says it is. It is shown, never trusted.
    pub fn name_node(&mut self, mut node: String) {
        if self.node.is_empty() {
            node.truncate(node.floor_char_boundary(MAX_NODE));
            self.node = node;
        }
    }

    pub(crate) fn anchor(&self) -> &str {
        &self.anchor
    }

    /// Remembers which root the client's certificate leads to. It says so of nobody but itself.
    pub(crate) fn show(&mut self, anchor: String) {
        self.anchor = anchor;
    }

    /// Why the client has refused something of a type last, as far as it is kept.
    pub(crate) fn reason(&self, type_url: &str) -> Option<&str> {
        Some(&*self.subscriptions[self.at(type_url).ok()?].nack()?.reason)
    }

    /// `NAMESPACE/POD/ROLE`: the workload is proven, the role is the client's word.
    pub(crate) fn proxy(&self) -> String {
        let workload = &*self.principal.workload;
        let role = self.node.strip_prefix(workload).and_then(|rest| rest.strip_prefix('/'));
        format!("{workload}/{}", role.unwrap_or("?"))
    }

    /// Takes a request for a type (from [`known_type`]) in. `snapshot` is the one that the session has been told of.
    ///
    /// # Errors
    /// If the client asks for too much; the stream should end.
    pub fn request(
        &mut self,
        type_url: &'static str,
        request: Request,
        snapshot: &MeshSnapshot,
    ) -> Result<Verdict, TooManyNames> {
        self.look_at(snapshot);
        let at = match self.at(type_url) {
            Ok(at) => at,
            Err(at) => {
                self.subscriptions.insert(at, self.subscription(type_url));
                at
            }
        };
        self.subscriptions[at].request(request, set(snapshot, type_url))
    }

    /// Takes a newer snapshot in, whatever is different in it.
    pub fn advance(&mut self, snapshot: &MeshSnapshot) {
        self.look_at(snapshot);
        for subscription in &mut self.subscriptions {
            subscription.advance(set(snapshot, subscription.type_url()));
        }
    }

    /// Takes a newer snapshot in, of which nothing else than this is different for the client.
    pub(crate) fn touch(&mut self, snapshot: &MeshSnapshot, changed: &[(&'static str, Changed)]) {
        self.look_at(snapshot);
        for (type_url, changed) in changed {
            let Ok(at) = self.at(type_url) else { continue };
            let (subscription, set) = (&mut self.subscriptions[at], set(snapshot, type_url));
            match changed {
                Changed::These(changes) => subscription.touch(set, changes),
                Changed::Many => subscription.advance(set),
            }
        }
    }

    /// What a request for a type may add to the asks, and what it may take away.
    ///
    /// # Errors
    /// If there would be too many of them; the stream should end.
    pub(crate) fn asks_of(
        &self,
        type_url: &'static str,
        names: &Names,
    ) -> Result<(Vec<String>, Vec<String>), TooManyNames> {
        let subscription = self.at(type_url).ok().map(|at| &self.subscriptions[at]);
        let present = || subscription.into_iter().flat_map(Subscription::asks);
        let (mut asked, dropped) = match names {
            Names::Change { subscribe, unsubscribe, .. } => {
                names.check(present().count())?;
                (subscribe.clone(), unsubscribe.clone())
            }
            Names::Whole(whole) => {
                names.check(0)?;
                (whole.clone(), present().map(str::to_owned).collect())
            }
        };
        if subscription.is_none() && asked.is_empty() {
            asked.push("*".to_owned());
        }
        Ok((asked, dropped))
    }

    pub(crate) fn asks_for(&self, type_url: &'static str, name: &str) -> bool {
        self.at(type_url).is_ok_and(|at| self.subscriptions[at].asks_for(name))
    }

    /// All that can be sent now, in this order.
    pub fn pushes(&mut self) -> Vec<Push> {
        let mut pushes = Vec::new();
        for at in 0..self.subscriptions.len() {
            let (before, rest) = self.subscriptions.split_at_mut(at);
            let Some((current, after)) = rest.split_first_mut() else { break };
            let with_removals = !before.iter().any(Subscription::has_additions)
                && !after.iter().any(|other| other.has_additions() || other.has_removals());
            pushes.extend(current.poll(&mut self.nonces, with_removals));
        }
        if self.subscriptions.iter().any(Subscription::has_additions) {
            return pushes;
        }
        for subscription in self.subscriptions.iter_mut().rev().filter(|s| s.has_removals()) {
            // One that waits for an acknowledgement holds up the types that it refers to.
            let Some(push) = subscription.poll(&mut self.nonces, true) else { break };
            pushes.push(push);
        }
        pushes
    }

    /// Where the subscription to a type is, or would be.
    fn at(&self, type_url: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by_key(&rank(type_url), |s| rank(s.type_url()))
    }

    fn subscription(&self, type_url: &'static str) -> Subscription {
        let scope = match type_url {
            type_url::INBOUND if !self.principal.shared => Scope::Own(Arc::clone(&self.principal.workload)),
            _ => Scope::Everything,
        };
        Subscription::new(type_url, self.variant, scope)
    }
}

/// The type as the snapshot knows it, or `None` for one that isn't served.
pub fn known_type(snapshot: &MeshSnapshot, url: &str) -> Option<&'static str> {
    type_url::ALL
        .into_iter()
        .find(|known| *known == url)
        .or_else(|| snapshot.types.get_key_value(url).map(|(known, _)| *known))
}

fn set<'s>(snapshot: &'s MeshSnapshot, type_url: &str) -> &'s TypeSet {
    static NONE: LazyLock<TypeSet> = LazyLock::new(TypeSet::default);
    snapshot.types.get(type_url).map_or(&NONE, |set| set)
}

/// Place in the order of application; types that aren't ours come after ours.
fn rank(url: &str) -> (usize, &str) {
    (type_url::ALL.iter().position(|known| *known == url).unwrap_or(type_url::ALL.len()), url)
}
