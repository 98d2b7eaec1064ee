//! Replicas that share a Secret and what is published of it, with time that only moves when it is told to.

use std::sync::{Mutex, MutexGuard};

use k8s_openapi::api::core::v1::ConfigMap;
use outrigger_kube::rotation::annotation;
use serde_json::Value;
use tokio::{
    task::{JoinHandle, yield_now},
    time::advance,
};

use super::*;
use crate::root_secret::tests::{Cluster, ca, holding, made};

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

/// What counts say, and what time it is.
#[derive(Clone)]
struct Counts {
    known: Arc<Mutex<(Option<String>, Evidence)>>,
    start: Instant,
}

struct Replica {
    authority: Arc<Authority>,
    stage: Arc<Mutex<Stage>>,
    leadership: watch::Sender<Leadership>,
    task: JoinHandle<()>,
}

struct Mesh {
    cluster: Cluster,
    counts: Counts,
    /// What the Secret held at first.
    first: Value,
    /// The term of whoever was elected last.
    epoch: std::cell::Cell<i64>,
}

// === impl Counts ===

impl Counts {
    fn known(&self) -> MutexGuard<'_, (Option<String>, Evidence)> {
        self.known.lock().unwrap()
    }
}

impl Witness for Counts {
    async fn roots(&self) -> Option<String> {
        self.known().0.clone()
    }

    async fn certificates(&self, _: &str, _: &str) -> Option<Evidence> {
        Some(self.known().1)
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.start.elapsed()
    }
}

// === impl Mesh ===

impl Mesh {
    /// With one replica, which leads.
    async fn new() -> (Self, Replica) {
        let known = Arc::default();
        let counts = Counts { known, start: Instant::now() };
        let mesh = Self { cluster: Cluster::with(&Value::Null), counts, first: Value::Null, epoch: 0.into() };
        let replica = mesh.start().await;
        let mesh = Self { first: mesh.cluster.data(), ..mesh };
        mesh.elect(&replica);
        mesh.after(1).await;
        (mesh, replica)
    }

    /// Another replica, with what it finds.
    async fn start(&self) -> Replica {
        let root = self.cluster.root();
        let (authority, loaded) = root.load().await.unwrap();
        let (authority, stage) = (Arc::new(authority), Arc::<Mutex<Stage>>::default());
        let (leadership, leads) = watch::channel(Leadership::Follower { holder: None });
        let tell = {
            let (cluster, leads, stage) = (self.cluster.clone(), leads.clone(), Arc::clone(&stage));
            move |authority: &Authority, news: News| {
                *stage.lock().unwrap() = news.stage;
                if leads.borrow().epoch() == Some(news.decided.epoch) {
                    let pem = authority.roots_pem();
                    cluster.publish(&pem, Some(annotation(&news.decided.progress, &pem)));
                }
            }
        };
        let rotation = Rotation::new(root, loaded, Arc::clone(&authority), self.counts.clone(), tell);
        let task = tokio::spawn(rotation.run(leads));
        // So that its first pause begins now.
        yield_now().await;
        Replica { authority, stage, leadership, task }
    }

    fn elect(&self, replica: &Replica) {
        let epoch = self.epoch.get() + 1;
        self.epoch.set(epoch);
        let valid_until = Instant::now() + Duration::from_secs(1000 * HOUR);
        replica.leadership.send_replace(Leadership::Leader { epoch, valid_until });
    }

    async fn after(&self, seconds: u64) {
        // Hours in longer steps, shorter than any pause.
        let step = if seconds > HOUR { 10 } else { 1 };
        for _ in 0..seconds / step {
            advance(Duration::from_secs(step)).await;
            // Calls take some polls.
            for _ in 0..30 {
                yield_now().await;
            }
        }
    }

    /// As a person replaces the root: nothing of the one before is left in the Secret.
    fn rotate(&self) {
        self.cluster.put(&made("cluster.local"));
    }

    fn behind(&self, missing: Option<&str>) {
        self.counts.known().0 = missing.map(str::to_owned);
    }

    fn evidence(&self, others: usize, unknown: usize, apart: usize) {
        self.counts.known().1 = Evidence { others, unknown, apart };
    }

    fn waits(&self) -> String {
        let map: ConfigMap = serde_json::from_value(self.cluster.published()).unwrap();
        Record::read(&map, "").progress.unwrap().waits.unwrap_or_default()
    }
}

