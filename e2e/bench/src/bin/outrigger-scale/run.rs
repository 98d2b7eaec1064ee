//! One size, from a controller that starts to one that comes back: what is done, and what is measured of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use outrigger_wire::names::type_url;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    api::Api,
    fleet::Fleet,
    ledger::{Receipt, Watched},
    process::{Controller, Memory, own_cpu},
    server::Server,
    world::{Size, World, endpoint_name},
};

/// For anything that many proxies do. What takes longer has gone wrong.
const PATIENCE: Duration = Duration::from_secs(180);
const IDLE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// Seconds of churn between two changes for everybody.
const MINUTE: usize = 60;

/// What feeds the controller.
pub(crate) trait ApiServer {
    fn name(&self) -> &'static str;
    fn kubeconfig(&self) -> PathBuf;
    fn size(&self) -> Size;
    /// The mesh's root certificate, PEM: the controller has put it there.
    fn root(&self) -> Result<Vec<u8>>;
    /// Of each proxy's pod.
    fn tokens(&self) -> Result<Vec<String>>;
    /// Gives a service as many pods. Pods come before their slice, and go after it. Says when that was sent.
    fn rescale(&self, service: usize, replicas: usize) -> Result<Instant>;
    /// Writes an object of a user. Its kind is what is watched.
    fn apply(&self, kind: &'static str, name: &str, object: Value) -> Result<()>;
    fn delete(&self, kind: &'static str, name: &str) -> Result<()>;
}

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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) api_server: String,
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
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) seconds: f64,
    pub(crate) controller_cpu_s: f64,
    pub(crate) memory: Memory,
}

/// All proxies connect and get what they lack.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// An AccessPolicy for everybody came, went, came ... every minute meanwhile: until the last proxy had it, if all did.
    pub(crate) policy_s: Vec<Option<f64>>,
}

/// One object changes what every proxy has.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
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
    api: Box<dyn ApiServer>,
    controller: Controller,
    fleet: Fleet,
    dir: TempDir,
    /// Share of a core.
    idle: f64,
}

