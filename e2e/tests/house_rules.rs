//! What must hold for the whole tree: who may depend on whom, minimum versions, one TLS stack, the size of files.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// Our crates, and which of ours each may depend on directly.
const MAY: &[(&str, &[&str])] = &[
    ("outrigger-wire", &[]),
    ("outrigger-crds", &["outrigger-wire"]),
    ("outrigger-core", &["outrigger-wire"]),
    ("outrigger-config", &["outrigger-core", "outrigger-wire"]),
    ("outrigger-dataplane", &["outrigger-core", "outrigger-wire"]),
    ("outrigger-proxy-app", &["outrigger-config", "outrigger-core", "outrigger-dataplane", "outrigger-wire"]),
    ("outrigger-model", &["outrigger-wire"]),
    ("outrigger-kube", &["outrigger-crds", "outrigger-model", "outrigger-wire"]),
    ("outrigger-xds", &["outrigger-model", "outrigger-wire"]),
    ("outrigger-ca", &["outrigger-wire"]),
    ("outrigger-webhook", &["outrigger-core", "outrigger-crds", "outrigger-model", "outrigger-wire"]),
    (
        "outrigger-controller",
        &[
            "outrigger-ca",
            "outrigger-crds",
            "outrigger-kube",
            "outrigger-model",
            "outrigger-webhook",
            "outrigger-wire",
            "outrigger-xds",
        ],
    ),
    (
        "outrigger-cli",
        &[
            "outrigger-core",
            "outrigger-crds",
            "outrigger-model",
            "outrigger-testbed",
            "outrigger-webhook",
            "outrigger-wire",
        ],
    ),
    ("outrigger-testbed", &["outrigger-crds", "outrigger-wire"]),
    // For tests alone.
    ("outrigger-replay", &[]),
    // Runs what serves against what is served, so that it must reach both.
    (
        "outrigger-simulation",
        &["outrigger-config", "outrigger-core", "outrigger-model", "outrigger-wire", "outrigger-xds"],
    ),
    // The gate counts what our own code does on fixed inputs, so that it must reach it.
    (
        "outrigger-bench",
        &["outrigger-core", "outrigger-dataplane", "outrigger-model", "outrigger-testbed", "outrigger-wire"],
    ),
    ("outrigger-e2e", &["outrigger-crds", "outrigger-testbed", "outrigger-wire"]),
];

/// Crates that some of ours must not reach, however indirectly.
const NEVER: &[(&str, &[&str])] = &[
    ("outrigger-core", &["tonic", "hyper", "rustls", "socket2", "mio", "kube"]),
    ("outrigger-model", &["tonic", "hyper", "rustls", "tokio", "kube", "k8s-openapi"]),
    ("outrigger-xds", &["kube", "k8s-openapi"]),
    ("outrigger-dataplane", &["tonic", "kube"]),
];

/// Not anywhere in the tree.
const BANNED: &[&str] = &["openssl", "native-tls"];

/// Below these are known holes (see deny.toml). One that isn't used any more loses its row: by another name it would have no
/// floor.
const FLOOR: &[(&str, [u64; 3])] = &[
    ("h2", [0, 4, 16]),
    ("hyper", [1, 0, 0]),
    ("rustls", [0, 23, 45]),
    ("rustls-webpki", [0, 103, 13]),
    ("tonic", [0, 12, 3]),
    ("tracing-subscriber", [0, 3, 20]),
    ("tungstenite", [0, 20, 1]),
];

/// Lines of a source file, tests and all; generated ones aside.
const MAX_LINES: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Files of the tree.
fn tracked() -> Vec<String> {
    let out = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success());
    String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Normal dependencies by package name, as cargo resolved them.
fn graph() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let list = |value: &Value| value.as_array().unwrap().clone();
    let names: BTreeMap<_, _> =
        list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let normal = |dep: &Value| list(&dep["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
    list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let all = list(&node["deps"]);
            let deps = all.iter().filter(|dep| normal(dep)).map(|dep| names[&text(&dep["pkg"])].clone());
            (names[&text(&node["id"])].clone(), deps.collect())
        })
        .collect()
}

/// Every crate that `package` is built from when it is built alone: features of the others don't count.
fn reach(package: &str) -> BTreeSet<String> {
    let out = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--offline",
            "--locked",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn dependencies_point_one_way() {
    let graph = graph();
    let ours: BTreeSet<_> = graph.keys().filter(|name| name.starts_with("outrigger-")).cloned().collect();
    let listed: BTreeSet<_> = MAY.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(ours, listed, "every crate of ours has its row in MAY");
    for (name, may) in MAY {
        for dep in graph[*name].intersection(&ours) {
            assert!(may.contains(&&**dep), "{name} must not depend on {dep}");
        }
    }
    for (name, never) in NEVER {
        for dep in reach(name) {
            assert!(!never.contains(&&*dep), "{name} must not reach {dep}");
        }
    }
}

#[test]
fn the_lock_file_keeps_the_floor() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim_matches([' ', '=', '"'])
        };
        versions.entry(field("name")).or_default().push(field("version"));
    }
    for name in BANNED {
        assert!(!versions.contains_key(name), "{name} is banned, see deny.toml");
    }
    for (name, floor) in FLOOR {
        let locked =
            versions.get(name).unwrap_or_else(|| panic!("{name} isn't in the tree: what has come in its place?"));
        for version in locked {
            let parts: Vec<u64> = version.split(['.', '-', '+']).take(3).map(|part| part.parse().unwrap()).collect();
            assert!(parts[..] >= floor[..], "{name} {version} is below {floor:?}");
        }
    }
    for binary in ["outrigger-proxy-app", "outrigger-controller", "outrigger-cli"] {
        assert!(!reach(binary).contains("ring"), "{binary}: one crypto provider alone");
    }
}

/// A key that somebody could find here is a key that anybody has (CVE-2026-31837). Tests make theirs.
#[test]
fn no_key_is_in_the_source() {
    // PEM, not written here as it is looked for.
    let pem = ["RSA ", "EC ", ""].map(|kind| format!("-----BEGIN {kind}PRIVATE{}KEY-----\nM", ' '));
    // PKCS #8 of a P-256 key, as DER.
    let der = [0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let has = |bytes: &[u8], part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    let mut problems = Vec::new();
    for file in tracked() {
        let Ok(bytes) = fs::read(root().join(&file)) else { continue };
        if has(&bytes, &der) || pem.iter().any(|pem| has(&bytes, pem.as_bytes())) {
            problems.push(file);
        }
    }
    assert!(problems.is_empty(), "private keys in {problems:?}");
}

#[test]
fn files_are_short_and_name_no_machine() {
    let mut problems = Vec::new();
    for file in tracked() {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        let lines = text.lines().count();
        if file.ends_with(".rs") && !file.contains("/generated/") && lines > MAX_LINES {
            problems.push(format!("{file}: {lines} lines, at most {MAX_LINES}"));
        }
        if file.ends_with("mod.rs") {
            problems.push(format!("{file}: modules are named after themselves"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
