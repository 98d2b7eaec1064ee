//! From objects to what is served: each folder of `golden/` holds `in/*.yaml` and the snapshot and problems that must come
//! of it, `out.json`. `BLESS=1` rewrites it. A folder that also has `platform.json`, a list of Nodes, Pods and
//! EndpointSlices, is read as a cluster's objects.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::HashMap, env, fs, path::Path, sync::LazyLock};

use outrigger_crds::{Loaded, parse};
use outrigger_kube::{
    Settings,
    convert::Objects,
    derive::{derive, outcome},
    pod::Pod,
    slice::Slice,
};
use outrigger_model::MeshSnapshot;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, Value as Field};
use serde_json::{Map, Value, json};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data-plane/wire/proto");
    let files = protox::compile(["outrigger/config/v1alpha1/config.proto"], [proto]).unwrap();
    DescriptorPool::from_file_descriptor_set(files).unwrap()
});

fn settings() -> Settings {
    Settings { trust_domain: "cluster.local".to_owned(), roots: vec!["a root".into()], ..Settings::default() }
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

/// What no user writes.
#[derive(Default)]
struct Platform {
    zones: HashMap<String, String>,
    pods: Vec<Pod>,
    slices: Vec<Slice>,
}

impl Platform {
    fn load(file: &Path) -> Option<Self> {
        let objects: Vec<Value> = serde_json::from_str(&fs::read_to_string(file).ok()?).unwrap();
        let mut platform = Self::default();
        for object in objects {
            match object["kind"].as_str().unwrap() {
                "Node" => {
                    let metadata = &object["metadata"];
                    let zone = metadata["labels"]["topology.kubernetes.io/zone"].as_str().unwrap_or_default();
                    platform.zones.insert(metadata["name"].as_str().unwrap().to_owned(), zone.to_owned());
                }
                "Pod" => platform.pods.push(Pod::read(object).unwrap()),
                "EndpointSlice" => platform.slices.push(Slice::read(object).unwrap()),
                other => panic!("{other} is no kind of the platform"),
            }
        }
        Some(platform)
    }
}

/// As the source does that the folder stands for.
fn snapshot(
    loaded: &[&Loaded],
    platform: Option<&Platform>,
    previous: Option<&MeshSnapshot>,
) -> (MeshSnapshot, Vec<String>) {
    let Some(platform) = platform else {
        let (snapshot, problems) = derive(loaded, &settings(), previous);
        return (snapshot, problems.iter().map(ToString::to_string).collect());
    };
    let mut objects = Objects {
        pods: platform.pods.iter().collect(),
        slices: platform.slices.iter().collect(),
        zones: platform.zones.iter().map(|(node, zone)| (node.as_str(), zone.as_str())).collect(),
        ..Objects::default()
    };
    loaded.iter().for_each(|loaded| objects.push(&loaded.object));
    let mut outcome = outcome(&objects, &settings(), previous);
    outcome.findings.sort();
    (outcome.snapshot, outcome.findings.iter().map(ToString::to_string).collect())
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
        let mut platform = Platform::load(&case.join("platform.json"));
        let (snapshot, found) = snapshot(&all, platform.as_ref(), None);
        problems.extend(found);
        let out = json!({ "problems": problems, "snapshot": dump(&snapshot) });
        let text = format!("{}\n", serde_json::to_string_pretty(&out).unwrap());
        let file = case.join("out.json");
        if env::var_os("BLESS").is_some() {
            fs::write(&file, &text).unwrap();
        }
        if fs::read_to_string(&file).unwrap_or_default() != text {
            stale.push(case.file_name().unwrap().to_owned());
        }

        // Whatever the order of objects, the same is served, and nothing of it anew.
        let reversed: Vec<&Loaded> = loaded.iter().rev().collect();
        if let Some(platform) = &mut platform {
            platform.pods.reverse();
            platform.slices.reverse();
        }
        let (again, _) = self::snapshot(&reversed, platform.as_ref(), Some(&snapshot));
        assert_eq!(again, snapshot, "{}", case.display());
    }
    assert!(stale.is_empty(), "{stale:?}: compare with BLESS=1 cargo test -p outrigger-kube --test golden; git diff");
}
