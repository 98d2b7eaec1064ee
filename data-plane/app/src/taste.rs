//! The process that takes new configuration in before a shared proxy does. It may die of it, but nobody else may.

use anyhow::{Context, Result};
use nix::sys::{
    prctl::set_pdeathsig,
    resource::{Resource, setrlimit},
    signal::Signal,
};

/// Address space in bytes: far beyond what the largest mesh takes.
const MEMORY: u64 = 2 << 30;

pub(crate) fn run() -> Result<()> {
    // Should it hang when the proxy dies, nobody is left who would end it.
    set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
    setrlimit(Resource::RLIMIT_AS, MEMORY, MEMORY).context("RLIMIT_AS")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("RLIMIT_CORE")?;
    // When the container's memory is used up, this process is the one to go.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    outrigger_config::taste().context("standard input or output")
}
