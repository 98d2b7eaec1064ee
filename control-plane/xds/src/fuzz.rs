//! Fuzz target of what proxies say that are known. `./dev fuzz` runs it by coverage, the test below on its corpus in
//! `fuzz/corpus/`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use outrigger_model::{MeshSnapshot, Resource};
use outrigger_wire::{
    SpiffeId,
    names::type_url::{ENDPOINT, INBOUND, SERVICE, TRUST},
};
use prost::Message;
use serde_json::Value;
use tonic::Code;

use crate::{
    Acks, Names, Principal, Push, Request, Session, Variant,
    hub::Hub,
    known_type,
    protocol::{MAX_NAME, MAX_NODE},
    server::{Delta, Protocol, Seat, StateOfTheWorld},
};

/// Bytes that a response has beside what was said and what is served.
const FRAME: usize = 512;
const TYPES: [&str; 4] = [SERVICE, ENDPOINT, INBOUND, TRUST];

/// What is served, one after the other: each resource as `TYPE NAME VERSION ALIASES…`.
static MESHES: LazyLock<[Arc<MeshSnapshot>; 3]> = LazyLock::new(|| {
    [
        mesh(&["s shop/web 1 @10.0.0.1 web.shop", "s shop/db 1 @10.0.0.2", "s other/a 1 @10.0.0.3", "e shop/db/1 1"]),
        mesh(&["s shop/web 2 @10.0.0.1", "s shop/db 1 @10.0.0.3 web.shop", "e shop/db/1 1", "e shop/db/2 1"]),
        mesh(&["s shop/db 3 @10.0.0.2", "s @10.0.0.1 1", "e shop/db/2 2", "e shop/web/1 1"]),
    ]
});

fn mesh(texts: &[&str]) -> Arc<MeshSnapshot> {
    let always = ["i shop/web 1", "i shop/db 1", "t cluster.local 1"];
    let mut mesh = MeshSnapshot { generation: 1, ..MeshSnapshot::default() };
    for text in texts.iter().chain(&always) {
        let words: Vec<&str> = text.split(' ').collect();
        let [kind, name, version, aliases @ ..] = words.as_slice() else { continue };
        let kinds = ["s", "e", "i", "t"];
        let type_url = TYPES[kinds.iter().position(|other| other == kind).unwrap_or_default()];
        let set = Arc::make_mut(mesh.types.entry(type_url).or_default());
        let resource = Resource {
            name: (*name).into(),
            aliases: aliases.iter().map(|alias| (*alias).into()).collect(),
            version: (*version).into(),
            body: Bytes::from_static(b"body"),
        };
        for alias in &resource.aliases {
            set.aliases.insert(Arc::clone(alias), Arc::clone(&resource.name));
        }
        set.resources.insert(Arc::clone(&resource.name), Arc::new(resource));
    }
    Arc::new(mesh)
}

/// The first byte says by which protocol and whether of a shared proxy; requests follow, each behind its length. Where one is
/// empty, the mesh changes. Whatever comes: who answers nothing changes nothing; what is pushed was asked for, may be seen and
/// is there; all of it within bounds; nobody else notices; and once the stream has ended nothing is left of it.
pub fn requests(data: &[u8]) {
    let Some((kind, frames)) = data.split_first() else { return };
    let principal = principal("shop/web", kind & 2 != 0);
    if kind & 1 == 0 { stream::<Delta>(frames, principal) } else { stream::<StateOfTheWorld>(frames, principal) }
}

fn stream<P: Protocol>(mut frames: &[u8], principal: Principal) {
    let hubs = [Hub::default(), Hub::default()];
    let acks = [Arc::<Acks>::default(), Arc::<Acks>::default()];
    let mut meshes = MESHES.iter().cycle();
    let publish =
        |mesh: Option<&Arc<MeshSnapshot>>| mesh.map(|mesh| hubs.each_ref().map(|hub| hub.publish(Arc::clone(mesh))));
    publish(meshes.next());
    // The same proxy in a world with who is tried here, and in one without.
    let others = [0, 1].map(|world| Seat::new(&hubs[world], acks[world].enter(bystander())));
    others.iter().for_each(|other| drop(settle(other)));
    let mut tried = Tried::<P>::new(&hubs[0], &acks[0], principal);
    while let Ok(length) = prost::decode_length_delimiter(&mut frames) {
        let Some((frame, rest)) = frames.split_at_checked(length) else { break };
        frames = rest;
        let before = shown(&acks[0], 0);
        let goes_on = if frame.is_empty() {
            publish(meshes.next());
            tried.catch_up();
            true
        } else {
            P::Request::decode(frame).is_ok_and(|request| tried.take(request, frame.len()))
        };
        if !frame.is_empty() {
            assert_eq!(shown(&acks[0], 0), before, "another proxy's state was touched");
        }
        assert_eq!(settle(&others[0]), settle(&others[1]), "another proxy is told otherwise");
        if !goes_on {
            break;
        }
    }
    drop(tried);
    assert_eq!(acks[0].connected(), 1);
    publish(meshes.next());
    assert_eq!(settle(&others[0]), settle(&others[1]));
    drop(others);
    assert!(hubs.iter().all(Hub::is_forgotten), "something of a stream is left");
}

