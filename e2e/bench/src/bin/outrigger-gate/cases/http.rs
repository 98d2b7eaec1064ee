//! Whole requests through real workers: sockets, parsing, routing, policy, balancing, pools and metrics, one request at a
//! time on connections that are open already. Callers and apps are prepared bytes on the main thread, which isn't
//! counted.

mod http1;
mod http2;
mod stage;

use anyhow::{Context, Result};

pub(crate) use self::stage::rules;
use self::stage::{Hop, Stage};
use super::{Case, Once, Place};

pub(super) fn cases() -> Vec<Case> {
    let case = |name, about, times, prepare| Case { name, about, times, place: Place::Workers, prepare };
    vec![
        case("http1/sidecar", "HTTP/1.1 through one sidecar to an app outside of the mesh", 1_000, || {
            http1(Hop::Plain)
        }),
        case("http1/pair", "HTTP/1.1 through two sidecars with mutual TLS between them", 600, || http1(Hop::Mesh)),
        case("http2/sidecar", "HTTP/2 through one sidecar to an app outside of the mesh", 1_000, || http2(Hop::Plain)),
        case("http2/pair", "HTTP/2 through two sidecars with mutual TLS between them", 600, || http2(Hop::Mesh)),
    ]
}

/// Of an answer's body.
const BODY: usize = 1024;

fn http1(hop: Hop) -> Result<Once> {
    let stage = Stage::start(hop)?;
    let mut caller = http1::Caller::new(stage::call()?);
    let mut app = None;
    Ok(Box::new(move || {
        caller.ask()?;
        let app = match &mut app {
            Some(app) => app,
            empty => empty.insert(http1::App::new(stage.accept()?)),
        };
        app.answer().context("the app")?;
        caller.read_answer().context("the caller")
    }))
}

fn http2(hop: Hop) -> Result<Once> {
    let stage = Stage::start(hop)?;
    let mut caller = http2::Caller::new(stage::call()?)?;
    let mut app = None;
    Ok(Box::new(move || {
        caller.ask()?;
        let app = match &mut app {
            Some(app) => app,
            empty => empty.insert(http2::App::new(stage.accept()?)?),
        };
        app.answer().context("the app")?;
        caller.read_answer().context("the caller")
    }))
}
