//! One size, from a controller that starts to one that comes back: what is done, and what is measured of it.

use std::{
    collections::BTreeSet,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use outrigger_wire::names::type_url;
use serde::Serialize;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    api::Api,
    fleet::Fleet,
    ledger::Watched,
    process::{Controller, Memory, own_cpu},
    world::{Size, World, endpoint_name},
};

/// For anything that many proxies do. What takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(180);
const IDLE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// How it is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ways {
    /// Of churn, a change in each.
    pub(crate) seconds: usize,
    /// That run proxies.
    pub(crate) threads: usize,
    /// Connections that are being made at a time.
    pub(crate) at_once: usize,
    /// Waits for standard input to end before churn, for a profiler.
    pub(crate) hold: bool,
}

/// All that was found out about one size.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Outcome {
    pub(crate) services: usize,
    pub(crate) proxies: usize,
    pub(crate) endpoints: usize,
    pub(crate) calls: usize,
    pub(crate) start: Start,
    pub(crate) first_sync: Sync,
    /// With all proxies connected and nothing to do.
    pub(crate) memory: Memory,
    pub(crate) idle_cpu_percent: f64,
    pub(crate) churn: Churn,
    pub(crate) access_policy: MeshWide,
    pub(crate) traffic_policy: MeshWide,
    pub(crate) connections_cut: Sync,
    pub(crate) controller_killed: Sync,
}

/// Until the controller has read everything and could serve.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Start {
    pub(crate) seconds: f64,
    pub(crate) controller_cpu_s: f64,
    pub(crate) memory: Memory,
}

/// All proxies connect and get what they lack.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sync {
    /// Until half of the proxies, and until all have acknowledged everything.
    pub(crate) half_s: f64,
    pub(crate) seconds: f64,
    pub(crate) controller_cpu_s: f64,
    pub(crate) simulation_cpu_s: f64,
    pub(crate) bytes_per_proxy: f64,
    pub(crate) resources: u64,
    pub(crate) failed_connections: u64,
    pub(crate) peak_rss_kib: u64,
}

/// One service is rescaled every second.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Churn {
    pub(crate) changes: usize,
    /// Proxies that call the service, all changes together, and those that were told.
    pub(crate) subscribers: usize,
    pub(crate) told: usize,
    /// Messages to anybody else, or of anything else.
    pub(crate) strays: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
    /// More than when idle.
    pub(crate) cpu_us_per_change: f64,
    pub(crate) cpu_us_per_told: f64,
    pub(crate) bytes_per_told: f64,
    pub(crate) simulation_cpu_percent: f64,
}

/// One object changes what every proxy has.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct MeshWide {
    pub(crate) told: usize,
    /// When it comes, and when it goes.
    pub(crate) half_s: [f64; 2],
    pub(crate) seconds: [f64; 2],
    pub(crate) controller_cpu_s: [f64; 2],
    pub(crate) bytes_per_proxy: f64,
}

/// Everything that takes part.
struct Stage {
    size: Size,
    ways: Ways,
    api: Api,
    controller: Controller,
    fleet: Fleet,
    dir: TempDir,
    /// Share of a core.
    idle: f64,
}

