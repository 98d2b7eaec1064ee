//! Resident memory: idle, with ten thousand idle connections, and a while after they have gone.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    data::{Figures, Table, Tables},
    load,
    measure::{Cpus, Memory, Plan},
    stage::{CALLER, CAPTURED, ENVOY, HAPROXY, LIGHT, NGINX, SHARED, Stage},
    subject::{Speech, Subject, Way},
};

const CONNECTIONS: u32 = 10_000;
/// A guard carries 4,096 at most, and a shared proxy 2,048 of one identity.
const CARRIED: u32 = 4_000;
const KB_PER_MB: f64 = 1024.0;

/// Connections that are held open, one request behind each.
struct Held {
    name: String,
    child: Child,
}

/// Everyone's at rest. To be asked for before there has been load.
pub(crate) fn at_rest(stage: &Stage) -> Result<Table> {
    let mut table = Table::default();
    for (name, pid) in everyone(stage)? {
        let memory = Memory::of(pid)?;
        table.add(name, &figures(&memory));
    }
    Ok(table)
}

pub(super) fn memory(stage: &Stage, plan: &Plan) -> Result<Tables> {
    let idle = stage.at_rest.clone();
    let mut many = Table::default();
    let add = |table: &mut Table, suffix: [&'static str; 2]| -> Result<()> {
        for (name, pid) in everyone(stage)?.into_iter().filter(|(name, _)| carries_many(name)) {
            let memory = Memory::of(pid)?;
            table.add(name, &[(suffix[0], mb(memory.rss)), (suffix[1], mb(memory.anonymous))]);
        }
        Ok(())
    };
    add(&mut many, ["rss before", "anonymous before"])?;
    let mut held = Vec::new();
    for (way, connections) in
        [(Way::Captured, CONNECTIONS), (Way::Envoy, CONNECTIONS), (Way::Sidecar, CONNECTIONS), (Way::Guard, CARRIED)]
    {
        let subject = stage.subject(way, Speech::Http1)?;
        eprintln!("{connections} connections through {}", subject.name);
        stage.wait_carried_by(&subject)?;
        held.push(Held::open(stage, &subject, connections)?);
    }
    add(&mut many, ["rss open", "anonymous open"])?;
    held.into_iter().try_for_each(Held::close)?;
    eprintln!("{} s without them", plan.settle);
    thread::sleep(Duration::from_secs(plan.settle.into()));
    add(&mut many, ["rss after", "anonymous after"])?;
    Ok(Tables::from([("idle".to_owned(), idle), ("connections".to_owned(), many)]))
}

fn everyone(stage: &Stage) -> Result<Vec<(&'static str, u32)>> {
    let worker = |pod: &str| stage.peer(pod)?.last().copied().context("nginx has no worker");
    let shared = [stage.sidecar(SHARED[0])?, stage.sidecar(SHARED[1])?];
    Ok(vec![
        ("sidecar", stage.sidecar(CALLER)?),
        ("guard", stage.guard(CALLER)?),
        ("guard of a pod without sidecar", stage.guard(LIGHT)?),
        ("shared proxy", shared[0]),
        ("the other shared proxy", shared[1]),
        ("nginx worker", worker(NGINX)?),
        ("nginx worker, 11,000 connections allowed", worker(CAPTURED)?),
        ("HAProxy", stage.peer(HAPROXY)?[0]),
        ("Envoy", stage.peer(ENVOY)?[0]),
    ])
}

/// The rest has none of the connections.
fn carries_many(name: &str) -> bool {
    !["guard", "nginx worker", "HAProxy"].contains(&name)
}

fn figures(memory: &Memory) -> Figures {
    let Memory { rss, pss, anonymous, private_dirty } = *memory;
    vec![("rss", mb(rss)), ("pss", mb(pss)), ("anonymous", mb(anonymous)), ("private dirty", mb(private_dirty))]
}

fn mb(kb: u64) -> f64 {
    kb as f64 / KB_PER_MB
}

// === impl Held ===

impl Held {
    /// Returns when all of them are open.
    fn open(stage: &Stage, subject: &Subject, connections: u32) -> Result<Self> {
        let mut command = load::own(stage.pod(subject.pod)?, Cpus::LOAD)?;
        command.args(["idle", "--to", &subject.url, "--connections", &connections.to_string(), "--hold"]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("outrigger-load idle")?;
        let mut held = Self { name: subject.name.clone(), child };
        let mut line = String::new();
        BufReader::new(held.child.stdout.take().context("its output")?).read_line(&mut line)?;
        ensure!(line.contains("connections"), "{}: idle connections: {line:?}", held.name);
        Ok(held)
    }

    fn close(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().context("outrigger-load idle")?;
        ensure!(status.success(), "{}: idle connections: {status}", self.name);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
