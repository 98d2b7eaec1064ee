//! The scenes, in their order. Each breaks or changes one thing, measures, promises, and leaves the shop as it was.

use anyhow::Result;

use super::{
    promise::Promise,
    shop,
    stage::{Stage, failures},
};

mod access;
mod control_plane;
mod crash;
mod hang;
mod pool;
mod route;

type Scene = fn(&mut Stage) -> Result<()>;

const SCENES: [(&str, Scene); 8] = [
    ("a route changes from 90/10 to 50/50", route::split),
    ("a route moves from one service to another, again and again", route::changes),
    ("a caller is denied", access::deny),
    ("the front's sidecar is killed under load (outbound)", crash::outbound),
    ("a callee's sidecar is killed under load (inbound)", crash::inbound),
    ("the visitor's sidecar hangs", hang::stopped),
    ("the controller is gone", control_plane::gone),
    ("a shared proxy is killed while it carries a pod", pool::one_killed),
];

/// Plays all of them; one that can't be played to its end is a broken promise, and the next begins.
pub(crate) fn play(stage: &mut Stage) {
    let count = SCENES.len();
    for (index, (title, scene)) in SCENES.into_iter().enumerate() {
        stage.board.scene(&format!("{}/{count} {title}", index + 1));
        if let Err(error) = scene(stage) {
            stage.say(&format!("{error:#}"));
            stage.promise(Promise::holds(title, "played", error.to_string(), false));
            restore(stage);
        }
        stage.pause();
    }
    let steady = stage.steady.samples();
    stage.say(&format!("steady traffic through all of it: {} calls, {}", steady.len(), failures(&steady)));
    let wrong = steady.by_outcome().get(&outrigger_testbed::Outcome::Wrong).copied().unwrap_or_default();
    stage.promise(Promise::none("wrong answers to the visitor in the whole demo", wrong));
}

/// Brings back whatever a broken scene left dead, so that the next is judged by itself.
fn restore(stage: &mut Stage) {
    if stage.mesh.controller.is_none()
        && let Err(error) = stage.mesh.start_controller()
    {
        stage.say(&format!("{error:#}"));
    }
    for name in shop::names().into_iter().chain([shop::SHARED.to_owned()]) {
        let down = stage.mesh.pod(&name).is_ok_and(|pod| pod.sidecar.is_none());
        if down && let Err(error) = stage.mesh.restart_sidecar(&name) {
            stage.say(&format!("{error:#}"));
        }
    }
}