fn principal(workload: &str, shared: bool) -> Principal {
    let identity = SpiffeId::new("cluster.local", "shop", "web").expect("an identity");
    Principal { workload: workload.into(), identity, shared }
}

fn bystander() -> Session {
    Session::new(Variant::Delta, principal("shop/db", false))
}

/// Asks for everything, takes in all that there is and returns it.
fn settle(seat: &Seat<'_>) -> Vec<Push> {
    let mut all = Vec::new();
    seat.catch_up().expect("it is served");
    if seat.session().subscriptions().is_empty() {
        TYPES.iter().for_each(|type_url| seat.take(None, type_url, Request::default()).expect("it is served"));
    }
    loop {
        let pushes = seat.session().pushes();
        if pushes.is_empty() {
            return all;
        }
        for push in &pushes {
            let answer = Request { nonce: Some(push.nonce), ..Request::default() };
            seat.take(None, push.type_url, answer).expect("it is served");
        }
        all.extend(pushes);
    }
}

/// What is held of a stream, by type.
fn shown(acks: &Acks, stream: usize) -> Value {
    acks.to_json()[stream]["types"].take()
}

/// Who is tried, beside a naive notion of it.
struct Tried<'a, P> {
    seat: Seat<'a>,
    acks: Arc<Acks>,
    types: BTreeMap<&'static str, Type>,
    nonces: u64,
    /// Bytes that it has said.
    said: usize,
    protocol: std::marker::PhantomData<P>,
}

#[derive(Default)]
struct Type {
    wildcard: bool,
    named: bool,
    asks: BTreeSet<String>,
    /// All that it ever asked for, knew or was sent.
    heard_of: BTreeSet<String>,
    in_flight: Option<u64>,
}

// === impl Tried ===

impl<'a, P: Protocol> Tried<'a, P> {
    fn new(hub: &'a Hub, acks: &Arc<Acks>, principal: Principal) -> Self {
        let seat = Seat::new(hub, acks.enter(Session::new(P::VARIANT, principal)));
        let acks = Arc::clone(acks);
        Self { seat, acks, types: BTreeMap::new(), nonces: 0, said: 0, protocol: std::marker::PhantomData }
    }

    fn catch_up(&mut self) {
        let mesh = self.seat.catch_up().expect("it is served");
        self.check_pushes(&mesh);
    }

    /// Whether the stream goes on.
    fn take(&mut self, request: P::Request, length: usize) -> bool {
        self.said += length;
        let mesh = self.seat.catch_up().expect("it is served");
        let (node, type_url, request) = P::read(request);
        let (names, nonce, is_nack) = (request.names.clone(), request.nonce, request.error.is_some());
        let (before, refused) = (shown(&self.acks, 1), nacks(&self.acks));
        let taken = self.seat.take(node, &type_url, request);
        if let Err(status) = taken {
            assert_eq!(status.code(), Code::ResourceExhausted);
            assert!(longest(&names) > MAX_NAME, "{status}");
            return false;
        }
        let after = shown(&self.acks, 1);
        let type_url = known_type(&mesh, &type_url);
        let first = type_url.is_some_and(|type_url| !self.types.contains_key(type_url));
        let of_type = type_url.map(|type_url| self.types.entry(type_url).or_default());
        let answers = nonce.is_some() && of_type.as_ref().is_some_and(|of_type| of_type.in_flight == nonce);
        assert_eq!(nacks(&self.acks), refused + u64::from(answers && is_nack));
        for known in self.types.keys().filter(|known| Some(**known) != type_url) {
            assert_eq!(before[known], after[known], "{known} wasn't spoken of");
        }
        let Some((type_url, of_type)) = type_url.and_then(|url| Some((url, self.types.get_mut(url)?))) else {
            assert_eq!(before, after);
            return true;
        };
        if !answers && !first {
            assert_eq!(before[type_url]["nack"], after[type_url]["nack"]);
            let resources = after[type_url]["resources"].as_object().into_iter().flatten();
            for (name, version) in resources {
                assert_eq!(before[type_url]["resources"][name], *version, "{name} was acknowledged by nothing");
            }
        }
        if answers {
            of_type.in_flight = None;
        }
        let asked = of_type.ask(names, first);
        let pushed = self.check_pushes(&mesh);
        assert!(pushed == 0 || asked || answers, "{type_url}: {pushed} pushes for nothing");
        true
    }

