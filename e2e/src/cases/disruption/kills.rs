//! A hundred sidecars die under a hundred thousand new connections, each of them while it carries its pod's traffic.
//!
//! A guard is slower to trust a sidecar with each death within a minute, so there are several pairs of pods: the next to
//! die is always one that accepts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{
    Kill, Load, LoadSpec, Machine, Mesh, PodSpec, Samples, Spec, now_us, probe::wait_until, samples::Deaths,
};

use super::{TRUST, accepts, service};

const PAIRS: usize = 8;
const KILLS: usize = 100;
const CALLS: usize = 100_000;
/// Calls per second of each caller: about half of what two cores can do, since others may want them, too.
const RATE: u32 = 100;

/// One caller and whom it calls.
struct Pair {
    load: Load,
    /// Names and deaths, the caller's first.
    pods: [(String, Vec<Kill>); 2],
}

pub(super) fn hundred(machine: &Machine) -> Result<()> {
    let mut mesh = mesh(machine)?;
    let mut pairs = (0..PAIRS).map(|number| Pair::start(&mesh, number)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    for number in 0..KILLS {
        let due = CALLS * number / KILLS;
        wait_until("the calls before the next death", TRUST, || calls(&pairs) > due)?;
        kill(&mut mesh, &mut pairs, number % 2)?;
    }
    wait_until("the last calls", TRUST, || calls(&pairs) >= CALLS)?;
    let took = start.elapsed();
    judge(pairs, took)
}

/// Of those that carry their pods, the one that has died least.
fn kill(mesh: &mut Mesh, pairs: &mut [Pair], side: usize) -> Result<()> {
    pairs.sort_by_key(|pair| pair.pods[side].1.len());
    let mut chosen = None;
    wait_until("a sidecar that its guard trusts", TRUST, || {
        chosen = pairs.iter().position(|pair| mesh.pod(&pair.pods[side].0).is_ok_and(accepts));
        chosen.is_some()
    })?;
    let (name, deaths) = &mut pairs[chosen.context("no sidecar")?].pods[side];
    deaths.push(mesh.kill_sidecar(name)?);
    mesh.restart_sidecar(name).map(drop)
}

fn judge(pairs: Vec<Pair>, took: Duration) -> Result<()> {
    let (mut all, mut firsts) = (Vec::new(), Vec::new());
    let mut sum = Deaths::default();
    for Pair { load, pods: [(_, deaths), (_, others)] } in pairs {
        let samples = load.finish()?;
        // Only the own sidecar's death excuses a caller: a GET on its way to another's is sent again.
        let seen = samples.deaths(&deaths);
        sum.refused += seen.refused;
        sum.in_flight += seen.in_flight;
        sum.failed_new += seen.failed_new;
        sum.ok += seen.ok;
        sum.unexplained.extend(seen.unexplained);
        let first = |kill: &Kill| samples.first_answer(kill.sent).map(|done| done - kill.sent);
        firsts.extend(deaths.iter().chain(&others).map(first));
        all.extend(samples.0);
    }
    let samples = Samples(all);
    let firsts = firsts.into_iter().collect::<Option<Vec<_>>>().context("no answer after a death")?;
    println!(
        "        {} calls in {took:.0?}, {} deaths: {} answered, {} refused, {} failed, {} under way in the killed one; \
         p99 {:?}, longest {:?}; first answer after a death: within {:?}",
        samples.len(),
        firsts.len(),
        sum.ok,
        sum.refused,
        sum.failed_new,
        sum.in_flight,
        samples.latency(0.99).unwrap_or_default(),
        samples.latency(1.0).unwrap_or_default(),
        Duration::from_micros(firsts.iter().copied().max().unwrap_or_default()),
    );
    ensure!(firsts.len() == KILLS && samples.len() >= CALLS, "{} deaths, {} calls", firsts.len(), samples.len());
    ensure!(sum.refused == 0 && sum.failed_new == 0, "{:?}", sum.unexplained);
    // How many there are at a time is a matter of the machine; that nearly all weren't is not.
    ensure!(sum.in_flight <= CALLS / 20, "{} under way", sum.in_flight);
    Ok(())
}

fn calls(pairs: &[Pair]) -> usize {
    pairs.iter().map(|pair| pair.load.count()).sum()
}

fn mesh(machine: &Machine) -> Result<Mesh> {
    let pods = (0..PAIRS).flat_map(|number| {
        let app = PodSpec::new(&format!("shop/app-{number}")).app("outrigger-testapp http");
        [PodSpec::new(&format!("shop/caller-{number}")), app]
    });
    let services = (0..PAIRS).map(|number| {
        service(&format!("app-{number}"), &format!("10.96.3.{}", 20 + number), &format!("app: app-{number}"))
    });
    let config = vec![("services.yaml".to_owned(), services.collect())];
    Mesh::start(machine, Spec { pods: pods.collect(), config, shared: 2 })
}

// === impl Pair ===

impl Pair {
    fn start(mesh: &Mesh, number: usize) -> Result<Self> {
        let names = [format!("shop/caller-{number}"), format!("shop/app-{number}")];
        let target = format!("http://10.96.3.{}:80/", 20 + number).parse().map_err(anyhow::Error::msg)?;
        let load = Load::start(mesh.pod(&names[0])?, &LoadSpec::new(target, RATE))?;
        let from = now_us();
        wait_until("a first answer", TRUST, || load.since(from).ok().next().is_some())?;
        Ok(Self { load, pods: names.map(|name| (name, Vec::new())) })
    }
}
