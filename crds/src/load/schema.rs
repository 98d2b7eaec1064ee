//! Checks a value against its kind's structural schema: what serde would say without a path.

use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::suggest;
use crate::{
    DURATION_PATTERN, Duration, names,
    object::{KINDS, Kind},
    validate::FieldProblem,
};

static SCHEMAS: LazyLock<Vec<(&'static str, Value)>> =
    LazyLock::new(|| KINDS.iter().map(|kind| (kind.kind, (kind.schema)())).collect());

/// Unknown and missing fields, wrong types, values out of range, each with its path.
pub(crate) fn check(kind: &Kind, value: &Value) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    if let Some((_, schema)) = SCHEMAS.iter().find(|(name, _)| *name == kind.kind) {
        check_value(schema, value, "", &mut problems);
    }
    problems
}

/// Removes fields that the schema doesn't know, as API servers do.
pub(crate) fn prune(kind: &Kind, value: &mut Value) {
    if let Some((_, schema)) = SCHEMAS.iter().find(|(name, _)| *name == kind.kind) {
        prune_value(schema, value);
    }
}

fn prune_value(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) if schema["x-kubernetes-preserve-unknown-fields"] != true => {
            let known = schema["properties"].as_object();
            let others = &schema["additionalProperties"];
            if let Some(known) = known.filter(|_| !others.is_object()) {
                fields.retain(|name, _| known.contains_key(name));
            }
            for (name, value) in fields {
                prune_value(known.and_then(|known| known.get(name)).unwrap_or(others), value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| prune_value(&schema["items"], item)),
        _ => {}
    }
}

fn check_value(schema: &Value, value: &Value, path: &str, problems: &mut Vec<FieldProblem>) {
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_i64() && !value.is_string() {
            problems.push(wrong_type(path, "an integer or a string", value));
        }
        return;
    }
    match (schema["type"].as_str(), value) {
        (Some("object"), Value::Object(fields)) => check_object(schema, fields, path, problems),
        (Some("array"), Value::Array(items)) => check_array(schema, items, path, problems),
        (Some("string"), Value::String(text)) => check_string(schema, text, path, problems),
        (Some("integer"), Value::Number(_)) => check_integer(schema, value, path, problems),
        (Some("boolean"), Value::Bool(_)) => check_enum(schema, value, path, problems),
        (Some("object"), _) => problems.push(wrong_type(path, "an object", value)),
        (Some("array"), _) => problems.push(wrong_type(path, "a list", value)),
        (Some("string"), _) => problems.push(wrong_type(path, "a string", value)),
        (Some("integer"), _) => problems.push(wrong_type(path, "an integer", value)),
        (Some("boolean"), _) => problems.push(wrong_type(path, "true or false", value)),
        // Our types have no others; what a schema doesn't restrict is left to serde.
        (_, _) => {}
    }
}

fn check_object(schema: &Value, fields: &Map<String, Value>, path: &str, problems: &mut Vec<FieldProblem>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    let size = Size { count: fields.len(), min: "minProperties", max: "maxProperties", unit: "entries" };
    size.check(schema, path, problems);
    let known = schema["properties"].as_object();
    for (name, value) in fields {
        let path = child(path, name);
        if let Some(schema) = known.and_then(|known| known.get(name)) {
            check_value(schema, value, &path, problems);
        } else if schema["additionalProperties"].is_object() {
            check_value(&schema["additionalProperties"], value, &path, problems);
        } else if let Some(known) = known {
            let remedy = match suggest::closest(name, known.keys().map(String::as_str)) {
                Some(meant) => format!("did you mean {meant}?"),
                None => format!("known are {}", names(known.keys().map(String::as_str))),
            };
            problems.push(FieldProblem::new(&path, "unknown field", remedy));
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            let doc = schema["properties"][name]["description"].as_str().unwrap_or_default();
            // One sentence is a remedy; the rest is in the reference.
            let first = doc.split(". ").next().unwrap_or(doc).split('\n').next().unwrap_or(doc).trim_end_matches('.');
            let remedy = if first.is_empty() { format!("add {name}") } else { format!("add {name}: {first}") };
            problems.push(FieldProblem::new(child(path, name), "it is missing", remedy));
        }
    }
}

