//! The source against an API server that misbehaves, with time that only moves when all wait.

use outrigger_wire::names::type_url;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::*;
use crate::pod::Carrier;
use server::Server;

mod mangled;
mod random;
mod server;

const SERVICES: &str = "/api/v1/services";
const PODS: &str = "/api/v1/pods";
const NAMESPACES: &str = "/api/v1/namespaces";
const ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/httproutes";
const GRPC_ROUTES: &str = "/apis/gateway.networking.k8s.io/v1/grpcroutes";
const GRANTS: &str = "/apis/gateway.networking.k8s.io/v1beta1/referencegrants";

/// Long enough for any number of tries.
const LONG: Duration = Duration::from_secs(600);

/// A cluster and its source; it is watched until it is dropped.
struct Cluster {
    server: Server,
    snapshots: watch::Receiver<Arc<MeshSnapshot>>,
    problems: watch::Receiver<Vec<Problem>>,
    derived: watch::Receiver<Option<Arc<Derived>>>,
    namespaces: watch::Receiver<Store<Namespace>>,
    settings: watch::Sender<Settings>,
    status: WatchStatus,
    task: JoinHandle<Result<(), ClusterError>>,
}

impl Cluster {
    fn new(server: Server) -> Self {
        let client = server.client();
        Self::with(server, client)
    }

    /// Whose source asks the server by way of `client`.
    fn with(server: Server, client: Client) -> Self {
        let (snapshots, problems) = (watch::Sender::new(Arc::default()), watch::Sender::new(Vec::new()));
        let (derived, namespaces) = (watch::Sender::new(None), watch::Sender::new(Store::default()));
        let settings = watch::Sender::new(Settings { trust_domain: "cluster.local".to_owned(), ..Settings::default() });
        let status = WatchStatus::default();
        Self {
            snapshots: snapshots.subscribe(),
            problems: problems.subscribe(),
            derived: derived.subscribe(),
            namespaces: namespaces.subscribe(),
            task: tokio::spawn(watch(
                client,
                settings.subscribe(),
                Sinks { snapshots, problems, derived, namespaces },
                status.clone(),
            )),
            settings,
            status,
            server,
        }
    }

    /// Waits until exactly these services of namespace `a` are served.
    async fn serves(&mut self, names: &[&str]) -> Arc<MeshSnapshot> {
        let served = |snapshot: &Arc<MeshSnapshot>| {
            snapshot.types.get(type_url::SERVICE).is_some_and(|set| {
                let wanted = names.iter().map(|name| format!("a/{name}"));
                set.resources.keys().map(|name| name.to_string()).eq(wanted)
            })
        };
        let found = timeout(LONG, self.snapshots.wait_for(served)).await;
        let Ok(found) = found else { panic!("{names:?} aren't served; without {:?}", self.status.missing()) };
        found.unwrap().clone()
    }

    /// Waits until these are all problems, each given by a part of its text.
    async fn reports(&mut self, parts: &[&str]) {
        let same = |problems: &Vec<Problem>| {
            problems.len() == parts.len() && problems.iter().zip(parts).all(|(p, part)| p.to_string().contains(part))
        };
        let found = timeout(LONG, self.problems.wait_for(same)).await.map(drop);
        assert!(found.is_ok(), "{parts:?} aren't reported, but {:?}", self.problems.borrow());
    }

    /// Lets time pass in which nothing must be published.
    async fn quiet(&mut self, duration: Duration) {
        self.snapshots.mark_unchanged();
        sleep(duration).await;
        assert!(!self.snapshots.has_changed().unwrap(), "published: generation {}", self.snapshots.borrow().generation);
    }

    fn kind(&self, name: &str) -> KindStatus {
        self.status.kinds().into_iter().find(|kind| kind.kind == name).unwrap()
    }

    /// How often route table entries send to a service: whether a route is in force.
    fn routed(&self, service: &str) -> bool {
        let snapshot = self.snapshots.borrow();
        let body = snapshot.types[type_url::SERVICE].resources[service].body.clone();
        let service: outrigger_wire::proto::config::Service = prost::Message::decode(body).unwrap();
        !service.route_tables.is_empty()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service(name: &str) -> Value {
    let spec = json!({ "clusterIPs": [], "ports": [{ "port": 80 }], "aFieldOfLater": {} });
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "a" }, "spec": spec })
}

