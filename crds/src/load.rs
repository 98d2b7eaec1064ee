//! Reads objects from the text of files. Pure: it opens no file and keeps nothing.
//!
//! What is wrong is said with file, object, field and remedy. A bad document doesn't hold up the others of its file;
//! whether the good ones are used is the caller's decision.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde_json::Value;

use crate::{
    Object, names,
    object::{KINDS, Kind},
    validate::{FieldProblem, validate},
};

mod schema;
mod suggest;
mod text;

pub use suggest::closest;
pub use text::chunks;

/// Largest file, in bytes.
pub const MAX_FILE_BYTES: usize = 4 << 20;

/// Problems told of one document at most; more would bury the first.
const MAX_PROBLEMS: usize = 50;

/// An object and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub file: Arc<str>,
    /// Which document of the file, from 0.
    pub document: usize,
    pub object: Object,
}

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: Arc<str>,
    /// Which document of the file, from 0.
    pub document: usize,
    /// `KIND/NAMESPACE/NAME`, as far as it is known.
    pub object: String,
    /// Such as `spec.rules[0].backendRefs[1].port`; "" if the whole document is meant.
    pub field: String,
    pub problem: String,
    pub remedy: String,
}

/// Reads all documents of a file of YAML, or of JSON if its name ends with `.json`.
///
/// An object of a namespaced kind without a namespace is in `default`, as with kubectl. `status` is ignored.
pub fn parse(file: &str, text: &str) -> (Vec<Loaded>, Vec<Problem>) {
    let file: Arc<str> = file.into();
    let mut loaded = Vec::new();
    let mut problems = Vec::new();
    if text.len() > MAX_FILE_BYTES {
        let found = FieldProblem::new("", format!("the file has more than {MAX_FILE_BYTES} bytes"), "split it");
        return (loaded, vec![Problem::new(&file, 0, "", found)]);
    }
    for (document, value) in text::documents(&file, text).into_iter().enumerate() {
        let mut object = String::new();
        match value.and_then(|value| value.map(|value| read(value, &mut object)).transpose()) {
            Ok(Some(object)) => loaded.push(Loaded { file: file.clone(), document, object }),
            Ok(None) => {}
            Err(found) => {
                problems.extend(found.into_iter().map(|found| Problem::new(&file, document, &object, found)));
            }
        }
    }
    (loaded, problems)
}

/// Objects that are written more than once, in one or several files. The caller decides which files belong together.
pub fn duplicates<'a>(loaded: impl IntoIterator<Item = &'a Loaded>) -> Vec<Problem> {
    let mut seen = BTreeMap::new();
    let mut problems = Vec::new();
    for Loaded { file, document, object } in loaded {
        let name = object.to_string();
        if let Some((first, index)) = seen.get(&name) {
            let problem = format!("it is already written in {first}, document {index}");
            let found = FieldProblem::new("metadata.name", problem, "remove one of them or rename it");
            problems.push(Problem::new(file, *document, &name, found));
        } else {
            seen.insert(name, (file, document));
        }
    }
    problems
}

/// Reads an object that an API server has sent: fields that aren't known here are newer, not wrong, and are ignored.
///
/// # Errors
/// If a known field has a value that isn't, or the object is of no kind that is known.
pub fn read_value(mut value: Value) -> Result<Object, Vec<FieldProblem>> {
    if let Some(kind) = value.as_object().and_then(|fields| kind_of(fields).ok()) {
        schema::prune(kind, &mut value);
    }
    read(value, &mut String::new())
}

/// `name` becomes what is known of the object's name.
fn read(mut value: Value, name: &mut String) -> Result<Object, Vec<FieldProblem>> {
    let Some(fields) = value.as_object_mut() else {
        let remedy = "write an object with apiVersion, kind, metadata and spec";
        return Err(vec![FieldProblem::new("", "the document is no object", remedy)]);
    };
    let kind = kind_of(fields).map_err(|found| vec![found])?;
    *name = kind.kind.into();
    fields.remove("status");
    drop_nulls(&mut value);
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    if kind.namespaced
        && let Some(metadata) = metadata
    {
        metadata.entry("namespace").or_insert_with(|| "default".into());
    }
    for part in ["namespace", "name"] {
        if let Some(part) = value["metadata"][part].as_str() {
            *name = format!("{name}/{part}");
        }
    }
    let mut problems = schema::check(kind, &value);
    if !problems.is_empty() {
        problems.truncate(MAX_PROBLEMS);
        return Err(problems);
    }
    let object = (kind.read)(value)
        .map_err(|error| vec![FieldProblem::new("", error.to_string(), "compare it with docs/reference.md")])?;
    problems = validate(&object);
    if problems.is_empty() {
        return Ok(object);
    }
    problems.truncate(MAX_PROBLEMS);
    Err(problems)
}

fn kind_of(fields: &serde_json::Map<String, Value>) -> Result<&'static Kind, FieldProblem> {
    let known = || names(KINDS.iter().map(|kind| kind.kind));
    let kind = match fields.get("kind") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(FieldProblem::new("kind", "it must be a string", format!("write one of {}", known()))),
        None => return Err(FieldProblem::new("kind", "it is missing", format!("write one of {}", known()))),
    };
    let Some(found) = KINDS.iter().find(|known| known.kind == kind) else {
        let remedy = match closest(kind, KINDS.iter().map(|kind| kind.kind)) {
            Some(meant) => format!("did you mean {meant}? Known are {}", known()),
            None => format!("known are {}", known()),
        };
        return Err(FieldProblem::new("kind", format!("unknown kind {kind:?}"), remedy));
    };
    let remedy = || format!("write {}", found.api_versions[0]);
    match fields.get("apiVersion") {
        Some(Value::String(version)) if found.api_versions.contains(&version.as_str()) => Ok(found),
        Some(Value::String(version)) => {
            Err(FieldProblem::new("apiVersion", format!("no version of {kind} that is known: {version:?}"), remedy()))
        }
        Some(_) => Err(FieldProblem::new("apiVersion", "it must be a string", remedy())),
        None => Err(FieldProblem::new("apiVersion", "it is missing", remedy())),
    }
}

/// As API servers do: a null is a field that isn't there.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

// === impl Problem ===

impl Problem {
    fn new(file: &Arc<str>, document: usize, object: &str, found: FieldProblem) -> Self {
        let FieldProblem { field, problem, remedy } = found;
        Self { file: file.clone(), document, object: object.into(), field, problem, remedy }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}: ", self.file)?;
        }
        match self.object.as_str() {
            "" => write!(f, "document {}: ", self.document)?,
            object => write!(f, "{object}: ")?,
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}
