//! What a schema can't say: references between fields, syntax of names, addresses and patterns.
//!
//! Expects objects that passed their schema. What is wrong within one object only: whether its references resolve is
//! the controller's business, and shows in status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use outrigger_wire::limits::{REGEXES, REGEXES_SIZE};

use crate::Object;

mod access;
mod core;
mod filters;
mod gateway;
mod mesh;
mod route;
mod syntax;
mod traffic;

/// Namespace of the mesh's own parts: what is written there may be for the whole mesh.
const SYSTEM_NAMESPACE: &str = "outrigger-system";

/// Label of a Namespace or Workload's pods that says how they take part.
const MODE_LABEL: &str = "outrigger.dev/mode";

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// Such as `spec.rules[0].backendRefs[1].port`; "" if the whole object is meant.
    pub field: String,
    pub problem: String,
    pub remedy: String,
}

/// All that is wrong with an object; empty if it is valid.
pub fn validate(object: &Object) -> Vec<FieldProblem> {
    let mut problems = Problems::default();
    metadata(object, &mut problems);
    let meta = object.metadata();
    match object {
        Object::Service(service) => core::service(service, &mut problems),
        Object::Namespace(_) => {}
        Object::Workload(workload) => mesh::workload(&workload.spec, &mut problems),
        Object::MeshConfig(config) => mesh::mesh_config(meta, &config.spec, &mut problems),
        Object::MeshRoute(route) => route::mesh_route(&route.spec, &mut problems),
        Object::TrafficPolicy(policy) => traffic::traffic_policy(meta, &policy.spec, &mut problems),
        Object::AccessPolicy(policy) => access::access_policy(&policy.spec, &mut problems),
        Object::HttpRoute(route) => gateway::http_route(&route.spec, &mut problems),
        Object::GrpcRoute(route) => gateway::grpc_route(&route.spec, &mut problems),
        Object::ReferenceGrant(grant) => gateway::reference_grant(&grant.spec, &mut problems),
    }
    problems.judge_regexes();
    problems.found
}

fn metadata(object: &Object, problems: &mut Problems) {
    let ObjectMeta { name, namespace, labels, .. } = object.metadata();
    match (object, name.as_deref()) {
        (_, None) => problems.add("metadata.name", "it is missing", "give the object a name"),
        (Object::Service(_) | Object::Namespace(_) | Object::Workload(_), Some(name)) => {
            problems.check("metadata.name", syntax::label(name));
        }
        (_, Some(name)) => problems.check("metadata.name", syntax::subdomain(name)),
    }
    let cluster_scoped = matches!(object, Object::Namespace(_) | Object::MeshConfig(_));
    match namespace.as_deref() {
        Some(_) if cluster_scoped => {
            let problem = format!("a {} is in no namespace", object.kind());
            problems.add("metadata.namespace", problem, "remove it");
        }
        Some(namespace) => problems.check("metadata.namespace", syntax::label(namespace)),
        None => {}
    }
    for (key, value) in labels.iter().flatten() {
        let path = format!("metadata.labels[{key:?}]");
        problems.check(&path, syntax::label_key(key));
        problems.check(&path, syntax::label_value(value));
        if key == MODE_LABEL && !["sidecar", "shared", "none"].contains(&value.as_str()) {
            problems.add(&path, format!("unknown mode {value:?}"), "write sidecar, shared or none");
        }
    }
}

/// What was found so far.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    found: Vec<FieldProblem>,
    /// How many regular expressions there were.
    regexes: usize,
    /// Those that are good by themselves, with their fields.
    good_regexes: Vec<(String, String)>,
}

/// What is wrong with a text, and what to do about it.
type Fault = (String, &'static str);

// === impl FieldProblem ===

impl FieldProblem {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into(), remedy: remedy.into() }
    }
}

// === impl Problems ===

impl Problems {
    fn add(&mut self, field: &str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.found.push(FieldProblem::new(field, problem, remedy));
    }

    /// Adds the problem of a syntax check, if it found one.
    fn check(&mut self, field: &str, checked: Result<(), Fault>) {
        if let Err((problem, remedy)) = checked {
            self.add(field, problem, remedy);
        }
    }

    /// As [`check`](Self::check), for each entry of a list.
    fn check_each(&mut self, field: &str, list: &[String], check: fn(&str) -> Result<(), Fault>) {
        for (index, text) in list.iter().enumerate() {
            self.check(&format!("{field}[{index}]"), check(text));
        }
    }

    /// Checks a regular expression, unless there were too many: it is the compiling that costs.
    fn regex(&mut self, field: &str, pattern: &str) {
        self.regexes += 1;
        if self.regexes > REGEXES {
            if self.regexes == REGEXES + 1 {
                let problem = format!("the object has more than {REGEXES} regular expressions");
                self.add(field, problem, "write several as one, such as /a|/b, or move rules to another object");
            }
            return;
        }
        match syntax::regex(pattern) {
            Ok(()) => self.good_regexes.push((field.to_owned(), pattern.to_owned())),
            fault => self.check(field, fault),
        }
    }

    /// Adds a problem if the regular expressions are too large together: at the first that doesn't fit.
    fn judge_regexes(&mut self) {
        let all = std::mem::take(&mut self.good_regexes);
        let fit = |count: usize| syntax::regexes_fit(all[..count].iter().map(|(_, pattern)| pattern.as_str()));
        if fit(all.len()) {
            return;
        }
        let counts: Vec<usize> = (1..=all.len()).collect();
        let fitting = counts.partition_point(|count| fit(*count));
        if let Some((field, _)) = all.get(fitting) {
            let problem = format!(
                "with this one the object's regular expressions take more than {} MiB once compiled",
                REGEXES_SIZE >> 20
            );
            self.add(
                field,
                problem,
                "use smaller repetitions, such as .* for .{0,1000}, or move rules to another object",
            );
        }
    }

    /// Adds a problem for each entry that an earlier one is equal to.
    fn unique<T: PartialEq>(&mut self, field: &str, list: &[T], part: &str) {
        for (index, entry) in list.iter().enumerate() {
            if let Some(first) = list[..index].iter().position(|earlier| earlier == entry) {
                let path = format!("{field}[{index}]{part}");
                self.add(&path, format!("it is the same as {field}[{first}]{part}"), "remove one of them or change it");
            }
        }
    }
}
