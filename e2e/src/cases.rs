//! All cases, in the order in which they run.

use crate::Case;

mod disruption;
mod hostile;
mod protocols;
mod routes;
mod verdicts;

pub(crate) fn all() -> Vec<Case> {
    [verdicts::CASES, protocols::CASES, routes::CASES, disruption::CASES, hostile::CASES].concat()
}
