//! What is counted: each case prepares fixed inputs and then does one request as often as it is asked to.

mod access;
mod balance;
mod compile;
mod derive;
mod http;
mod path;
mod route;
mod wire;

use anyhow::Result;

pub(crate) use self::http::rules;

/// One request.
type Once = Box<dyn FnMut() -> Result<()>>;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// Requests of the shorter of its two runs; the other has twice as many.
    pub(crate) times: u32,
    pub(crate) place: Place,
    pub(crate) prepare: fn() -> Result<Once>,
}

/// Where the counted code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On the main thread.
    Here,
    /// On workers' threads, with sockets in a network namespace of the case's own; the main thread plays callers and apps.
    Workers,
}

pub(crate) fn all() -> Vec<Case> {
    [route::cases(), access::cases(), balance::cases(), path::cases(), compile::cases(), derive::cases(), http::cases()]
        .into_iter()
        .flatten()
        .collect()
}

impl Case {
    const fn here(name: &'static str, about: &'static str, times: u32, prepare: fn() -> Result<Once>) -> Self {
        Self { name, about, times, place: Place::Here, prepare }
    }
}
