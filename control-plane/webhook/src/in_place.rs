//! What a pod that has its proxies would have otherwise, had it been injected now: what Kubernetes can't change in a
//! running pod, where images are all that can be changed.

use std::fmt;

use outrigger_wire::names::INJECTED_ANNOTATION;
use serde_json::{Map, Value};

use crate::{
    InjectorConfig, NamespaceView, Outcome, Refusal, Untouched, containers, inject,
    pod::{Container, Pod},
    quantity,
};

/// Prefix of the proxies' settings among variables. Others may be somebody else's.
const OURS: &str = "OUTRIGGER_";

/// Fields that another version runs with, whatever they are: they stay as they are.
const INDIFFERENT: [&str; 4] = ["image", "imagePullPolicy", "resources", "terminationMessagePolicy"];

/// Members by which entries of lists are the same one.
const KEYS: [&str; 3] = ["mountPath", "name", "containerPort"];

/// A field that would be something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub field: String,
    /// `None`: it isn't there, or wouldn't be.
    pub has: Option<Value>,
    pub would_have: Option<Value>,
}

/// What keeps a pod from getting other proxies in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// The injector would leave the pod alone now.
    Untouched(Untouched),
    /// The injector would refuse the pod now.
    Refused(Refusal),
    /// Its proxies would be made otherwise.
    Differs(Vec<Difference>),
}

/// Whether the proxies of an injected pod are, but for their images, what the injector would give it with these settings.
///
/// # Errors
/// What is in the way.
pub fn in_place(pod: &Value, namespace: &NamespaceView, config: &InjectorConfig) -> Result<(), Obstacle> {
    let mut fresh = without_proxies(pod);
    match inject(&fresh, namespace, config) {
        Ok(Outcome::Patched { patch, .. }) => {
            json_patch::patch(&mut fresh, &patch).expect("the patch was made for this pod");
        }
        Ok(Outcome::Untouched { why, .. }) => return Err(Obstacle::Untouched(why)),
        Err(refusal) => return Err(Obstacle::Refused(refusal)),
    }
    let differences = differences(pod, &fresh);
    if differences.is_empty() { Ok(()) } else { Err(Obstacle::Differs(differences)) }
}

/// The pod before it was injected, as far as the injector looks.
fn without_proxies(pod: &Value) -> Value {
    let mut pod = pod.clone();
    if let Some(annotations) = pod.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(INJECTED_ANNOTATION);
    }
    let list = |pod: &mut Value, name: &str, stays: &dyn Fn(usize, &Value) -> bool| {
        let Some(entries) = pod["spec"].get_mut(name).and_then(Value::as_array_mut) else { return };
        let mut index = 0;
        entries.retain(|entry| {
            index += 1;
            stays(index - 1, entry)
        });
    };
    list(&mut pod, "initContainers", &|index, value| !Container { list: "initContainers", index, value }.is_ours());
    list(&mut pod, "volumes", &|_, volume| !volume["name"].as_str().is_some_and(is_volume));
    pod
}

fn is_volume(name: &str) -> bool {
    containers::VOLUMES.contains(&name)
}

/// Of our own containers and volumes alone: what the injector does to others is of no use to the proxies.
fn differences(pod: &Value, fresh: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let (Some(has), Some(would_have)) = (Pod::read(pod), Pod::read(fresh)) else { return found };
    let ours = |pod: Pod<'_>| -> Map<String, Value> {
        let containers = pod.containers().filter(|container| container.is_ours());
        let containers = containers.map(|container| (container.name().to_owned(), container.value.clone()));
        let volumes = pod.list("volumes").unwrap_or_default().iter();
        let volumes = volumes.filter_map(|volume| Some((volume["name"].as_str()?, volume)));
        let volumes = volumes.filter(|(name, _)| is_volume(name));
        containers.chain(volumes.map(|(name, volume)| (format!("volume {name}"), volume.clone()))).collect()
    };
    let (has, would_have) = (ours(has), ours(would_have));
    for (name, wanted) in &would_have {
        compare(name, has.get(name), wanted, &mut found);
    }
    // One that is there and wouldn't be, such as a sidecar of a pod that is to have a guard alone.
    let extra = has.iter().filter(|(name, _)| !would_have.contains_key(*name));
    found.extend(extra.map(|(name, _)| Difference {
        field: name.clone(),
        has: Some("there".into()),
        would_have: None,
    }));
    found
}

/// What the API server and others have added doesn't count; of our own variables each does.
fn compare(field: &str, has: Option<&Value>, wanted: &Value, found: &mut Vec<Difference>) {
    let differs = || Difference { field: field.to_owned(), has: has.cloned(), would_have: Some(wanted.clone()) };
    match (has, wanted) {
        (Some(Value::Object(has)), Value::Object(wanted)) => {
            for (name, wanted) in wanted.iter().filter(|(name, _)| !INDIFFERENT.contains(&name.as_str())) {
                compare(&format!("{field}.{name}"), has.get(name), wanted, found);
            }
        }
        (Some(Value::Array(has)), Value::Array(wanted)) => {
            let Some(key) = wanted.first().and_then(|first| KEYS.into_iter().find(|key| !first[*key].is_null())) else {
                if has != wanted {
                    found.push(differs());
                }
                return;
            };
            let name = |entry: &Value| entry[key].as_str().map_or_else(|| entry[key].to_string(), str::to_owned);
            for wanted in wanted {
                let has = has.iter().find(|entry| entry[key] == wanted[key]);
                compare(&format!("{field}[{}]", name(wanted)), has, wanted, found);
            }
            let extra = has.iter().filter(|entry| name(entry).starts_with(OURS));
            let extra = extra.filter(|entry| !wanted.iter().any(|wanted| wanted[key] == entry[key]));
            found.extend(extra.map(|entry| {
                let has = entry.get("value").unwrap_or(entry);
                Difference { field: format!("{field}[{}]", name(entry)), has: Some(has.clone()), would_have: None }
            }));
        }
        (Some(has), wanted) if has == wanted || same_quantity(has, wanted) => {}
        // Written by us as "", and not at all by the API server.
        (None, Value::String(text)) if text.is_empty() => {}
        _ => found.push(differs()),
    }
}

/// `16Mi` and `16384Ki` are the same.
fn same_quantity(one: &Value, other: &Value) -> bool {
    let parse = |value: &Value| quantity::parse(value.as_str()?);
    parse(one).is_some_and(|one| parse(other) == Some(one))
}

// === impl Obstacle ===

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untouched(why) => write!(f, "the injector would leave it alone now: {why}"),
            Self::Refused(refusal) => write!(f, "the injector would refuse it now: {refusal}"),
            Self::Differs(differences) => {
                let all: Vec<String> = differences.iter().map(ToString::to_string).collect();
                f.write_str(&all.join("; "))
            }
        }
    }
}

// === impl Difference ===

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, .. } = self;
        match (&self.has, &self.would_have) {
            (Some(has), Some(would)) => write!(f, "{field} is {has} and would be {would}"),
            (None, Some(would)) => write!(f, "{field} isn't there and would be {would}"),
            (Some(has), None) => write!(f, "{field} is {has} and wouldn't be there"),
            (None, None) => write!(f, "{field}"),
        }
    }
}

#[cfg(test)]
mod tests;
