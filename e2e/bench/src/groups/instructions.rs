//! Instructions in user space per request, counted by valgrind on the real binaries: so many requests, then twice as many;
//! what start and end take falls out of the difference. One request at a time.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use outrigger_testbed::{Process, net::Namespace, probe::wait_until};

use crate::{
    ask,
    data::{Table, Tables},
    peers::{Lane, nginx},
    stage::{ALONE, PLAIN, SPARE, Stage},
    subject::{Speech, Way},
};

const REQUESTS: usize = 2000;
/// Fifty times slower than usual.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn instructions(stage: &mut Stage) -> Result<Tables> {
    let mut table = Table::default();
    let (less, more) = (nginx(stage, REQUESTS)?, nginx(stage, 2 * REQUESTS)?);
    table.add("nginx", &[("instructions", per_request(less, more))]);
    let hop = stage.subject(Way::Sidecar, Speech::Http1)?.address()?;
    let pair = stage.subject(Way::SidecarPair, Speech::Http1)?.address()?;
    for (name, to) in [("sidecar", hop), ("sidecar, the caller's of a pair", pair)] {
        let (less, more) = (sidecar(stage, to, REQUESTS)?, sidecar(stage, to, 2 * REQUESTS)?);
        table.add(name, &[("instructions", per_request(less, more))]);
    }
    for row in &table.0 {
        eprintln!("{}: {:?} instructions per request", row.name, row.values["instructions"]);
    }
    Ok(Tables::from([("instructions".to_owned(), table)]))
}

fn per_request(less: f64, more: f64) -> f64 {
    (more - less) / REQUESTS as f64
}

fn nginx(stage: &Stage, requests: usize) -> Result<f64> {
    let out = stage.dir.join(format!("callgrind.nginx.{requests}"));
    let conf = nginx::hop(&stage.dir, "counted", stage.pod(PLAIN)?.address(), nginx::FEW, true)?;
    let namespace = &stage.pod(SPARE)?.namespace;
    let mut command = namespace.command("valgrind");
    command.args(valgrind(&out)).arg(nginx::binary()?).arg("-c").arg(conf);
    let mut process = Process::spawn("nginx under valgrind", command, &stage.dir.join("counted.log"))?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, Lane::Http1.port()));
    send(namespace, to, requests).with_context(|| process.tail())?;
    process.signal(Signal::SIGTERM)?;
    wait_until("nginx's end", PATIENCE, || {
        // In a single process it looks at the signal when something else has happened.
        let _ = namespace.connect(to, PATIENCE);
        !process.is_running()
    })?;
    total(&out)
}

/// The sidecar of a pod without guard, started by valgrind and stopped again.
fn sidecar(stage: &mut Stage, to: SocketAddr, requests: usize) -> Result<f64> {
    // Where the proxy's user may write.
    let folder = stage.dir.join("pods").join(ALONE.replace('/', ".")).join("sidecar");
    let out = folder.join(format!("callgrind.{requests}"));
    stage.mesh.kill_sidecar(ALONE)?;
    let pod = stage.mesh.pod_mut(ALONE)?;
    pod.spec.wrapper = [vec!["valgrind".to_owned()], valgrind(&out)].concat();
    let started = pod.start_sidecar();
    pod.spec.wrapper.clear();
    started?;
    let sent = send(&pod.namespace, to, requests);
    let mut process = pod.sidecar.take().context("no sidecar")?;
    sent.with_context(|| process.tail())?;
    process.terminate(PATIENCE)?;
    pod.start_sidecar()?;
    pod.wait_ready()?;
    let counted = total(&out);
    // It isn't the sidecar's to keep.
    fs::remove_file(&out).with_context(|| out.display().to_string())?;
    counted
}

fn valgrind(out: &Path) -> Vec<String> {
    vec!["--tool=callgrind".to_owned(), format!("--callgrind-out-file={}", out.display())]
}

/// After the first answer, which any start is over with.
fn send(namespace: &Namespace, to: SocketAddr, requests: usize) -> Result<()> {
    wait_until("the first answer under valgrind", PATIENCE, || ask::answers(namespace, to))?;
    let mut stream = namespace.connect(to, PATIENCE)?;
    ask::exchange(&mut stream, requests, PATIENCE).map(drop)
}

/// Of all threads.
fn total(out: &PathBuf) -> Result<f64> {
    let text = fs::read_to_string(out).with_context(|| format!("{}: valgrind counted nothing", out.display()))?;
    let totals = text.lines().filter_map(|line| line.strip_prefix("totals:")?.trim().parse::<f64>().ok());
    Ok(totals.sum())
}
