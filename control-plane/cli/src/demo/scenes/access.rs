//! An AccessPolicy denies a caller: at once, alone, by name, and by whichever proxy speaks for the callee.

use std::time::Duration;

use anyhow::{Context, Result};
use outrigger_testbed::{Load, Outcome, probe};

use crate::demo::{
    promise::Promise,
    shop,
    stage::{Stage, until},
};

const POLICY: &str = "no-visitors-in-the-catalog";
const DENIED: Outcome = Outcome::Status(403);
const EFFECT: Duration = Duration::from_millis(250);

pub(crate) fn deny(stage: &mut Stage) -> Result<()> {
    let visitor = stage.load(shop::VISITOR, shop::CATALOG, 100)?;
    let front = stage.load(shop::FRONT, shop::CATALOG, 100)?;
    until("the visitor's first good answer", || visitor.samples().ok().count() > 10)?;

    let written = stage.mesh.write(shop::NO_VISITORS.0, shop::NO_VISITORS.1)?;
    until("the denial", || denied(&visitor, written) > 0)?;
    stage.observe(Duration::from_secs(1));
    let says = who_denies(stage)?;
    stage.say(&format!("the visitor gets 403 from {says}"));
    stage.promise(Promise::holds("the denial names its policy", POLICY, says.clone(), says.contains(POLICY)));

    let killed = stage.mesh.kill_sidecar(shop::VISITOR)?.gone;
    until("an answer without the caller's sidecar", || visitor.since(killed).len() > 20)?;
    stage.mesh.restart_sidecar(shop::VISITOR)?;
    let killed_callee = stage.mesh.kill_sidecar(shop::CATALOG_V2)?.gone;
    until("an answer without the callee's sidecar", || visitor.since(killed_callee).len() > 20)?;
    stage.mesh.restart_sidecar(shop::CATALOG_V2)?;

    let lifted = stage.mesh.remove(shop::NO_VISITORS.0)?;
    until("the end of the denial", || visitor.since(lifted).ok().count() > 10)?;
    let (visitor, front) = (visitor.finish()?, front.finish()?);

    // Two callees hear of it each for itself: until the last good answer, and not before the first denial.
    let early = visitor.between(written, killed);
    let last_good = early.ok().map(|sample| sample.done).max();
    let first_denied = early.0.iter().filter(|sample| sample.outcome == DENIED).map(|sample| sample.done).min();
    let last = last_good.max(first_denied).map(|done| done - written);
    stage.promise(Promise::within("denied after the policy was written", EFFECT, last.map(Duration::from_micros)));
    let settled = written + u64::try_from(EFFECT.as_micros()).unwrap_or(u64::MAX);
    let leaked = visitor.between(settled, lifted).ok().filter(|sample| sample.done < lifted).count();
    stage.promise(Promise::none("calls let through, sidecars of both ends killed included", leaked));
    let hit = front.0.iter().filter(|sample| sample.outcome == DENIED).count();
    stage.promise(Promise::none("calls of others denied", hit));
    Ok(())
}

fn denied(load: &Load, from: u64) -> usize {
    load.since(from).by_outcome().get(&DENIED).copied().unwrap_or_default()
}

/// Asks once more, as the visitor's app, and reads who says no.
fn who_denies(stage: &Stage) -> Result<String> {
    let target = shop::target(shop::CATALOG)?;
    let page = probe::get_from(&stage.mesh.pod(shop::VISITOR)?.namespace, target.address, "/")?;
    let body = page.body.trim();
    match page.headers.get("outrigger-denied-by") {
        Some(policy) => Ok(policy.clone()),
        None if !body.is_empty() => Ok(body.to_owned()),
        // Callers aren't told; the callee's own metrics know.
        None => {
            let metrics = stage.mesh.pod(shop::CATALOG_V1)?.metrics();
            let denial = metrics.iter().find(|metric| metric.name == "outrigger_access_denied_total");
            denial.and_then(|metric| metric.labels.get("policy").cloned()).context("nobody says which policy denied")
        }
    }
}
