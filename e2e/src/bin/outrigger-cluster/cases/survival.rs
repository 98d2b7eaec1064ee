//! podinfo under steady load, while everything around it changes or dies: no call may fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use outrigger_testbed::{Kill, now_us};

use super::{
    case,
    failure::{restarts, status},
    install::{CONTROLLERS, SYSTEM},
    on_nodes,
    podinfo::{self, NAMESPACE, Steady},
};
use crate::{
    Case,
    cluster::{Cluster, condition, text, until},
};

pub(super) const CASES: &[Case] = &[
    case("podinfo: its apps are restarted, one pod after the other", restarted),
    case("podinfo: scaled from 1 to 5 and back", scaled),
    case("podinfo: all controllers are restarted", controllers),
    on_nodes("podinfo: a sidecar runs out of memory", out_of_memory),
    on_nodes("podinfo: sidecars crash-loop for two minutes, and the shared proxies drain meanwhile", crash_loop),
    on_nodes("podinfo: a whole node is lost", node_lost),
];

const SIDECAR: &str = "outrigger-sidecar";

fn restarted(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let steady = Steady::start(cluster)?;
    for deployment in ["backend", "frontend"] {
        cluster.restart(NAMESPACE, deployment)?;
    }
    steady.goes_on(200)?;
    steady.finish(&[])
}

fn scaled(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let scale = |replicas: usize| -> Result<()> {
        cluster.kubectl(&["scale", "-n", NAMESPACE, "deployment/backend", &format!("--replicas={replicas}")])?;
        podinfo::rolled_out(cluster, "backend")?;
        // Those that end do so under load.
        cluster.until_pods(NAMESPACE, "app=backend", replicas)
    };
    scale(1)?;
    let steady = Steady::start(cluster)?;
    for replicas in [5, 1] {
        scale(replicas)?;
        steady.goes_on(100)?;
    }
    steady.finish(&[])?;
    scale(2)
}

/// In turn, as an upgrade does it; then all at once.
fn controllers(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let steady = Steady::start(cluster)?;
    cluster.restart(SYSTEM, "outrigger-controller")?;
    cluster.kubectl(&["delete", "pods", "-n", SYSTEM, "-l", CONTROLLERS, "--grace-period=0", "--force"])?;
    steady.goes_on(200)?;
    cluster.rolled_out(SYSTEM, "deployment/outrigger-controller")?;
    // Its first words may not disturb anybody either.
    cluster.restart(NAMESPACE, "backend")?;
    steady.goes_on(100)?;
    steady.finish(&[])
}

/// Something in the sidecar's own memory cgroup takes all that the limit allows; the kernel ends the sidecar.
fn out_of_memory(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let mut kills = Vec::new();
    let steady = Steady::start(cluster)?;
    for pod in [podinfo::caller(cluster)?, cluster.pod(NAMESPACE, "app=backend")?] {
        let sidecar = cluster.process(NAMESPACE, &pod, SIDECAR)?;
        let before = restarts(&cluster.get("pod", NAMESPACE, &pod)?, SIDECAR);
        kills.push(exhaust(sidecar)?);
        steady.goes_on(100)?;
        until(Duration::from_secs(60), || {
            let pod = cluster.get("pod", NAMESPACE, &pod)?;
            let reason = text(&status(&pod, SIDECAR)["lastState"]["terminated"]["reason"]);
            ensure!(restarts(&pod, SIDECAR) > before, "it wasn't restarted");
            ensure!(reason == "OOMKilled", "Kubernetes says that it ended by {reason:?}");
            Ok(())
        })?;
    }
    steady.goes_on(100)?;
    steady.finish(&kills)
}

/// Lets the kernel run out of the memory that a process's container may have, and choose that process.
fn exhaust(process: Pid) -> Result<Kill> {
    let proc = Path::new("/proc").join(process.to_string());
    let members = memory_cgroup(&proc)?.join("cgroup.procs");
    fs::write(proc.join("oom_score_adj"), "1000").context("oom_score_adj")?;
    let sent = now_us();
    let mut eater = Command::new("sh")
        .args(["-c", "echo $$ > \"$0\" && exec tail /dev/zero"])
        .arg(&members)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("sh")?;
    let gone = until(Duration::from_secs(30), || {
        ensure!(!proc.exists(), "it lives");
        Ok(())
    });
    let gone_at = now_us();
    // The kernel has ended it, too, or will.
    let _ = eater.kill();
    let _ = eater.wait();
    gone.map(|()| Kill { sent, gone: gone_at })
}

