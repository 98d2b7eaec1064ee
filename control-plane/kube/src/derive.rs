//! Loaded objects to a snapshot: which of several objects of one name counts, and whose file a finding is about.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use outrigger_crds::{Loaded, Object, Problem};
use outrigger_model::{Affects, Before, Built, Finding, MeshSnapshot, Part, build};

use crate::{
    Settings,
    convert::{self, Objects},
};

/// What came of the objects of one moment.
#[derive(Debug)]
pub struct Outcome {
    pub snapshot: MeshSnapshot,
    /// Of conversion and build.
    pub findings: Vec<Finding>,
    pub affects: Affects,
}

/// Derives what is served from objects that each have a name of their own.
pub fn outcome(objects: &Objects<'_>, settings: &Settings, previous: Option<&MeshSnapshot>) -> Outcome {
    let (inputs, mut findings) = convert::inputs(objects, settings);
    let built = build(&inputs, previous);
    findings.extend(built.problems);
    Outcome { snapshot: built.snapshot, findings, affects: built.affects }
}

// === impl Outcome ===

impl Outcome {
    /// Of all objects, of which those that were derived from were all that the part depends on.
    pub(crate) fn in_place(self, part: &Part, before: Before<'_>) -> Self {
        let built = Built { snapshot: self.snapshot, problems: self.findings, affects: self.affects };
        let Built { snapshot, problems, affects } = built.in_place(part, before);
        Self { snapshot, findings: problems, affects }
    }
}

/// Derives what is served from objects in order of their files. Of objects with one name the first counts.
pub fn derive(
    loaded: &[&Loaded],
    settings: &Settings,
    previous: Option<&MeshSnapshot>,
) -> (MeshSnapshot, Vec<Problem>) {
    let mut problems = outrigger_crds::duplicates(loaded.iter().copied());
    let mut objects = Objects::default();
    let mut places: HashMap<String, &Loaded> = HashMap::with_capacity(loaded.len());
    for each in loaded {
        if let Entry::Vacant(place) = places.entry(each.object.to_string()) {
            place.insert(each);
            objects.push(&each.object);
        }
    }
    let Outcome { snapshot, findings, .. } = outcome(&objects, settings, previous);
    problems.extend(findings.into_iter().map(|finding| problem(places.get(&finding.object).copied(), finding)));
    (snapshot, problems)
}

pub(crate) fn problem(place: Option<&Loaded>, finding: Finding) -> Problem {
    Problem {
        file: place.map_or_else(|| "".into(), |loaded| loaded.file.clone()),
        document: place.map_or(0, |loaded| loaded.document),
        object: finding.object,
        field: finding.field,
        problem: finding.message,
        remedy: finding.remedy,
    }
}

// === impl Objects ===

impl<'a> Objects<'a> {
    pub fn push(&mut self, object: &'a Object) {
        match object {
            Object::Service(object) => self.services.push(object),
            Object::Namespace(object) => {
                static NONE: BTreeMap<String, String> = BTreeMap::new();
                let metadata = &object.metadata;
                let labels = metadata.labels.as_ref().unwrap_or(&NONE);
                self.namespaces.push((metadata.name.as_deref().unwrap_or_default(), labels));
            }
            Object::Workload(object) => self.workloads.push(object),
            Object::MeshConfig(object) => self.mesh_configs.push(object),
            Object::MeshRoute(object) => self.mesh_routes.push(object),
            Object::TrafficPolicy(object) => self.traffic_policies.push(object),
            Object::AccessPolicy(object) => self.access_policies.push(object),
            Object::HttpRoute(object) => self.http_routes.push(object),
            Object::GrpcRoute(object) => self.grpc_routes.push(object),
            Object::ReferenceGrant(object) => self.grants.push(object),
        }
    }
}
