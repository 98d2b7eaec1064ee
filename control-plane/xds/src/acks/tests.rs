use bytes::Bytes;
use outrigger_model::{Effects, Held, Holdings, MeshSnapshot, Reach, Resource, TypeSet, held::Certificates};
use outrigger_wire::{
    SpiffeId,
    names::type_url::{INBOUND, SERVICE},
};

use super::*;
use crate::{Names, Principal, Request};

/// Services as `NAME=VERSION`, and an Inbound of each of two workloads in version 1.
fn snapshot(services: &[&str]) -> Arc<MeshSnapshot> {
    let mut snapshot = MeshSnapshot { generation: 1, ..MeshSnapshot::default() };
    for (type_url, resources) in [(SERVICE, services), (INBOUND, &["shop/a=1", "shop/b=1"])] {
        let mut set = TypeSet::default();
        for text in resources {
            let (name, version) = text.split_once('=').unwrap();
            let (name, version) = (Arc::from(name), Arc::from(version));
            let resource = Resource { name: Arc::clone(&name), aliases: Vec::new(), version, body: Bytes::new() };
            set.resources.insert(name, Arc::new(resource));
        }
        snapshot.types.insert(type_url, Arc::new(set));
    }
    Arc::new(snapshot)
}

/// A stream of a sidecar that asks for its Inbound and for `services`, and takes all that it is sent.
fn connect(acks: &Arc<Acks>, snapshot: &Arc<MeshSnapshot>, name: &str, services: &[&str]) -> Entry {
    let identity = SpiffeId::new("cluster.local", "shop", name).unwrap();
    let principal = Principal { workload: format!("shop/{name}").into(), identity, shared: false };
    let entry = acks.enter(Session::new(Variant::Delta, principal));
    let services: Vec<String> = services.iter().map(ToString::to_string).collect();
    for (type_url, subscribe) in [(SERVICE, services), (INBOUND, vec![format!("shop/{name}")])] {
        let names = Names::Change { subscribe, unsubscribe: Vec::new(), known: [].into() };
        entry.session().request(type_url, Request { names, ..Request::default() }, snapshot).unwrap();
    }
    answer(&entry, None);
    entry
}

/// Sends all that is due and answers it.
fn answer(entry: &Entry, error: Option<&str>) {
    let mut session = entry.session();
    for push in session.pushes() {
        let error = error.map(str::to_owned);
        let request = Request { nonce: Some(push.nonce), error, ..Request::default() };
        // An answer changes no asks, so it doesn't matter what there is.
        session.request(push.type_url, request, &MeshSnapshot::default()).unwrap();
    }
}

fn effects(names: &[&str]) -> Effects {
    Effects::from([(SERVICE, Reach::Named(names.iter().map(|name| Arc::from(*name)).collect()))])
}

/// Proxies, current, rejected.
fn counts(held: &Held) -> (u32, u32, u32) {
    (held.proxies, held.current, held.rejected)
}

fn count(acks: &Acks, snapshot: &MeshSnapshot, of: &Effects) -> (u32, u32, u32) {
    counts(&acks.held(snapshot, &[of])[0])
}

#[test]
fn a_proxy_counts_once_however_many_resources_it_asks_for() {
    let acks = Arc::new(Acks::default());
    let first = snapshot(&["shop/x=1", "shop/y=1", "shop/z=1"]);
    let _a = connect(&acks, &first, "a", &["shop/x", "shop/y"]);
    let _b = connect(&acks, &first, "b", &["shop/y"]);
    let both = effects(&["shop/x", "shop/y"]);
    assert_eq!(count(&acks, &first, &both), (2, 2, 0));
    assert_eq!(count(&acks, &first, &effects(&["shop/x"])), (1, 1, 0));
    assert_eq!(count(&acks, &first, &effects(&["shop/z"])), (0, 0, 0));
    assert_eq!(count(&acks, &first, &Effects::new()), (0, 0, 0));
    assert_eq!(count(&acks, &first, &Effects::from([(INBOUND, Reach::All)])), (2, 2, 0));
    // Asked about more than a stream holds, its names are walked; the result is the same.
    let many = effects(&["shop/x", "shop/y", "shop/z", "shop/1", "shop/2"]);
    let held = acks.held(&first, &[&many, &both, &Effects::from([(SERVICE, Reach::All)])]);
    assert_eq!(held.iter().map(counts).collect::<Vec<_>>(), [(2, 2, 0); 3]);
}

