//! How soon an object is in effect: from its being written to the first request that is served by it.

use std::{
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use outrigger_testbed::samples::quantile_of;

use crate::{
    ask,
    data::{Table, Tables},
    measure::Plan,
    stage::{CALLER, Stage},
    subject::{Speech, Way},
};

const TURNS: usize = 200;
/// Between two requests.
const PAUSE: Duration = Duration::from_millis(1);
/// Requests of each turn after the first by the new rule: an old answer among them would be wrong.
const AFTER: usize = 10;
const PATIENCE: Duration = Duration::from_secs(5);
const FILE: &str = "changes.yaml";

pub(super) fn changes(stage: &mut Stage, plan: &Plan) -> Result<Tables> {
    let mut table = Table::default();
    let to = stage.subject(Way::SidecarPair, Speech::Http1)?.address()?;
    let mut stream = stage.pod(CALLER)?.namespace.connect(to, PATIENCE).context("the callee's service")?;
    for round in 0..plan.rounds.max(1) {
        let (mut effects, mut wrong) = (Vec::with_capacity(TURNS), 0_u32);
        for number in 0..TURNS {
            let turn = format!("{round}-{number}");
            let written = stage.mesh.write(FILE, &route(&turn))?;
            effects.push(effect(&mut stream, &turn, written)?);
            for _ in 0..AFTER {
                thread::sleep(PAUSE);
                wrong += u32::from(!is_of(&mut stream, &turn).unwrap_or(false));
            }
        }
        let ms = |at| quantile_of(effects.iter().copied(), at).unwrap_or_default().as_secs_f64() * 1000.0;
        let (p50, p99, longest) = (ms(0.5), ms(0.99), ms(1.0));
        eprintln!("round {}: {TURNS} changes, p50 {p50:.1} ms, p99 {p99:.1} ms, wrong {wrong}", round + 1);
        let figures = [("p50", p50), ("p99", p99), ("longest", longest), ("wrong", f64::from(wrong))];
        table.add("route changed", &figures);
    }
    stage.mesh.remove(FILE)?;
    Ok(Tables::from([("changes".to_owned(), table)]))
}

/// Microseconds until the first answer by the rule of this turn.
fn effect(stream: &mut TcpStream, turn: &str, written: u64) -> Result<u64> {
    let begin = Instant::now();
    while !is_of(stream, turn)? {
        if begin.elapsed() > PATIENCE {
            bail!("a route isn't in effect after {PATIENCE:?}");
        }
        thread::sleep(PAUSE);
    }
    Ok(outrigger_testbed::now_us().saturating_sub(written))
}

/// Whether a request is answered by the rule of this turn. An error is any answer but 200.
fn is_of(stream: &mut TcpStream, turn: &str) -> Result<bool> {
    let answer = ask::exchange(stream, 1, PATIENCE)?;
    Ok(String::from_utf8_lossy(&answer).contains(&format!("x-turn: {turn}\r\n")))
}

/// The callee's, whose answers say by which turn's rule they came.
fn route(turn: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata:\n  namespace: bench\n  name: changes\nspec:\n\
         \x20 parentRefs: [{{group: \"\", kind: Service, name: callee, port: 80}}]\n  rules:\n\
         \x20 - matches: [{{path: {{type: Exact, value: /}}}}]\n    filters:\n    - type: ResponseHeaderModifier\n\
         \x20     responseHeaderModifier: {{set: [{{name: x-turn, value: \"{turn}\"}}]}}\n\
         \x20   backendRefs: [{{name: callee, port: 80}}]\n"
    )
}
