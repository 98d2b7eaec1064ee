//! Whatever happens to a cluster and to its API server, what is served in the end is what follows from the objects that
//! there are, and nothing that was there before.

use super::*;
use crate::cluster::{
    events::{Numbers, assert_same, item, object},
    kinds::KINDS,
};

/// Longer than any pause of a watch.
const SETTLED: Duration = Duration::from_secs(180);

/// With time that only moves when all wait.
pub(super) fn paused(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(test);
}

pub(super) fn path(kind: usize) -> String {
    KINDS[kind].path(KINDS[kind].versions[0])
}

/// An object comes, changes or goes; who watches is told, or is cut off and finds out where the watch begins anew.
pub(super) fn happens(server: &Server, numbers: &mut Numbers) {
    let (kind, value) = object(numbers);
    let (key, path) = (item(kind, value.clone()).key, path(kind));
    if !numbers.often() {
        server.close(&path);
    }
    let there = server.objects(&path).into_iter().any(|object| item(kind, object).key == key);
    match (numbers.below(5) == 0, there) {
        (true, true) => server.delete(&path, &key),
        (true, false) => {}
        (false, _) => server.put(&path, value),
    }
}

/// What one derives that knows nothing but what the server has now.
pub(super) fn from_nothing(cluster: &Cluster) -> Derived {
    let (mut index, mut tracker) = (Index::new(), Tracker::default());
    for kind in 0..KINDS.len() {
        let objects = cluster.server.objects(&path(kind));
        index.absorb(
            kind,
            Update::Replaced(objects.into_iter().map(|value| item(kind, value)).collect()),
            &mut tracker,
        );
    }
    Derived::new(&index, derive::outcome(&index.objects(), &cluster.settings.borrow(), None))
}

/// One of the things that go wrong.
async fn trouble(server: &Server, numbers: &mut Numbers) {
    let kind = path(numbers.below(KINDS.len()));
    match numbers.below(5) {
        0 => server.close(&kind),
        1 => server.expire(&kind),
        2 => {
            let code = [401, 403, 429, 500, 503, 504][numbers.below(6)];
            server.refuse(&kind, code);
            server.close(&kind);
            sleep(Duration::from_millis(numbers.below(20_000) as u64)).await;
            server.accept(&kind);
        }
        _ => {
            server.stop();
            for _ in 0..numbers.below(10) {
                sleep(Duration::from_millis(numbers.below(5_000) as u64)).await;
                happens(server, numbers);
            }
            server.start();
        }
    }
}

#[test]
fn whatever_happens() {
    outrigger_replay::seeds(40, |seed| paused(with(seed)));
}

async fn with(seed: u64) {
    let mut numbers = Numbers(seed);
    let mut cluster = Cluster::new(Server::new());
    for round in 0..4 {
        for _ in 0..30 {
            match numbers.below(12) {
                0 => trouble(&cluster.server, &mut numbers).await,
                1 => {
                    let root = numbers.one(&["a root", "another root"]).to_owned();
                    cluster.settings.send_modify(|settings| settings.roots = vec![root.into()]);
                }
                // Several at a time, or while something is being derived.
                2..9 => happens(&cluster.server, &mut numbers),
                _ => sleep(Duration::from_millis(numbers.below(30) as u64)).await,
            }
        }
        sleep(SETTLED).await;
        let derived = cluster.derived.borrow_and_update().clone().unwrap();
        let context = format!("seed {seed}, round {round}");
        assert_same(&derived, &from_nothing(&cluster), &context);
        assert_eq!(**cluster.snapshots.borrow(), *derived.snapshot, "{context}");
    }
}