fn check_array(schema: &Value, items: &[Value], path: &str, problems: &mut Vec<FieldProblem>) {
    Size { count: items.len(), min: "minItems", max: "maxItems", unit: "entries" }.check(schema, path, problems);
    for (index, item) in items.iter().enumerate() {
        check_value(&schema["items"], item, &format!("{path}[{index}]"), problems);
    }
}

fn check_string(schema: &Value, text: &str, path: &str, problems: &mut Vec<FieldProblem>) {
    let count = text.chars().count();
    Size { count, min: "minLength", max: "maxLength", unit: "characters" }.check(schema, path, problems);
    if schema["pattern"] == DURATION_PATTERN
        && let Err(error) = text.parse::<Duration>()
    {
        let (problem, remedy) = ("not a duration", error.to_string());
        let remedy = remedy.split_once(": ").map_or(remedy.as_str(), |(_, remedy)| remedy);
        problems.push(FieldProblem::new(path, format!("{problem}: {text:?}"), remedy));
    }
    check_enum(schema, &Value::String(text.into()), path, problems);
}

fn check_enum(schema: &Value, value: &Value, path: &str, problems: &mut Vec<FieldProblem>) {
    let Some(values) = schema["enum"].as_array().filter(|values| !values.contains(value)) else {
        return;
    };
    let meant = value.as_str().and_then(|word| suggest::closest(word, values.iter().filter_map(Value::as_str)));
    let remedy = match meant {
        Some(meant) => format!("did you mean {meant}?"),
        None if values.len() == 1 => format!("write {} or leave it out", plain(&values[0])),
        None => format!("write one of {}", names(values.iter().map(plain))),
    };
    problems.push(FieldProblem::new(path, format!("{value} isn't allowed"), remedy));
}

fn check_integer(schema: &Value, value: &Value, path: &str, problems: &mut Vec<FieldProblem>) {
    let Some(number) = value.as_i64() else {
        problems.push(wrong_type(path, "an integer", value));
        return;
    };
    let narrow = schema["format"] == "int32";
    let least = schema["minimum"].as_f64().unwrap_or(if narrow { i32::MIN.into() } else { f64::MIN });
    let most = schema["maximum"].as_f64().unwrap_or(if narrow { i32::MAX.into() } else { f64::MAX });
    if (number as f64) < least || number as f64 > most {
        let remedy = format!("write a number from {least} to {most}");
        problems.push(FieldProblem::new(path, format!("{number} is out of range"), remedy));
    }
    check_enum(schema, value, path, problems);
}

/// A count and the names of its bounds in the schema.
struct Size {
    count: usize,
    min: &'static str,
    max: &'static str,
    unit: &'static str,
}

fn wrong_type(path: &str, wanted: &str, value: &Value) -> FieldProblem {
    let (got, remedy) = match value {
        Value::Null => ("null", "give it a value or leave it out"),
        Value::Bool(_) | Value::Number(_) if wanted == "a string" => (kind_of(value), "put it in quotes"),
        Value::String(text) if wanted == "an integer" && text.parse::<i64>().is_ok() => {
            ("a string", "remove the quotes")
        }
        Value::String(text) if wanted == "true or false" && matches!(text.as_str(), "true" | "false") => {
            ("a string", "remove the quotes")
        }
        Value::Object(_) if wanted == "a list" => ("an object", "begin each entry with a dash"),
        _ => (kind_of(value), "see docs/reference.md"),
    };
    FieldProblem::new(path, format!("it must be {wanted}, not {got}"), remedy)
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a fraction",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// As a user writes it in YAML.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn child(path: &str, name: &str) -> String {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.is_empty();
    match (path, plain) {
        ("", true) => name.into(),
        (_, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name:?}]"),
    }
}

// === impl Size ===

impl Size {
    fn check(&self, schema: &Value, path: &str, problems: &mut Vec<FieldProblem>) {
        let Self { count, min, max, unit } = self;
        if let Some(least) = schema[min].as_u64().filter(|least| (*count as u64) < *least) {
            let problem = if *count == 0 { "it is empty".into() } else { format!("it has {count} {unit}") };
            let unit = if least == 1 { unit.trim_end_matches('s').replace("entrie", "entry") } else { (*unit).into() };
            problems.push(FieldProblem::new(path, problem, format!("write at least {least} {unit}")));
        }
        if let Some(most) = schema[max].as_u64().filter(|most| *count as u64 > *most) {
            problems.push(FieldProblem::new(path, format!("it has {count} {unit}"), format!("write at most {most}")));
        }
    }
}