#[test]
fn a_rollout_is_followed_from_the_moment_of_the_change() {
    let acks = Arc::new(Acks::default());
    let first = snapshot(&["shop/x=1", "shop/y=1"]);
    let a = connect(&acks, &first, "a", &["shop/x", "shop/y"]);
    let b = connect(&acks, &first, "b", &["shop/x"]);
    let second = snapshot(&["shop/x=2", "shop/y=1"]);
    let x = effects(&["shop/x"]);
    // No stream has seen the new snapshot yet.
    assert_eq!(count(&acks, &second, &x), (2, 0, 0));
    a.session().advance(&second);
    assert_eq!(count(&acks, &second, &x), (2, 0, 0));
    answer(&a, None);
    assert_eq!(count(&acks, &second, &x), (2, 1, 0));
    assert_eq!(count(&acks, &second, &effects(&["shop/x", "shop/y"])), (2, 1, 0));
    b.session().advance(&second);
    answer(&b, None);
    assert_eq!(count(&acks, &second, &x), (2, 2, 0));
    drop(b);
    assert_eq!(count(&acks, &second, &x), (1, 1, 0));
}

#[test]
fn a_rejection_counts_until_the_resource_changes() {
    let acks = Arc::new(Acks::default());
    let first = snapshot(&["shop/x=1", "shop/y=1"]);
    let a = connect(&acks, &first, "a", &["shop/x", "shop/y"]);
    let second = snapshot(&["shop/x=2", "shop/y=2"]);
    a.session().advance(&second);
    answer(&a, Some("shop/x: a regex is too long\nand more"));
    let (x, y) = (effects(&["shop/x"]), effects(&["shop/y"]));
    let held = acks.held(&second, &[&x, &y]);
    assert_eq!(held.iter().map(counts).collect::<Vec<_>>(), [(1, 0, 1), (1, 1, 0)]);
    let reasons: Vec<_> = held[0].reasons.iter().map(|r| (r.workload.as_str(), r.reason.as_str())).collect();
    assert_eq!(reasons, [("shop/a", "a regex is too long")]);
    let third = snapshot(&["shop/x=3", "shop/y=2"]);
    a.session().advance(&third);
    assert_eq!(count(&acks, &third, &x), (1, 0, 0));
    answer(&a, None);
    assert_eq!(count(&acks, &third, &x), (1, 1, 0));
}

#[test]
fn what_is_new_is_counted_as_soon_as_it_is_to_be_sent() {
    let acks = Arc::new(Acks::default());
    let a = connect(&acks, &snapshot(&[]), "a", &["shop/x"]);
    let second = snapshot(&["shop/x=1"]);
    a.session().advance(&second);
    assert_eq!(count(&acks, &second, &effects(&["shop/x"])), (1, 0, 0));
    answer(&a, None);
    assert_eq!(count(&acks, &second, &effects(&["shop/x"])), (1, 1, 0));
}

#[test]
fn proxies_are_told_apart_by_the_root_that_their_certificate_leads_to() {
    let acks = Arc::new(Acks::default());
    let first = snapshot(&["shop/x=1"]);
    let says = |entry: &Entry, node: &str, anchor: &str| {
        entry.session().name_node(node.to_owned());
        entry.session().show(anchor.to_owned());
    };
    let (a, b) = (connect(&acks, &first, "a", &[]), connect(&acks, &first, "b", &[]));
    let guard = connect(&acks, &first, "a", &[]);
    says(&a, "shop/a/sidecar", "new");
    says(&guard, "shop/a/guard", "old");
    let counted = |have: &[&str], others: &[&str], silent: &[&str]| {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Certificates { have: set(have), others: set(others), silent: set(silent) }
    };
    assert_eq!(acks.certificates("new"), counted(&["shop/a/sidecar"], &["shop/a/guard"], &["shop/b/?"]));
    // It has a new one; and a client may call itself what it likes, but not another pod.
    says(&guard, "shop/a/guard", "new");
    says(&b, "shop/a/sidecar", "old");
    assert_eq!(acks.certificates("new"), counted(&["shop/a/guard", "shop/a/sidecar"], &["shop/b/?"], &[]));
}
