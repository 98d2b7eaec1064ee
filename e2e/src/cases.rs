//! All cases, in the order in which they run.

use crate::Case;

mod hostile;
mod protocols;
mod verdicts;

pub(crate) fn all() -> Vec<Case> {
    [verdicts::CASES, protocols::CASES, hostile::CASES].concat()
}
