//! What the chart says of others is true: its README has every value, its dashboards and alerts know the metrics.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// `outrigger_…` in the text, without what the text format appends.
fn metrics(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("outrigger_") {
        let rest = &text[at..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        let name = &rest[..end];
        let suffix = ["_total", "_bucket", "_count", "_sum"].into_iter().find(|suffix| name.ends_with(suffix));
        found.insert(name.strip_suffix(suffix.unwrap_or_default()).unwrap().to_owned());
    }
    found
}

/// Names that the proxies' and the controller's sources write; the controller's registry puts the prefix before its own.
fn written() -> String {
    files(&root().join("data-plane/proxy/src/telemetry"))
        .into_iter()
        .chain([root().join("control-plane/controller/src/metrics.rs")])
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn dashboards_and_alerts_know_the_metrics() {
    let written = written();
    let mut seen = 0;
    for path in files(&root().join("charts/outrigger/files")) {
        if path.parent().unwrap().ends_with("crds") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for name in metrics(&text) {
            let short = name.strip_prefix("outrigger_").unwrap();
            let exists = [&*name, short].iter().any(|name| written.contains(&format!("\"{name}\"")));
            assert!(exists, "{}: no metric is called {name}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen} metrics were found");
}

#[test]
fn dashboards_are_whole() {
    for path in files(&root().join("charts/outrigger/files/dashboards")) {
        let dashboard: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{}: ids repeat", path.display());
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            let title = &panel["title"];
            for target in panel["targets"].as_array().unwrap() {
                let query = target["expr"].as_str().unwrap();
                let balanced = |open: char, close: char| query.matches(open).count() == query.matches(close).count();
                assert!(balanced('(', ')') && balanced('{', '}') && balanced('[', ']'), "{title}: {query}");
            }
        }
    }
}

/// Paths and comments of `values.yaml`: `# -- ` begins a comment, and it is for the next key.
fn values() -> Vec<(String, String)> {
    let (mut found, mut path, mut comment): (Vec<_>, Vec<String>, Option<String>) = (Vec::new(), Vec::new(), None);
    for line in read("charts/outrigger/values.yaml").lines() {
        let text = line.trim_start();
        if let Some(begun) = text.strip_prefix("# -- ") {
            comment = Some(begun.to_owned());
        } else if let (Some(more), Some(comment)) = (text.strip_prefix("# "), comment.as_mut()) {
            comment.push(' ');
            comment.push_str(more);
        } else if let Some((key, _)) = text.split_once(':').filter(|(key, _)| !key.starts_with(['#', '-'])) {
            path.truncate((line.len() - text.len()) / 2);
            path.push(key.to_owned());
            found.extend(comment.take().map(|comment| (path.join("."), comment)));
        }
    }
    found
}

#[test]
fn the_readme_has_every_value() {
    let values = values();
    assert!(values.len() > 50, "only {} values were found", values.len());
    let readme = read("charts/outrigger/README.md");
    let rows: Vec<Vec<&str>> =
        readme.lines().filter(|line| line.starts_with("| `")).map(|line| line.split(" | ").collect()).collect();
    for (key, comment) in &values {
        let row = rows.iter().find(|row| row[0] == format!("| `{key}`"));
        let row = row.unwrap_or_else(|| panic!("charts/outrigger/README.md has no row for {key}"));
        assert_eq!(row.last().unwrap().trim_end_matches(" |"), comment, "the README's words for {key}");
    }
    assert_eq!(rows.len(), values.len(), "the README has rows for values that aren't there");
}

/// The schema refuses what isn't in it, so each value of the file must be there, with words.
#[test]
fn the_schema_describes_every_value() {
    let schema: Value = serde_json::from_str(&read("charts/outrigger/values.schema.json")).unwrap();
    for (key, comment) in values() {
        let of = key.split('.').fold(&schema, |at, name| &at["properties"][name]);
        assert_eq!(of["description"].as_str(), Some(&*comment), "the schema's words for {key}");
    }
}
