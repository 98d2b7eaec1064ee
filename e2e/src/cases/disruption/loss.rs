//! Links that lose packets, and somebody in between who resets connections: no answer is wrong, nothing that may be sent
//! again is lost, and nothing of it stays.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Load, LoadSpec, Machine, Mesh, Outcome, PodSpec, now_us, probe::wait_until};
use outrigger_wire::names::ports;

use super::{CALLER, SHOP, after_second, flawless, mesh_of};

const APPS: [&str; 3] = ["shop/app-v1", "shop/app-v2", "shop/app-v3"];
/// An endpoint that couldn't be reached gets a trial within a minute.
const TRUST: Duration = Duration::from_secs(90);
/// TCP itself sends again after 200 ms, then after twice as long each time; and after a second a first packet.
const SLOW: Duration = Duration::from_secs(30);
/// Of each kind of load, at each degree of loss.
const SECONDS: u64 = 8;

pub(super) fn loss(machine: &Machine) -> Result<()> {
    let mesh = mesh_of(machine, PodSpec::new(CALLER))?;
    for percent in [1, 5, 20] {
        let rule = format!("iifname eth0 meta l4proto tcp numgen random mod 100 < {percent} counter drop");
        let (gets, posts) = (load(&mesh, "http", "/")?, load(&mesh, "echo", "/echo")?);
        for pod in APPS.iter().chain([&CALLER]) {
            add(&mesh, pod, &rule)?;
        }
        let from = now_us();
        lasts(&gets, from + SECONDS * 1_000_000)?;
        let dropped = APPS.iter().chain([&CALLER]).map(|pod| remove(&mesh, pod)).sum::<Result<u64>>()?;
        let to = now_us();
        judge(&format!("{percent} % lost ({dropped} packets)"), gets, posts, (from, to))?;
        ensure!(dropped > 0, "nothing was lost");
        all_is_well(&mesh).with_context(|| format!("after {percent} %"))?;
    }
    Ok(())
}

/// Somebody resets connections to one of the endpoints, then to the next: there are others to send to again.
pub(super) fn resets(machine: &Machine) -> Result<()> {
    let mesh = mesh_of(machine, PodSpec::new(CALLER))?;
    let (gets, posts) = (load(&mesh, "http", "/")?, load(&mesh, "echo", "/echo")?);
    let rule = format!(
        "iifname eth0 tcp dport {} ct state established limit rate 5/second burst 1 packets counter reject with tcp reset",
        ports::MESH
    );
    let (from, mut resets) = (now_us(), 0);
    // In turn, since one that is reset too often is left alone.
    for pod in APPS.iter().cycle().take(6) {
        add(&mesh, pod, &rule)?;
        lasts(&gets, now_us() + 2_000_000)?;
        resets += remove(&mesh, pod)?;
    }
    judge(&format!("{resets} resets"), gets, posts, (from, now_us()))?;
    ensure!(resets >= 12, "only {resets} resets");
    all_is_well(&mesh)
}

/// Waits for an answer to what was due then or later.
fn lasts(load: &Load, until: u64) -> Result<()> {
    wait_until("an answer", TRUST, || load.since(until).ok().next().is_some()).map(drop)
}

fn judge(what: &str, gets: Load, posts: Load, (from, to): (u64, u64)) -> Result<()> {
    let mut all = Vec::new();
    for (name, load) in [("GET", gets), ("POST", posts)] {
        let samples = load.finish()?.between(from, to);
        println!(
            "        {what}: {name} {:?}, p50 {:?}, p99 {:?}, longest {:?}",
            samples.by_outcome(),
            samples.latency(0.5).unwrap_or_default(),
            samples.latency(0.99).unwrap_or_default(),
            samples.latency(1.0).unwrap_or_default(),
        );
        all.push(samples);
    }
    for samples in &all {
        ensure!(!samples.by_outcome().contains_key(&Outcome::Wrong), "{what}: {:?}", samples.by_outcome());
    }
    flawless(&all[0]).with_context(|| format!("{what}: GET"))?;
    // Nobody knows what became of some.
    let known = |outcome: &Outcome| matches!(outcome, Outcome::Ok | Outcome::Status(502..=504));
    ensure!(all[1].by_outcome().keys().all(known), "{what}: {:?}", all[1].by_outcome());
    Ok(())
}

/// All endpoints answer again, and every call is answered.
fn all_is_well(mesh: &Mesh) -> Result<()> {
    let load = load(mesh, "http", "/")?;
    let start = now_us();
    let all = || load.since(start).by_version().len() == APPS.len();
    let took = wait_until("answers of all endpoints", TRUST, all)?;
    let well = now_us();
    after_second(&load, well)?;
    println!("        all endpoints answer again after {took:?}");
    let posts = self::load(mesh, "echo", "/echo")?;
    after_second(&posts, now_us())?;
    flawless(&load.finish()?)?;
    flawless(&posts.finish()?)
}

fn load(mesh: &Mesh, kind: &str, path: &str) -> Result<Load> {
    let target = format!("{kind}://{SHOP}:80{path}").parse().map_err(anyhow::Error::msg)?;
    Load::start(mesh.pod(CALLER)?, &LoadSpec { timeout: SLOW, ..LoadSpec::new(target, 100) })
}

/// A rule of the link's own, before the pod's.
fn add(mesh: &Mesh, pod: &str, rule: &str) -> Result<()> {
    let table = format!(
        "add table inet link; add chain inet link in {{ type filter hook input priority -10; }}; add rule inet link in {rule}"
    );
    mesh.pod(pod)?.exec("nft", &[&table]).map(drop)
}

/// How many packets it has met.
fn remove(mesh: &Mesh, pod: &str) -> Result<u64> {
    let pod = mesh.pod(pod)?;
    let rules = pod.exec("nft", &["list", "table", "inet", "link"])?;
    pod.exec("nft", &["delete", "table", "inet", "link"])?;
    let counted = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
    counted.context("no counter")?.parse().context("a counter")
}
