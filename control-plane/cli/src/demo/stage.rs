//! What every scene has at hand: the mesh, a voice, a load client in any pod, and a list of promises to add to.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Result;
use outrigger_testbed::{
    Load, LoadSpec, Mesh, Samples,
    probe::{Metric, wait_until},
};

use super::{Options, board::Board, promise::Promise, shop};

/// What doesn't come by then won't come.
const PATIENCE: Duration = Duration::from_secs(15);

/// Longer than a guard's longest hold.
const HAND_BACK: Duration = Duration::from_secs(40);

#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) mesh: Mesh,
    pub(crate) board: Arc<Board>,
    /// The shop's steady traffic.
    pub(crate) steady: Arc<Load>,
    /// Somebody watches, so give them time to.
    watched: bool,
    fast: bool,
    /// Calls per second while sidecars are killed.
    pub(crate) rate: u32,
    promises: Vec<Promise>,
}

// === impl Stage ===

impl Stage {
    /// `live`: on a terminal.
    pub(crate) fn new(mesh: Mesh, board: Arc<Board>, steady: Arc<Load>, live: bool, options: &Options) -> Self {
        let &Options { fast, rate, .. } = options;
        Self { mesh, board, steady, watched: live && !fast, fast, rate, promises: Vec::new() }
    }

    pub(crate) fn say(&self, line: &str) {
        self.board.say(line);
    }

    pub(crate) fn promise(&mut self, promise: Promise) {
        self.board.promise(&promise);
        self.promises.push(promise);
    }

    pub(crate) fn promises(&self) -> &[Promise] {
        &self.promises
    }

    /// Load from a pod's app, each call over a connection of its own. Returns once answers come.
    pub(crate) fn load(&self, pod: &str, target: &str, rate: u32) -> Result<Load> {
        let load = self.load_of(pod, &LoadSpec::new(shop::target(target)?, rate))?;
        Ok(load)
    }

    pub(crate) fn load_of(&self, pod: &str, spec: &LoadSpec) -> Result<Load> {
        let load = Load::start(self.mesh.pod(pod)?, spec)?;
        until("first answers of a load client", || load.samples().len() > 5)?;
        Ok(load)
    }

    /// Waits until `load` goes through a pod's sidecar again and its guard takes no new connection. The guard holds the
    /// sockets back for longer after each failure, so that a crash loop doesn't flap.
    pub(crate) fn handed_back(&self, pod: &str, load: &Load) -> Result<Duration> {
        let pod = self.mesh.pod(pod)?;
        let now = || {
            let carried = total(&pod.guard_metrics(), "outrigger_fallback_connections_total");
            (carried, total(&pod.metrics(), "outrigger_http_requests_total"), load.samples().len() as f64)
        };
        let mut before = now();
        wait_until("the sidecar carries the traffic again", HAND_BACK, || {
            thread::sleep(Duration::from_millis(300));
            let (carried, served, answers) = now();
            let all_served = carried == before.0 && served - before.1 > (answers - before.2) / 2.0;
            before = (carried, served, answers);
            all_served
        })
    }

    /// Lets traffic run, to see what it does in that time.
    pub(crate) fn observe(&self, time: Duration) {
        thread::sleep(if self.fast { time / 2 } else { time });
    }

    /// Time to read, if anybody does.
    pub(crate) fn pause(&self) {
        if self.watched {
            thread::sleep(Duration::from_secs(3));
        }
    }

    /// Fewer if there's haste.
    pub(crate) fn times(&self, all: usize, hasty: usize) -> usize {
        if self.fast { hasty } else { all }
    }
}

/// Waits for what has to come.
pub(crate) fn until(what: &str, so: impl FnMut() -> bool) -> Result<Duration> {
    wait_until(what, PATIENCE, so)
}

fn total(metrics: &[Metric], name: &str) -> f64 {
    metrics.iter().filter(|metric| metric.name == name).map(|metric| metric.value).sum()
}

/// Failures in words, for the narration: `3 Reset, 1 Timeout`.
pub(crate) fn failures(samples: &Samples) -> String {
    let counts = samples.by_outcome();
    let failed = counts.iter().filter(|(outcome, _)| **outcome != outrigger_testbed::Outcome::Ok);
    let words: Vec<_> = failed.map(|(outcome, count)| format!("{count} {outcome:?}")).collect();
    if words.is_empty() { "no failures".to_owned() } else { words.join(", ") }
}
