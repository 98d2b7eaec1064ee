//! Routes change under load: how soon that shows, and that nothing else does.

use std::time::Duration;

use anyhow::Result;
use http::HeaderMap;
use outrigger_testbed::{LoadSpec, Outcome, Samples, samples::quantile_of};

use crate::{
    demo::{
        promise::Promise,
        shop,
        stage::{Stage, failures, until},
    },
    terminal::time,
};

/// From the file's writing to the first call that it steers.
const EFFECT: Duration = Duration::from_millis(25);

/// Four standard deviations of a share of a few hundred calls.
const TOLERANCE: f64 = 0.09;

pub(crate) fn split(stage: &mut Stage) -> Result<()> {
    let load = stage.load(shop::FRONT, shop::CATALOG, 300)?;
    stage.observe(Duration::from_secs(2));
    let changed = stage.mesh.write(shop::ROUTE.0, &shop::split(50, 50))?;
    let settled = changed + 500_000;
    stage.observe(Duration::from_secs(3));
    let samples = load.finish()?;
    stage.mesh.write(shop::ROUTE.0, shop::ROUTE.1)?;

    let before = share(&samples.between(0, changed));
    let after = share(&samples.between(settled, u64::MAX));
    stage.say(&format!("catalog-v2 answers {:.0} % before, {:.0} % after", before * 100.0, after * 100.0));
    let kept = (before - 0.1).abs() < TOLERANCE && (after - 0.5).abs() < TOLERANCE;
    let measured = format!("{:.0} % → {:.0} %", before * 100.0, after * 100.0);
    stage.promise(Promise::holds("share of catalog-v2 follows the route", "10 % → 50 %", measured, kept));
    stage.say(&failures(&samples));
    stage.promise(Promise::none("errors while the split changes", samples.failed()));
    Ok(())
}

fn share(samples: &Samples) -> f64 {
    let versions = samples.by_version();
    let of = |version: &str| versions.get(version).copied().unwrap_or_default() as f64;
    of("v2") / (of("v1") + of("v2")).max(1.0)
}

pub(crate) fn changes(stage: &mut Stage) -> Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert("x-preview", http::HeaderValue::from_static("yes"));
    let target = shop::target(shop::CATALOG)?;
    let report = Duration::from_millis(5);
    let spec = LoadSpec { keep_alive: true, headers, report, ..LoadSpec::new(target, 1000) };
    let load = stage.load_of(shop::FRONT, &spec)?;

    let count = stage.times(200, 50);
    let mut turns = Vec::with_capacity(count);
    for turn in 0..count {
        let version = if turn % 2 == 0 { "v2" } else { "v1" };
        let written = stage.mesh.write(shop::PREVIEW.0, &shop::preview(version))?;
        let mut first = None;
        until("the changed route", || {
            first = load.since(written).ok().filter(|sample| sample.version == version).map(|sample| sample.done).min();
            first.is_some()
        })?;
        turns.push(Turn { version, written, seen: first.unwrap_or(u64::MAX) });
        // A little of what follows is watched too: an old answer after a new one would be wrong.
        std::thread::sleep(Duration::from_millis(15));
    }
    let samples = load.finish()?;
    stage.mesh.write(shop::PREVIEW.0, shop::PREVIEW.1)?;

    let effect = |quantile| quantile_of(turns.iter().map(|turn| turn.seen - turn.written), quantile);
    if let (Some(p50), Some(p99)) = (effect(0.5), effect(0.99)) {
        stage.say(&format!("{count} changes, in effect after p50 {}, p99 {}", time(p50), time(p99)));
    }
    stage.promise(Promise::within(&format!("route in effect, p99 of {count} changes"), EFFECT, effect(0.99)));
    stage.promise(Promise::none("wrong answers around them", wrong(&samples, &turns)));
    stage.say(&failures(&samples));
    stage.promise(Promise::none(&format!("errors in {} calls meanwhile", samples.len()), samples.failed()));
    Ok(())
}

/// One change of the route and its first effect.
#[derive(Debug)]
struct Turn {
    version: &'static str,
    written: u64,
    seen: u64,
}

/// Answers of an old version to calls begun after the new one had answered, and of a new one before it was written.
fn wrong(samples: &Samples, turns: &[Turn]) -> usize {
    let ends = turns.iter().skip(1).map(|turn| turn.written).chain([u64::MAX]);
    let turned = turns.iter().zip(ends);
    let stale = turned.map(|(turn, end)| {
        let settled = samples.ok().filter(|sample| sample.scheduled > turn.seen && sample.done < end);
        settled.filter(|sample| sample.version != turn.version).count()
    });
    stale.sum::<usize>() + samples.by_outcome().get(&Outcome::Wrong).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use outrigger_testbed::Sample;

    use super::*;

    #[test]
    fn an_old_answer_after_a_new_one_is_wrong() {
        let sample = |scheduled, version: &str| Sample {
            scheduled,
            opened: 0,
            done: scheduled + 1,
            outcome: Outcome::Ok,
            version: version.to_owned(),
        };
        let turns = [Turn { version: "v2", written: 10, seen: 15 }, Turn { version: "v1", written: 30, seen: 33 }];
        let right = [sample(5, "v1"), sample(11, "v1"), sample(14, "v2"), sample(20, "v2"), sample(31, "v2")];
        assert_eq!(wrong(&Samples(right.to_vec()), &turns), 0);
        assert_eq!(wrong(&Samples(vec![sample(20, "v1"), sample(40, "v2")]), &turns), 2);
    }
}
