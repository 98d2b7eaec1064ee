use bytes::Bytes;
use outrigger_model::{Resource, TypeSet};
use outrigger_wire::SpiffeId;
use type_url::{ENDPOINT, INBOUND, SERVICE, TRUST};

use super::*;
use crate::{Names, changes::between};

/// Each type with its resources as `NAME=VERSION`.
fn snapshot(types: &[(&'static str, &[&str])]) -> Arc<MeshSnapshot> {
    let mut snapshot = MeshSnapshot { generation: 1, ..MeshSnapshot::default() };
    for (type_url, resources) in types {
        let mut set = TypeSet::default();
        for text in *resources {
            let (name, version) = text.split_once('=').unwrap();
            let resource = Resource {
                name: name.into(),
                aliases: Vec::new(),
                version: version.into(),
                body: Bytes::from_static(b"body"),
            };
            set.resources.insert(name.into(), Arc::new(resource));
        }
        snapshot.types.insert(type_url, Arc::new(set));
    }
    Arc::new(snapshot)
}

/// A session and what it is told of.
struct Client {
    session: Session,
    snapshot: Arc<MeshSnapshot>,
}

impl Client {
    fn request(&mut self, type_url: &'static str, request: Request) -> Result<Verdict, TooManyNames> {
        self.session.request(type_url, request, &self.snapshot)
    }

    fn advance(&mut self, snapshot: Arc<MeshSnapshot>) {
        self.session.touch(&snapshot, &between(&self.snapshot, &snapshot));
        self.snapshot = snapshot;
    }

    fn pushes(&mut self) -> Vec<Push> {
        self.session.pushes()
    }
}

fn session(types: &[(&'static str, &[&str])], shared: bool) -> Client {
    let principal = Principal {
        workload: "shop/web".into(),
        identity: SpiffeId::new("cluster.local", "shop", "web").unwrap(),
        shared,
    };
    Client { session: Session::new(Variant::Delta, principal), snapshot: snapshot(types) }
}

fn wildcard(session: &mut Client, types: &[&'static str]) {
    for type_url in types {
        let names = Names::Change { subscribe: vec!["*".to_owned()], unsubscribe: Vec::new(), known: [].into() };
        session.request(type_url, Request { names, ..Request::default() }).unwrap();
    }
}

/// As `TYPE:NAME`, and `TYPE:-NAME` for removals.
fn sent(session: &mut Client) -> (Vec<String>, Vec<Push>) {
    let pushes = session.pushes();
    let mut text = Vec::new();
    for push in &pushes {
        let kind = push.type_url.rsplit('.').next().unwrap();
        text.extend(push.resources.iter().map(|resource| format!("{kind}:{}", resource.name)));
        text.extend(push.removed.iter().map(|name| format!("{kind}:-{name}")));
    }
    (text, pushes)
}

fn ack(session: &mut Client, pushes: &[Push]) {
    for push in pushes {
        let request = Request { nonce: Some(push.nonce), ..Request::default() };
        assert_eq!(session.request(push.type_url, request).unwrap(), Verdict::Ack);
    }
}

fn settled(types: &[(&'static str, &[&str])]) -> Client {
    let mut session = session(types, true);
    wildcard(&mut session, &[SERVICE, ENDPOINT, TRUST, INBOUND]);
    let (_, pushes) = sent(&mut session);
    ack(&mut session, &pushes);
    assert!(session.pushes().is_empty());
    session
}

#[test]
fn types_go_out_in_the_order_of_application() {
    let mut session =
        session(&[(SERVICE, &["s=1"]), (ENDPOINT, &["e=1"]), (TRUST, &["t=1"]), (INBOUND, &["i=1"])], true);
    wildcard(&mut session, &[SERVICE, ENDPOINT, TRUST, INBOUND]);
    assert_eq!(sent(&mut session).0, ["Trust:t", "Inbound:i", "Endpoint:e", "Service:s"]);
}

#[test]
fn nonces_count_per_stream() {
    let mut session = session(&[(SERVICE, &["s=1"]), (TRUST, &["t=1"])], false);
    wildcard(&mut session, &[SERVICE, TRUST]);
    let (_, pushes) = sent(&mut session);
    assert_eq!(pushes.iter().map(|push| push.nonce).collect::<Vec<_>>(), [1, 2]);
    // A nonce of another type acknowledges nothing.
    let request = Request { nonce: Some(1), ..Request::default() };
    assert_eq!(session.request(SERVICE, request).unwrap(), Verdict::None);
}

#[test]
fn removals_come_last_and_in_reverse() {
    let mut session = settled(&[(SERVICE, &["s=1"]), (ENDPOINT, &["e=1"]), (TRUST, &["t=1"])]);
    session.advance(snapshot(&[(TRUST, &["t=1"])]));
    assert_eq!(sent(&mut session).0, ["Service:-s", "Endpoint:-e"]);
}

#[test]
fn endpoints_go_only_after_the_route_has_moved() {
    let mut session = settled(&[(SERVICE, &["s=1"]), (ENDPOINT, &["old=1"])]);
    session.advance(snapshot(&[(SERVICE, &["s=2"]), (ENDPOINT, &["new=1"])]));
    let (text, pushes) = sent(&mut session);
    assert_eq!(text, ["Endpoint:new", "Service:s"]);
    ack(&mut session, &pushes[..1]);
    let (text, _) = sent(&mut session);
    assert_eq!(text, ["Endpoint:-old"]);
}

#[test]
fn a_lone_type_changes_atomically() {
    let mut session = settled(&[(SERVICE, &["s=1"]), (ENDPOINT, &["old=1"])]);
    session.advance(snapshot(&[(SERVICE, &["s=1"]), (ENDPOINT, &["new=1"])]));
    let (text, pushes) = sent(&mut session);
    assert_eq!((text, pushes.len()), (vec!["Endpoint:new".to_owned(), "Endpoint:-old".to_owned()], 1));
}

#[test]
fn nothing_is_removed_while_an_addition_waits() {
    let mut session = settled(&[(SERVICE, &["s=1"]), (ENDPOINT, &["old=1"])]);
    session.advance(snapshot(&[(SERVICE, &["s=2"]), (ENDPOINT, &["old=1"])]));
    let (_, first) = sent(&mut session);
    // The service is in flight; its next version is what no longer needs the endpoint.
    session.advance(snapshot(&[(SERVICE, &["s=3"])]));
    assert!(session.pushes().is_empty());
    ack(&mut session, &first);
    assert_eq!(sent(&mut session).0, ["Service:s", "Endpoint:-old"]);
}

#[test]
fn a_slow_type_does_not_hold_up_additions_of_others() {
    let mut session = settled(&[(SERVICE, &["s=1"]), (ENDPOINT, &["e=1"])]);
    session.advance(snapshot(&[(SERVICE, &["s=2"]), (ENDPOINT, &["e=1"])]));
    assert_eq!(sent(&mut session).0, ["Service:s"]);
    session.advance(snapshot(&[(SERVICE, &["s=3"]), (ENDPOINT, &["e=2"])]));
    assert_eq!(sent(&mut session).0, ["Endpoint:e"]);
}

#[test]
fn inbound_is_its_own_unless_shared() {
    let types: [(&str, &[&str]); 2] = [(INBOUND, &["shop/db=1", "shop/web=1"]), (SERVICE, &["shop/db=1"])];
    for (shared, wanted) in [
        (false, vec!["Inbound:shop/web", "Service:shop/db"]),
        (true, vec!["Inbound:shop/db", "Inbound:shop/web", "Service:shop/db"]),
    ] {
        let mut session = session(&types, shared);
        wildcard(&mut session, &[INBOUND, SERVICE]);
        assert_eq!(sent(&mut session).0, wanted);
    }
}

#[test]
fn a_version_is_what_replicas_can_compare() {
    let mut session = session(&[], false).session;
    let mut snapshot = MeshSnapshot { generation: 7, ..MeshSnapshot::default() };
    session.advance(&snapshot);
    assert_eq!(session.version(), "7", "of a source without versions");
    Arc::make_mut(&mut snapshot.progress).changed("Pod", 90);
    session.advance(&snapshot);
    assert_eq!(session.version(), "Pod=90");
}

#[test]
fn the_node_is_named_once() {
    let mut session = session(&[], false).session;
    session.name_node("web-1".to_owned());
    session.name_node(String::new());
    assert_eq!(session.node(), "web-1");
}

#[test]
fn only_served_types_are_known() {
    let snapshot = snapshot(&[("type.googleapis.com/a.later.Type", &[])]);
    assert_eq!(known_type(&snapshot, SERVICE), Some(SERVICE));
    assert!(known_type(&snapshot, "type.googleapis.com/a.later.Type").is_some());
    assert_eq!(known_type(&snapshot, "type.googleapis.com/envoy.config.listener.v3.Listener"), None);
}
