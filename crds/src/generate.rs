//! What is generated from the types: CRD YAML and the reference for users.

use std::fmt::Write;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use crate::{
    AccessPolicy, AccessPolicySpec, MeshConfig, MeshConfigSpec, MeshRoute, MeshRouteSpec, TrafficPolicy,
    TrafficPolicySpec, Workload, WorkloadSpec,
};

/// The CRDs of our own kinds. The Gateway API's are installed by users.
pub fn crds() -> [CustomResourceDefinition; 5] {
    [AccessPolicy::crd(), MeshConfig::crd(), MeshRoute::crd(), TrafficPolicy::crd(), Workload::crd()]
        .map(|crd| documented(&crd))
}

/// A CRD as it is installed.
pub fn yaml(crd: &CustomResourceDefinition) -> String {
    let mut value = serde_json::to_value(crd).expect("a CRD is JSON");
    tidy(&mut value);
    let yaml = serde_yaml::to_string(&value).expect("JSON is YAML");
    format!("# Generated from crds/src by `BLESS=1 cargo test -p outrigger-crds`.\n{yaml}")
}

/// The reference of our own kinds, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Reference of resources\n\n\
        <!-- Generated from crds/src by `BLESS=1 cargo test -p outrigger-crds`. -->\n\n\
        All are `apiVersion: outrigger.dev/v1alpha1`. Durations are Gateway API Durations, such as `500ms` or `1m30s`. \
        A field in **bold** must be set. `[]` marks the entries of a list.\n",
    );
    for crd in crds() {
        let schema = spec_schema(&crd.spec.names.kind);
        let names = &crd.spec.names;
        let scope = if crd.spec.scope == "Namespaced" { "in a namespace" } else { "cluster-scoped" };
        let short = names.short_names.iter().flatten().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let _ = write!(text, "\n## {}\n\n{}\n\n", names.kind, doc(&schema));
        let _ = write!(text, "`{}`, {scope}; short: {short}.\n\n", names.plural);
        text += "| field | type | default | meaning |\n|---|---|---|---|\n";
        rows("spec", &schema, &schema, &mut text);
    }
    text
}

/// A spec's own schema, with definitions and the docs of enum values, which the derived CRDs have lost.
fn spec_schema(kind: &str) -> Value {
    fn of<T: JsonSchema>() -> Value {
        SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().into()
    }
    match kind {
        "AccessPolicy" => of::<AccessPolicySpec>(),
        "MeshConfig" => of::<MeshConfigSpec>(),
        "MeshRoute" => of::<MeshRouteSpec>(),
        "TrafficPolicy" => of::<TrafficPolicySpec>(),
        "Workload" => of::<WorkloadSpec>(),
        _ => Value::Null,
    }
}

/// Gives each field its own words back, and says what each value of an enum means: for `kubectl explain`.
fn documented(crd: &CustomResourceDefinition) -> CustomResourceDefinition {
    fn restore(derived: &mut Value, field: &Value, root: &Value) {
        let own = resolve(field, root);
        let mut words = field["description"].as_str().or(own["description"].as_str()).unwrap_or_default().to_owned();
        for value in own["oneOf"].as_array().into_iter().flatten() {
            let (name, meaning) = (value["const"].as_str(), value["description"].as_str());
            let _ = write!(words, "\n{}: {}", name.unwrap_or_default(), meaning.unwrap_or_default());
        }
        if !words.is_empty() {
            derived["description"] = words.into();
        }
        for (name, derived) in derived["properties"].as_object_mut().into_iter().flatten() {
            restore(derived, &own["properties"][name], root);
        }
        if derived["items"].is_object() {
            restore(&mut derived["items"], &own["items"], root);
        }
    }
    let mut value = serde_json::to_value(crd).expect("a CRD is JSON");
    let root = spec_schema(&crd.spec.names.kind);
    let spec = &mut value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    restore(spec, &root, &root);
    serde_json::from_value(value).expect("descriptions are all that changed")
}

/// Appends a row for each field below `path`.
fn rows(path: &str, schema: &Value, root: &Value, text: &mut String) {
    let required =
        |name: &str| schema["required"].as_array().is_some_and(|list| list.iter().any(|field| field == name));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (path, shown) = (format!("{path}.{name}"), resolve(field, root));
        let default = match &field["default"] {
            Value::Null => String::new(),
            Value::String(default) => format!("`{default}`"),
            default => format!("`{default}`"),
        };
        let bold = if required(name) { "**" } else { "" };
        // A field's own words go before those of its type.
        let meaning = if doc(field).is_empty() { doc(shown) } else { doc(field) };
        let values = values(shown).or_else(|| values(resolve(&shown["items"], root))).unwrap_or_default();
        let (name, field_type) = (path.strip_prefix("spec.").unwrap_or(&path), type_of(shown, root));
        let _ = writeln!(text, "| {bold}`{name}`{bold} | {field_type} | {default} | {meaning}{values} |");
        if shown["type"] == "array" {
            rows(&format!("{path}[]"), resolve(&shown["items"], root), root, text);
        } else {
            rows(&path, shown, root, text);
        }
    }
}

/// What a reference, or an optional value, stands for.
fn resolve<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|link| link.strip_prefix("#/$defs/")) {
        return &root["$defs"][name];
    }
    let some = schema["anyOf"].as_array().and_then(|any| any.iter().find(|schema| schema["type"] != "null"));
    some.map_or(schema, |some| resolve(some, root))
}

fn doc(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}

/// Each value of an enum and what it means.
fn values(schema: &Value) -> Option<String> {
    let mut text = String::from("<ul>");
    for value in schema["oneOf"].as_array()? {
        let _ = write!(text, "<li>`{}`: {}</li>", value["const"].as_str()?, doc(value));
    }
    Some(text + "</ul>")
}

fn type_of(schema: &Value, root: &Value) -> String {
    let name = match &schema["type"] {
        Value::Array(types) => types.iter().find_map(|name| name.as_str().filter(|name| *name != "null")),
        name => name.as_str(),
    };
    let limits = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(min), Some(max)) => format!(", {min} to {max}"),
        (_, _) => String::new(),
    };
    match name {
        _ if schema["oneOf"].is_array() => "enum".into(),
        _ if schema["pattern"] == crate::DURATION_PATTERN => "duration".into(),
        Some("array") => format!("list of {}", type_of(resolve(&schema["items"], root), root)),
        Some("object") if schema["additionalProperties"].is_object() => "map of string".into(),
        Some(name) => format!("{name}{limits}"),
        None => "any".into(),
    }
}

/// Takes out what only repeats a default: our types never write a null, and bounds say more than formats.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("nullable");
            for bound in ["minimum", "maximum"] {
                if let Some(number) = fields.get(bound).and_then(Value::as_f64).filter(|number| number.fract() == 0.0) {
                    fields.insert(bound.into(), Value::from(number as i64));
                }
            }
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