pub(crate) fn run(size: Size, ways: Ways, kubeconfig: Option<&Path>) -> Result<Outcome> {
    eprintln!("{} services, {} endpoints, {} proxies", size.services, size.endpoints(), size.proxies);
    let (mut stage, start) = Stage::start(size, ways, kubeconfig)?;
    eprintln!("  ready: {start:?}");
    let first_sync = stage.sync(|stage| stage.fleet.connect(stage.controller.grpc, &stage.api.root()?))?;
    eprintln!("  first sync: {first_sync:?}");
    let idle_cpu_percent = stage.idle()?;
    let memory = stage.controller.memory()?;
    eprintln!("  idle: {idle_cpu_percent:.1} % of a core, {memory:?}");
    let churn = stage.churn()?;
    eprintln!("  churn: {churn:?}");
    let access_policy = stage.mesh_wide("accesspolicies", type_url::INBOUND, &audit())?;
    eprintln!("  access policy: {access_policy:?}");
    let spec = json!({ "targetRefs": [{ "kind": "Mesh", "name": "default" }], "requestTimeout": "10s" });
    let traffic_policy = stage.mesh_wide("trafficpolicies", type_url::SERVICE, &spec)?;
    eprintln!("  traffic policy: {traffic_policy:?}");
    let connections_cut = stage.sync(|stage| stage.fleet.connect(stage.controller.grpc, &stage.api.root()?))?;
    eprintln!("  connections cut: {connections_cut:?}");
    let controller_killed = stage.sync(Stage::replace_controller)?;
    eprintln!("  controller killed: {controller_killed:?}");
    Ok(Outcome {
        api_server: stage.api.name().to_owned(),
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

/// Of a policy that changes every proxy's configuration, and nobody's calls.
fn audit() -> Value {
    json!({ "action": "Audit", "rules": [{}] })
}

// === impl Stage ===

impl Stage {
    fn start(size: Size, ways: Ways, kubeconfig: Option<&Path>) -> Result<(Self, Start)> {
        let dir = tempfile::tempdir().context("a folder for the controller's log")?;
        let api: Box<dyn ApiServer> = match kubeconfig {
            Some(kubeconfig) => Box::new(Server::fill(kubeconfig, size)?),
            None => Box::new(Api::start(World::new(size))?),
        };
        let size = api.size();
        let begun = Instant::now();
        let mut controller = Controller::start(&api.kubeconfig(), None, dir.path())?;
        controller.ready(PATIENCE)?;
        let seconds = begun.elapsed().as_secs_f64();
        let start = Start { seconds, controller_cpu_s: controller.cpu()?.as_secs_f64(), memory: controller.memory()? };
        let fleet = Fleet::start(size, api.tokens()?, ways.threads, ways.at_once)?;
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
        let changes = changed.len();
        self.fleet.ledger().watch(Watched::default());
        let (before, simulation, begun) = (self.controller.cpu()?, own_cpu()?, Instant::now());
        let (mut made, mut policies) = (Vec::with_capacity(changes), Vec::new());
        // Before the first policy.
        let mut cpu = None;
        for (change, service) in changed.iter().enumerate() {
            if change > 0 && change % MINUTE == 0 {
                cpu.get_or_insert((self.controller.cpu()?, begun.elapsed(), change));
                policies.push(Instant::now());
                self.fleet.ledger().expect_kind(type_url::INBOUND, changes + policies.len() - 1);
                if policies.len() % 2 == 1 {
                    self.api.apply("accesspolicies", "each-minute", json!({ "spec": audit() }))?;
                } else {
                    self.api.delete("accesspolicies", "each-minute")?;
                }
            }
            let pods = self.size.endpoints_per_service + usize::from(change < half);
            self.fleet.ledger().expect(endpoint_name(*service, self.size.endpoints_per_service), change);
            made.push(self.api.rescale(*service, pods)?);
            sleep((begun + (change as u32 + 1) * SECOND).saturating_duration_since(Instant::now()));
        }
        let took = begun.elapsed();
        let (cpu, quiet, counted) = cpu.unwrap_or((self.controller.cpu()?, took, changes));
        let cpu_us = ((cpu - before).as_secs_f64() - self.idle * quiet.as_secs_f64()) * 1e6 / counted as f64;
        let simulation = (own_cpu()? - simulation).as_secs_f64() / took.as_secs_f64();
        if policies.len() % 2 == 1 {
            self.api.delete("accesspolicies", "each-minute")?;
            sleep(3 * SECOND);
        }
        let subscribers: usize = changed.iter().map(|service| self.size.callers_of(*service)).sum();
        let (receipts, of_policies): (Vec<Receipt>, Vec<Receipt>) =
            self.fleet.ledger().receipts().into_iter().partition(|receipt| receipt.change < changes);
        let policy_s = policies.iter().enumerate().map(|(index, written)| {
            let mut told = BTreeMap::new();
            for receipt in of_policies.iter().filter(|receipt| receipt.change == changes + index) {
                told.entry(receipt.proxy).or_insert(receipt.at);
            }
            let last = told.values().max().filter(|_| told.len() == self.size.proxies);
            last.map(|last| (*last - *written).as_secs_f64())
        });
        let mut delays: Vec<f64> =
            receipts.iter().map(|receipt| (receipt.at - made[receipt.change]).as_secs_f64() * 1000.0).collect();
        delays.sort_by(f64::total_cmp);
        let quantile =
            |q: f64| delays.get((delays.len() as f64 * q) as usize).or(delays.last()).copied().unwrap_or(f64::NAN);
        let told = receipts.len();
        Ok(Churn {
            changes,
            subscribers,
            told,
            strays: self.fleet.ledger().strays(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: quantile(1.0),
            cpu_us_per_change: cpu_us,
            cpu_us_per_told: cpu_us * changes as f64 / subscribers as f64,
            bytes_per_told: receipts.iter().map(|receipt| receipt.bytes as f64).sum::<f64>() / told as f64,
            simulation_cpu_percent: 100.0 * simulation,
            policy_s: policy_s.collect(),
        })
    }

    /// An object comes and goes.
    fn mesh_wide(&mut self, kind: &'static str, told_by: &'static str, spec: &Value) -> Result<MeshWide> {
        let mut wide =
            MeshWide { told: 0, half_s: [0.0; 2], seconds: [0.0; 2], controller_cpu_s: [0.0; 2], bytes_per_proxy: 0.0 };
        for (index, there) in [true, false].into_iter().enumerate() {
            self.fleet.ledger().watch(Watched { kind: Some((told_by, 0)), ..Watched::default() });
            let (before, begun) = (self.controller.cpu()?, Instant::now());
            if there {
                self.api.apply(kind, "mesh-wide", json!({ "spec": spec }))?;
            } else {
                self.api.delete(kind, "mesh-wide")?;
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
