//! From files to what is served: each folder of `golden/` holds `in/*.yaml` and the snapshot and problems that must come
//! of it, `out.json`. `BLESS=1` rewrites it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{env, fs, path::Path, sync::LazyLock};

use outrigger_crds::{Loaded, parse};
use outrigger_kube::{Settings, derive::derive};
use outrigger_model::MeshSnapshot;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value as Field};
use serde_json::{Map, Value, json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data-plane/wire/proto");
    let files = protox::compile(["outrigger/config/v1alpha1/config.proto"], [proto]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
});

fn settings() -> Settings {
    Settings { trust_domain: "cluster.local".to_owned(), roots: vec!["a root".into()] }
}

fn load(dir: &Path) -> (Vec<Loaded>, Vec<String>) {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    for path in files {
        let (good, bad) = parse(path.file_name().unwrap().to_str().unwrap(), &fs::read_to_string(&path).unwrap());
        loaded.extend(good);
        problems.extend(bad.iter().map(ToString::to_string));
    }
    (loaded, problems)
}

/// The snapshot by type and name. Fields with their default value are left out.
fn dump(snapshot: &MeshSnapshot) -> Value {
    let types = snapshot.types.iter().map(|(url, set)| {
        let name = url.rsplit('/').next().unwrap();
        let resources = set.resources.iter().map(|(name_of, resource)| {
            let descriptor = POOL.get_message_by_name(name).unwrap();
            (name_of.to_string(), message(&DynamicMessage::decode(descriptor, resource.body.clone()).unwrap()))
        });
        (name.rsplit('.').next().unwrap().to_owned(), Value::Object(resources.collect()))
    });
    Value::Object(types.collect())
}

fn message(message: &DynamicMessage) -> Value {
    let set = message.fields();
    let fields: Map<String, Value> = set
        .map(|(descriptor, value)| {
            let value = match value {
                Field::EnumNumber(number) => {
                    let kind = descriptor.kind();
                    json!(kind.as_enum().unwrap().get_value(*number).unwrap().name())
                }
                other => field(other),
            };
            (descriptor.name().to_owned(), value)
        })
        .collect();
    Value::Object(fields)
}

fn field(value: &Field) -> Value {
    match value {
        Field::Bool(value) => json!(value),
        Field::U32(value) => json!(value),
        Field::U64(value) => json!(value),
        Field::String(value) => json!(value),
        Field::Bytes(value) => json!(String::from_utf8_lossy(value)),
        Field::Message(value) => message(value),
        Field::List(values) => values.iter().map(field).collect(),
        other => panic!("our messages have no such field: {other:?}"),
    }
}

#[test]
fn files_give_the_snapshots_beside_them() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut cases: Vec<_> = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    assert!(!cases.is_empty());
    let mut stale = Vec::new();
    for case in cases {
        let (loaded, mut problems) = load(&case.join("in"));
        let all: Vec<&Loaded> = loaded.iter().collect();
        let (snapshot, found) = derive(&all, &settings(), None);
        problems.extend(found.iter().map(ToString::to_string));
        let out = json!({ "problems": problems, "snapshot": dump(&snapshot) });
        let text = format!("{}\n", serde_json::to_string_pretty(&out).unwrap());
        let file = case.join("out.json");
        if env::var_os("BLESS").is_some() {
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            stale.push(case.file_name().unwrap().to_owned());
        }

        // Whatever the order of files, the same is served, and nothing of it anew.
        let reversed: Vec<&Loaded> = loaded.iter().rev().collect();
        let (again, _) = derive(&reversed, &settings(), Some(&snapshot));
        assert_eq!(again, snapshot, "{}", case.display());
    }
    assert!(stale.is_empty(), "{stale:?}: compare with BLESS=1 cargo test -p outrigger-kube --test golden; git diff");
}
