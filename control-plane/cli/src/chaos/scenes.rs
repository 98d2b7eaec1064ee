//! What happens, in its order: each scene breaks one thing under load and waits until all is well again.

use std::time::Duration;

use anyhow::{Context, Result};
use outrigger_testbed::{
    Kill,
    fault::{Fault, Proxy},
};
use outrigger_wire::names::{SYSTEM_NAMESPACE, ports};
use tokio::time::sleep;

use super::{
    ground::{Ground, MARK, Whose},
    verdict::Verdict,
};

pub(super) struct Scene {
    pub(super) name: &'static str,
    what: What,
    /// The longest that no call may be answered.
    pub(super) silence: Duration,
}

enum What {
    InPod(Whose, Fault),
    /// All shared proxies of the caller's pool but one end while its sidecar hangs.
    SharedProxies,
    /// All controllers end.
    Controllers,
}

const MOMENT: Duration = Duration::from_millis(500);
const SECOND: Duration = Duration::from_secs(1);

/// The kubelet hears of it, and then grants two seconds, whatever it is told; in microseconds.
const ENDING_US: u64 = 3_000_000;

pub(super) const SCENES: &[Scene] = &[
    in_pod("the caller's sidecar is killed", Whose::Caller, Fault::Kill { proxy: Proxy::Sidecar }, MOMENT),
    in_pod("a callee's sidecar is killed", Whose::Callee, Fault::Kill { proxy: Proxy::Sidecar }, MOMENT),
    in_pod("the caller's guard is killed", Whose::Caller, Fault::Kill { proxy: Proxy::Guard }, MOMENT),
    in_pod("a callee's guard is killed", Whose::Callee, Fault::Kill { proxy: Proxy::Guard }, MOMENT),
    in_pod("the caller's sidecar hangs", Whose::Caller, Fault::Hang { proxy: Proxy::Sidecar, seconds: 5 }, SECOND),
    in_pod("a callee's sidecar hangs", Whose::Callee, Fault::Hang { proxy: Proxy::Sidecar, seconds: 5 }, SECOND),
    in_pod("the caller's sidecar starves", Whose::Caller, Fault::Starve { proxy: Proxy::Sidecar, seconds: 5 }, SECOND),
    in_pod(
        "the caller is cut off from the controllers",
        Whose::Caller,
        Fault::Cut { seconds: 10, percent: 100, port: Some(ports::CONTROLLER) },
        MOMENT,
    ),
    in_pod("a callee is cut off", Whose::Callee, Fault::Cut { seconds: 10, percent: 100, port: None }, SECOND),
    in_pod("packets of the caller are lost", Whose::Caller, Fault::Cut { seconds: 10, percent: 1, port: None }, SECOND),
    Scene { name: "shared proxies end while one carries the caller", what: What::SharedProxies, silence: SECOND },
    Scene { name: "all controllers end", what: What::Controllers, silence: MOMENT },
];

const fn in_pod(name: &'static str, whose: Whose, fault: Fault, silence: Duration) -> Scene {
    Scene { name, what: What::InPod(whose, fault), silence }
}

/// Plays all of them. One that can't be played to its end is a promise that isn't kept, and the next begins.
pub(super) async fn play(ground: &Ground, scenes: &[&Scene], rate: u32) -> Result<Vec<Verdict>> {
    let mut verdicts = Vec::with_capacity(scenes.len());
    for (index, scene) in scenes.iter().enumerate() {
        eprintln!("[{}/{}] {}", index + 1, scenes.len(), scene.name);
        verdicts.push(match one(ground, scene, rate).await {
            Ok(verdict) => verdict,
            Err(error) => Verdict::broken(scene, &error),
        });
    }
    Ok(verdicts)
}

async fn one(ground: &Ground, scene: &Scene, rate: u32) -> Result<Verdict> {
    if !matches!(scene.what, What::InPod(..)) && !ground.mesh_is_marked {
        let (key, value) = MARK;
        let remedy = format!("kubectl label namespace {SYSTEM_NAMESPACE} {key}={value}");
        return Ok(Verdict::not_tried(scene, format!("namespace {SYSTEM_NAMESPACE} isn't marked for chaos: {remedy}")));
    }
    ground.well().await.context("before it")?;
    let load = ground.load(rate).await?;
    let second = usize::try_from(rate).unwrap_or(usize::MAX);
    load.answers(second).await?;
    let broken = match scene.what {
        What::InPod(whose, fault) => vec![ground.befall(whose, fault).await?],
        What::SharedProxies => {
            let proxies = ground.shared_proxies().await?;
            let hang = ground.befall(Whose::Caller, Fault::Hang { proxy: Proxy::Sidecar, seconds: 8 });
            let end = async {
                // By then they carry the caller.
                sleep(2 * SECOND).await;
                let sent = load.now();
                ground.end(&proxies, 1).await?;
                Ok(Kill { sent, gone: sent + ENDING_US })
            };
            <[_; 2]>::from(tokio::try_join!(hang, end)?).to_vec()
        }
        What::Controllers => {
            ground.end(&ground.controllers().await?, 0).await?;
            Vec::new()
        }
    };
    ground.well().await.context("after it")?;
    load.answers(second).await?;
    Ok(Verdict::of(scene, &load.finish().await?, &broken))
}
