//! The child: executes one case a number of times and says what that allocated.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use stats_alloc::Region;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::{ALLOCATOR, cases};

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    case: String,
    #[arg(long)]
    times: u32,
    /// Does every tenth request twice: a regression that must be found
    #[arg(long, hide = true)]
    plant: bool,
}

/// What the requests of one run allocated, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allocated {
    /// Calls of the allocator for new or more memory.
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

/// Requests that nobody counts, at most: they fill what is kept between requests.
const WARM_UP: u32 = 32;

impl Run {
    pub(crate) fn execute(&self) -> Result<()> {
        let case = cases::all().into_iter().find(|case| case.name == self.case);
        let case = case.with_context(|| format!("no case {:?}; `outrigger-gate list` names them", self.case))?;
        logs_like_a_proxys()?;
        let mut once = (case.prepare)()?;
        for _ in 0..case.times.min(WARM_UP) {
            once()?;
        }
        let region = Region::new(ALLOCATOR);
        for turn in 0..self.times {
            once()?;
            if self.plant && turn % 10 == 0 {
                once()?;
            }
        }
        let change = region.change();
        // What a reallocation adds is in the bytes already.
        let allocated = Allocated { calls: change.allocations + change.reallocations, bytes: change.bytes_allocated };
        println!("{}", serde_json::to_string(&allocated)?);
        Ok(())
    }
}

/// Somebody must listen: what libraries trace costs much more where nobody does.
fn logs_like_a_proxys() -> Result<()> {
    let (filter, _) = reload::Layer::new(EnvFilter::try_new("info")?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    Ok(tracing_subscriber::registry().with(filter).with(lines).try_init()?)
}
