//! Injection of files by hand: documents in, documents out, in their order. What isn't changed is passed through to the
//! letter; a document that is changed loses its comments.

use std::fmt;

use outrigger_crds::load::chunks;
use serde_json::Value;

use crate::{InjectorConfig, NamespaceView, Outcome, Refusal, Untouched, inject, yaml};

/// What came of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    pub text: String,
    /// Objects that were given proxies, as `Deployment/shop/front`.
    pub injected: Vec<String>,
    /// Objects with pods that stay as they are.
    pub untouched: Vec<(String, Untouched)>,
    pub warnings: Vec<String>,
}

/// What is wrong with a file, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError(pub Vec<ManifestProblem>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestProblem {
    #[error("line {line}: {error}; correct the YAML")]
    Unreadable { line: usize, error: String },
    #[error("{}", refused(.object, .refusal))]
    Refused { object: String, refusal: Refusal },
}

/// Kinds with a template of pods, and where it is.
const TEMPLATES: [(&str, &[&str]); 8] = [
    ("Pod", &[]),
    ("Deployment", &["spec", "template"]),
    ("StatefulSet", &["spec", "template"]),
    ("DaemonSet", &["spec", "template"]),
    ("ReplicaSet", &["spec", "template"]),
    ("ReplicationController", &["spec", "template"]),
    ("Job", &["spec", "template"]),
    ("CronJob", &["spec", "jobTemplate", "spec", "template"]),
];

/// Gives all pods and templates of pods in a file their proxies. The file is YAML of any number of documents, or JSON.
///
/// # Errors
/// If a document can't be read, or a pod is refused. Nothing is injected then.
pub fn inject_yaml(text: &str, config: &InjectorConfig, namespace: &NamespaceView) -> Result<Manifest, ManifestError> {
    let mut manifest = Manifest::default();
    let mut problems = Vec::new();
    for (lines, chunk) in chunks(text) {
        let mut object = match read(chunk) {
            Ok(object) => object,
            Err(error) => {
                let line = lines + error.location().map_or(1, |place| place.line());
                let error = error.to_string();
                let error = error.split(" at line ").next().unwrap_or(&error).to_owned();
                problems.push(ManifestProblem::Unreadable { line, error });
                continue;
            }
        };
        let before = manifest.injected.len();
        document(&mut object, config, namespace, &mut manifest, &mut problems);
        if manifest.injected.len() == before {
            manifest.text.push_str(chunk);
            if !chunk.ends_with('\n') && !chunk.is_empty() {
                manifest.text.push('\n');
            }
            continue;
        }
        if is_json(chunk) {
            manifest.text.push_str(&format!("{object:#}\n"));
            continue;
        }
        if chunk.lines().any(|line| line.starts_with("---")) {
            manifest.text.push_str("---\n");
        }
        manifest.text.push_str(&yaml::write(&object));
    }
    if problems.is_empty() { Ok(manifest) } else { Err(ManifestError(problems)) }
}

/// Merge keys are resolved, as kubectl does.
fn read(chunk: &str) -> Result<Value, serde_yaml::Error> {
    let mut value: serde_yaml::Value = serde_yaml::from_str(chunk)?;
    value.apply_merge()?;
    let mut value: Value = serde_yaml::from_value(value)?;
    as_kubectl_reads(&mut value, "");
    Ok(value)
}

fn is_json(chunk: &str) -> bool {
    chunk.trim_start().starts_with('{')
}

fn document(
    object: &mut Value,
    config: &InjectorConfig,
    namespace: &NamespaceView,
    manifest: &mut Manifest,
    problems: &mut Vec<ManifestProblem>,
) {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    if kind == "List" {
        for item in object["items"].as_array_mut().into_iter().flatten() {
            document(item, config, namespace, manifest, problems);
        }
        return;
    }
    let Some((_, path)) = TEMPLATES.into_iter().find(|(known, _)| *known == kind) else { return };
    let of = object["metadata"]["namespace"].as_str().unwrap_or(&namespace.name);
    let name = format!("{kind}/{of}/{}", object["metadata"]["name"].as_str().unwrap_or("?"));
    // A file that names another namespace than the user did goes there; what is known of that one's labels stays.
    let namespace = NamespaceView { name: of.to_owned(), labels: namespace.labels.clone() };
    let template = path.iter().try_fold(object, |value, member| value.get_mut(*member));
    let Some(template) = template else { return };
    match inject(template, &namespace, config) {
        Ok(Outcome::Patched { patch, warnings }) => {
            json_patch::patch(template, &patch).expect("the patch was made for this template");
            manifest.warnings.extend(warnings.into_iter().map(|warning| format!("{name}: {warning}")));
            manifest.injected.push(name);
        }
        Ok(Outcome::Untouched { why, warnings }) => {
            manifest.warnings.extend(warnings.into_iter().map(|warning| format!("{name}: {warning}")));
            manifest.untouched.push((name, why));
        }
        Err(refusal) => problems.push(ManifestProblem::Refused { object: name, refusal }),
    }
}

/// What kubectl, which reads YAML 1.1, takes for a number or a boolean, and we for a string. Whether it was quoted is
/// lost here, so only fields are looked at that take nothing else.
fn as_kubectl_reads(value: &mut Value, field: &str) {
    const MODES: [&str; 2] = ["defaultMode", "mode"];
    const BOOLEANS: [&str; 14] = [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "hostUsers",
        "shareProcessNamespace",
        "automountServiceAccountToken",
        "enableServiceLinks",
        "readOnly",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "runAsNonRoot",
        "stdin",
        "tty",
    ];
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| as_kubectl_reads(value, name)),
        Value::Array(items) => items.iter_mut().for_each(|item| as_kubectl_reads(item, "")),
        Value::String(text) if MODES.contains(&field) && text.starts_with('0') => {
            if let Ok(mode) = u32::from_str_radix(text, 8) {
                *value = mode.into();
            }
        }
        Value::String(text) if BOOLEANS.contains(&field) => {
            let known = match text.to_ascii_lowercase().as_str() {
                "y" | "yes" | "on" => Some(true),
                "n" | "no" | "off" => Some(false),
                _ => None,
            };
            if let Some(known) = known {
                *value = known.into();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn refused(object: &str, refusal: &Refusal) -> String {
    let lines: Vec<String> = refusal.to_string().lines().map(|line| format!("{object}: {line}")).collect();
    lines.join("\n")
}

// === impl ManifestError ===

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ManifestError {}
