use std::{fs, os::unix::fs::PermissionsExt};

use outrigger_wire::{names::type_url, proto::config as wire};
use prost_types::Any;
use tempfile::TempDir;

use super::*;

/// Dies of one name, and reads as [`taste`] does.
const POISONED: &str = "while n=$(head -c 4 | od -An -tu4 --endian=big | tr -d ' '); [ -n \"$n\" ]; do
    head -c \"$n\" | grep -q poison && exit 1
    printf 1
done";

/// A program in a folder of its own.
fn program(script: &str) -> (TempDir, Taster) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taster");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    (dir, Taster::new(path))
}

fn services(names: &[&str]) -> DeltaDiscoveryResponse {
    let type_url = type_url::SERVICE;
    let resource = |name: &&str| {
        let service = wire::Service { name: (*name).to_owned(), ..wire::Service::default() };
        let body = Any { type_url: type_url.into(), value: service.encode_to_vec() };
        Resource { name: (*name).to_owned(), version: "1".into(), resource: Some(body), ..Resource::default() }
    };
    let resources = names.iter().map(resource).collect();
    DeltaDiscoveryResponse { type_url: type_url.into(), resources, ..DeltaDiscoveryResponse::default() }
}

async fn deadly(taster: &mut Taster, names: &[&str]) -> Vec<String> {
    taster.deadly(services(names)).await.into_iter().map(|resource| resource.name).collect()
}

#[tokio::test]
async fn who_answers_lives_and_is_asked_again() {
    let (_dir, mut taster) = program("exec yes");
    assert!(deadly(&mut taster, &["shop/a", "shop/b"]).await.is_empty());
    let first = taster.running.as_ref().unwrap().child.id();
    assert!(deadly(&mut taster, &["shop/c"]).await.is_empty());
    assert_eq!(taster.running.as_ref().unwrap().child.id(), first);
}

#[tokio::test]
async fn what_kills_is_found_one_by_one() {
    let (_dir, mut taster) = program(POISONED);
    assert_eq!(deadly(&mut taster, &["shop/a", "shop/poison", "shop/b"]).await, ["shop/poison"]);
    assert!(deadly(&mut taster, &["shop/c"]).await.is_empty());
    let (_dir, mut taster) = program("exit 1");
    assert_eq!(deadly(&mut taster, &["shop/a", "shop/b"]).await, ["shop/a", "shop/b"]);
}

#[tokio::test(start_paused = true)]
async fn who_hangs_is_killed() {
    let (_dir, mut taster) = program("exec sleep 1000");
    let asked = Instant::now();
    assert_eq!(deadly(&mut taster, &["shop/a"]).await, ["shop/a"]);
    // All of them, then the one.
    assert_eq!(asked.elapsed(), 2 * PATIENCE);
}

#[tokio::test]
async fn without_a_taster_nothing_is_deadly() {
    let mut taster = Taster::new("/nowhere/at/all".into());
    assert!(deadly(&mut taster, &["shop/a"]).await.is_empty());
}

#[test]
fn what_is_taken_in_is_published_too() {
    take_in(services(&["shop/a", "not a name"]));
    take_in(DeltaDiscoveryResponse { type_url: "odd".into(), ..DeltaDiscoveryResponse::default() });
}
