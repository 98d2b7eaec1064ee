//! A proxy's configuration client, and what must hold of its configuration at each moment: once something is there, it is
//! never empty; and no object is older than it was.

use std::{cell::RefCell, net::IpAddr, path::Path, rc::Rc, sync::Arc, time::Duration};

use outrigger_config::{Bootstrap, ClientStatus, Role};
use outrigger_core::{Snapshot, Store};
use outrigger_model::MeshSnapshot;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use turmoil::net::TcpStream;

use crate::{
    changes::{ADDRESSES, ROCK, ROCK_ADDRESS, SHARED},
    controller,
    expected::{View, difference, expected, held},
};

/// A process is believed to have saved what it has had for this long.
const SAVED: Duration = Duration::from_secs(2);

pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) bootstrap: Bootstrap,
    /// What its app calls.
    pub(crate) asked: Vec<IpAddr>,
    /// Of the process that runs now.
    pub(crate) running: Running,
    had: Had,
}

/// Empty until the host runs.
pub(crate) type Running = Rc<RefCell<Option<Arc<Store>>>>;

/// What was in force when it was looked last. Numbers are those of the rock's versions.
#[derive(Debug, Default)]
struct Had {
    generation: u64,
    /// When it first had all that it needs.
    since: Option<Duration>,
    own: bool,
    trust: bool,
    service: u16,
    pod: u32,
    shared: bool,
}

// === impl Proxy ===

impl Proxy {
    /// Some of each role; what they keep is in `dir`.
    pub(crate) fn all(dir: &Path) -> Vec<Self> {
        let called: Vec<&str> = ADDRESSES.into_iter().chain([ROCK_ADDRESS]).collect();
        let proxies = [
            ("front", Role::Sidecar, "shop/front", &called[..]),
            ("back", Role::Sidecar, "shop/back", &called[3..]),
            ("guard", Role::Guard, "shop/front", &[]),
            ("shared", Role::Shared, "outrigger-system/shared-1", &called[..]),
        ];
        proxies.into_iter().map(|(name, role, workload, asked)| Self::new(dir, name, role, workload, asked)).collect()
    }

    fn new(dir: &Path, name: &'static str, role: Role, workload: &str, asked: &[&str]) -> Self {
        let state_dir = dir.join(name);
        std::fs::create_dir(&state_dir).unwrap();
        let token = state_dir.join("token");
        std::fs::write(&token, workload).unwrap();
        let bootstrap = Bootstrap {
            role,
            controller: "controller".to_owned(),
            controller_name: Bootstrap::CONTROLLER_NAME.to_owned(),
            root_cert: state_dir.clone(),
            token,
            workload: workload.to_owned(),
            state_dir: Some(state_dir),
            zone: String::new(),
            taster: None,
            mark: None,
        };
        let asked = asked.iter().map(|ip| ip.parse().unwrap()).collect();
        Self { name, bootstrap, asked, running: Running::default(), had: Had::default() }
    }

    pub(crate) fn store(&self) -> Option<Arc<Store>> {
        self.running.borrow().clone()
    }

    /// Its app calls something, known or not.
    pub(crate) fn call(&self, which: usize) {
        if let (Some(store), false) = (self.store(), self.asked.is_empty()) {
            store.lookup(self.asked[which % self.asked.len()]);
        }
    }

    pub(crate) fn expected(&self, mesh: &MeshSnapshot) -> View {
        expected(self.bootstrap.role, &self.bootstrap.workload, &self.asked, mesh)
    }

    /// Each thing that it hasn't as it should.
    pub(crate) fn difference(&self, should: &View) -> Vec<String> {
        let Some(store) = self.store() else { return vec![format!("{} doesn't run", self.name)] };
        let different = difference(&held(&store, &self.asked), should);
        different.into_iter().map(|text| format!("{}: {text}", self.name)).collect()
    }

    /// From one moment to the next.
    ///
    /// # Panics
    /// If something that was there is gone.
    pub(crate) fn look(&mut self, now: Duration) {
        let Some(store) = self.store() else { return };
        let snapshot = store.load();
        if snapshot.generation == self.had.generation {
            return;
        }
        let has = Had::of(&snapshot, now, &self.had);
        let Had { own, trust, service, pod, shared, .. } = self.had;
        let context = || format!("{} at {now:?}: has {has:?} after {:?}", self.name, self.had);
        assert!(has.own >= own && has.trust >= trust && has.shared >= shared, "{}", context());
        assert!((has.service > 0) >= (service > 0) && (has.pod > 0) >= (pod > 0), "{}", context());
        assert!(has.service >= service && has.pod >= pod, "backwards: {}", context());
        self.had = has;
    }

    /// It is gone from one moment to the next. What it hasn't saved is lost.
    pub(crate) fn killed(&mut self, now: Duration) {
        let saved = self.had.since.is_some_and(|since| since + SAVED < now);
        let Had { own, trust, shared, service, pod, .. } = std::mem::take(&mut self.had);
        if saved {
            // Of what was written a moment ago an older version may be there.
            self.had = Had { own, trust, shared, service: service.min(1), pod: pod.min(1), ..Had::default() };
        }
        self.running.take();
    }
}

// === impl Had ===

impl Had {
    fn of(snapshot: &Snapshot, now: Duration, before: &Self) -> Self {
        let rock = snapshot.services.get(ROCK);
        let service = rock.and_then(|rock| Some(rock.service.ports.get(1)?.port));
        let weight = rock.and_then(|rock| Some(rock.endpoints.iter().next()?.spec.weight));
        let shared = snapshot.services.get(SHARED);
        let mut has = Self {
            generation: snapshot.generation,
            since: before.since,
            own: snapshot.own.is_some(),
            trust: snapshot.trust.iter().any(|trust| !trust.roots.is_empty()),
            service: service.unwrap_or_default(),
            pod: weight.unwrap_or_default(),
            shared: shared.is_some_and(|shared| !shared.endpoints.is_empty()),
        };
        has.since = has.since.or((has.own && has.trust && has.pod > 0).then_some(now));
        has
    }
}

/// One process, until it is killed.
pub(crate) async fn run(bootstrap: Bootstrap, running: Running, seed: u64) -> turmoil::Result {
    let (store, asked) = Store::new();
    let restored = outrigger_config::restore(&bootstrap, &store);
    *running.borrow_mut() = Some(Arc::clone(&store));
    // What is only led to goes with the route that leads there; what is called stays.
    if bootstrap.role == Role::Sidecar {
        store.lookup(ROCK_ADDRESS.parse()?);
    }
    // As a Service's address does, it leads to any of the replicas.
    let turn = Arc::new(std::sync::Mutex::new(SmallRng::seed_from_u64(seed)));
    let open = move || {
        let replica = turn.lock().unwrap().random_range(0..controller::NAMES.len());
        TcpStream::connect((controller::NAMES[replica], controller::PORT))
    };
    outrigger_config::simulate(bootstrap, restored, store, asked, ClientStatus::new(), open, seed).await;
    Ok(())
}
