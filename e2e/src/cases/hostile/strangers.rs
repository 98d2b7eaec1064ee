//! Strangers who leave the controller no descriptors, and never say who they are.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{
    Machine,
    probe::{self, PAUSE, wait_until},
};
use serde_json::Value;

use super::{
    garbage::moved,
    rig::{CLIENT, Rig, Watch, check},
};

/// The controller begins with fewer, and may have as many as these.
const DESCRIPTORS: usize = 512;
const STRANGERS: usize = 600;
const READERS: usize = 100;
/// A newcomer waits behind all strangers who are in the kernel's queue, some eighty of whom are let in each second.
const PATIENCE: Duration = Duration::from_secs(40);

/// While more strangers than it has descriptors come again whenever they are closed, proxies keep their streams, are told what
/// changes, and one that is restarted gets its own.
pub(super) fn descriptors(machine: &Machine) -> Result<()> {
    let mut rig = Rig::start(machine)?;
    let before = streams(rig.mesh.controller.as_ref().context("no controller")?.admin)?;
    rig.mesh.kill_controller()?;
    let limits = format!("--nofile={}:{DESCRIPTORS}", DESCRIPTORS / 8);
    rig.mesh.start_controller_by(&["prlimit".to_owned(), limits])?;
    let controller = rig.mesh.controller.as_ref().context("no controller")?;
    let (grpc, admin, pid) = (controller.grpc, controller.admin, controller.pid());
    wait_until("all proxies are back", PATIENCE, || {
        streams(admin).is_ok_and(|now| before.keys().all(|node| now.contains_key(node)))
    })?;
    let before = streams(admin)?;
    let watches = [Watch::of("controller".to_owned(), pid)?];

    let (done, again) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let mut attack = || -> Result<()> {
        wait_until("strangers are closed for others", PATIENCE, || {
            again[0].load(Ordering::Relaxed) > STRANGERS && again[1].load(Ordering::Relaxed) > READERS
        })?;
        tell(&rig, "/moved")?;
        rig.mesh.kill_sidecar(CLIENT)?;
        rig.mesh.restart_sidecar(CLIENT)?;
        tell(&rig, "/again")?;
        let used = fs::read_dir(format!("/proc/{pid}/fd")).context("descriptors")?.count();
        println!("        {used} descriptors; strangers came again {again:?} times");
        ensure!(used < DESCRIPTORS / 2, "{used} descriptors are in use");
        ensure!(probe::get_here(admin, "/readyz")?.status == 200, "the controller isn't ready");
        Ok(())
    };
    thread::scope(|scope| {
        for (to, count, again) in [(grpc, STRANGERS, &again[0]), (admin, READERS, &again[1])] {
            let done = &done;
            scope.spawn(move || flood(to, count, done, again));
        }
        let attacked = attack();
        done.store(true, Ordering::Relaxed);
        attacked
    })
    .with_context(|| rig.mesh.controller_log())?;
    for (node, since) in &streams(admin)? {
        let restarted = node.starts_with(CLIENT) && node.ends_with("sidecar");
        ensure!(restarted || before.get(node) == Some(since), "{node} has lost its stream");
    }
    ensure!(!rig.mesh.controller_log().contains("no connection can be accepted"), "it had no descriptors left");
    check(&watches, 64)
}

/// A change that the client's sidecar must hear of.
fn tell(rig: &Rig, path: &str) -> Result<()> {
    rig.mesh.write("hostile.yaml", &include_str!("hostile.yaml").replace("/redirect", path))?;
    wait_until(&format!("the route's change to {path}"), PATIENCE, || moved(rig, path).unwrap_or(false)).map(drop)
}

/// When each proxy's stream began.
fn streams(admin: SocketAddr) -> Result<BTreeMap<String, u64>> {
    let all: Value = serde_json::from_str(&probe::get_here(admin, "/debug/proxies")?.body)?;
    let stream = |stream: &Value| Some((stream["node"].as_str()?.to_owned(), stream["connected_since"].as_u64()?));
    Ok(all.as_array().into_iter().flatten().filter_map(stream).collect())
}

/// Keeps `count` connections that say half of a hello or nothing, and counts those that it opens anew.
fn flood(to: SocketAddr, count: usize, done: &AtomicBool, again: &AtomicUsize) {
    let mut all: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    let mut opened = 0;
    while !done.load(Ordering::Relaxed) {
        for (index, held) in all.iter_mut().enumerate() {
            if held.as_mut().is_some_and(is_open) {
                continue;
            }
            *held = TcpStream::connect_timeout(&to, Duration::from_secs(1)).ok();
            if let Some(stream) = held {
                let said = if index % 2 == 0 { &b"\x16\x03\x01"[..] } else { b"" };
                let _ = stream.write_all(said).and_then(|()| stream.set_nonblocking(true));
                opened += 1;
                again.store(usize::saturating_sub(opened, count), Ordering::Relaxed);
            }
        }
        thread::sleep(PAUSE);
    }
}

fn is_open(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}
