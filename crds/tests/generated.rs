//! What is generated is current, documented and within the limits of API servers. `BLESS=1` rewrites the files.

#![allow(clippy::unwrap_used, reason = "a test's steps that can't fail")]

use std::{fs, path::Path};

use serde_json::Value;

const FOLDERS: [&str; 2] = ["yaml", "../charts/outrigger/files/crds"];

fn current(path: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(written == text, "{} isn't current: run BLESS=1 cargo test -p outrigger-crds", path.display());
}

#[test]
fn yaml_is_current() {
    for crd in outrigger_crds::crds() {
        // The second is what the chart installs.
        for folder in FOLDERS {
            current(&format!("{folder}/{}.yaml", crd.spec.names.plural), &outrigger_crds::yaml(&crd));
        }
    }
    for folder in FOLDERS {
        let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap().count();
        assert_eq!(files, outrigger_crds::crds().len(), "{folder} has a file that no type belongs to");
    }
}

#[test]
fn reference_is_current() {
    current("../docs/reference.md", &outrigger_crds::reference());
}

/// Calls `visit` with each schema of a kind's spec and status, and its path.
fn walk(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(field, &format!("{path}.{name}"), visit);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), visit);
    }
}

fn walk_all(mut visit: impl FnMut(&str, &Value)) {
    for crd in outrigger_crds::crds() {
        let crd = serde_json::to_value(crd).unwrap();
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        walk(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &kind, &mut visit);
    }
}

#[test]
fn every_field_is_documented() {
    walk_all(|path, schema| {
        let documented = schema["description"].as_str().is_some_and(|text| text.len() > 8);
        // Entries of a list of plain values are described by their list.
        let plain_entry = path.ends_with("[]") && schema["properties"].is_null();
        assert!(documented || plain_entry, "{path} has no description");
        assert!(!schema["description"].as_str().unwrap_or_default().contains("Auto-generated"), "{path}");
    });
}

#[test]
fn api_servers_take_the_schemas() {
    walk_all(|path, schema| {
        // Unsigned formats are unknown to them, and CEL's cost estimate needs a bound on all that grows.
        let format = schema["format"].as_str().unwrap_or_default();
        assert!(!format.starts_with("uint"), "{path}: {format}");
        for keyword in ["oneOf", "anyOf", "allOf", "not", "$ref"] {
            assert!(schema[keyword].is_null(), "{path} has {keyword}");
        }
        let ours = !path.contains(".status");
        let bounded = match schema["type"].as_str() {
            Some("array") => schema["maxItems"].is_u64(),
            Some("string") => schema["maxLength"].is_u64() || schema["enum"].is_array() || !ours,
            Some("integer") => schema["maximum"].is_number() || schema["enum"].is_array() || !ours,
            Some("object") if schema["properties"].is_null() => schema["maxProperties"].is_u64(),
            _ => schema["type"].is_string(),
        };
        assert!(bounded, "{path} has no bound");
    });
}

#[test]
fn columns_and_names() {
    for crd in outrigger_crds::crds() {
        let names = &crd.spec.names;
        let kind = &names.kind;
        assert_eq!(crd.spec.group, "outrigger.dev");
        assert_eq!(names.categories.as_deref(), Some(&["mesh".to_owned()][..]), "{kind}");
        let short = names.short_names.as_deref().unwrap();
        assert!(short.iter().all(|name| (3..=5).contains(&name.len())), "{kind}: {short:?}");
        let version = &crd.spec.versions[0];
        assert!(version.subresources.as_ref().unwrap().status.is_some(), "{kind}");
        let columns: Vec<_> = version.additional_printer_columns.iter().flatten().map(|column| &*column.name).collect();
        assert_eq!(columns[columns.len() - 3..], ["Accepted", "Programmed", "Age"], "{kind}");
    }
}
