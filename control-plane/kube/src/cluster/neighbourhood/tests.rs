//! Whatever happens to a cluster, deriving what it concerns comes to the same as deriving everything.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;
use crate::cluster::{
    concern::Tracker,
    events::{Numbers, assert_same, item, object, position, spoil},
    index::Update,
    kinds::KINDS,
};

/// What the API server has: by kind and key.
type Truth = BTreeMap<(usize, Arc<str>), Value>;

/// A cluster, and what the controller makes of its events.
struct Followed {
    numbers: Numbers,
    truth: Truth,
    index: Index,
    tracker: Tracker,
    settings: Settings,
    last: Option<Derived>,
    /// Derivations of a part.
    partly: usize,
    /// Some objects are of no shape that can be read.
    spoilt: bool,
}

fn settings(root: &'static str) -> Settings {
    Settings { trust_domain: "cluster.local".to_owned(), roots: vec![root.into()], ..Settings::default() }
}

// === impl Followed ===

impl Followed {
    fn new(seed: u64) -> Self {
        Self {
            numbers: Numbers(seed),
            truth: Truth::new(),
            index: Index::new(),
            tracker: Tracker::default(),
            settings: settings("a root"),
            last: None,
            partly: 0,
            spoilt: seed.is_multiple_of(3),
        }
    }

    /// An object comes, changes or goes; what a watch would say of it.
    fn happens(&mut self) -> (usize, Update) {
        let (kind, mut value) = object(&mut self.numbers);
        if self.spoilt && self.numbers.below(8) == 0 {
            spoil(&mut self.numbers, kind, &mut value);
        }
        let read = item(kind, value.clone());
        let place = (kind, Arc::clone(&read.key));
        if self.numbers.below(5) == 0 {
            self.truth.remove(&place);
            return (kind, Update::Deleted(read));
        }
        self.truth.insert(place, value);
        (kind, Update::Applied(read))
    }

    fn all(&self, kind: usize) -> Update {
        let own = self.truth.iter().filter(|((of, _), _)| *of == kind);
        Update::Replaced(own.map(|(_, value)| item(kind, value.clone())).collect())
    }

    fn absorb(&mut self, (kind, update): (usize, Update)) {
        self.index.absorb(kind, update, &mut self.tracker);
    }

    /// What happens while the API server is away is only seen in the lists after it, kind by kind, between which other
    /// things happen.
    fn away(&mut self) {
        for _ in 0..self.numbers.below(12) {
            // Not told.
            self.happens();
        }
        let first = self.numbers.below(KINDS.len());
        for kind in (0..KINDS.len()).map(|kind| (kind + first) % KINDS.len()) {
            let list = self.all(kind);
            self.absorb((kind, list));
            if self.numbers.below(4) == 0 {
                // A kind that isn't listed yet is still followed from where it was, or its list says it all later.
                let told = self.happens();
                self.absorb(told);
            }
            if self.numbers.below(6) == 0 {
                self.derive("between lists");
            }
        }
    }

    fn derive(&mut self, context: &str) {
        let whole = Derived::new(&self.index, derive::outcome(&self.index.objects(), &self.settings, None));
        let concern = self.tracker.take();
        let derived = match &self.last {
            Some(last) if !concern.is_everything(&self.index) => {
                self.partly += 1;
                let neighbourhood = Neighbourhood::of(concern, &self.index, &self.tracker.relations);
                Derived::new(&self.index, neighbourhood.derive(&self.settings, last))
            }
            _ => whole.clone(),
        };
        assert_same(&derived, &whole, context);
        self.last = Some(derived);
    }

    /// As one that knows nothing but what the API server has now.
    fn anew(&self) -> Derived {
        let (mut index, mut tracker) = (Index::new(), Tracker::default());
        for kind in 0..KINDS.len() {
            index.absorb(kind, self.all(kind), &mut tracker);
        }
        Derived::new(&index, derive::outcome(&index.objects(), &self.settings, None))
    }
}

#[test]
fn whatever_happens() {
    let mut partly = 0;
    for seed in 0..150 {
        let mut cluster = Followed::new(seed);
        for step in 0..60 {
            let context = format!("seed {seed}, step {step}");
            match cluster.numbers.below(40) {
                0 => cluster.away(),
                1 => {
                    let kind = cluster.numbers.below(KINDS.len());
                    let list = cluster.all(kind);
                    cluster.absorb((kind, list));
                }
                2 => {
                    // As the source does when its settings change, and when a derivation has failed.
                    cluster.settings = settings(cluster.numbers.one(&["a root", "another root"]));
                    cluster.tracker.everything();
                }
                _ => {
                    for _ in 0..=cluster.numbers.below(3) {
                        let told = cluster.happens();
                        cluster.absorb(told);
                    }
                }
            }
            cluster.derive(&context);
            if !cluster.spoilt {
                let last = cluster.last.clone().unwrap();
                assert_same(&last, &cluster.anew(), &format!("{context}, from nothing"));
            }
        }
        partly += cluster.partly;
    }
    assert!(partly > 2_000, "only {partly} parts were derived");
}

/// Seen in a list only: what went, what came, and what is another object of the same name.
#[test]
fn a_list_after_an_absence_tells_of_all_that_is_different() {
    let mut cluster = Followed::new(1);
    for _ in 0..200 {
        let told = cluster.happens();
        cluster.absorb(told);
    }
    cluster.derive("before");
    for kind in ["Pod", "EndpointSlice", "Service", "HTTPRoute", "GRPCRoute", "MeshRoute"].map(position) {
        // The middle third goes, the rest changes.
        let keys: Vec<_> = cluster.truth.keys().filter(|(of, _)| *of == kind).cloned().collect();
        for (at, key) in keys.iter().enumerate() {
            if at % 3 == 1 {
                cluster.truth.remove(key);
            } else if let Some(value) = cluster.truth.get_mut(key) {
                value["metadata"]["uid"] = "another".into();
                value["metadata"]["labels"] = serde_json::json!({ "app": "b", "kubernetes.io/service-name": "web" });
            }
        }
        let list = cluster.all(kind);
        cluster.absorb((kind, list));
        cluster.derive(KINDS[kind].name);
        let last = cluster.last.clone().unwrap();
        assert_same(&last, &cluster.anew(), KINDS[kind].name);
    }
}
