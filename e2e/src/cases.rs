//! All cases, in the order in which they run.

use crate::Case;

mod disruption;
mod hostile;
mod protocols;
mod routes;
mod verdicts;

/// The shared proxy, where there is one.
const SHARED: &str = "outrigger-system/shared-0";

pub(crate) fn all() -> Vec<Case> {
    [verdicts::CASES, protocols::CASES, routes::CASES, disruption::CASES, hostile::CASES].concat()
}

/// Those that take their time, of which [`all`] has a shorter one.
pub(crate) fn long() -> Vec<Case> {
    protocols::LONG.to_vec()
}
