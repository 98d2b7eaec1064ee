//! All cases, in the order in which they run.

use crate::Case;

pub(crate) const ALL: &[Case] = &[];
