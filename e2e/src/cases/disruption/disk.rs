//! Where a proxy saves its state there is no room, or nothing may be written; nor may anything be to `/tmp`. It serves, takes
//! in what is new, says what it can't save, and starts again with what is there.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Load, Machine, Mesh, PodSpec, now_us, probe::wait_until};
use outrigger_wire::names::PROXY_UID;

use super::{CALLER, SHARED, all_accept, answered_by, load, mesh_of, route};
use crate::raw::PATIENCE;

const MARK: &str = "saved-before";

/// Where a sidecar, or a shared proxy, saves, and nothing else does.
struct Disk {
    dir: PathBuf,
    config: PathBuf,
    _mounted: Mounted,
}

/// Until it is dropped.
struct Mounted(PathBuf);

pub(super) fn full(machine: &Machine) -> Result<()> {
    let mut mesh = mesh_of(machine, PodSpec::new(CALLER))?;
    mount(&["--bind", "/tmp", "/tmp"])?;
    let _tmp = Mounted("/tmp".into());
    mount(&["-o", "remount,bind,ro", "/tmp"])?;
    let v1 = mesh.write("route.yaml", &first())?;
    let load = load(&mesh, 200, false, 20)?;
    answered_by(&load, "v1", v1)?;
    let disks = [(CALLER, "sidecar"), (SHARED, "shared")].map(|(pod, role)| Disk::of(machine, pod, role));
    let disks = disks.into_iter().collect::<Result<Vec<_>>>()?;

    for disk in &disks {
        disk.fill()?;
    }
    lives_without(&mut mesh, &load, "v2", &disks, CALLER).context("full")?;
    for disk in &disks {
        fs::remove_file(disk.dir.join("filler"))?;
        mount(&["-o", "remount,ro", &disk.dir.display().to_string()])?;
    }
    lives_without(&mut mesh, &load, "v3", &disks, SHARED).context("read-only")?;
    for disk in &disks {
        mount(&["-o", "remount,rw", &disk.dir.display().to_string()])?;
    }
    // There is room again: what is new is saved, and what is half there counts as nothing.
    let was = disks[0].saved()?;
    let from = mesh.write("route.yaml", &route("v2"))?;
    answered_by(&load, "v2", from)?;
    wait_until("the configuration to be saved", PATIENCE, || disks[0].saved().is_ok_and(|is| is != was))?;
    let saved = &disks[0].config;
    let half = fs::metadata(saved)?.len() / 2;
    mesh.kill_sidecar(CALLER)?;
    File::options().write(true).open(saved)?.set_len(half)?;
    mesh.restart_sidecar(CALLER)?;
    ensure!(mesh.pod(CALLER)?.sidecar()?.log().contains("saved state isn't usable"), "half a file was believed");
    all_accept(&mesh, &[CALLER])?;
    answered_by(&load, "v2", now_us())?;
    let samples = load.finish()?;
    // By those that were killed.
    println!("        {} calls: {:?}", samples.len(), samples.by_outcome());
    ensure!(samples.failed() <= 8, "{:?}", samples.by_outcome());
    Ok(())
}

/// Takes in what is new, says that it isn't saved; and `victim` starts again without a controller, with what was saved before.
fn lives_without(mesh: &mut Mesh, load: &Load, version: &str, disks: &[Disk], victim: &str) -> Result<()> {
    let saved = || disks.iter().map(Disk::saved).collect::<Result<Vec<_>>>();
    let said = |mesh: &Mesh, pod: &str| -> usize {
        mesh.pod(pod).and_then(|it| Ok(it.sidecar()?.log())).unwrap_or_default().matches("isn't saved").count()
    };
    let (was, before) = (saved()?, [CALLER, SHARED].map(|pod| said(mesh, pod)));
    let from = mesh.write("route.yaml", &route(version))?;
    answered_by(load, version, from)?;
    for (pod, before) in [CALLER, SHARED].into_iter().zip(before) {
        wait_until(&format!("{pod} says so"), PATIENCE, || said(mesh, pod) > before)?;
    }
    mesh.kill_controller()?;
    mesh.kill_sidecar(victim)?;
    mesh.restart_sidecar(victim).context("without a controller")?;
    all_accept(mesh, &[CALLER])?;
    if victim == CALLER {
        answered_by(load, "v1", now_us()).context("without a controller")?;
    }
    mesh.start_controller()?;
    answered_by(load, version, now_us()).context("with a controller again")?;
    ensure!(was == saved()?, "what was saved has changed");
    Ok(())
}

/// All calls go to the first version, by a route that is known by more than that.
fn first() -> String {
    format!(
        "{}    filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-mark, value: {MARK}}}]}}}}]\n",
        route("v1")
    )
}

fn mount(arguments: &[&str]) -> Result<()> {
    let done = Command::new("mount").args(arguments).output().context("mount")?;
    ensure!(done.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

// === impl Mounted ===

impl Drop for Mounted {
    fn drop(&mut self) {
        // Whoever still has something open there keeps it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

// === impl Disk ===

impl Disk {
    /// One of its own, with what is there as soon as the first route is.
    fn of(machine: &Machine, pod: &str, role: &str) -> Result<Self> {
        let dir = machine.dir.join("pods").join(pod.replace('/', ".")).join("sidecar");
        let config = dir.join(format!("{role}.config"));
        let marked = || fs::read(&config).is_ok_and(|it| it.windows(MARK.len()).any(|text| text == MARK.as_bytes()));
        wait_until(&format!("{} with the first route", config.display()), PATIENCE, marked)?;
        let read = |entry: std::io::Result<fs::DirEntry>| -> Result<_> {
            let file = entry?.path();
            Ok((file.clone(), fs::read(file)?))
        };
        let saved = fs::read_dir(&dir)?.map(read).collect::<Result<Vec<_>>>()?;
        let mut options = "size=1m,mode=700".to_owned();
        if machine.many_users {
            options += &format!(",uid={PROXY_UID},gid={PROXY_UID}");
        }
        mount(&["-t", "tmpfs", "-o", &options, "state", &dir.display().to_string()])?;
        let _mounted = Mounted(dir.clone());
        for (file, bytes) in saved {
            fs::write(&file, bytes)?;
            if machine.many_users {
                std::os::unix::fs::chown(&file, Some(PROXY_UID), Some(PROXY_UID))?;
            }
        }
        Ok(Self { dir, config, _mounted })
    }

    fn saved(&self) -> Result<Vec<u8>> {
        fs::read(&self.config).with_context(|| self.config.display().to_string())
    }

    fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.dir.join("filler"))?;
        while filler.write_all(&[0; 512]).is_ok() {}
        Ok(())
    }
}