pub(crate) fn run(size: Size, ways: Ways) -> Result<Outcome> {
    eprintln!("{} services, {} endpoints, {} proxies", size.services, size.endpoints(), size.proxies);
    let (mut stage, start) = Stage::start(size, ways)?;
    eprintln!("  ready: {start:?}");
    let first_sync = stage.sync(|stage| stage.fleet.connect(stage.controller.grpc, &stage.api.root()?))?;
    eprintln!("  first sync: {first_sync:?}");
    let idle_cpu_percent = stage.idle()?;
    let memory = stage.controller.memory()?;
    eprintln!("  idle: {idle_cpu_percent:.1} % of a core, {memory:?}");
    let churn = stage.churn()?;
    eprintln!("  churn: {churn:?}");
    let spec = json!({ "action": "Audit", "rules": [{}] });
    let access_policy = stage.mesh_wide("accesspolicies", type_url::INBOUND, &spec)?;
    eprintln!("  access policy: {access_policy:?}");
    let spec = json!({ "targetRefs": [{ "kind": "Mesh", "name": "default" }], "requestTimeout": "10s" });
    let traffic_policy = stage.mesh_wide("trafficpolicies", type_url::SERVICE, &spec)?;
    eprintln!("  traffic policy: {traffic_policy:?}");
    let connections_cut = stage.sync(|stage| stage.fleet.connect(stage.controller.grpc, &stage.api.root()?))?;
    eprintln!("  connections cut: {connections_cut:?}");
    let controller_killed = stage.sync(Stage::replace_controller)?;
    eprintln!("  controller killed: {controller_killed:?}");
    Ok(Outcome {
        services: size.services,
        proxies: size.proxies,
        endpoints: size.endpoints(),
        calls: size.calls,
        start,
        first_sync,
        memory,
        idle_cpu_percent,
        churn,
        access_policy,
        traffic_policy,
        connections_cut,
        controller_killed,
    })
}

// === impl Stage ===

impl Stage {
    fn start(size: Size, ways: Ways) -> Result<(Self, Start)> {
        let dir = tempfile::tempdir().context("a folder for the controller's log")?;
        let api = Api::start(World::new(size))?;
        let begun = Instant::now();
        let mut controller = Controller::start(&api.kubeconfig(), None, dir.path())?;
        controller.ready(PATIENCE)?;
        let seconds = begun.elapsed().as_secs_f64();
        let start = Start { seconds, controller_cpu_s: controller.cpu()?.as_secs_f64(), memory: controller.memory()? };
        let fleet = Fleet::start(size, ways.threads, ways.at_once)?;
        Ok((Self { size, ways, api, controller, fleet, dir, idle: 0.0 }, start))
    }

    /// Another process where the one before was killed.
    fn replace_controller(&mut self) -> Result<()> {
        self.fleet.ledger().forget_synced();
        let listen = self.controller.grpc;
        self.controller.kill()?;
        self.controller = Controller::start(&self.api.kubeconfig(), Some(listen), self.dir.path())?;
        Ok(())
    }

    /// From `begin` until all proxies have everything.
    fn sync(&mut self, begin: impl FnOnce(&mut Self) -> Result<()>) -> Result<Sync> {
        self.controller.forget_peak()?;
        let (counts, before, pid) = (self.fleet.ledger().counts(), self.controller.cpu()?, self.controller.pid());
        let (simulation, begun) = (own_cpu()?, Instant::now());
        begin(self)?;
        let synced =
            self.fleet.ledger().wait_synced(self.size.proxies, PATIENCE).with_context(|| self.controller.log())?;
        let same = self.controller.pid() == pid;
        let controller = self.controller.cpu()? - if same { before } else { Duration::ZERO };
        let got = self.fleet.ledger().counts() - counts;
        let after = |index: usize| synced.get(index).map_or(f64::NAN, |at| (*at - begun).as_secs_f64());
        Ok(Sync {
            half_s: after(synced.len() / 2),
            seconds: after(synced.len() - 1),
            controller_cpu_s: controller.as_secs_f64(),
            simulation_cpu_s: (own_cpu()? - simulation).as_secs_f64(),
            bytes_per_proxy: got.bytes as f64 / self.size.proxies as f64,
            resources: got.resources,
            failed_connections: got.failures,
            peak_rss_kib: self.controller.peak_kib()?,
        })
    }