    /// How many there were.
    fn check_pushes(&mut self, mesh: &MeshSnapshot) -> usize {
        let pushes = self.seat.session().pushes();
        for push in &pushes {
            let set = &mesh.types[push.type_url];
            let of_type = self.types.get_mut(push.type_url).expect("it asked for the type");
            assert!(of_type.in_flight.replace(push.nonce).is_none(), "two pushes of a type are unanswered");
            self.nonces += 1;
            assert_eq!(push.nonce, self.nonces);
            let mut names = BTreeSet::new();
            for resource in &push.resources {
                assert!(names.insert(&resource.name), "{} is pushed twice", resource.name);
                let seen =
                    push.type_url != INBOUND || self.seat.session().principal().shared || &*resource.name == "shop/web";
                assert!(seen, "{} is none of its business", resource.name);
                if P::VARIANT == Variant::Delta {
                    assert_eq!(set.resources.get(&resource.name), Some(resource));
                    assert!(of_type.asks_for(resource), "nobody has asked for {}", resource.name);
                }
                of_type.heard_of.insert(resource.name.to_string());
            }
            for name in &push.removed {
                assert!(of_type.heard_of.contains(&**name), "nobody has asked for {name}");
            }
            let served: usize =
                MESHES.iter().flat_map(|mesh| mesh.types[push.type_url].resources.values()).map(length).sum();
            let sent = P::write(push.clone(), String::new()).encoded_len();
            assert!(sent <= FRAME + served + 2 * self.said, "{sent} bytes after {}", self.said);
        }
        let session = self.seat.session();
        let served: usize = MESHES.iter().flat_map(|mesh| mesh.types.values()).map(|set| set.resources.len()).sum();
        let held: usize = session.subscriptions().iter().map(|of_type| of_type.len() + of_type.asks().count()).sum();
        assert!(held <= 2 * served + self.said, "{held} names after {} bytes", self.said);
        assert!(session.node().len() <= MAX_NODE && session.anchor().len() <= MAX_NODE);
        drop(session);
        assert!(self.seat.session().pushes().is_empty(), "there was more to be said");
        pushes.len()
    }
}

fn length(resource: &Arc<Resource>) -> usize {
    64 + 2 * resource.name.len() + resource.aliases.iter().map(|alias| alias.len() + 8).sum::<usize>()
}

fn nacks(acks: &Acks) -> u64 {
    acks.counts().iter().map(|(_, counts)| counts.nacks).sum()
}

fn longest(names: &Names) -> usize {
    match names {
        Names::Change { subscribe, known, .. } => {
            let known = known.iter().flat_map(|(name, version)| [name, version]);
            subscribe.iter().chain(known).map(String::len).max().unwrap_or_default()
        }
        Names::Whole(names) => names.iter().map(String::len).max().unwrap_or_default(),
    }
}

// === impl Type ===

impl Type {
    /// Whether anything was said of names.
    fn ask(&mut self, names: Names, first: bool) -> bool {
        match names {
            Names::Change { subscribe, unsubscribe, known } => {
                let said = first || !subscribe.is_empty() || !unsubscribe.is_empty();
                self.wildcard |= first && subscribe.is_empty();
                self.heard_of.extend(subscribe.iter().cloned());
                if first {
                    self.heard_of.extend(known.into_keys());
                }
                for name in subscribe {
                    self.wildcard |= name == "*";
                    self.asks.insert(name);
                }
                for name in unsubscribe {
                    self.wildcard &= name != "*";
                    self.asks.remove(&name);
                    // Still there by another name or not: it may be told.
                    self.heard_of.insert(name);
                }
                said
            }
            Names::Whole(names) => {
                self.named |= !names.is_empty();
                let asks: BTreeSet<String> = names.into_iter().collect();
                let wildcard = !self.named || asks.contains("*");
                let said = first || (wildcard, &asks) != (self.wildcard, &self.asks);
                (self.wildcard, self.asks) = (wildcard, asks);
                said
            }
        }
    }

    fn asks_for(&self, resource: &Resource) -> bool {
        let glob = |ask: &String| {
            let stem = ask.strip_suffix('*').filter(|stem| stem.ends_with('/'));
            stem.is_some_and(|stem| resource.name.starts_with(stem) && *ask != *resource.name)
        };
        let by_name = |name: &Arc<str>| self.asks.contains(&**name);
        self.wildcard || by_name(&resource.name) || resource.aliases.iter().any(by_name) || self.asks.iter().any(glob)
    }
}

#[cfg(test)]
mod tests {
    outrigger_replay::replays! { requests: 10_000 }
}
