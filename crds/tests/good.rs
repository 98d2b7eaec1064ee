//! Everything in the folder `good` loads, and nothing that random changes of it make breaks the loader.

#![allow(clippy::unwrap_used, reason = "a test's steps that can't fail")]

use std::{fs, path::Path};

use outrigger_crds::{Object, duplicates, parse, read_value};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde_json::json;

fn files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn all_load() {
    let mut all = Vec::new();
    for (file, text) in files() {
        let (loaded, problems) = parse(&file, &text);
        assert!(problems.is_empty(), "{}", problems.iter().map(|p| format!("{p}\n")).collect::<String>());
        assert!(!loaded.is_empty(), "{file} is empty");
        all.extend(loaded);
    }
    assert_eq!(duplicates(&all), []);
    let mut kinds: Vec<_> = all.iter().map(|loaded| loaded.object.kind()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "AccessPolicy",
            "GRPCRoute",
            "HTTPRoute",
            "MeshConfig",
            "MeshRoute",
            "Namespace",
            "ReferenceGrant",
            "Service",
            "TrafficPolicy",
            "Workload"
        ]
    );
}

#[test]
fn what_an_api_server_adds_is_no_mistake() {
    let object = |filter: &str| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": "r", "namespace": "a", "managedFields": [{ "manager": "x", "of": "later" }], "of": "later" },
            "spec": {
                "parentRefs": [{ "group": "", "kind": "Service", "name": "s", "of": "later" }],
                "rules": [{ "of": ["later"], "filters": [{ "type": filter, "requestHeaderModifier": { "remove": ["x"] } }] }],
            },
            "status": { "parents": [{ "of": "later" }] },
        })
    };
    assert_eq!(read_value(object("RequestHeaderModifier")).unwrap().to_string(), "HTTPRoute/a/r");
    // A value of later means something that isn't known: that can't be ignored.
    let problems = read_value(object("Teleport")).unwrap_err();
    assert_eq!(problems.iter().map(|p| p.field.as_str()).collect::<Vec<_>>(), ["spec.rules[0].filters[0].type"]);
    for nonsense in [json!(1), json!({}), json!({ "kind": "HTTPRoute" }), json!({ "kind": "Pod", "apiVersion": "v1" })]
    {
        assert!(read_value(nonsense).is_err());
    }
}

/// What is written back, as the API server would show it, reads as the same object.
#[test]
fn written_back_they_read_the_same() {
    for (file, text) in files() {
        for loaded in parse(&file, &text).0 {
            let json = match &loaded.object {
                Object::Service(object) => serde_json::to_string(object),
                Object::Namespace(object) => serde_json::to_string(object),
                Object::Workload(object) => serde_json::to_string(object),
                Object::MeshConfig(object) => serde_json::to_string(object),
                Object::MeshRoute(object) => serde_json::to_string(object),
                Object::TrafficPolicy(object) => serde_json::to_string(object),
                Object::AccessPolicy(object) => serde_json::to_string(object),
                Object::HttpRoute(object) => serde_json::to_string(object),
                Object::GrpcRoute(object) => serde_json::to_string(object),
                Object::ReferenceGrant(object) => serde_json::to_string(object),
            }
            .unwrap();
            let (again, problems) = parse("again.json", &json);
            assert!(problems.is_empty(), "{}", problems[0]);
            assert_eq!(again[0].object, loaded.object);
        }
    }
}

#[test]
fn mutations_never_panic() {
    let files = files();
    let words = [
        "",
        "null",
        "-1",
        "99999999999999999999",
        "1.5",
        "true",
        "[]",
        "{}",
        "\"",
        "'",
        "&a",
        "*a",
        "!x",
        "---",
        "...",
        "|",
        ">",
        ":",
        "- ",
        "\t",
        "\u{0}",
        "ä",
        "spec:",
        "<<: *a",
        "1e400",
        "kind: List",
        "%",
        "/*",
        "::/0",
        "(",
        "a{9999}",
    ];
    let mut rng = SmallRng::seed_from_u64(0x6f75_7472);
    let mut refused = 0;
    for round in 0..4_000 {
        let (file, text) = files.choose(&mut rng).unwrap();
        let mut characters: Vec<char> = text.chars().collect();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..characters.len());
            let until = (at + rng.random_range(0..12)).min(characters.len());
            match rng.random_range(0..4) {
                0 => drop(characters.drain(at..until)),
                1 => drop(characters.splice(at..at, words.choose(&mut rng).unwrap().chars())),
                2 => drop(characters.splice(at..until, words.choose(&mut rng).unwrap().chars())),
                _ => {
                    let copied = characters[at..until].to_vec();
                    let to = rng.random_range(0..characters.len());
                    drop(characters.splice(to..to, copied));
                }
            }
            if characters.is_empty() {
                characters.push('x');
            }
        }
        let mutated: String = characters.into_iter().collect();
        let (_, problems) = parse(file, &mutated);
        refused += usize::from(!problems.is_empty());
        for problem in problems {
            assert!(!problem.problem.is_empty() && !problem.remedy.is_empty(), "round {round}: {problem:?}");
        }
    }
    assert!(refused > 2_000, "only {refused} of 4,000 were refused");
}
