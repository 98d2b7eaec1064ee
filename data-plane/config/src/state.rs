//! The client's side of delta xDS as a pure state machine: what is held, what is waited for, what is to be asked for.
//! Knows no stream, no disk and no clock.
//!
//! Subscriptions are never kept by hand: what is wanted follows from what is held and published, and each request
//! carries the difference to what the stream was told. Publishing makes before it breaks: a service appears, or
//! changes, only once everything that its routes lead to has been answered; what is no longer led to goes in the
//! same snapshot.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use outrigger_core::{
    Snapshot,
    config::{EndpointSpec, Inbound, Service, Trust},
};
use outrigger_wire::{
    names::{address_alias, endpoint_glob, type_url},
    proto::{
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        google::rpc::Status,
    },
};
use tokio::time::Instant;

mod absorb;
mod asked;
mod lost;
mod publish;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod tried;

use crate::{
    Refusal, Role,
    saved::SavedConfig,
    trial::{Key, Trials},
};
use asked::Asked;
use lost::Lost;
use table::{Table, Versions};

/// How long a service waits for what its routes lead to; then half an answer is better than none.
pub(crate) const WARM_UP: Duration = Duration::from_secs(5);

/// Refusals remembered at most; a control plane that sends rubbish must not grow us.
const MAX_REFUSALS: usize = 100;

/// `google.rpc.Code` for a NACK.
const INVALID_ARGUMENT: i32 = 3;

/// Types, in the order in which they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Trust,
    Inbound,
    Endpoint,
    Service,
}

pub(crate) struct State {
    role: Role,
    /// Name of the own workload.
    workload: String,
    asked: Asked,
    services: Table<Arc<Service>>,
    endpoints: Table<EndpointSpec>,
    inbounds: Table<Arc<Inbound>>,
    trust: Table<Trust>,
    /// Services that were asked for by name and aren't there, or aren't usable.
    absent: BTreeSet<String>,
    /// Services whose endpoint collection was answered, if only as empty.
    collections: BTreeSet<String>,
    /// Wildcards that were answered.
    complete: BTreeSet<Kind>,
    /// Services whose newest version isn't published, and until when that may be so.
    waiting: BTreeMap<String, Instant>,
    refusals: BTreeMap<Key, String>,
    pub(crate) trials: Trials,
    lost: Option<Lost>,
    /// What the control plane had read when it sent the last response, in its words.
    known: String,
    /// What the stream was told to subscribe to.
    subscribed: BTreeMap<Kind, BTreeSet<String>>,
}

/// What a response led to.
pub(crate) struct Applied {
    /// ACK or NACK.
    pub(crate) reply: DeltaDiscoveryRequest,
    /// To be published, if anything changed.
    pub(crate) snapshot: Option<Snapshot>,
}

// === impl Kind ===

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Trust, Self::Inbound, Self::Endpoint, Self::Service];

    pub(crate) fn url(self) -> &'static str {
        match self {
            Self::Trust => type_url::TRUST,
            Self::Inbound => type_url::INBOUND,
            Self::Endpoint => type_url::ENDPOINT,
            Self::Service => type_url::SERVICE,
        }
    }

    pub(crate) fn from_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }
}

// === impl State ===

impl State {
    pub(crate) fn new(role: Role, workload: &str) -> Self {
        Self {
            role,
            workload: workload.into(),
            asked: Asked::default(),
            services: Table::default(),
            endpoints: Table::default(),
            inbounds: Table::default(),
            trust: Table::default(),
            absent: BTreeSet::new(),
            collections: BTreeSet::new(),
            complete: BTreeSet::new(),
            waiting: BTreeMap::new(),
            refusals: BTreeMap::new(),
            trials: Trials::default(),
            lost: None,
            known: String::new(),
            subscribed: BTreeMap::new(),
        }
    }

