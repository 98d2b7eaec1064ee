//! The committed Rust of `proto/` is what `proto/` says. `BLESS=1` rewrites it.

use std::{env, fs, path::Path};

const FILES: &[&str] = &[
    "outrigger/config/v1alpha1/config.proto",
    "outrigger/ca/v1alpha1/ca.proto",
    "outrigger/departure/v1alpha1/departure.proto",
    "outrigger/trouble/v1alpha1/trouble.proto",
    "envoy/service/discovery/v3/discovery.proto",
];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&out).unwrap();
    let descriptors = protox::compile(FILES, [root.join("proto")]).unwrap();
    tonic_prost_build::configure()
        .out_dir(&out)
        .bytes(".")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds(descriptors)
        .unwrap();
    let committed = root.join("src/generated");
    for entry in fs::read_dir(&out).unwrap() {
        let entry = entry.unwrap();
        let fresh = fs::read_to_string(entry.path()).unwrap();
        let target = committed.join(entry.file_name());
        if env::var_os("BLESS").is_some() {
            fs::write(&target, &fresh).unwrap();
        }
        let current = fs::read_to_string(&target).unwrap_or_default();
        assert!(
            current == fresh,
            "{} is stale: run BLESS=1 cargo test -p outrigger-wire --test generated",
            target.display()
        );
    }
}