/// In the shape that lists of core kinds have: without kind.
fn bare(name: &str) -> Value {
    let mut object = service(name);
    object.as_object_mut().unwrap().retain(|field, _| matches!(field.as_str(), "metadata" | "spec"));
    object
}

fn route(filter: &str) -> Value {
    let parents = json!([{ "group": "", "kind": "Service", "name": "one", "aFieldOfLater": 1 }]);
    let rules = json!([{ "backendRefs": [{ "name": "one", "port": 80 }], "filters": [{ "type": filter,
        "requestHeaderModifier": { "set": [{ "name": "x", "value": "y" }] } }] }]);
    json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "r", "namespace": "a" }, "spec": { "parentRefs": parents, "rules": rules } })
}

fn one() -> Server {
    let server = Server::new();
    server.put(SERVICES, bare("one"));
    server
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_every_kind_is_listed() {
    // An optional kind that may not be read isn't one that isn't there.
    for (path, kind, code) in
        [(PODS, "Pod", 503), (PODS, "Pod", 404), (ROUTES, "HTTPRoute", 403), (ROUTES, "HTTPRoute", 500)]
    {
        let server = one();
        server.refuse(path, code);
        let mut cluster = Cluster::new(server);
        cluster.quiet(LONG).await;
        assert!(cluster.derived.borrow().is_none());
        assert_eq!(cluster.status.missing(), [kind], "{code}");
        assert!(cluster.kind(kind).failures > 10 && !cluster.kind(kind).error.is_empty());
        assert!(cluster.kind("Service").synced && cluster.kind("Service").objects == 1);
        cluster.server.accept(path);
        cluster.serves(&["one"]).await;
        assert_eq!((cluster.status.missing().len(), cluster.kind(kind).error.as_str()), (0, ""));
    }
}

#[tokio::test(start_paused = true)]
async fn objects_come_change_and_go() {
    let mut cluster = Cluster::new(one());
    cluster.serves(&["one"]).await;
    cluster.server.put(SERVICES, service("two"));
    let second = cluster.serves(&["one", "two"]).await;
    // What is said of it again changes nothing.
    cluster.server.put(SERVICES, service("two"));
    cluster.quiet(Duration::from_secs(5)).await;
    cluster.server.delete(SERVICES, "a/one");
    let third = cluster.serves(&["two"]).await;
    assert_eq!(third.generation, second.generation + 1);
    assert_eq!(cluster.kind("Service").objects, 1);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_is_no_empty_list() {
    let mut cluster = Cluster::new(one());
    cluster.serves(&["one"]).await;
    for code in [500, 503, 403, 404, 429] {
        cluster.server.refuse(SERVICES, code);
        cluster.server.expire(SERVICES);
        cluster.quiet(LONG).await;
        assert!(cluster.kind("Service").error.contains("told to fail"), "{:?}", cluster.kind("Service"));
        cluster.server.accept(SERVICES);
        cluster.quiet(LONG).await;
        assert_eq!(cluster.kind("Service").error, "");
    }
    // One that succeeds is.
    cluster.server.remove(SERVICES, "a/one");
    cluster.server.expire(SERVICES);
    cluster.serves(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_list_after_410_replaces_what_was_there() {
    let mut cluster = Cluster::new(one());
    let before = cluster.serves(&["one"]).await;
    cluster.server.remove(SERVICES, "a/one");
    cluster.server.store(SERVICES, service("two"));
    cluster.server.store(SERVICES, service("three"));
    cluster.server.expire(SERVICES);
    let after = cluster.serves(&["three", "two"]).await;
    assert_eq!((after.generation, cluster.kind("Service").relists), (before.generation + 1, 1));
    // The same as an answer to the beginning of a watch, and what is as hopeless.
    for code in [410, 504, 400] {
        cluster.server.asked(SERVICES);
        let lists = cluster.kind("Service").relists;
        cluster.server.refuse_watches(SERVICES, code);
        sleep(Duration::from_secs(5)).await;
        cluster.server.close(SERVICES);
        sleep(Duration::from_secs(60)).await;
        cluster.server.accept(SERVICES);
        cluster.quiet(LONG).await;
        assert!(cluster.kind("Service").relists > lists, "{code}");
        let asked = cluster.server.asked(SERVICES).len();
        assert!(asked < 20, "{code}: {asked} in a minute");
    }
}

/// A MeshRoute that was written when the API server was back had no effect for a minute: the watches had waited longer and
/// longer for the server, and waited as long once more when the new one didn't know their version.
#[tokio::test(start_paused = true)]
async fn what_is_written_after_an_api_server_was_away_is_served_soon() {
    // What it answers in its first seconds; and then that it doesn't know of what was before its start.
    for code in [None, Some(503), Some(500), Some(403), Some(401), Some(429)] {
        let mut cluster = Cluster::new(one());
        cluster.serves(&["one"]).await;
        cluster.server.put(NAMESPACES, json!({ "metadata": { "name": "of a later version" } }));
        sleep(Duration::from_secs(1)).await;
        cluster.server.stop();
        cluster.quiet(Duration::from_secs(60)).await;
        if let Some(code) = code {
            cluster.server.refuse(SERVICES, code);
        }
        cluster.server.start();
        sleep(Duration::from_secs(4)).await;
        cluster.server.accept(SERVICES);
        cluster.server.put(SERVICES, service("two"));
        let written = Instant::now();
        cluster.serves(&["one", "two"]).await;
        let took = written.elapsed();
        assert!(took < Duration::from_secs(12), "{code:?}: {took:?}");
        assert!(cluster.kind("Service").relists >= 1, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_was() {
    let mut cluster = Cluster::new(one());
    cluster.serves(&["one"]).await;
    cluster.server.asked(SERVICES);
    sleep(Duration::from_secs(30)).await;
    let bookmark = json!({ "kind": "Service", "apiVersion": "v1", "metadata": { "resourceVersion": "77" } });
    cluster.server.skip_to(77);
    cluster.server.tell(SERVICES, &json!({ "type": "BOOKMARK", "object": bookmark }));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.kind("Service").silence(), Some(Duration::from_secs(5)));
    cluster.server.close(SERVICES);
    cluster.quiet(Duration::from_secs(5)).await;
    let asked = cluster.server.asked(SERVICES);
    assert!(asked.len() == 1 && asked[0].contains("resourceVersion=77"), "{asked:?}");
    assert!(asked[0].contains("allowWatchBookmarks=true"), "{asked:?}");
    // One that is silent for longer than bookmarks take is begun anew: from there, and nothing is listed.
    cluster.quiet(Duration::from_secs(200)).await;
    let asked = cluster.server.asked(SERVICES);
    assert!(asked.len() == 1 && asked[0].contains("resourceVersion=77"), "{asked:?}");
    assert_eq!((cluster.kind("Service").failures, cluster.kind("Service").relists), (0, 0));
    cluster.server.put(SERVICES, service("two"));
    cluster.serves(&["one", "two"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_every_watch_or_never_answers_is_not_hammered() {
    let mut cluster = Cluster::new(one());
    cluster.serves(&["one"]).await;
    for _ in 0..100 {
        cluster.server.close(SERVICES);
        sleep(Duration::from_millis(100)).await;
    }
    let asked = cluster.server.asked(SERVICES).len();
    assert!(asked < 12, "{asked} in 10 s");
    cluster.server.silence(SERVICES);
    cluster.server.close(SERVICES);
    cluster.quiet(LONG).await;
    let status = cluster.kind("Service");
    assert!(status.error.contains("no answer") && status.silence() > Some(LONG / 2), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn lists_are_paged() {
    for expired in [false, true] {
        let server = Server::new();
        for number in 0..1_100 {
            server.put(SERVICES, bare(&format!("s{number:04}")));
        }
        if expired {
            server.expire_pages();
        }
        let mut cluster = Cluster::new(server);
        timeout(LONG, cluster.derived.wait_for(Option::is_some)).await.unwrap().unwrap();
        assert_eq!(cluster.kind("Service").objects, 1_100);
        let asked = cluster.server.asked(SERVICES);
        // The last is the watch.
        assert_eq!(asked.len(), 4, "{asked:?}");
        assert!(asked[0].contains("limit=500"), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_can_not_be_read_keeps_its_last_good_version() {
    let server = one();
    server.put(ROUTES, route("RequestHeaderModifier"));
    let mut cluster = Cluster::new(server);
    cluster.serves(&["one"]).await;
    assert!(cluster.routed("a/one"));
    cluster.server.put(ROUTES, route("Teleport"));
    cluster.reports(&["HTTPRoute/a/r: spec.rules[0].filters[0].type: \"Teleport\" isn't allowed; its last good"]).await;
    assert!(cluster.routed("a/one"));
    // It is known as it is, so that somebody can say what is wrong with it; and it doesn't hold up others.
    let resource = cluster.derived.borrow().as_ref().unwrap().resources["HTTPRoute"]["a/r"].clone();
    assert_eq!((resource.metadata.resource_version.as_deref(), resource.refused.len()), (Some("3"), 1));
    assert!(resource.object.is_some() && resource.metadata.managed_fields.is_none());
    cluster.server.put(SERVICES, service("two"));
    cluster.serves(&["one", "two"]).await;
    // A relist is no other word about it.
    cluster.server.expire(ROUTES);
    cluster.quiet(LONG).await;
    assert!(cluster.routed("a/one"));
    // Another object of the same name has no last good version.
    cluster.server.remove(ROUTES, "a/r");
    cluster.server.store(ROUTES, route("Teleport"));
    cluster.server.expire(ROUTES);
    cluster.reports(&["HTTPRoute/a/r: spec.rules[0].filters[0].type: \"Teleport\" isn't allowed; write one of"]).await;
    assert!(!cluster.routed("a/one"));
    cluster.server.put(ROUTES, route("RequestHeaderModifier"));
    cluster.reports(&[]).await;
    assert!(cluster.routed("a/one"));
    cluster.snapshots.mark_unchanged();
    cluster.server.delete(ROUTES, "a/r");
    timeout(LONG, cluster.snapshots.changed()).await.unwrap().unwrap();
    assert!(!cluster.routed("a/one"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_like_none_disturbs_no_other() {
    let server = one();
    let pod = |name: &str, spec: Value| {
        json!({ "metadata": { "name": name, "namespace": "a" }, "spec": spec,
        "status": { "phase": "Running", "podIP": "10.0.0.1" } })
    };
    server.put(PODS, pod("odd", json!({ "containers": 7 })));
    server.put(PODS, pod("fine", json!({ "containers": [] })));
    let mut cluster = Cluster::new(server);
    cluster.reports(&["Pod/a/odd: it can't be read"]).await;
    let pods = cluster.derived.borrow().as_ref().unwrap().pods.clone();
    assert_eq!(pods.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["a/fine"]);
    cluster.server.delete(PODS, "a/odd");
    cluster.reports(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_not_there_is_looked_for() {
    let server = one();
    for path in [ROUTES, GRPC_ROUTES, GRANTS] {
        server.uninstall(path);
    }
    let mut cluster = Cluster::new(server);
    cluster.serves(&["one"]).await;
    let route_kind = cluster.kind("HTTPRoute");
    assert!(route_kind.absent && route_kind.synced && route_kind.failures == 0 && route_kind.error.is_empty());
    cluster.quiet(LONG).await;
    cluster.server.install(ROUTES);
    cluster.server.put(ROUTES, route("RequestHeaderModifier"));
    timeout(Duration::from_secs(6), cluster.snapshots.changed()).await.unwrap().unwrap();
    assert!(cluster.routed("a/one") && !cluster.kind("HTTPRoute").absent);
    // In another version it is as good.
    cluster.server.install("/apis/gateway.networking.k8s.io/v1/referencegrants");
    cluster.quiet(Duration::from_secs(10)).await;
    assert!(!cluster.kind("ReferenceGrant").absent && cluster.kind("GRPCRoute").absent);

    // That it is missing now and then is no reason to forget what was there.
    cluster.server.refuse(ROUTES, 404);
    cluster.server.expire(ROUTES);
    cluster.quiet(LONG).await;
    assert!(cluster.kind("HTTPRoute").error.contains("NotFound") || cluster.kind("HTTPRoute").failures > 3);
    cluster.server.accept(ROUTES);
    cluster.quiet(LONG).await;
    // That the API server says time and again that it has no such thing, is.
    cluster.snapshots.mark_unchanged();
    cluster.server.uninstall(ROUTES);
    timeout(LONG, cluster.snapshots.changed()).await.unwrap().unwrap();
    assert!(!cluster.routed("a/one") && cluster.kind("HTTPRoute").absent);
}

#[tokio::test(start_paused = true)]
async fn what_no_derivation_looks_at_is_told_without_one() {
    let server = one();
    server.put(ROUTES, route("RequestHeaderModifier"));
    let mut cluster = Cluster::new(server);
    cluster.serves(&["one"]).await;
    let before = cluster.derived.borrow_and_update().clone().unwrap();
    let mut object = route("RequestHeaderModifier");
    object["status"] = json!({ "parents": [] });
    cluster.server.put(ROUTES, object);
    timeout(LONG, cluster.derived.changed()).await.unwrap().unwrap();
    let after = cluster.derived.borrow_and_update().clone().unwrap();
    assert!(Arc::ptr_eq(&before.findings, &after.findings) && Arc::ptr_eq(&before.snapshot, &after.snapshot));
    assert_eq!(after.resources["HTTPRoute"]["a/r"].status, json!({ "parents": [] }));
    let objects = [before, after].map(|derived| derived.resources["HTTPRoute"]["a/r"].object.clone().unwrap());
    assert!(Arc::ptr_eq(&objects[0], &objects[1]));
    cluster.quiet(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_sidecar_that_comes_and_goes_is_told_without_a_derivation() {
    let pod = |sidecar: bool| {
        let statuses =
            json!([{ "name": "outrigger-guard", "ready": true }, { "name": "outrigger-sidecar", "ready": sidecar }]);
        json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": { "containers": [] },
        "status": { "phase": "Running", "podIP": "10.0.0.1", "initContainerStatuses": statuses } })
    };
    let server = one();
    server.put(PODS, pod(true));
    let mut cluster = Cluster::new(server);
    let before = timeout(LONG, cluster.derived.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    cluster.server.put(PODS, pod(false));
    timeout(LONG, cluster.derived.changed()).await.unwrap().unwrap();
    let after = cluster.derived.borrow_and_update().clone().unwrap();
    assert!(Arc::ptr_eq(&before.findings, &after.findings) && Arc::ptr_eq(&before.affects, &after.affects));
    assert_eq!([before, after].map(|derived| derived.pods["a/p"].carrier), [Carrier::Sidecar, Carrier::Guard]);
}

#[tokio::test(start_paused = true)]
async fn namespaces_are_told_at_once_and_settings_derive_anew() {
    let server = one();
    server.refuse(PODS, 503);
    server.put(NAMESPACES, json!({ "metadata": { "name": "a", "labels": { "outrigger.dev/mode": "sidecar" } } }));
    let mut cluster = Cluster::new(server);
    let told = timeout(LONG, cluster.namespaces.wait_for(|namespaces| namespaces.contains_key("a"))).await.unwrap();
    assert_eq!(told.unwrap()["a"].labels["outrigger.dev/mode"], "sidecar");
    assert!(cluster.derived.borrow().is_none());
    cluster.server.accept(PODS);
    cluster.serves(&["one"]).await;
    cluster.snapshots.mark_unchanged();
    cluster.settings.send_modify(|settings| settings.roots = vec!["a root".into()]);
    timeout(LONG, cluster.snapshots.changed()).await.unwrap().unwrap();
    assert!(
        cluster.server.asked(NAMESPACES).iter().all(|query| query.contains("limit=500") || query.contains("watch"))
    );
}