    /// Takes up what an earlier process saved. `now` is when waiting services would have to be published.
    pub(crate) fn restore(&mut self, saved: SavedConfig, base: &Snapshot, now: Instant) -> Option<Snapshot> {
        let mut next = Cow::Borrowed(base);
        let mut touched = BTreeSet::new();
        for address in saved.asked.iter().filter_map(|address| address.parse().ok()) {
            self.asked.insert(address);
        }
        self.known.clone_from(&saved.known);
        let mut before = tried::tried(&saved.before).map(|(key, resource)| (key, resource.clone())).collect();
        for mut response in saved.responses {
            self.go_back(&mut response, &mut before);
            self.absorb(response, &mut next, &mut touched, now);
        }
        self.keep_before(before);
        self.refuse_quarantined();
        // Whatever was being waited for then may never come now.
        self.waiting.values_mut().for_each(|deadline| *deadline = now);
        self.settle(&mut next, &touched, now);
        changed(next)
    }

    /// What a later process needs to start from here.
    pub(crate) fn save(&self) -> SavedConfig {
        let response = |kind: Kind| {
            let url = kind.url();
            let removed_resources = match kind {
                Kind::Trust | Kind::Inbound => Vec::new(),
                Kind::Endpoint => {
                    let empty = |service: &&String| self.endpoints.under(&format!("{service}/")).next().is_none();
                    self.collections.iter().filter(empty).map(|service| endpoint_glob(service)).collect()
                }
                Kind::Service => {
                    let aliases = self.asked.absent().map(address_alias);
                    aliases.chain(self.absent.iter().cloned()).collect()
                }
            };
            let resources = self.table(kind).resources(url);
            DeltaDiscoveryResponse { type_url: url.into(), resources, removed_resources, ..Default::default() }
        };
        // A shared proxy is asked about addresses too, but knows them all.
        let asked = if self.role == Role::Shared { Vec::new() } else { self.asked.by_age() };
        SavedConfig {
            workload: self.workload.clone(),
            asked: asked.iter().map(ToString::to_string).collect(),
            responses: Kind::ALL.map(response).into(),
            before: self.before_trials(),
            known: self.known.clone(),
        }
    }

    /// Notes that workers want to know these addresses.
    pub(crate) fn ask(&mut self, addresses: &[IpAddr], base: &Snapshot, now: Instant) -> Option<Snapshot> {
        let mut next = Cow::Borrowed(base);
        for &address in addresses {
            if next.addresses.contains_key(&address) {
                continue;
            }
            if self.role == Role::Shared {
                // It holds all there is, unless something is still on its way.
                if !self.complete.contains(&Kind::Service) || !self.waiting.is_empty() {
                    continue;
                }
            }
            if let Some(evicted) = self.asked.insert(address)
                && matches!(next.addresses.get(&evicted), Some(None))
            {
                next.to_mut().forget_address(evicted);
            }
            if self.role == Role::Shared {
                self.asked.answer(address, true);
                next.to_mut().set_absent(address);
            }
        }
        self.settle(&mut next, &BTreeSet::new(), now);
        changed(next)
    }

