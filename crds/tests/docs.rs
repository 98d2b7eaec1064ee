//! Every YAML example in the docs loads: what people copy works.

#![allow(clippy::unwrap_used, reason = "a test's steps that can't fail")]

use std::{fs, path::Path};

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

#[test]
fn examples_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = vec![root.join("README.md")];
    files.extend(fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    files.sort();
    let (mut examples, mut problems) = (0, String::new());
    for path in files {
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
