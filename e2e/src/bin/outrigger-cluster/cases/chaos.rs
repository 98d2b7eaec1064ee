//! `outrigger chaos`, whose engine is ours: it breaks every part of the mesh in turn and loses no call.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{case, install::SYSTEM};
use crate::{
    Case,
    cluster::{Cluster, text},
};

pub(super) const CASES: &[Case] = &[
    case("chaos: what isn't marked for it isn't touched", unmarked),
    case("chaos: every part of the mesh is broken, and no call is lost", everything),
];

const MARK: &str = "outrigger.dev/chaos";

fn played(cluster: &Cluster, args: &[&str]) -> Result<Vec<Value>> {
    let said = cluster.outrigger(&[&["chaos", "--json"], args].concat())?;
    let page: Value = serde_json::from_str(&said.stdout).with_context(|| format!("{}{}", said.stdout, said.stderr))?;
    page["scenes"].as_array().cloned().context("scenes")
}

fn unmarked(cluster: &Cluster) -> Result<()> {
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: outrigger-chaos }\n")?;
    let refused = cluster.outrigger(&["chaos", "--only", "killed"])?.refusal();
    cluster.kubectl(&["delete", "namespace", "outrigger-chaos"])?;
    let refused = refused?;
    ensure!(refused.contains("not marked for chaos") && refused.contains(MARK), "{refused}");

    let uids = |pods: Vec<Value>| pods.iter().map(|pod| text(&pod["metadata"]["uid"])).collect::<Vec<_>>();
    let controllers = || Ok::<_, anyhow::Error>(uids(cluster.pods(SYSTEM, "app.kubernetes.io/part-of=outrigger")?));
    let before = controllers()?;
    let scenes = played(cluster, &["--only", "all controllers", "--only", "shared proxies"])?;
    let not_tried = |scene: &Value| scene["seen"].is_null() && text(&scene["notTried"]).contains(MARK);
    ensure!(scenes.len() == 2 && scenes.iter().all(not_tried), "{scenes:#?}");
    ensure!(!before.is_empty() && controllers()? == before, "pods of the mesh have changed");
    cluster.kubectl(&["wait", "--for=delete", "namespace/outrigger-chaos", "--timeout=90s"])?;
    Ok(())
}

/// How long no call was answered depends on how busy this machine is, so it is shown and not judged.
fn everything(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["label", "namespace", SYSTEM, &format!("{MARK}=allowed")])?;
    let played = played(cluster, &[]);
    cluster.kubectl(&["label", "namespace", SYSTEM, &format!("{MARK}-")])?;
    let scenes = played?;
    for scene in &scenes {
        let seen = &scene["seen"];
        println!(
            "        {}: {} calls, {} refused, {} lost, {} under way, {} ms of silence",
            text(&scene["scene"]),
            seen["calls"],
            seen["refused"],
            seen["lost"],
            seen["underWay"],
            seen["silenceMs"],
        );
    }
    let kept = |scene: &&Value| scene["seen"]["refused"] == 0 && scene["seen"]["lost"] == 0;
    let broken: Vec<_> = scenes.iter().filter(|scene| !kept(scene)).collect();
    ensure!(scenes.len() >= 12 && broken.is_empty(), "{broken:#?}");
    Ok(())
}
