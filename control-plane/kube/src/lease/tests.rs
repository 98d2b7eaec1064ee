//! Candidates against one Lease, with time that only moves when all wait.

use serde_json::json;
use tokio::task::JoinHandle;

use super::*;
use crate::fake::Fake;

const PATH: &str = "apis/coordination.k8s.io/v1/namespaces/outrigger-system/leases/outrigger-controller";

fn lease(spec: &serde_json::Value) -> Fake {
    let fake = Fake::default();
    fake.put(
        PATH,
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": "outrigger-controller", "namespace": "outrigger-system" },
            "spec": spec,
        }),
    );
    fake
}

struct Candidate {
    leads: watch::Receiver<Leadership>,
    floor: Arc<AtomicI64>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Candidate {
    fn new(fake: &Fake, name: &str) -> Self {
        let api = Api::namespaced(fake.client(), "outrigger-system");
        let (out, leads) = watch::channel(Leadership::Follower { holder: None });
        let (floor, stop) = (Arc::new(AtomicI64::new(0)), CancellationToken::new());
        let task = tokio::spawn(run(api, name.to_owned(), floor.clone(), out, stop.clone()));
        Self { leads, floor, stop, task }
    }

    fn epoch(&self) -> Option<i64> {
        self.leads.borrow().epoch()
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_lease_is_taken_at_once_and_by_one() {
    let fake = lease(&json!({}));
    let (a, b) = (Candidate::new(&fake, "a"), Candidate::new(&fake, "b"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let leaders: Vec<i64> = [&a, &b].iter().filter_map(|each| each.epoch()).collect();
    assert_eq!(leaders, [1]);
    for _ in 0..60 {
        pass(1).await;
        assert_eq!([&a, &b].iter().filter_map(|each| each.epoch()).collect::<Vec<_>>(), [1]);
    }
    let holder = fake.get(PATH)["spec"]["holderIdentity"].clone();
    let follower = if a.epoch().is_some() { &b } else { &a };
    assert_eq!(*follower.leads.borrow(), Leadership::Follower { holder: holder.as_str().map(str::to_owned) });
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_changes_hands_within_a_retry() {
    let fake = lease(&json!({}));
    let a = Candidate::new(&fake, "a");
    pass(1).await;
    let b = Candidate::new(&fake, "b");
    pass(1).await;
    assert_eq!((a.epoch(), b.epoch()), (Some(1), None));
    a.stop.cancel();
    a.task.await.unwrap();
    assert_eq!(fake.get(PATH)["spec"], json!({ "leaseTransitions": 1 }));
    pass(3).await;
    assert_eq!(b.epoch(), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_no_longer_leads_when_it_wakes() {
    let fake = lease(&json!({}));
    let a = Candidate::new(&fake, "a");
    pass(1).await;
    assert_eq!(a.epoch(), Some(1));
    // Paused: its task doesn't run, its clock does.
    a.task.abort();
    let b = Candidate::new(&fake, "b");
    pass(11).await;
    assert_eq!((a.epoch(), b.epoch()), (None, None), "nobody leads between the deadline and the end of the lease");
    pass(10).await;
    assert_eq!((a.epoch(), b.epoch()), (None, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_can_not_renew_steps_down_before_another_may_take_over() {
    let fake = lease(&json!({}));
    let a = Candidate::new(&fake, "a");
    pass(1).await;
    for code in [500, 403, 409, 503, 500, 500] {
        fake.fail("PUT", code);
    }
    pass(7).await;
    assert_eq!(a.epoch(), Some(1));
    pass(4).await;
    assert_eq!(a.epoch(), None);
    pass(4).await;
    assert_eq!(a.epoch(), Some(2), "a new term has a new epoch, though nobody else has led");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_hangs_costs_the_lead() {
    let fake = lease(&json!({}));
    let a = Candidate::new(&fake, "a");
    pass(1).await;
    fake.delay(Duration::from_secs(60));
    pass(12).await;
    assert_eq!(a.epoch(), None);
    assert_eq!(*a.leads.borrow(), Leadership::Follower { holder: Some("a".to_owned()) });
    fake.delay(Duration::ZERO);
    pass(10).await;
    assert!(a.epoch() > Some(1));
}

#[tokio::test(start_paused = true)]
async fn remote_clocks_do_not_count() {
    for renewed in ["1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"] {
        let fake = lease(&json!({
            "holderIdentity": "other", "leaseDurationSeconds": 15, "leaseTransitions": 7, "renewTime": renewed,
        }));
        let a = Candidate::new(&fake, "a");
        pass(14).await;
        assert_eq!(a.epoch(), None, "{renewed}: it has been seen for less than its duration");
        pass(4).await;
        assert_eq!(a.epoch(), Some(8), "{renewed}: it hasn't changed for its duration");
    }
}

#[tokio::test(start_paused = true)]
async fn epochs_grow_though_the_lease_is_made_anew() {
    let fake = lease(&json!({}));
    let a = Candidate::new(&fake, "a");
    a.floor.store(41, Ordering::Relaxed);
    pass(1).await;
    assert_eq!(a.epoch(), Some(42));
    // A status is seen that a later leader must have written: only a higher epoch may write.
    a.floor.store(50, Ordering::Relaxed);
    pass(3).await;
    assert_eq!(a.epoch(), Some(51));
    fake.delete(PATH);
    pass(12).await;
    assert_eq!(a.epoch(), None);
    fake.put(
        PATH,
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": "outrigger-controller", "namespace": "outrigger-system" },
        }),
    );
    pass(3).await;
    assert_eq!(a.epoch(), Some(52));
}

#[test]
fn what_is_written_over_what_was_read() {
    let now = Instant::now();
    let spec = |holder: &str, transitions| LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    };
    let term = |epoch, ends: u64| Some(Term { epoch, valid_until: now + Duration::from_secs(ends) });
    // read, seen for seconds, own term, floor, epoch that is written
    let table = [
        (None, 0, None, 0, Some(1)),
        (Some(spec("", 3)), 0, None, 0, Some(4)),
        (Some(spec("b", 3)), 14, None, 0, None),
        (Some(spec("b", 3)), 15, None, 0, Some(4)),
        (Some(spec("b", 3)), 15, None, 9, Some(10)),
        (Some(spec("a", 3)), 0, term(3, 5), 0, Some(3)),
        (Some(spec("a", 3)), 0, term(3, 5), 3, Some(3)),
        (Some(spec("a", 3)), 0, term(3, 5), 4, Some(5)),
        (Some(spec("a", 3)), 0, term(3, 0), 0, Some(4)),
        (Some(spec("a", 3)), 0, None, 0, Some(4)),
        // Lost: the term says nothing any more.
        (Some(spec("b", 4)), 0, term(3, 5), 0, None),
    ];
    for (read, seconds, term, floor, expected) in table {
        let seen = read.clone().map(|spec| (spec, now.checked_sub(Duration::from_secs(seconds)).unwrap()));
        let mut election = Election { seen, term, ..Election::new("a".to_owned()) };
        let written = election.consider(read.as_ref(), floor, now, Timestamp::UNIX_EPOCH);
        assert_eq!(written.as_ref().and_then(|spec| spec.lease_transitions), expected, "{read:?} {term:?} {floor}");
        assert!(written.is_none_or(|spec| holder(&spec).is_some_and(|holder| holder == "a")));
    }
}
