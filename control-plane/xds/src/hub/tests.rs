use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use outrigger_model::{Progress, Resource, TypeSet};
use outrigger_wire::names::type_url::{ENDPOINT, SERVICE};

use super::*;

/// Of services as `NAME=VERSION`, perhaps with `|ALIAS`.
fn snapshot(generation: u64, services: &[&str]) -> Arc<MeshSnapshot> {
    let mut set = TypeSet::default();
    for text in services {
        let (text, alias) = text.split_once('|').map_or((*text, None), |(text, alias)| (text, Some(alias)));
        let (name, version) = text.split_once('=').unwrap();
        let aliases = alias.into_iter().map(Arc::from).collect();
        let resource = Resource { name: name.into(), aliases, version: version.into(), ..Resource::default() };
        set.resources.insert(name.into(), Arc::new(resource));
    }
    Arc::new(MeshSnapshot { generation, types: [(SERVICE, Arc::new(set))].into(), ..MeshSnapshot::default() })
}

/// What is different for a stream, and the generation that it is of.
fn mail(hub: &Hub, stream: u64) -> (Vec<String>, u64) {
    let (snapshot, mail) = hub.collect(stream).unwrap();
    let names = mail.into_iter().flat_map(|(_, changed)| match changed {
        Changed::These(changes) => changes.iter().map(|change| change.name.to_string()).collect(),
        Changed::Many => vec!["many".to_owned()],
    });
    (names.collect(), snapshot.generation)
}

fn ask(hub: &Hub, stream: u64, names: &[&str]) {
    hub.join(stream);
    hub.ask(stream, SERVICE, names.iter().copied()).unwrap();
}

#[test]
fn only_whom_it_concerns_is_told() {
    let hub = Hub::default();
    hub.publish(snapshot(1, &["shop/a=1|@1", "shop/b=1", "shop/c=1"]));
    for (stream, names) in
        [(1, &["shop/a"][..]), (2, &["@1", "shop/a"]), (3, &["shop/*"]), (4, &["*"]), (5, &["shop/b"])]
    {
        ask(&hub, stream, names);
    }
    hub.join(6);
    hub.ask(6, ENDPOINT, ["shop/a"].into_iter()).unwrap();
    hub.publish(snapshot(2, &["shop/a=2", "shop/b=1", "shop/c=1"]));
    for stream in 1..=4 {
        assert_eq!(mail(&hub, stream), (vec!["shop/a".to_owned()], 2), "stream {stream}");
        assert_eq!(mail(&hub, stream).0, [""; 0], "it is told once");
    }
    for stream in [5, 6] {
        assert_eq!(mail(&hub, stream), (Vec::new(), 2));
    }
    // Several changes wait together.
    hub.publish(snapshot(3, &["shop/b=2", "shop/c=1"]));
    hub.publish(snapshot(4, &["shop/b=3", "shop/c=1", "shop/d=1"]));
    assert_eq!(mail(&hub, 4), (["shop/a", "shop/b", "shop/b", "shop/d"].map(str::to_owned).to_vec(), 4));
    assert_eq!(mail(&hub, 5), (["shop/b", "shop/b"].map(str::to_owned).to_vec(), 4));
}

#[test]
fn who_knows_more_waits_until_this_replica_has_read_it() {
    let read = |version| {
        let mut progress = Progress::default();
        progress.read("Service", version);
        let snapshot = MeshSnapshot::clone(&snapshot(1, &["shop/a=1"]));
        Arc::new(MeshSnapshot { progress: Arc::new(progress), ..snapshot })
    };
    let hub = Hub::default();
    hub.publish(read(5));
    let (mut behind, mut level) = (pin!(hub.covers("Service=7")), pin!(hub.covers("Service=5")));
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(level.as_mut().poll(&mut cx), Poll::Ready(()));
    for (version, waits) in [(5, true), (6, true), (7, false)] {
        // Nothing else is new.
        hub.publish(read(version));
        assert_eq!(behind.as_mut().poll(&mut cx).is_pending(), waits, "{version}");
    }
}

#[test]
fn of_many_changes_none_is_named() {
    let hub = Hub::default();
    hub.publish(snapshot(1, &["shop/a=1"]));
    ask(&hub, 1, &["shop/a"]);
    let services: Vec<String> = (0..1_000).map(|n| format!("shop/{n}=1")).collect();
    hub.publish(snapshot(2, &services.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(mail(&hub, 1), (vec!["many".to_owned()], 2));
}

#[test]
fn nothing_is_left_of_a_stream() {
    let hub = Hub::default();
    hub.publish(snapshot(1, &["shop/a=1"]));
    ask(&hub, 1, &["shop/a", "*"]);
    ask(&hub, 2, &["shop/a"]);
    hub.forget(1, SERVICE, ["shop/a", "*", "never"].into_iter());
    hub.leave(1);
    hub.publish(snapshot(2, &["shop/a=2"]));
    assert_eq!(mail(&hub, 2).0, ["shop/a"]);
    hub.forget(2, SERVICE, ["shop/a"].into_iter());
    hub.leave(2);
    assert!(hub.is_forgotten());
}
