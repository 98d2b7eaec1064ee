//! Object to verdict: what the controller would not take is refused before it is stored. What schema and CEL of the CRDs
//! say isn't said again.
//!
//! Certain problems only: a route that isn't the mesh's, a field or a value that a newer API has, and an object that is
//! no worse than before are let in.

use outrigger_crds::{
    FieldProblem, Object,
    gateway::{GrpcRoute, HttpRoute, ReferenceGrant},
    read_value, validate,
};
use outrigger_wire::names::{GROUP, MODE_LABEL};
use serde_json::Value;

use crate::{pod::Mode, refusal::Problems, refusal::line};

const GATEWAY: &str = "gateway.networking.k8s.io";

/// Most problems that are told of one object.
const MAX_PROBLEMS: usize = 20;

/// What there is to say about an object. It is refused if there are problems.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// `field: problem; remedy`.
    pub(crate) problems: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Judges what is to be stored in place of `old`, which is null if there is none.
pub(crate) fn judge(group: &str, kind: &str, object: &Value, old: &Value) -> Judgement {
    let judged = match (group, kind) {
        ("", "Namespace") => namespace(object),
        (GROUP, _) => ours(object),
        (GATEWAY, "HTTPRoute" | "GRPCRoute" | "ReferenceGrant") => gateway(kind, object),
        _ => Judgement::default(),
    };
    // What is on its way out, or bad already and not changed, must not be held up: its finalizers and labels are others'
    // business.
    let judged_of = |object: &Value| match kind {
        "Namespace" => object["metadata"]["labels"][MODE_LABEL].clone(),
        _ => object["spec"].clone(),
    };
    let unchanged = !old.is_null() && judged_of(old) == judged_of(object);
    if !judged.problems.is_empty() && (unchanged || !object["metadata"]["deletionTimestamp"].is_null()) {
        return Judgement { problems: Vec::new(), warnings: judged.problems };
    }
    judged
}

/// Only our own label.
fn namespace(object: &Value) -> Judgement {
    let mut problems = Problems::default();
    if let Some(mode) = object["metadata"]["labels"][MODE_LABEL].as_str() {
        Mode::read(mode, &format!("metadata.labels[{MODE_LABEL:?}]"), &mut problems);
    }
    refused(&problems.into_vec())
}

fn ours(object: &Value) -> Judgement {
    match read_value(object.clone()) {
        Ok(_) => Judgement::default(),
        Err(problems) => refused(&problems),
    }
}

/// Other implementations read these too, so the API's own rules are its CRDs' business. Ours is what the mesh would
/// refuse of a route that is the mesh's.
fn gateway(kind: &str, object: &Value) -> Judgement {
    let of_mesh = |parent: &Value| parent["group"] == "" && parent["kind"] == "Service";
    let parents = object["spec"]["parentRefs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if kind != "ReferenceGrant" && !parents.iter().any(of_mesh) {
        return Judgement::default();
    }
    let mut judged = match read_value(object.clone()) {
        Ok(_) => Judgement::default(),
        Err(found) => {
            // Read without our copy of the schema, which may be older than the API server's.
            let certain = read(kind, object).map_or(Vec::new(), |object| validate(&object));
            if certain.is_empty() {
                let words = found.first().map(line).unwrap_or_default();
                Judgement { problems: Vec::new(), warnings: vec![format!("the mesh can't use it: {words}")] }
            } else {
                refused(&certain)
            }
        }
    };
    judged.warnings.extend(without_effect(object));
    judged
}

fn read(kind: &str, object: &Value) -> Option<Object> {
    let object = object.clone();
    match kind {
        "HTTPRoute" => serde_json::from_value::<HttpRoute>(object).ok().map(Object::from),
        "GRPCRoute" => serde_json::from_value::<GrpcRoute>(object).ok().map(Object::from),
        _ => serde_json::from_value::<ReferenceGrant>(object).ok().map(Object::from),
    }
}

/// Legal, but not what its author may think.
fn without_effect(object: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let spec = &object["spec"];
    if spec["hostnames"].as_array().is_some_and(|hostnames| !hostnames.is_empty()) {
        warnings.push("spec.hostnames: they have no effect on routes of Services; remove them".to_owned());
    }
    for (index, rule) in spec["rules"].as_array().into_iter().flatten().enumerate() {
        if !rule["sessionPersistence"].is_null() {
            let field = format!("spec.rules[{index}].sessionPersistence");
            warnings.push(format!("{field}: not supported, no effect; use a MeshRoute's stickiness"));
        }
        for (at, filter) in rule["filters"].as_array().into_iter().flatten().enumerate() {
            if let Some(unsupported) =
                filter["type"].as_str().filter(|r#type| ["CORS", "ExtensionRef"].contains(r#type))
            {
                let field = format!("spec.rules[{index}].filters[{at}]");
                warnings.push(format!("{field}: {unsupported} isn't supported: requests are answered with 500"));
            }
        }
    }
    warnings
}

fn refused(problems: &[FieldProblem]) -> Judgement {
    let mut lines: Vec<String> = problems.iter().take(MAX_PROBLEMS).map(line).collect();
    if problems.len() > MAX_PROBLEMS {
        lines.push(format!("and {} problems more", problems.len() - MAX_PROBLEMS));
    }
    Judgement { problems: lines, warnings: Vec::new() }
}
