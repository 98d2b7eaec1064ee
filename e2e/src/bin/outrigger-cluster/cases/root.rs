//! The mesh's root, replaced by what the documentation says, under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use outrigger_wire::names::{ROOT_FILE, ROOT_SECRET, ROTATION_ANNOTATION, TRUST_CONFIG_MAP};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

use super::{
    install::SYSTEM,
    long,
    podinfo::{self, NAMESPACE, Steady},
};
use crate::{
    Case,
    cluster::{Cluster, text, until},
};

pub(super) const CASES: &[Case] = &[
    long("root: another is given up before it signs", given_up),
    long("root: another signs, and the one before leaves, under load", replaced),
];

/// A look of each replica, and of each kubelet.
const SOON: Duration = Duration::from_secs(150);
/// Three minutes until it signs, three more until the last proxy has another certificate, and looks between.
const ALL: Duration = Duration::from_secs(15 * 60);

/// What is published.
struct Published {
    roots: usize,
    /// The root that signs.
    anchor: String,
    waits: String,
}

fn published(cluster: &Cluster, namespace: &str) -> Result<Published> {
    let map = cluster.get("configmap", namespace, TRUST_CONFIG_MAP)?;
    let said = text(&map["metadata"]["annotations"][ROTATION_ANNOTATION]);
    let said: Value = serde_json::from_str(&said).unwrap_or_default();
    let roots = text(&map["data"][ROOT_FILE]).matches("BEGIN CERTIFICATE").count();
    Ok(Published { roots, anchor: text(&said["anchor"]), waits: text(&said["waits"]) })
}

/// As an owner makes one.
fn another() -> Result<Value> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "another root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let encoded = |pem: String| serde_json::to_value(ByteString(pem.into_bytes()));
    Ok(json!({ "tls.crt": encoded(params.self_signed(&key)?.pem())?, "tls.key": encoded(key.serialize_pem())? }))
}

/// The one act that begins a change, and gives it up.
fn put(cluster: &Cluster, data: &Value) -> Result<()> {
    let patch = json!({ "data": data }).to_string();
    cluster.kubectl(&["patch", "secret", "-n", SYSTEM, ROOT_SECRET, "--type=merge", "-p", &patch]).map(drop)
}

fn given_up(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let (before, first) = (published(cluster, SYSTEM)?, cluster.get("secret", SYSTEM, ROOT_SECRET)?["data"].clone());
    let steady = Steady::start(cluster)?;
    put(cluster, &another()?)?;
    let trusted = until(SOON, || {
        let roots = published(cluster, NAMESPACE)?.roots;
        ensure!(roots == before.roots + 1, "{roots} roots are published, before {}", before.roots);
        Ok(())
    });
    put(cluster, &first)?;
    trusted?;
    steady.goes_on(100)?;
    until(ALL, || {
        let now = published(cluster, SYSTEM)?;
        ensure!(now.roots == before.roots, "{} roots are published; it waits: {}", now.roots, now.waits);
        ensure!(now.anchor == before.anchor, "{} signs, before {}", now.anchor, before.anchor);
        Ok(())
    })?;
    steady.goes_on(100)?;
    steady.finish(&[])
}

fn replaced(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let before = published(cluster, SYSTEM)?;
    let steady = Steady::start(cluster)?;
    let begun = Instant::now();
    put(cluster, &another()?)?;
    let signs = until(ALL, || {
        let now = published(cluster, SYSTEM)?;
        ensure!(now.anchor != before.anchor, "{} signs still; it waits: {}", now.anchor, now.waits);
        Ok(())
    });
    signs.context("another root doesn't sign")?;
    println!("        it signs after {:.0?}", begun.elapsed());
    steady.goes_on(100)?;
    // Every proxy gets another certificate by itself; nobody restarts anything.
    until(ALL, || {
        let (now, pods) = (published(cluster, SYSTEM)?, published(cluster, NAMESPACE)?);
        ensure!(now.roots == 1, "{} roots are published; it waits: {}", now.roots, now.waits);
        ensure!(pods.roots == 1, "{} roots are published for pods", pods.roots);
        Ok(())
    })?;
    println!("        the one before has left after {:.0?}", begun.elapsed());
    steady.goes_on(200)?;
    // Those that begin now know the new one alone.
    cluster.restart(NAMESPACE, "backend")?;
    steady.goes_on(100)?;
    steady.finish(&[])
}
