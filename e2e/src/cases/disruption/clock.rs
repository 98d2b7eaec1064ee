//! Wall clocks that differ, jump, and pass the end of a certificate's life.

use std::time::Duration;

use anyhow::{Result, ensure};
use outrigger_testbed::{Machine, Mesh, Outcome, PodSpec, Spec, now_us, probe::wait_until};

use super::{CALLER, SHARED, SHOP, after_second, all_accept, answered_by, flawless, load, mesh_of, service};
use crate::clock::{Clock, HOUR, MINUTE};

/// A proxy looks at the wall clock once a minute while it waits, and tries again every half a minute at most.
pub(crate) const NOTICE: Duration = Duration::from_secs(120);

/// One node's clock is ahead, another's behind, as far as certificates are issued for; and one jumps.
pub(super) fn differ(machine: &Machine) -> Result<()> {
    let [ahead, behind] = ["ahead", "behind"].map(|name| Clock::new(machine, name));
    let (ahead, behind) = (ahead?, behind?);
    ahead.set(10 * MINUTE)?;
    behind.set(-10 * MINUTE)?;
    let mut mesh = mesh_of(machine, PodSpec { wrapper: ahead.wrapper.clone(), ..PodSpec::new(CALLER) })?;
    // The one that is behind: new proxies, new certificates, valid from before its now.
    let name = "shop/app-v3";
    mesh.kill_sidecar(name)?;
    mesh.pod_mut(name)?.spec.wrapper.clone_from(&behind.wrapper);
    mesh.restart_sidecar(name)?;
    all_accept(&mesh, &[name])?;
    let begin = now_us();
    let load = load(&mesh, 200, false, 20)?;
    for version in ["v1", "v2", "v3"] {
        answered_by(&load, version, begin)?;
    }
    let issued = || issued(&mesh);
    let before = issued();
    for jump in [4 * MINUTE, -10 * MINUTE, 10 * MINUTE] {
        ahead.set(jump)?;
        let jumped = now_us();
        after_second(&load, jumped)?;
        answered_by(&load, "v3", jumped)?;
    }
    let after = issued();
    let samples = load.finish()?;
    println!("        {} calls: {:?}, p99 {:?}", samples.len(), samples.by_outcome(), samples.latency(0.99));
    flawless(&samples)?;
    ensure!(before == after, "{before} certificates before the clocks jumped, {after} afterwards");
    Ok(())
}

/// Nobody signs, while certificates come to half of their life, nearly to its end, and beyond. Until then nothing is
/// lost, restarts included; after it nothing is carried; and with the authority back everything is.
pub(super) fn no_authority(machine: &Machine) -> Result<()> {
    let clock = Clock::new(machine, "all")?;
    let mut mesh = one_app(machine, &clock)?;
    mesh.kill_sidecar(SHARED)?;
    mesh.pod_mut(SHARED)?.spec.wrapper.clone_from(&clock.wrapper);
    mesh.restart_sidecar(SHARED)?;
    let begin = now_us();
    let load = load(&mesh, 100, false, 20)?;
    answered_by(&load, "v1", begin)?;
    // Two deaths are the configuration's fault as long as that is new.
    for pod in [CALLER, "shop/app"] {
        mesh.proven(pod)?;
    }
    mesh.kill_controller()?;
    clock.set(14 * HOUR)?;
    let tried = || ["shop/app", CALLER].iter().all(|pod| mesh.pod(pod).is_ok_and(|pod| tails(pod, "no certificate")));
    wait_until("renewals that fail", NOTICE, tried)?;
    clock.set(23 * HOUR)?;
    let mut deaths = Vec::new();
    for pod in ["shop/app", CALLER] {
        deaths.push(mesh.kill_sidecar(pod)?);
        mesh.restart_sidecar(pod)?;
        all_accept(&mesh, &[pod])?;
    }
    let near_the_end = now_us();
    after_second(&load, near_the_end)?;
    let good = load.finish()?;
    let seen = good.deaths(&deaths);
    println!(
        "        no renewal for 23 hours: {} calls, {} refused, {} failed, {} under way in those killed",
        good.len(),
        seen.refused,
        seen.failed_new,
        seen.in_flight
    );
    ensure!(seen.refused == 0 && seen.failed_new == 0, "{seen:?}");

    clock.set(25 * HOUR)?;
    // What is open between proxies stays so; what is new there proves nothing any more.
    for pod in [CALLER, "shop/app"] {
        mesh.kill_sidecar(pod)?;
        mesh.pod_mut(pod)?.start_sidecar()?;
    }
    let expired = self::load(&mesh, 100, false, 20)?;
    wait_until("a second of calls", NOTICE, || expired.count() > 100)?;
    let closed = expired.finish()?;
    println!("        after the end: {:?}", closed.by_outcome());
    ensure!(closed.len() >= 50 && closed.ok().count() == 0, "carried without a certificate: {:?}", closed.by_outcome());

    let before = issued(&mesh);
    mesh.start_controller_by(&clock.wrapper)?;
    for pod in [CALLER, "shop/app"] {
        wait_until("a certificate", NOTICE, || mesh.pod_mut(pod).is_ok_and(|pod| pod.wait_ready().is_ok()))?;
    }
    let again = self::load(&mesh, 100, false, 20)?;
    let back = now_us();
    let took = wait_until("an answer with new certificates", NOTICE, || again.since(back).ok().next().is_some())?;
    wait_until("nothing but answers", NOTICE, || {
        let recent = again.since(now_us().saturating_sub(1_000_000));
        recent.len() > 50 && recent.failed() == 0
    })?;
    println!("        authority back: answered after {took:?}, {} certificates", issued(&mesh) - before);
    let all = again.finish()?.by_outcome();
    ensure!(!all.contains_key(&Outcome::Wrong), "{all:?}");
    Ok(())
}

/// How many certificates the controller has issued.
pub(crate) fn issued(mesh: &Mesh) -> usize {
    mesh.controller_log().matches("certificate issued").count()
}

/// Whether guard and sidecar have said it.
fn tails(pod: &outrigger_testbed::Pod, text: &str) -> bool {
    pod.guard.iter().chain(&pod.sidecar).all(|process| process.log().contains(text))
}

fn one_app(machine: &Machine, clock: &Clock) -> Result<Mesh> {
    let pod = |name: &str| PodSpec { wrapper: clock.wrapper.clone(), ..PodSpec::new(name) };
    let pods = vec![pod(CALLER), pod("shop/app").app("outrigger-testapp http")];
    let config = vec![("services.yaml".to_owned(), service("app", SHOP, "app: app"))];
    Mesh::start(machine, Spec { pods, config, shared: 1 })
}