/// The folder of a process's memory cgroup, of version 1 or 2.
fn memory_cgroup(proc: &Path) -> Result<PathBuf> {
    let groups = fs::read_to_string(proc.join("cgroup")).context("the process's cgroups")?;
    let path = |line: &str| line.splitn(3, ':').nth(2).map(|path| path.trim_start_matches('/').to_owned());
    let first = groups.lines().find(|line| line.split(':').nth(1).is_some_and(|names| names == "memory"));
    let (root, line) = match first {
        Some(line) => ("/sys/fs/cgroup/memory", line),
        None => ("/sys/fs/cgroup", groups.lines().find(|line| line.starts_with("0::")).context("no memory cgroup")?),
    };
    Ok(Path::new(root).join(path(line).context("a cgroup without a path")?))
}

fn crash_loop(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let victims = [podinfo::caller(cluster)?, cluster.pod(NAMESPACE, "app=backend")?];
    let steady = Steady::start(cluster)?;
    let mut kills: Vec<Kill> = Vec::new();
    let (start, mut drained) = (Instant::now(), false);
    while start.elapsed() < Duration::from_secs(120) {
        for pod in &victims {
            // Away for longer and longer: Kubernetes waits before it tries again.
            let Ok(_) = cluster.process(NAMESPACE, pod, SIDECAR) else { continue };
            // Every other one may take its traffic back first.
            if kills.len() / victims.len() % 2 == 1 {
                thread::sleep(Duration::from_millis(1500));
            }
            // One that ends by itself meanwhile is none of ours.
            kills.extend(cluster.kill(NAMESPACE, pod, SIDECAR).ok());
        }
        if !drained && start.elapsed() > Duration::from_secs(40) {
            cluster.restart(SYSTEM, "outrigger-shared")?;
            drained = true;
        }
        thread::sleep(Duration::from_millis(500));
    }
    println!("        {} deaths", kills.len());
    ensure!(kills.len() >= 6 && drained, "only {} deaths", kills.len());
    steady.goes_on(100)?;
    steady.finish(&kills)?;
    // The next case begins with all of them well.
    cluster.restart(NAMESPACE, "backend")?;
    cluster.restart(NAMESPACE, "caller")
}

/// As by a power cut: nobody says goodbye, and no packet is answered any more. Most of the backends are there, so that
/// callers, who like those of their own zone best, go there too.
fn node_lost(cluster: &Cluster) -> Result<()> {
    podinfo::open(cluster)?;
    let home = text(&cluster.get("pod", NAMESPACE, &podinfo::caller(cluster)?)?["spec"]["nodeName"]);
    let nodes = cluster.get("nodes", "", "")?;
    let names = nodes["items"].as_array().into_iter().flatten().map(|node| text(&node["metadata"]["name"]));
    let lost = names.into_iter().find(|name| *name != home).context("there is only one node")?;
    podinfo::open_beyond(cluster, &lost)?;
    let survived = survives_loss(cluster, &home, &lost);
    // Whatever has happened: the next case begins without them.
    let deleted = cluster.kubectl(&["delete", "deployment", "-n", NAMESPACE, "beyond"]);
    survived.and(deleted).and_then(|_| cluster.until_pods(NAMESPACE, "at=beyond", 0))
}

fn survives_loss(cluster: &Cluster, home: &str, lost: &str) -> Result<()> {
    for (app, here, there) in [("frontend", 1, 1), ("backend", 1, 3)] {
        let pods = cluster.pods(NAMESPACE, &format!("app={app}"))?;
        let on = |node: &str| pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
        ensure!((on(home), on(lost)) == (here, there), "{app}: {} on {home}, {} on {lost}", on(home), on(lost));
    }
    let steady = Steady::start(cluster)?;
    let sent = now_us();
    cluster.node("kill", lost)?;
    let kill = Kill { sent, gone: now_us() };
    let noticed = until(Duration::from_secs(120), || {
        let node = cluster.get("node", "", lost)?;
        let ready = &condition(&node["status"]["conditions"], "Ready")["status"];
        ensure!(ready != "True", "{lost} is Ready: {ready}");
        Ok(())
    });
    println!("        Kubernetes called it lost {:.0} s later", Duration::from_micros(now_us() - sent).as_secs_f64());
    let on = steady.goes_on(100);
    cluster.node("start", lost)?;
    cluster.kubectl(&["wait", "node", lost, "--for=condition=Ready", "--timeout=120s"])?;
    for app in ["frontend", "backend", "beyond"] {
        podinfo::rolled_out(cluster, app)?;
    }
    let back = steady.goes_on(100);
    steady.finish(&[kill])?;
    noticed.and(on).and(back)
}