// === impl Replica ===

impl Replica {
    /// Where it is; how many roots it trusts; by which it signs.
    fn is(&self) -> (Stage, usize, String) {
        assert!(!self.task.is_finished());
        (*self.stage.lock().unwrap(), self.authority.roots().len(), self.authority.signs_by())
    }

    fn dies(self) {
        self.task.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_root_is_trusted_at_once_signs_when_all_know_it_and_the_old_one_leaves_when_nobody_shows_it() {
    let (mesh, replica) = Mesh::new().await;
    let (old, before) = (replica.authority.signs_by(), replica.authority.roots());
    assert_eq!(replica.is(), (Stage::Rest, 1, old.clone()));
    mesh.behind(Some("3 of 415 connected proxies haven't acknowledged it"));
    mesh.evidence(2, 0, 0);
    mesh.rotate();
    mesh.after(31).await;
    assert_eq!(replica.is(), (Stage::Distribute, 2, old.clone()));
    assert!(replica.authority.roots().contains(&before[0]));

    // Not before it can be everywhere, and not before every proxy has acknowledged it.
    mesh.after(HOUR).await;
    assert_eq!(replica.is(), (Stage::Distribute, 2, old.clone()));
    assert!(mesh.waits().starts_with("3 of 415"), "{}", mesh.waits());
    mesh.behind(None);
    mesh.after(31).await;
    let new = replica.authority.signs_by();
    assert_ne!(new, old);
    assert_eq!(replica.is(), (Stage::Retire, 2, new.clone()));

    mesh.after(2 * HOUR).await;
    assert_eq!(replica.is(), (Stage::Retire, 2, new.clone()), "two still show what the old one has signed");
    mesh.evidence(0, 0, 0);
    mesh.after(31).await;
    assert_eq!(replica.is(), (Stage::Rest, 1, new));
    assert!(!replica.authority.roots().contains(&before[0]));
    mesh.after(31).await;
    assert_eq!(mesh.waits(), "");
    let pem = mesh.cluster.published()["data"]["root.pem"].as_str().unwrap().to_owned();
    assert_eq!(pem, replica.authority.roots_pem());
}

#[tokio::test(start_paused = true)]
async fn it_takes_three_minutes_at_least_until_another_root_signs() {
    let (mesh, replica) = Mesh::new().await;
    let old = replica.authority.signs_by();
    mesh.rotate();
    mesh.after(31 + 170).await;
    assert_eq!(replica.authority.signs_by(), old);
    mesh.after(40).await;
    assert_ne!(replica.authority.signs_by(), old);
    // A new version of the same changes nothing.
    mesh.after(2 * MINUTE).await;
    let is = replica.is();
    mesh.cluster.put(&mesh.cluster.data());
    mesh.after(10 * MINUTE).await;
    assert_eq!((replica.is(), is.1), (is.clone(), 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_before_it_signs_leaves_again() {
    let (mesh, replica) = Mesh::new().await;
    let (old, before) = (replica.authority.signs_by(), replica.authority.roots());
    mesh.behind(Some("3 of 415 connected proxies haven't acknowledged it"));
    mesh.rotate();
    mesh.after(10 * MINUTE).await;
    assert_eq!(replica.is(), (Stage::Distribute, 2, old.clone()));
    mesh.cluster.put(&mesh.first);
    mesh.after(3 * MINUTE).await;
    assert_eq!(replica.is(), (Stage::Rest, 1, old));
    assert_eq!(replica.authority.roots(), before);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_later_is_a_change_back_which_begins_with_trust() {
    // Whether the old root has left by then.
    for left in [false, true] {
        let (mesh, replica) = Mesh::new().await;
        let (old, before) = (replica.authority.signs_by(), replica.authority.roots());
        mesh.evidence(usize::from(!left), 0, 0);
        mesh.rotate();
        mesh.after(10 * MINUTE).await;
        let new = replica.authority.signs_by();
        let stage = if left { (Stage::Rest, 1) } else { (Stage::Retire, 2) };
        assert_eq!(replica.is(), (stage.0, stage.1, new.clone()));

        mesh.behind(Some("1 of 2 connected proxies haven't acknowledged it"));
        mesh.cluster.put(&mesh.first);
        mesh.after(10 * MINUTE).await;
        assert_eq!(replica.is(), (Stage::Distribute, 2, new), "nobody shows it to who doesn't know it");
        mesh.behind(None);
        mesh.evidence(0, 0, 0);
        mesh.after(5 * MINUTE).await;
        assert_eq!((replica.is(), replica.authority.roots()), ((Stage::Rest, 1, old), before));
    }
}

#[tokio::test(start_paused = true)]
async fn what_nobody_hears_of_is_waited_for_as_long_as_a_certificate_lives_whoever_leads() {
    let (mesh, first) = Mesh::new().await;
    mesh.rotate();
    mesh.evidence(0, 1, 1);
    mesh.after(10 * MINUTE).await;
    let new = first.authority.signs_by();
    // A replica may sign by the old one still; the clock doesn't run.
    mesh.after(2 * HOUR).await;
    assert_eq!(first.is(), (Stage::Retire, 2, new.clone()));
    mesh.evidence(0, 1, 0);
    mesh.after(12 * HOUR).await;
    assert_eq!(first.is(), (Stage::Retire, 2, new.clone()));

    // All of them are restarted; the next leader knows since when.
    first.dies();
    mesh.after(HOUR).await;
    let second = mesh.start().await;
    assert_eq!(second.authority.signs_by(), new, "it signs at once");
    mesh.elect(&second);
    mesh.after(11 * HOUR).await;
    assert_eq!(second.is(), (Stage::Retire, 2, new.clone()));
    mesh.after(20 * MINUTE).await;
    assert_eq!(second.is(), (Stage::Rest, 1, new));
}

#[tokio::test(start_paused = true)]
async fn followers_do_as_is_published() {
    let (mesh, leader) = Mesh::new().await;
    let follower = mesh.start().await;
    let old = leader.authority.signs_by();
    mesh.behind(Some("1 of 2"));
    mesh.evidence(1, 0, 0);
    mesh.rotate();
    mesh.after(10 * MINUTE).await;
    assert_eq!((leader.is(), follower.is().1), ((Stage::Distribute, 2, old), 2));
    mesh.behind(None);
    mesh.after(MINUTE + 2).await;
    assert_eq!((leader.is().0, follower.is()), (Stage::Retire, leader.is()));

    // Where nothing is said, or somebody has written something else, nothing is taken away.
    let good = mesh.cluster.published();
    let pem = leader.authority.roots_pem();
    leader.dies();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let annotation = text(&good["metadata"]["annotations"]["outrigger.dev/root-rotation"]);
    let one = pem.split_inclusive("-----END CERTIFICATE-----\r\n").next().unwrap_or_default();
    let one = if one == pem { pem.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap() } else { one };
    assert_ne!(one, pem);
    for (pem, annotation) in [(one, None), (one, Some(annotation))] {
        mesh.cluster.publish(pem, annotation);
        mesh.after(MINUTE).await;
        assert_eq!(follower.is().1, 2);
    }

    // It comes to lead, and publishes what was there.
    mesh.elect(&follower);
    mesh.after(MINUTE).await;
    assert_eq!(mesh.cluster.published()["data"]["root.pem"], pem.as_str());
    mesh.evidence(0, 0, 0);
    let third = mesh.start().await;
    assert_eq!(third.is().1, 2);
    mesh.after(2 * MINUTE).await;
    assert_eq!((follower.is().1, third.is().1), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_restarted_before_another_root_signs_trusts_both_and_issues_nothing() {
    let (mesh, leader) = Mesh::new().await;
    let old = leader.authority.signs_by();
    mesh.behind(Some("1 of 2"));
    mesh.rotate();
    mesh.after(MINUTE).await;
    let restarted = mesh.start().await;
    assert_eq!(restarted.is(), (Stage::Rest, 2, String::new()));
    assert_eq!(restarted.authority.anchor(), old, "proxies are told by whom the others sign");
    mesh.after(HOUR).await;
    assert_eq!(restarted.is(), (Stage::Distribute, 2, String::new()));

    // It may come to lead: the others sign on, and all the rest is as before.
    leader.dies();
    mesh.elect(&restarted);
    mesh.after(HOUR).await;
    assert_eq!(restarted.is(), (Stage::Distribute, 2, String::new()));
    mesh.behind(None);
    mesh.after(2 * MINUTE).await;
    let new = restarted.authority.signs_by();
    assert!(!new.is_empty() && new != old);
    assert_eq!(restarted.is(), (Stage::Rest, 1, new));
}

#[tokio::test(start_paused = true)]
async fn a_restarted_replica_signs_again_when_the_change_is_given_up() {
    let (mesh, leader) = Mesh::new().await;
    let old = leader.authority.signs_by();
    mesh.behind(Some("1 of 2"));
    mesh.rotate();
    mesh.after(MINUTE).await;
    let restarted = mesh.start().await;
    mesh.cluster.put(&mesh.first);
    mesh.after(3 * MINUTE).await;
    assert_eq!((leader.is(), restarted.is()), ((Stage::Rest, 1, old), leader.is()));
}

#[tokio::test(start_paused = true)]
async fn a_root_that_the_owner_leaves_in_the_secret_never_leaves() {
    let (mesh, replica) = Mesh::new().await;
    let old = replica.authority.roots_pem();
    let next = ca("next", None, 100, |_| {});
    mesh.cluster.put(&holding(&next.pem, &next.key, &old));
    mesh.after(2 * HOUR).await;
    assert_eq!((replica.is().0, replica.is().1), (Stage::Rest, 2));
}

#[tokio::test(start_paused = true)]
async fn another_intermediate_of_the_same_root_signs_at_once() {
    let (mesh, replica) = Mesh::new().await;
    let root = ca("company", None, 300, |_| {});
    let [one, other] = [200, 100].map(|days| ca("mesh", Some(&root), days, |_| {}));
    mesh.cluster.put(&holding(&one.pem, &one.key, &root.pem));
    mesh.after(10 * MINUTE).await;
    let (anchor, expires) = (replica.authority.signs_by(), replica.authority.expires());
    assert_eq!(replica.is(), (Stage::Rest, 1, anchor.clone()));
    mesh.behind(Some("nobody is asked"));
    mesh.cluster.put(&holding(&other.pem, &other.key, &root.pem));
    mesh.after(31).await;
    assert_eq!(replica.is(), (Stage::Rest, 1, anchor));
    assert_ne!(replica.authority.expires(), expires);
}

#[tokio::test(start_paused = true)]
async fn a_second_change_takes_the_place_of_the_first() {
    let (mesh, replica) = Mesh::new().await;
    let old = replica.authority.signs_by();
    mesh.rotate();
    mesh.after(MINUTE).await;
    mesh.rotate();
    mesh.after(170).await;
    assert_eq!(replica.is(), (Stage::Distribute, 3, old.clone()), "the first would have signed by now");
    mesh.after(3 * MINUTE).await;
    assert_ne!(replica.authority.signs_by(), old);
    assert_eq!((replica.is().0, replica.is().1), (Stage::Rest, 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_unusable_changes_nothing_and_what_is_emptied_comes_back() {
    let (mesh, replica) = Mesh::new().await;
    let (is, good) = (replica.is(), mesh.cluster.data());
    let bad = made("other.example");
    mesh.cluster.put(&bad);
    mesh.after(5 * MINUTE).await;
    assert_eq!((replica.is(), mesh.cluster.data()), (is.clone(), bad));

    mesh.cluster.delete();
    mesh.after(MINUTE).await;
    mesh.cluster.fail(&[500; 3]);
    mesh.after(MINUTE).await;
    assert_eq!(replica.is(), is);

    mesh.cluster.fail(&[]);
    mesh.cluster.put(&Value::Null);
    mesh.after(MINUTE).await;
    assert_eq!(mesh.cluster.data(), good);
    mesh.after(5 * MINUTE).await;
    assert_eq!(replica.is(), is);
}

#[tokio::test(start_paused = true)]
async fn what_another_installation_has_published_says_nothing() {
    let (mesh, replica) = Mesh::new().await;
    let elsewhere = Progress { anchor: "elsewhere".to_owned(), secret: "another".to_owned(), ..Progress::default() };
    replica.dies();
    let pem = ca("elsewhere", None, 100, |_| {}).pem;
    mesh.cluster.publish(&pem, Some(annotation(&elsewhere, &pem)));
    let replica = mesh.start().await;
    assert!(!replica.authority.signs_by().is_empty());
    assert_eq!(replica.authority.roots().len(), 1);
}