    /// In percent of a core.
    fn idle(&mut self) -> Result<f64> {
        // What the last phase has left behind isn't counted.
        sleep(2 * SECOND);
        let (before, begun) = (self.controller.cpu()?, Instant::now());
        sleep(IDLE);
        self.idle = (self.controller.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
        Ok(100.0 * self.idle)
    }

    fn churn(&mut self) -> Result<Churn> {
        if self.ways.hold {
            eprintln!("  controller {}, simulation {}; press enter", self.controller.pid(), std::process::id());
            std::io::stdin().read_line(&mut String::new())?;
        }
        let half = (self.ways.seconds / 2).clamp(1, self.size.services);
        let services: Vec<usize> = (0..half).map(|index| index * self.size.services / half).collect();
        let changed: Vec<usize> = services.iter().chain(&services).copied().collect();
        self.fleet.ledger().watch(Watched::default());
        let (before, simulation, begun) = (self.controller.cpu()?, own_cpu()?, Instant::now());
        let mut made = Vec::with_capacity(changed.len());
        for (change, service) in changed.iter().enumerate() {
            let pods = self.size.endpoints_per_service + usize::from(change < half);
            self.fleet.ledger().expect(endpoint_name(*service, self.size.endpoints_per_service), change);
            made.push(Instant::now());
            self.api.rescale(*service, pods);
            sleep((begun + (change as u32 + 1) * SECOND).saturating_duration_since(Instant::now()));
        }
        let took = begun.elapsed().as_secs_f64();
        let cpu = (self.controller.cpu()? - before).as_secs_f64() - self.idle * took;
        let simulation = (own_cpu()? - simulation).as_secs_f64() / took;
        let subscribers = changed.iter().map(|service| self.size.callers_of(*service)).sum();
        let receipts = self.fleet.ledger().receipts();
        let mut delays: Vec<f64> =
            receipts.iter().map(|receipt| (receipt.at - made[receipt.change]).as_secs_f64() * 1000.0).collect();
        delays.sort_by(f64::total_cmp);
        let quantile =
            |q: f64| delays.get((delays.len() as f64 * q) as usize).or(delays.last()).copied().unwrap_or(f64::NAN);
        let told = receipts.len();
        Ok(Churn {
            changes: changed.len(),
            subscribers,
            told,
            strays: self.fleet.ledger().strays(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: quantile(1.0),
            cpu_us_per_change: cpu * 1e6 / changed.len() as f64,
            cpu_us_per_told: cpu * 1e6 / told as f64,
            bytes_per_told: receipts.iter().map(|receipt| receipt.bytes as f64).sum::<f64>() / told as f64,
            simulation_cpu_percent: 100.0 * simulation,
        })
    }

    /// An object comes and goes.
    fn mesh_wide(&mut self, kind: &'static str, told_by: &'static str, spec: &serde_json::Value) -> Result<MeshWide> {
        let mut wide =
            MeshWide { told: 0, half_s: [0.0; 2], seconds: [0.0; 2], controller_cpu_s: [0.0; 2], bytes_per_proxy: 0.0 };
        for (index, there) in [true, false].into_iter().enumerate() {
            self.fleet.ledger().watch(Watched { kind: Some((told_by, 0)), ..Watched::default() });
            let (before, begun) = (self.controller.cpu()?, Instant::now());
            if there {
                self.api.apply(kind, "mesh-wide", json!({ "spec": spec }));
            } else {
                self.api.delete(kind, "mesh-wide");
            }
            let told = loop {
                let told: BTreeSet<usize> =
                    self.fleet.ledger().receipts().iter().map(|receipt| receipt.proxy).collect();
                if told.len() >= self.size.proxies || begun.elapsed() > PATIENCE {
                    break told.len();
                }
                sleep(Duration::from_millis(100));
            };
            // Acknowledgements, and what the leader makes of them.
            sleep(3 * SECOND);
            let mut receipts = self.fleet.ledger().receipts();
            receipts.sort_by_key(|receipt| receipt.at);
            let after = |index: usize| receipts.get(index).map_or(f64::NAN, |r| (r.at - begun).as_secs_f64());
            wide.told = told;
            wide.half_s[index] = after(receipts.len() / 2);
            wide.seconds[index] = after(receipts.len().saturating_sub(1));
            wide.controller_cpu_s[index] =
                (self.controller.cpu()? - before).as_secs_f64() - self.idle * begun.elapsed().as_secs_f64();
            wide.bytes_per_proxy =
                receipts.iter().map(|receipt| receipt.bytes as f64).sum::<f64>() / self.size.proxies as f64;
        }
        Ok(wide)
    }
}
