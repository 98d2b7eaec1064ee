//! Whatever happens, and in whatever order: once all is quiet, each client holds what it asks for as the newest snapshot has
//! it. Clients look only when their bell rings, so a change that woke nobody would be missing in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    task::{Context, Poll, Waker},
};

use outrigger_model::TypeSet;
use outrigger_wire::{
    SpiffeId,
    names::type_url::{ENDPOINT, SERVICE},
};
use tokio::sync::Notify;

use super::*;
use crate::scope::globs_of;

const TYPES: [&str; 2] = [SERVICE, ENDPOINT];
const ASKS: [&str; 10] = ["a", "b", "n/a", "n/*", "n/c/*", "@1", "@2", "@3", "x", "*"];

/// Numbers that look random, the same ones for each seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % end
    }
}

/// Each resource there or not, in some version, with an alias that nobody else has.
fn set(numbers: &mut Numbers) -> Arc<TypeSet> {
    let mut set = TypeSet::default();
    for name in ["a", "b", "n/a", "n/b", "n/c/d"] {
        let alias = ["@1", "@2", "@3"][numbers.below(3)];
        let free = numbers.below(2) == 0 && !set.aliases.contains_key(alias);
        if numbers.below(4) == 0 {
            continue;
        }
        let aliases: Vec<Arc<str>> = free.then(|| alias.into()).into_iter().collect();
        // A version is a hash of the content, and an alias is part of that.
        let version = format!("{}{aliases:?}", numbers.below(3));
        set.aliases.extend(aliases.iter().map(|alias| (Arc::clone(alias), Arc::from(name))));
        let resource = Resource { name: name.into(), aliases, version: version.into(), ..Resource::default() };
        set.resources.insert(name.into(), Arc::new(resource));
    }
    // Now and then so many that a change of all of them is told as one.
    if numbers.below(6) == 0 {
        for number in 0..300 {
            let (name, version) = (format!("many/{number}"), numbers.below(2).to_string());
            let resource = Resource { name: name.as_str().into(), version: version.into(), ..Resource::default() };
            set.resources.insert(name.into(), Arc::new(resource));
        }
    }
    Arc::new(set)
}

