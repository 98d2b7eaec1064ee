//! Each rule of the protocol is a test named after it.

use bytes::Bytes;
use outrigger_wire::names::type_url;

use super::*;
use crate::changes::Change;

mod delta;
mod sotw;
mod touch;

/// `NAME=VERSION`, with `|ALIAS` for each alias.
fn set(resources: &[&str]) -> Arc<TypeSet> {
    let mut set = TypeSet::default();
    for text in resources {
        let mut parts = text.split('|');
        let (name, version) = parts.next().unwrap().split_once('=').unwrap();
        let aliases: Vec<Arc<str>> = parts.map(Arc::from).collect();
        set.aliases.extend(aliases.iter().map(|alias| (Arc::clone(alias), Arc::from(name))));
        let body = Bytes::copy_from_slice(text.as_bytes());
        let resource = Resource { name: name.into(), aliases, version: version.into(), body };
        set.resources.insert(name.into(), Arc::new(resource));
    }
    Arc::new(set)
}

/// A subscription with its nonces, and pushes as text: `NAME=VERSION` for resources, `-NAME` for removals.
struct Client {
    machine: Subscription,
    set: Arc<TypeSet>,
    nonces: u64,
}

impl Client {
    fn new(variant: Variant, resources: &[&str]) -> Self {
        let machine = Subscription::new(type_url::SERVICE, variant, Scope::Everything);
        Self { machine, set: set(resources), nonces: 0 }
    }

    fn delta(resources: &[&str]) -> Self {
        Self::new(Variant::Delta, resources)
    }

    fn sotw(resources: &[&str]) -> Self {
        Self::new(Variant::StateOfTheWorld, resources)
    }

    fn push(&mut self) -> Option<Vec<String>> {
        let push = self.machine.poll(&mut self.nonces, true)?;
        assert_eq!(push.nonce, self.nonces);
        let mut text: Vec<String> = push.resources.iter().map(|r| format!("{}={}", r.name, r.version)).collect();
        text.extend(push.removed.iter().map(|name| format!("-{name}")));
        Some(text)
    }

    fn send(&mut self, nonce: Option<u64>, error: Option<&str>, names: Names) -> Verdict {
        self.machine.request(Request { names, nonce, error: error.map(str::to_owned) }, &self.set).unwrap()
    }

    fn ack(&mut self) {
        assert_eq!(self.send(Some(self.nonces), None, Names::default()), Verdict::Ack);
    }

    fn nack(&mut self, reason: &str) {
        assert_eq!(self.send(Some(self.nonces), Some(reason), Names::default()), Verdict::Nack);
    }

    fn change(&mut self, subscribe: &[&str], unsubscribe: &[&str]) {
        assert_eq!(self.send(None, None, change(subscribe, unsubscribe, &[])), Verdict::None);
    }

    fn known(&mut self, subscribe: &[&str], known: &[(&str, &str)]) {
        self.send(None, None, change(subscribe, &[], known));
    }

    /// State of the world: asks for `names`, and acknowledges what is in flight.
    fn whole(&mut self, names: &[&str]) {
        let names = names.iter().map(ToString::to_string).collect();
        self.send(Some(self.nonces), None, Names::Whole(names));
    }

    /// Told what is different, the machine plans what it would plan if it compared everything.
    fn becomes(&mut self, resources: &[&str]) {
        let before = std::mem::replace(&mut self.set, set(resources));
        self.machine.touch(&self.set, &differences(&before, &self.set));
        let touched = format!("{:?}", self.machine.plan);
        self.machine.advance(&self.set);
        assert_eq!(touched, format!("{:?}", self.machine.plan));
    }

    fn accepted(&self) -> Vec<String> {
        self.machine.accepted().map(|(name, version)| format!("{name}={version}")).collect()
    }
}

fn differences(before: &TypeSet, after: &TypeSet) -> Vec<Arc<Change>> {
    let differences = before.resources.differences(&after.resources);
    let changes = differences.iter().map(|difference| {
        let resources = difference.before.into_iter().chain(difference.after);
        let aliases = resources.flat_map(|resource| resource.aliases.iter().cloned()).collect();
        Arc::new(Change { name: Arc::clone(difference.key), aliases })
    });
    changes.collect()
}

fn change(subscribe: &[&str], unsubscribe: &[&str], known: &[(&str, &str)]) -> Names {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Names::Change {
        subscribe: owned(subscribe),
        unsubscribe: owned(unsubscribe),
        known: known.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect(),
    }
}

#[track_caller]
fn expect(push: Option<Vec<String>>, wanted: &[&str]) {
    assert_eq!(push.expect("a push is due"), wanted);
}
