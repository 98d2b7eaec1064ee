//! Private keys stay in their pods: a shared proxy that carries a pod's traffic has never seen its key.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use anyhow::{Context, Result, ensure};
use outrigger_testbed::{Machine, Mesh, PodSpec, Spec};

use crate::{cases::SHARED, raw::Wire};

const FRONT: &str = "shop/front";
const VAULT: &str = "shop/vault";

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: vault}
spec:
  clusterIP: 10.96.0.10
  selector: {app: vault}
  ports:
  - {name: web, port: 8080}
";

/// Of a P-256 key, as PKCS #8 (RFC 5958) wraps it: the number itself, behind the octet string's head.
const KEY_HEAD: &[u8] = &[0x02, 0x01, 0x01, 0x04, 0x20];
const KEY: usize = 32;

pub(super) fn keys_stay(machine: &Machine) -> Result<()> {
    let pods = vec![PodSpec::new(FRONT), PodSpec::new(VAULT).app("outrigger-testapp http")];
    let config = vec![("vault.yaml".to_owned(), OBJECTS.to_owned())];
    let mut mesh = Mesh::start(machine, Spec { pods, config, shared: 1 })?;
    mesh.pod_mut(VAULT)?.apps[0].wait_log("listening")?;
    call(&mesh)?;
    let mut keys = Vec::new();
    for name in [FRONT, VAULT] {
        let pod = mesh.pod(name)?;
        for (part, process) in [("sidecar", &pod.sidecar), ("guard", &pod.guard)] {
            let key = key_of(machine, name, part)?;
            // Or the search finds nothing wherever it is.
            let own = process.as_ref().with_context(|| format!("{name} has no {part}"))?.pid();
            ensure!(holds(own, &key)?, "{name}'s {part} doesn't seem to have its own key");
            keys.push((format!("{name}'s {part}"), key));
        }
    }
    mesh.kill_sidecar(FRONT)?;
    mesh.kill_sidecar(VAULT)?;
    for _ in 0..20 {
        call(&mesh)?;
    }
    let shared = mesh.pod(SHARED)?.sidecar()?.pid();
    let controller = mesh.controller.as_ref().context("no controller")?.pid();
    for (whose, key) in &keys {
        ensure!(!holds(shared, key)?, "the shared proxy has the key of {whose} in its memory");
        ensure!(!holds(controller, key)?, "the controller has the key of {whose} in its memory");
    }
    Ok(())
}

fn call(mesh: &Mesh) -> Result<()> {
    Wire::open(mesh.pod(FRONT)?, ([10, 96, 0, 10], 8080).into())?.ask("GET /", "")?.expect(200).map(drop)
}

/// From the files that the pod keeps for its own proxies' next start.
fn key_of(machine: &Machine, pod: &str, part: &str) -> Result<Vec<u8>> {
    let folder = machine.dir.join("pods").join(pod.replace('/', ".")).join(part);
    let mut found = None;
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let Ok(bytes) = fs::read(&path) else { continue };
        let at = bytes.windows(KEY_HEAD.len()).position(|window| window == KEY_HEAD);
        let key = at.and_then(|at| bytes.get(at + KEY_HEAD.len()..at + KEY_HEAD.len() + KEY));
        found = found.or(key.map(<[u8]>::to_vec));
    }
    found.with_context(|| format!("no private key in {}", folder.display()))
}

/// Whether a process has these bytes anywhere in memory that it may write.
fn holds(pid: u32, bytes: &[u8]) -> Result<bool> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("its memory")?;
    let mut read = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/maps"))?.lines() {
        let mut words = line.split_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').context("a range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut part = vec![0; usize::try_from(to - from)?];
        // Some of the kernel's own can't be read.
        if memory.read_exact_at(&mut part, from).is_err() {
            continue;
        }
        read += part.len();
        if part.windows(bytes.len()).any(|window| window[0] == bytes[0] && window == bytes) {
            return Ok(true);
        }
    }
    ensure!(read > 1 << 20, "only {read} bytes of process {pid} could be read");
    Ok(false)
}