fn is_rung(bell: &Notify) -> bool {
    pin!(bell.notified()).poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

/// A client with its stream: what it asks for, what it holds, what it hasn't answered yet.
struct Client<'h> {
    seat: Seat<'h>,
    bell: Arc<Notify>,
    asks: BTreeMap<&'static str, BTreeSet<String>>,
    held: BTreeMap<&'static str, BTreeMap<Arc<str>, Arc<Resource>>>,
    unanswered: Vec<(&'static str, u64)>,
}

impl<'h> Client<'h> {
    fn new(hub: &'h Hub, acks: &Arc<Acks>) -> Self {
        let identity = SpiffeId::new("cluster.local", "shop", "a").unwrap();
        let principal = Principal { workload: "shop/a".into(), identity, shared: false };
        let seat = Seat::new(hub, acks.enter(Session::new(Variant::Delta, principal)));
        let bell = hub.join(seat.entry.id());
        Self { seat, bell, asks: BTreeMap::new(), held: BTreeMap::new(), unanswered: Vec::new() }
    }

    /// Another stream of the same client, which says what it has from the last one.
    fn back(self, hub: &'h Hub, acks: &Arc<Acks>) -> Self {
        let mut next = Self::new(hub, acks);
        for (type_url, asks) in self.asks {
            let held = self.held.get(type_url).cloned().unwrap_or_default();
            let known = held.iter().map(|(name, resource)| (name.to_string(), resource.version.to_string())).collect();
            let subscribe: Vec<String> = asks.iter().cloned().collect();
            next.held.insert(type_url, held);
            next.asks.insert(type_url, asks);
            // Who asks for nothing doesn't say so, or it would ask for all.
            if !subscribe.is_empty() {
                next.send(type_url, Names::Change { subscribe, unsubscribe: Vec::new(), known }, None);
            }
        }
        next
    }

    fn change(&mut self, type_url: &'static str, subscribe: Option<&str>, unsubscribe: Option<&str>) {
        let asks = self.asks.entry(type_url).or_default();
        asks.extend(subscribe.map(str::to_owned));
        if let Some(name) = unsubscribe {
            asks.remove(name);
        }
        let asks = asks.clone();
        if let Some(held) = self.held.get_mut(type_url) {
            held.retain(|_, resource| is_asked_for(&asks, resource));
        }
        let owned = |name: Option<&str>| name.map(str::to_owned).into_iter().collect();
        let names =
            Names::Change { subscribe: owned(subscribe), unsubscribe: owned(unsubscribe), known: HashMap::new() };
        self.send(type_url, names, None);
    }

    /// The oldest that isn't answered.
    fn answer(&mut self) {
        if !self.unanswered.is_empty() {
            let (type_url, nonce) = self.unanswered.remove(0);
            self.send(type_url, Names::default(), Some(nonce));
        }
    }

    fn send(&mut self, type_url: &'static str, names: Names, nonce: Option<u64>) {
        self.seat.take(None, type_url, Request { names, nonce, error: None }).unwrap();
        self.read();
    }

    /// Says whether there was anything.
    fn listen(&mut self) -> bool {
        let rung = is_rung(&self.bell);
        if rung {
            self.seat.catch_up().unwrap();
            self.read();
        }
        rung
    }

    fn read(&mut self) {
        let pushes = self.seat.entry.session().pushes();
        for push in pushes {
            let asks = &*self.asks.entry(push.type_url).or_default();
            let held = self.held.entry(push.type_url).or_default();
            held.retain(|name, _| !push.removed.contains(name));
            let wanted = push.resources.into_iter().filter(|resource| is_asked_for(asks, resource));
            held.extend(wanted.map(|resource| (Arc::clone(&resource.name), resource)));
            self.unanswered.push((push.type_url, push.nonce));
        }
    }

    /// Until there is nothing more to come.
    fn settle(&mut self) {
        while self.listen() || !self.unanswered.is_empty() {
            self.answer();
        }
    }

    fn assert_holds(&self, snapshot: &MeshSnapshot, context: &str) {
        for (type_url, asks) in &self.asks {
            let all = snapshot.types[type_url].resources.values();
            let wanted = all.filter(|resource| is_asked_for(asks, resource));
            let wanted: BTreeMap<_, _> = wanted.map(|resource| (&resource.name, &resource.version)).collect();
            let held = self.held.get(type_url).into_iter().flatten();
            let held: BTreeMap<_, _> = held.map(|(name, resource)| (name, &resource.version)).collect();
            assert_eq!(held, wanted, "{context}: {type_url}, asked for {asks:?}");
        }
    }
}

fn is_asked_for(asks: &BTreeSet<String>, resource: &Resource) -> bool {
    let name = [&*resource.name, "*"].into_iter().chain(resource.aliases.iter().map(AsRef::as_ref));
    name.map(str::to_owned).chain(globs_of(&resource.name)).any(|ask| asks.contains(&ask))
}

#[test]
fn whatever_happens() {
    for seed in 0..300 {
        let mut numbers = Numbers(seed);
        let (hub, acks) = (Hub::default(), Arc::<Acks>::default());
        let mut snapshot = MeshSnapshot::default();
        let mut clients: Vec<Client<'_>> = (0..4).map(|_| Client::new(&hub, &acks)).collect();
        for step in 0..120 {
            let at = numbers.below(clients.len());
            let type_url = TYPES[numbers.below(2)];
            match numbers.below(12) {
                0..4 => {
                    snapshot.generation += 1;
                    snapshot.types.insert(type_url, set(&mut numbers));
                    snapshot.types.entry(TYPES[0]).or_default();
                    snapshot.types.entry(TYPES[1]).or_default();
                    hub.publish(Arc::new(snapshot.clone()));
                }
                4..6 => clients[at].change(type_url, Some(ASKS[numbers.below(10)]), None),
                6 => {
                    let asks = clients[at].asks.get(type_url).cloned().unwrap_or_default();
                    if let Some(ask) = asks.first() {
                        clients[at].change(type_url, None, Some(ask));
                    }
                }
                7..9 => clients[at].answer(),
                9..11 => drop(clients[at].listen()),
                _ => {
                    let client = clients.swap_remove(at);
                    clients.push(client.back(&hub, &acks));
                }
            }
            if step % 30 == 29 && snapshot.generation > 0 {
                for (at, client) in clients.iter_mut().enumerate() {
                    client.settle();
                    client.assert_holds(&snapshot, &format!("seed {seed}, step {step}, client {at}"));
                }
            }
        }
        drop(clients);
        assert!(hub.is_forgotten(), "seed {seed}");
    }
}