    /// Takes a response in, whole.
    pub(crate) fn apply(&mut self, response: DeltaDiscoveryResponse, base: &Snapshot, now: Instant) -> Applied {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        self.known.clone_from(&response.system_version_info);
        let mut next = Cow::Borrowed(base);
        let mut touched = BTreeSet::new();
        let refused = self.absorb(response, &mut next, &mut touched, now);
        self.settle(&mut next, &touched, now);
        let error_detail = (!refused.is_empty()).then(|| Status {
            code: INVALID_ARGUMENT,
            message: refused.iter().map(|(name, reason)| format!("{name}: {reason}")).collect::<Vec<_>>().join("; "),
            details: Vec::new(),
        });
        let reply = DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() };
        Applied { reply, snapshot: changed(next) }
    }

    /// For whichever replica answers next: it shouldn't with what is older.
    pub(crate) fn known(&self) -> &str {
        &self.known
    }

    /// When [`expire`](Self::expire) is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// Publishes services that have waited long enough.
    pub(crate) fn expire(&mut self, base: &Snapshot, now: Instant) -> Option<Snapshot> {
        let mut next = Cow::Borrowed(base);
        self.settle(&mut next, &BTreeSet::new(), now);
        changed(next)
    }

    /// A new stream knows nothing of the one before it.
    pub(crate) fn reset_subscriptions(&mut self) {
        self.subscribed.clear();
    }

    /// What the stream has still to be told, given that `published` is in force.
    pub(crate) fn requests(&mut self, published: &Snapshot) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for (kind, wanted) in Kind::ALL.into_iter().zip(self.wanted(published)) {
            let (nothing, initial) = (BTreeSet::new(), self.subscribed.get(&kind));
            let told = initial.unwrap_or(&nothing);
            if *told == wanted {
                // Also on a new stream: an empty first request would mean everything.
                continue;
            }
            requests.push(DeltaDiscoveryRequest {
                type_url: kind.url().into(),
                resource_names_subscribe: wanted.difference(told).cloned().collect(),
                resource_names_unsubscribe: told.difference(&wanted).cloned().collect(),
                initial_resource_versions: initial.map_or_else(|| self.versions(kind), |_| HashMap::new()),
                ..Default::default()
            });
            self.subscribed.insert(kind, wanted);
        }
        requests
    }

    /// Number of resources of a type that are held.
    pub(crate) fn held(&self, kind: Kind) -> usize {
        self.table(kind).len()
    }

    /// Resources whose newest version isn't usable.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = Refusal> {
        self.refusals.iter().map(|((kind, name), reason)| Refusal {
            type_url: kind.url(),
            name: name.clone(),
            reason: reason.clone(),
        })
    }

    fn versions(&self, kind: Kind) -> HashMap<String, String> {
        self.table(kind).versions()
    }

    fn table(&self, kind: Kind) -> &dyn Versions {
        match kind {
            Kind::Trust => &self.trust,
            Kind::Inbound => &self.inbounds,
            Kind::Endpoint => &self.endpoints,
            Kind::Service => &self.services,
        }
    }

    fn table_mut(&mut self, kind: Kind) -> &mut dyn Versions {
        match kind {
            Kind::Trust => &mut self.trust,
            Kind::Inbound => &mut self.inbounds,
            Kind::Endpoint => &mut self.endpoints,
            Kind::Service => &mut self.services,
        }
    }

    /// Names to be subscribed to, by [`Kind::ALL`].
    fn wanted(&self, published: &Snapshot) -> [BTreeSet<String>; 4] {
        if self.role == Role::Shared {
            return [(); 4].map(|()| BTreeSet::from(["*".to_owned()]));
        }
        let reachable = self.reachable(published);
        let told = self.subscribed.get(&Kind::Service);
        let mut services: BTreeSet<String> = self.asked.iter().map(address_alias).collect();
        let mut globs = BTreeSet::new();
        for name in reachable.iter().filter(|name| !name.starts_with('@')) {
            // One subscription per service will do, but changing it from name to alias would cost a resend.
            if !self.is_asked_for(name) || told.is_some_and(|told| told.contains(&**name)) {
                services.insert(name.to_string());
            }
            globs.insert(endpoint_glob(name));
        }
        [["*".to_owned()].into(), [self.workload.clone()].into(), globs, services]
    }
}

fn changed(next: Cow<'_, Snapshot>) -> Option<Snapshot> {
    match next {
        Cow::Borrowed(_) => None,
        Cow::Owned(snapshot) => Some(snapshot),
    }
}

/// The address of an alias `@ADDRESS`.
fn aliased(name: &str) -> Option<IpAddr> {
    name.strip_prefix('@')?.parse().ok()
}

/// `NAMESPACE/SERVICE` of an endpoint's name.
fn service_of(endpoint: &str) -> Option<&str> {
    let namespace = endpoint.find('/')?;
    let service = endpoint[namespace + 1..].find('/')?;
    Some(&endpoint[..namespace + 1 + service])
}
