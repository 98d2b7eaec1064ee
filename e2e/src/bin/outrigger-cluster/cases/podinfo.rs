//! podinfo, front and backend, on both nodes, under steady load: HTTP over new connections, HTTP through the front, gRPC
//! over connections that are kept.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Kill, Load, LoadSpec};

use crate::cluster::{Cluster, until};

pub(crate) const NAMESPACE: &str = "podinfo";
const OBJECTS: &str = include_str!("podinfo.yaml");
const DEPLOYMENTS: [&str; 3] = ["frontend", "backend", "caller"];

/// Load that goes on while something happens to the cluster.
pub(crate) struct Steady(Vec<(&'static str, Load)>);

/// Opens it, if it isn't open.
pub(crate) fn open(cluster: &Cluster) -> Result<()> {
    cluster.apply(OBJECTS)?;
    DEPLOYMENTS.iter().try_for_each(|name| rolled_out(cluster, name))
}

/// Two more backends, on one node.
pub(crate) fn open_beyond(cluster: &Cluster, node: &str) -> Result<()> {
    let found =
        OBJECTS.split("---\n").find(|object| object.contains("kind: Deployment") && object.contains("at: anywhere"));
    let backend = found.context("no Deployment of the backend")?;
    let beyond =
        backend.replace("{ name: backend, namespace", "{ name: beyond, namespace").replace("anywhere", "beyond");
    let pinned = format!("    spec:\n      nodeSelector: {{ kubernetes.io/hostname: {node} }}\n");
    let beyond = beyond.replacen("    spec:\n", &pinned, 1).replace("DoNotSchedule", "ScheduleAnyway");
    cluster.apply(&beyond)?;
    rolled_out(cluster, "beyond")
}

pub(crate) fn rolled_out(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.rolled_out(NAMESPACE, &format!("deployment/{name}"))
}

/// Name of the pod from which the load comes.
pub(crate) fn caller(cluster: &Cluster) -> Result<String> {
    cluster.pod(NAMESPACE, "app=caller")
}

impl Steady {
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let caller = caller(cluster)?;
        let (front, back) = (cluster.address(NAMESPACE, "frontend")?, cluster.address(NAMESPACE, "backend")?);
        let load = |target: String, rate, keep_alive| {
            let target = target.parse().map_err(anyhow::Error::msg)?;
            cluster.load(NAMESPACE, &caller, &LoadSpec { keep_alive, ..LoadSpec::new(target, rate) })
        };
        Self::of(vec![
            ("HTTP", load(format!("echo://{back}:9898/echo"), 40, false)?),
            ("HTTP through the front", load(format!("echo://{front}:9898/echo"), 20, false)?),
            ("gRPC", load(format!("grpc-echo://{back}:9999"), 40, true)?),
        ])
    }

    /// Waits until all of it is answered.
    pub(crate) fn of(loads: Vec<(&'static str, Load)>) -> Result<Self> {
        let steady = Self(loads);
        steady.goes_on(40)?;
        Ok(steady)
    }

    /// Waits until so many calls have been answered that are due from now on.
    pub(crate) fn goes_on(&self, calls: usize) -> Result<()> {
        let now = outrigger_testbed::now_us();
        for (what, load) in &self.0 {
            until(Duration::from_secs(30), || {
                let since = load.since(now);
                ensure!(since.ok().count() >= calls, "{what}: {:?}", since.by_outcome());
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends it. No call may have failed, but those that were in flight on a killed process: they are counted and shown.
    pub(crate) fn finish(self, kills: &[Kill]) -> Result<()> {
        let mut bad = Vec::new();
        for (what, load) in self.0 {
            let samples = load.finish()?;
            let deaths = samples.deaths(kills);
            let latency = |quantile| samples.latency(quantile).unwrap_or_default();
            println!(
                "        {what}: {} calls, {} failed, {} in flight on a killed process; p99 {:?}, longest {:?}",
                deaths.calls,
                deaths.refused + deaths.failed_new,
                deaths.in_flight,
                latency(0.99),
                latency(1.0)
            );
            if deaths.refused + deaths.failed_new > 0 {
                bad.push(format!(
                    "{what}: {:?}, such as {:?}; deaths {kills:?}",
                    samples.by_outcome(),
                    deaths.unexplained
                ));
            }
        }
        ensure!(bad.is_empty(), "{}", bad.join("; "));
        Ok(())
    }
}
