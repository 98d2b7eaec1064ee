//! Every YAML example in the docs loads: what people copy works.

#![allow(clippy::unwrap_used, reason = "a test's steps that can't fail")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use outrigger_crds::{Object, parse};

/// The fenced blocks of one language, each with the line that it begins on.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, String)> = None;
    let mut other = false;
    for (at, line) in text.lines().enumerate() {
        match (line.trim_start().strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(_), None) if other => other = false,
            (Some(words), None) if words.split_whitespace().next() == Some(language) => {
                open = Some((at + 2, String::new()));
            }
            (Some(_), None) => other = true,
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

/// What people read.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = vec![root.join("README.md"), root.join("charts/outrigger/README.md")];
    files.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    files
}

#[test]
fn examples_load() {
    let (mut examples, mut problems) = (0, String::new());
    for path in pages() {
        let text = fs::read_to_string(&path).unwrap();
        for (line, block) in blocks(&text, "yaml") {
            // Values of the chart, pods and the like have no `kind` of ours; the chart's tests are for those.
            if !block.contains("outrigger.dev/v1alpha1") && !block.contains("gateway.networking.k8s.io/") {
                continue;
            }
            let (loaded, found) = parse(&format!("{}:{line}", path.display()), &block);
            assert!(!loaded.is_empty() || !found.is_empty(), "{}:{line} is empty", path.display());
            examples += loaded.iter().filter(|loaded| !matches!(loaded.object, Object::Namespace(_))).count();
            problems.extend(found.iter().map(|problem| format!("{problem}\n")));
        }
    }
    assert!(problems.is_empty(), "{problems}");
    assert!(examples >= 10, "only {examples} examples were found");
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// Links within the repository, as they are written.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()).filter(|link| !link.contains("://"))
}

#[test]
fn links_lead_somewhere() {
    let mut broken = String::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text) {
            let (path, wanted) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let known: BTreeSet<_> = match fs::read_to_string(&target) {
                Ok(there) => there.lines().filter(|line| line.starts_with('#')).map(anchor).collect(),
                Err(_) => BTreeSet::new(),
            };
            if !target.exists() || !wanted.is_empty() && !known.contains(wanted) {
                broken += &format!("{}: {link}\n", page.display());
            }
        }
    }
    assert!(broken.is_empty(), "{broken}");
}
