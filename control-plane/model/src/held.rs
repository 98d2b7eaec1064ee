//! How far objects have come on their way to proxies: what a replica counts of its own streams, as it tells it to others.
//! Replicas derive the same resources from the same objects, but not at the same moment, so that counts are of a mark.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Effects, MeshSnapshot, Reach};

/// Rejections kept of one object; more say nothing new.
const REASONS: usize = 3;

/// Connected proxies that an object concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Those that ask for anything it has an effect on.
    pub proxies: u32,
    /// Those that have all of that in force as it is now.
    pub current: u32,
    /// Those that have rejected any of it.
    pub rejected: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Rejection>,
}

/// One proxy's rejection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Rejection {
    pub reason: String,
    pub workload: String,
}

/// Who knows what connected proxies hold.
pub trait Holdings: Send + Sync {
    /// Counts for each of `of`, in their order. A resource is current in the version that `snapshot` has.
    fn held(&self, snapshot: &MeshSnapshot, of: &[&Effects]) -> Vec<Held>;

    /// Which proxies have a certificate that leads to the root `anchor`, as far as they say.
    fn certificates(&self, anchor: &str) -> Certificates;
}

/// What connected proxies say of their certificates, with regard to one root. A proxy is `NAMESPACE/POD/ROLE`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificates {
    /// They have one that leads there.
    pub have: BTreeSet<String>,
    /// They have one that leads elsewhere.
    pub others: BTreeSet<String>,
    /// They don't say.
    pub silent: BTreeSet<String>,
}

/// What one replica asks another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Origins (`KIND/NAMESPACE/NAME`).
    pub objects: Vec<String>,
    /// A root, by the name that [`Holdings::certificates`] takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<String>,
}

/// The answer to a [`Question`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub objects: BTreeMap<String, Counted>,
    /// If a root was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Signed>,
}

/// One replica's part in a change of the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The root that what it signs leads to; "" if it signs nothing yet.
    pub by: String,
    /// What its proxies have.
    #[serde(flatten)]
    pub certificates: Certificates,
}

/// Counts, and of what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// [`Marks::of`] at the replica that counted.
    pub mark: String,
    #[serde(flatten)]
    pub held: Held,
    /// Of a departure, and for the one who has counted: new requests are still welcome there.
    #[serde(skip)]
    pub called: bool,
}

/// Hashes of all that objects have an effect on: equal where the resources are, on whichever replica.
#[derive(Debug)]
pub struct Marks<'a> {
    snapshot: &'a MeshSnapshot,
    /// Of whole types.
    types: HashMap<&'static str, String>,
}

// === impl Held ===

impl Held {
    /// On its way to some, refused by none.
    pub fn is_pending(&self) -> bool {
        self.rejected == 0 && self.current < self.proxies
    }

    /// Takes in what another replica has counted.
    pub fn add(&mut self, other: Self) {
        self.proxies += other.proxies;
        self.current += other.current;
        self.rejected += other.rejected;
        for rejection in other.reasons {
            self.reject(rejection);
        }
    }

    /// Keeps a few, each with another reason. Which ones doesn't depend on the order.
    pub fn reject(&mut self, rejection: Rejection) {
        let same = self.reasons.iter_mut().find(|kept| kept.reason == rejection.reason);
        match same {
            Some(kept) if rejection.workload < kept.workload => *kept = rejection,
            Some(_) => {}
            None => self.reasons.push(rejection),
        }
        self.reasons.sort();
        self.reasons.truncate(REASONS);
    }
}

// === impl Counted ===

impl Counted {
    /// The counts as they are of `mark`: of anything else, nobody has it in force.
    pub fn at(self, mark: &str) -> Held {
        if self.mark == mark { self.held } else { Held { proxies: self.held.proxies, ..Held::default() } }
    }
}

// === impl Marks ===

impl<'a> Marks<'a> {
    pub fn new(snapshot: &'a MeshSnapshot) -> Self {
        Self { snapshot, types: HashMap::new() }
    }

    pub fn of(&mut self, effects: &Effects) -> String {
        let mut hash = Sha256::new();
        for (type_url, reach) in effects {
            let Some(set) = self.snapshot.types.get(type_url) else { continue };
            hash.update(type_url);
            match reach {
                Reach::Named(names) => {
                    for name in names {
                        let version = set.resources.get(name).map_or("", |resource| &resource.version);
                        hash.update(format!("\n{name}\n{version}"));
                    }
                }
                Reach::All => {
                    let of_type = self.types.entry(type_url).or_insert_with(|| {
                        let mut hash = Sha256::new();
                        for (name, resource) in &set.resources {
                            hash.update(format!("\n{name}\n{}", resource.version));
                        }
                        hex(hash)
                    });
                    hash.update(of_type);
                }
            }
        }
        hex(hash)
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
