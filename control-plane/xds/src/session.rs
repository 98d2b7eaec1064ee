//! One stream: its subscriptions, one counter of nonces, and the order in which types are pushed.
//!
//! Make before break: additions go out in the order of [`type_url::ALL`], removals in the reverse order and only
//! once nothing is left to be added. A type that alone has changed gets both in one push, hence atomically.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use outrigger_model::MeshSnapshot;
use outrigger_wire::names::type_url;

use crate::{Principal, Push, Request, Scope, Subscription, TooManyNames, Variant, Verdict};

/// The state of one stream.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    principal: Principal,
    /// `Node.id`, which only the first request of a stream carries.
    node: String,
    snapshot: Arc<MeshSnapshot>,
    nonces: u64,
    /// In the order in which a client must apply them.
    subscriptions: Vec<Subscription>,
}

// === impl Session ===

impl Session {
    pub fn new(variant: Variant, principal: Principal, snapshot: Arc<MeshSnapshot>) -> Self {
        Self { variant, principal, node: String::new(), snapshot, nonces: 0, subscriptions: Vec::new() }
    }

    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Generation of the snapshot that pushes are made from.
    pub fn generation(&self) -> u64 {
        self.snapshot.generation
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
    pub fn name_node(&mut self, node: String) {
        if self.node.is_empty() {
            self.node = node;
        }
    }

    /// The type as the snapshot knows it, or `None` for one that isn't served.
    pub fn known_type(&self, url: &str) -> Option<&'static str> {
        type_url::ALL
            .into_iter()
            .find(|known| *known == url)
            .or_else(|| self.snapshot.types.get_key_value(url).map(|(known, _)| *known))
    }

    /// Takes a request for a type (from [`known_type`](Self::known_type)) in.
    ///
    /// # Errors
    /// If the client asks for too much; the stream should end.
    pub fn request(&mut self, type_url: &'static str, request: Request) -> Result<Verdict, TooManyNames> {
        let at = match self.subscriptions.binary_search_by_key(&rank(type_url), |s| rank(s.type_url())) {
            Ok(at) => at,
            Err(at) => {
                self.subscriptions.insert(at, self.subscription(type_url));
                at
            }
        };
        self.subscriptions[at].request(request)
    }

    /// Takes a newer snapshot in.
    pub fn advance(&mut self, snapshot: Arc<MeshSnapshot>) {
        self.snapshot = snapshot;
        for subscription in &mut self.subscriptions {
            match self.snapshot.types.get(subscription.type_url()) {
                Some(set) => subscription.advance(set),
                None => subscription.advance(&Arc::default()),
            }
        }
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

    fn subscription(&self, type_url: &'static str) -> Subscription {
        let scope = match type_url {
            type_url::INBOUND if !self.principal.shared => Scope::Own(Arc::clone(&self.principal.workload)),
            _ => Scope::Everything,
        };
        let set = self.snapshot.types.get(type_url).cloned().unwrap_or_default();
        Subscription::new(type_url, self.variant, scope, set)
    }
}

/// Place in the order of application; types that aren't ours come after ours.
fn rank(url: &str) -> (usize, &str) {
    (type_url::ALL.iter().position(|known| *known == url).unwrap_or(type_url::ALL.len()), url)
}
