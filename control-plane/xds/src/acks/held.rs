//! Counts of proxies by object.
//!
//! One pass over the streams for all objects that are asked about. For each stream it costs the fewer of: the resources
//! asked about, and those that the stream holds. So 10,000 sidecars that hold 60 resources each are 600,000 steps at most,
//! and one route is 10,000. Each stream is locked for its own part only.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError},
};

use outrigger_model::{
    Effects, Held, Holdings, MeshSnapshot, Reach, TypeSet,
    held::{Certificates, Rejection},
};

use super::Acks;
use crate::{Session, Subscription, subscription::Standing};

/// Bytes kept of a reason.
const MAX_REASON: usize = 256;

/// What is asked about one type: who asks, as indexes into the list of objects.
#[derive(Default)]
struct Asked<'a> {
    set: Option<&'a Arc<TypeSet>>,
    named: HashMap<&'a str, Vec<usize>>,
    all: Vec<usize>,
}

/// One stream's standing towards each object that concerns it: the worst of its resources'.
#[derive(Default)]
struct Tally(BTreeMap<usize, (Standing, Option<String>)>);

// === impl Acks ===

impl Holdings for Acks {
    fn held(&self, snapshot: &MeshSnapshot, of: &[&Effects]) -> Vec<Held> {
        let asked = index(snapshot, of);
        let mut counts = vec![Held::default(); of.len()];
        let streams: Vec<_> = self.streams.iter().map(|entry| Arc::clone(entry.value())).collect();
        for stream in streams {
            let session = stream.session.lock().unwrap_or_else(PoisonError::into_inner);
            let tally = tally(&session, &asked);
            for (object, (standing, reason)) in tally.0 {
                let count = &mut counts[object];
                count.proxies += 1;
                count.current += u32::from(standing == Standing::Current);
                count.rejected += u32::from(standing == Standing::Rejected);
                if let Some(reason) = reason {
                    count.reject(Rejection { reason, workload: session.principal().workload.to_string() });
                }
            }
        }
        counts
    }

    fn certificates(&self, anchor: &str) -> Certificates {
        let mut certificates = Certificates::default();
        let streams: Vec<_> = self.streams.iter().map(|entry| Arc::clone(entry.value())).collect();
        for stream in streams {
            let session = stream.session();
            let proxies = match session.anchor() {
                "" => &mut certificates.silent,
                other if other != anchor => &mut certificates.others,
                _ => &mut certificates.have,
            };
            proxies.insert(session.proxy());
        }
        certificates
    }
}

fn index<'a>(snapshot: &'a MeshSnapshot, of: &[&'a Effects]) -> BTreeMap<&'a str, Asked<'a>> {
    let mut asked: BTreeMap<&str, Asked<'_>> = BTreeMap::new();
    for (object, effects) in of.iter().enumerate() {
        for (type_url, reach) in *effects {
            let of_type = asked.entry(type_url).or_default();
            of_type.set = snapshot.types.get(type_url);
            match reach {
                Reach::All => of_type.all.push(object),
                Reach::Named(names) => {
                    names.iter().for_each(|name| of_type.named.entry(name).or_default().push(object));
                }
            }
        }
    }
    asked
}

fn tally(session: &Session, asked: &BTreeMap<&str, Asked<'_>>) -> Tally {
    let mut tally = Tally::default();
    for subscription in session.subscriptions() {
        let Some(of_type) = asked.get(subscription.type_url()) else { continue };
        let current = |name: &str| of_type.set.and_then(|set| set.resources.get(name)).map(|r| &*r.version);
        let mut note = |name: &str, objects: &[usize]| {
            if let Some(standing) = subscription.standing(name, current(name)) {
                objects.iter().for_each(|object| tally.note(*object, standing, subscription, name));
            }
        };
        if of_type.all.is_empty() && of_type.named.len() <= subscription.len() {
            of_type.named.iter().for_each(|(name, objects)| note(name, objects));
            continue;
        }
        for name in subscription.names() {
            if let Some(objects) = of_type.named.get(&**name) {
                note(name, objects);
            }
            note(name, &of_type.all);
        }
    }
    tally
}

// === impl Tally ===

impl Tally {
    fn note(&mut self, object: usize, standing: Standing, subscription: &Subscription, name: &str) {
        let slot = self.0.entry(object).or_insert((Standing::Current, None));
        slot.0 = slot.0.max(standing);
        if standing == Standing::Rejected && slot.1.is_none() {
            slot.1 = subscription.nack().map(|nack| reason(&nack.reason, name));
        }
    }
}

/// What a rejection says of one resource; our proxies say `NAME: REASON` in a line of its own for each.
fn reason(all: &str, name: &str) -> String {
    let own = all.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let mut reason = own.or_else(|| all.lines().next()).unwrap_or_default().trim().to_owned();
    reason.truncate(reason.floor_char_boundary(MAX_REASON));
    reason
}
